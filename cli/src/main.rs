//! The binary `dandyroll`: what was typed → what will be done → a library call → a report → an exit code.

mod args;
mod background;
mod calibrate;
mod coloured;
mod corpus;
mod demo;
mod desk;
mod detect;
mod dump;
mod failure;
mod generate;
mod input;
mod model;
mod serve;
mod terminal;
mod threshold;
mod words;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use dandyroll_files::{keyfile, profile};

use crate::args::{Arguments, Command, ModelCommand, ProfilesCommand, SchemeCommand};
use crate::failure::{Failure, Outcome};

fn run(arguments: Arguments) -> Result<Outcome, Failure> {
    let runtime = &arguments.runtime;
    // Locked once: results go out in one piece, and a closed pipe ends the work at the next write. Not a stream
    // that strips escapes: texts go out as they are, and styles are only written where they are wanted.
    let mut out = std::io::stdout().lock();
    match arguments.command {
        Command::Keygen(args) => {
            let id = keyfile::create(&args.file)?;
            writeln!(out, "{id}")?;
            Ok(Outcome::Done)
        }
        Command::Generate(args) => generate::run(&args, runtime, &mut out),
        Command::Detect(args) => match &args.dump.output {
            Some(folder) => dump::run(&args, folder, runtime, &mut out),
            None => detect::run(&args, runtime, &mut out),
        },
        Command::Model(ModelCommand::Inspect { directory, json }) => {
            model::inspect(&directory, json, runtime, &mut out)
        }
        Command::Profiles(ProfilesCommand::Show { profile, model, tokenizer, background }) => {
            words::show_profile(
                &profile,
                model.as_deref(),
                tokenizer.as_deref(),
                background.as_deref(),
                &mut out,
            )
        }
        Command::Calibrate(args) => calibrate::run(&args, runtime, &mut out),
        Command::Background(command) => background::run(&command, &mut out),
        Command::Profiles(ProfilesCommand::ProposeThreshold(args)) => {
            threshold::run(&args, runtime, &mut out)
        }
        Command::Scheme(SchemeCommand::Words(args)) => words::run(&args, &mut out),
        Command::Keys { store, command } => desk::keys(&store, command, runtime, &mut out),
        Command::Tokens { store, command } => desk::tokens(&store, command, &mut out),
        Command::Audit { store, command } => desk::audit(&store, command, &mut out),
        Command::Migrate(store) => desk::migrate(&store, &mut out),
        Command::Serve(args) => serve::run(&args, runtime, &mut out),
        Command::Demo(args) => demo::run(&args, runtime, &mut out),
    }
}

fn main() -> ExitCode {
    failure::exit_code(run(Arguments::parse()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        <Arguments as clap::CommandFactory>::command().debug_assert();
    }
}
