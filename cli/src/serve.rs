//! `dandyroll serve`: reads settings, starts the service, says how to use it, stops it in order.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use dandyroll_ledger::bootstrap;
use dandyroll_ledger::tokens::Token;
use dandyroll_server::config::{Flags, Settings, Sources};
use dandyroll_server::http::Application;
use dandyroll_server::telemetry::log;

use crate::args::{RuntimeArgs, ServeArgs};
use crate::failure::{AdminError, Failure, Outcome};

/// What was typed, as settings.
fn flags(args: &ServeArgs, runtime: &RuntimeArgs) -> Flags {
    let path = |path: &Path| path.display().to_string();
    let mut flags = BTreeMap::new();
    let mut set = |name, value: Option<String>| {
        if let Some(value) = value {
            flags.insert(name, value);
        }
    };
    set("http.listen", args.listen.clone());
    set("data_dir", args.data_dir.as_deref().map(path));
    set("model.directory", args.model.as_deref().map(path));
    set("model.onnxruntime", runtime.onnxruntime.as_deref().map(path));
    set("model.execution_provider", runtime.execution_provider.map(|provider| provider.to_string()));
    set("database.url_file", args.database_url_file.as_deref().map(path));
    set("kek_file", args.kek_file.as_deref().map(path));
    set("log.format", args.log_format.clone());
    set("log.filter", args.log_filter.clone());
    flags
}

pub(crate) fn run(args: &ServeArgs, runtime: &RuntimeArgs, out: &mut impl Write) -> Result<Outcome, Failure> {
    let settings = Settings::read(Sources::of_process(args.config.as_deref(), flags(args, runtime))?)?;
    if args.check_config {
        write!(out, "{}", settings.effective())?;
        return Ok(Outcome::Done);
    }
    log::start(&settings.log);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(Box::pin(serve(&settings, out)))
}

async fn serve(settings: &Settings, out: &mut impl Write) -> Result<Outcome, Failure> {
    let application = Application::build(settings).await?;
    let node = application.service().node().clone();
    for model in application.service().generating().models() {
        let tokenizer = model.vocabulary().digest();
        bootstrap::built_in_profiles(&node, tokenizer, Some(model.sha256())).await?;
    }
    let token = bootstrap::administrator(&node).await?;
    // What was just made works as soon as it is printed.
    node.refresh().await.map_err(AdminError::from)?;
    let url = format!("http://{}", application.address());
    let stopper = application.stopper();
    let signals = tokio::spawn(async move {
        wait_for_signal().await;
        stopper.stop();
        // Who asks twice does not want to wait.
        wait_for_signal().await;
        std::process::exit(130);
    });
    let greeting = greeting(&url, settings, token.as_ref());
    drop(token);
    out.write_all(greeting.as_bytes())?;
    out.flush()?;
    let ran = application.run().await;
    signals.abort();
    ran?;
    Ok(Outcome::Done)
}

/// Interrupt from the terminal, or termination from whoever supervises.
async fn wait_for_signal() {
    let interrupt = tokio::signal::ctrl_c();
    #[cfg(unix)]
    {
        let terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate());
        if let Ok(mut terminate) = terminate {
            tokio::select! {
                _ = interrupt => {}
                _ = terminate.recv() => {}
            }
            return;
        }
    }
    drop(interrupt.await);
}

/// What a person at the terminal needs. The token is in it at the first start only.
fn greeting(url: &str, settings: &Settings, token: Option<&Token>) -> zeroize::Zeroizing<String> {
    let mut text =
        zeroize::Zeroizing::new(format!("dandyroll serves at {url} (store: {:?})\n", settings.store));
    let Some(token) = token else { return text };
    token.expose(|token| {
        text.push_str(&format!(
            "\nThe first administrator's token. It is shown this once; others are made with it:\n\n  {token}\n\n\
             Try it, in another terminal:\n\n{}\n\nStop with Ctrl-C.\n",
            lines(url, token, settings.model.directory.as_deref()).join("\n\n")
        ));
    });
    text
}

/// Lines that work as pasted: generate, detect, rotate.
fn lines(url: &str, token: &str, model: Option<&Path>) -> Vec<String> {
    let curl = |path: &str, more: &str| {
        format!(
            "curl -sS {url}{path} -H 'Authorization: Bearer {token}' -H 'Content-Type: application/json' {more}"
        )
    };
    let rotate = curl("/v1/admin/rings/default/rotate", "-d '{}'");
    let Some(model) = model else { return vec![rotate] };
    let whole = model.canonicalize().unwrap_or_else(|_| model.to_path_buf());
    let name = whole.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let prompt = r#""prompt": "def read_lines(path):\n", "max_tokens": 400, "temperature": 1.0"#;
    let body = format!("-d '{{\"model\": \"{name}\", {prompt}}}' | tee marked.json");
    let take = "python3 -c 'import json; print(json.dumps({\"text\": json.load(open(\"marked.json\"))[\"choices\"][0][\"text\"]}))'";
    vec![curl("/v1/completions", &body), format!("{take} | {}", curl("/v1/detect", "-d @-")), rotate]
}

#[cfg(test)]
mod tests {
    use dandyroll_generator::onnx::ExecutionProvider;

    use super::*;

    #[test]
    fn flags_are_settings_that_exist() {
        let args = ServeArgs {
            config: None,
            check_config: false,
            listen: Some("127.0.0.1:0".into()),
            data_dir: Some("d".into()),
            model: Some("m".into()),
            database_url_file: None,
            kek_file: Some("k".into()),
            log_format: Some("json".into()),
            log_filter: Some("warn".into()),
        };
        let runtime = RuntimeArgs {
            onnxruntime: Some("lib.so".into()),
            execution_provider: Some(ExecutionProvider::Cuda { device: 1 }),
        };
        let flags = flags(&args, &runtime);
        assert_eq!(flags.len(), 8);
        let settings = Settings::read(Sources { flags, ..Sources::none() }).unwrap();
        let shown = settings.effective();
        assert_eq!(shown.matches("# flag").count(), 8, "{shown}");
    }

    #[test]
    fn a_later_start_says_where_and_nothing_secret() {
        let settings = Settings::read(Sources::none()).unwrap();
        let text = greeting("http://127.0.0.1:1", &settings, None);
        assert_eq!(text.lines().count(), 1, "{}", *text);
        let token = Token::generate().unwrap();
        let first = greeting("http://127.0.0.1:1", &settings, Some(&token));
        token.expose(|token| assert!(first.contains(token)));
    }
}
