//! The experiments behind `docs/evidence.md`: each measures and writes JSON; `report.py` draws.

mod background;
mod common;
mod corpus;
mod modes;
mod null;
mod pool;
mod power;
mod retoken;
mod robust;
mod schemes;
mod spans;
mod sweet;

use std::fmt;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use clap::Parser;

/// Measure again what docs/evidence.md says.
#[derive(Debug, Parser)]
#[command(name = "dandyroll-evidence", max_term_width = 110)]
enum Experiment {
    Background(background::BackgroundArgs),
    Modes(modes::ModesArgs),
    Null(null::NullArgs),
    Pool(pool::PoolCommand),
    Power(power::PowerArgs),
    Retoken(retoken::RetokenArgs),
    Robust(robust::RobustArgs),
    Schemes(schemes::SchemesArgs),
    Spans(spans::SpansArgs),
    Sweet(sweet::SweetArgs),
}

/// An experiment that could not be run; nothing here is recovered from.
#[derive(Debug)]
struct Failure(String);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Steps done, on standard error: a line that is overwritten on a terminal, else one line every tenth.
struct Progress {
    name: String,
    done: usize,
    total: usize,
    terminal: bool,
}

impl Progress {
    fn new(name: &str, total: usize) -> Self {
        Self { name: name.to_owned(), done: 0, total, terminal: std::io::stderr().is_terminal() }
    }

    fn step(&mut self) {
        self.done += 1;
        let mut err = std::io::stderr().lock();
        // A closed standard error is no reason to stop measuring.
        let _ = if self.terminal {
            write!(
                err,
                "\r{}: {}/{}{}",
                self.name,
                self.done,
                self.total,
                if self.done == self.total { "\n" } else { "" }
            )
        } else if self.done * 10 / self.total > (self.done - 1) * 10 / self.total {
            writeln!(err, "{}: {}/{}", self.name, self.done, self.total)
        } else {
            Ok(())
        };
    }
}

fn main() -> ExitCode {
    let result = match Experiment::parse() {
        Experiment::Background(arguments) => background::run(&arguments),
        Experiment::Modes(arguments) => modes::run(&arguments),
        Experiment::Null(arguments) => null::run(&arguments),
        Experiment::Pool(arguments) => pool::run(&arguments),
        Experiment::Power(arguments) => power::run(&arguments),
        Experiment::Retoken(arguments) => retoken::run(&arguments),
        Experiment::Robust(arguments) => robust::run(&arguments),
        Experiment::Schemes(arguments) => schemes::run(&arguments),
        Experiment::Spans(arguments) => spans::run(&arguments),
        Experiment::Sweet(arguments) => sweet::run(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("dandyroll-evidence: {failure}");
            ExitCode::FAILURE
        }
    }
}
