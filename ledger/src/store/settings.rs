//! Where the store is. The address may hold a password: it is never shown.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgSslMode};

use super::StoreError;

/// Which database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// One file, one server.
    Sqlite,
    /// Several servers may share it.
    Postgres,
}

#[derive(Clone)]
pub(super) enum Database {
    Sqlite(PathBuf),
    Postgres(Box<PgConnectOptions>),
}

/// Address and limits of the store.
#[derive(Clone)]
pub struct StoreSettings {
    pub(super) place: Database,
    /// The most connections this process opens.
    pub connections: u32,
    /// How long a request waits for a connection before the store counts as unavailable.
    pub acquire_timeout: Duration,
    /// How long PostgreSQL may work on one statement.
    pub statement_timeout: Duration,
}

impl StoreSettings {
    /// Reads `sqlite:PATH` or a `postgres://` address, with the default limits.
    ///
    /// TLS to another machine is `verify-full` (encrypted, the certificate's name checked) unless the address says
    /// `sslmode=` or the environment `PGSSLMODE`; this machine's own PostgreSQL is reached as sqlx likes it.
    pub fn parse(address: &str) -> Result<Self, StoreError> {
        let place = if let Some(path) = address.strip_prefix("sqlite:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            if path.is_empty() || path.contains(":memory:") || path.contains('?') {
                return Err(StoreError::Settings("sqlite: needs the path of a file, without options".into()));
            }
            Database::Sqlite(path.into())
        } else if address.starts_with("postgres://") || address.starts_with("postgresql://") {
            // The parser's message may quote the address, and with it the password.
            let options = PgConnectOptions::from_str(address)
                .map_err(|_| StoreError::Settings("the postgres:// address cannot be read".into()))?;
            Database::Postgres(Box::new(with_tls(options, address)))
        } else {
            return Err(StoreError::Settings("an address begins with sqlite: or postgres://".into()));
        };
        Ok(Self {
            place,
            connections: 10,
            acquire_timeout: Duration::from_secs(3),
            statement_timeout: Duration::from_secs(10),
        })
    }

    /// An SQLite file, whatever its path holds, with the default limits.
    pub fn sqlite(path: &std::path::Path) -> Result<Self, StoreError> {
        let mut settings = Self::parse("sqlite:x")?;
        settings.place = Database::Sqlite(path.into());
        Ok(settings)
    }

    /// Which database the address names.
    pub fn backend(&self) -> Backend {
        match self.place {
            Database::Sqlite(_) => Backend::Sqlite,
            Database::Postgres(_) => Backend::Postgres,
        }
    }
}

/// The driver's own default takes an unencrypted connection when the server, or who sits between, offers none.
fn with_tls(options: PgConnectOptions, address: &str) -> PgConnectOptions {
    let query = address.split_once('?').map_or("", |(_, query)| query);
    let said = query
        .split('&')
        .any(|pair| matches!(pair.split_once('=').map_or(pair, |(name, _)| name), "sslmode" | "ssl-mode"));
    if said || std::env::var_os("PGSSLMODE").is_some() || is_local(&options) {
        options
    } else {
        options.ssl_mode(PgSslMode::VerifyFull)
    }
}

fn is_local(options: &PgConnectOptions) -> bool {
    let host = options.get_host();
    options.get_socket().is_some()
        || host.starts_with('/')
        || host.eq_ignore_ascii_case("localhost")
        || host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

impl fmt::Debug for StoreSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Database::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
            Database::Postgres(options) => write!(
                f,
                "postgres://{}:{}/{}",
                options.get_host(),
                options.get_port(),
                options.get_database().unwrap_or_default()
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tls_to_other_machines_is_checked_unless_the_address_says_otherwise() {
        let mode = |address: &str| match StoreSettings::parse(address).unwrap().place {
            Database::Postgres(options) => format!("{:?}", options.get_ssl_mode()),
            Database::Sqlite(_) => unreachable!(),
        };
        if std::env::var_os("PGSSLMODE").is_some() {
            return;
        }
        for (address, expected) in [
            ("postgres://u@db.example/d", "VerifyFull"),
            ("postgres://u@10.0.0.7/d?application_name=sslmode", "VerifyFull"),
            ("postgres://u@db.example/d?sslmode=require", "Require"),
            ("postgres://u@db.example/d?ssl-mode=disable", "Disable"),
            ("postgres://u@localhost/d", "Prefer"),
            ("postgres://u@127.0.0.1/d", "Prefer"),
            ("postgres://u@[::1]/d", "Prefer"),
            ("postgres://u@localhost/d?host=/run/pg", "Prefer"),
        ] {
            assert_eq!(mode(address), expected, "{address}");
        }
    }

    #[test]
    fn passwords_are_not_shown_and_bad_addresses_are_refused() {
        let settings = StoreSettings::parse("postgres://mill:hunter2@db.example:5433/rolls").unwrap();
        assert_eq!(format!("{settings:?}"), "postgres://db.example:5433/rolls");
        assert_eq!(settings.backend(), Backend::Postgres);
        assert_eq!(StoreSettings::parse("sqlite:/var/x.db").unwrap().backend(), Backend::Sqlite);
        for bad in [
            "",
            "mysql://x",
            "sqlite:",
            "sqlite::memory:",
            "sqlite:x?mode=rwc",
            "postgres://u:hunter2@h:99999999/d",
        ] {
            let error = StoreSettings::parse(bad).unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
