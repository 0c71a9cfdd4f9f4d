//! The binary `dandyroll`: what was typed → what will be done → a library call → a report → an exit code.

mod admin;
#[cfg(feature = "full")]
mod args;
#[cfg(feature = "full")]
mod background;
#[cfg(feature = "full")]
mod calibrate;
#[cfg(feature = "full")]
mod coloured;
mod command;
#[cfg(feature = "full")]
mod corpus;
#[cfg(feature = "full")]
mod demo;
#[cfg(feature = "full")]
mod detect;
#[cfg(feature = "full")]
mod dump;
mod failure;
#[cfg(feature = "full")]
mod generate;
#[cfg(feature = "full")]
mod input;
#[cfg(feature = "full")]
mod model;
#[cfg(feature = "full")]
mod serve;
#[cfg_attr(
    not(feature = "full"),
    expect(dead_code, reason = "colours and progress are for commands on texts")
)]
mod terminal;
#[cfg(feature = "full")]
mod threshold;
#[cfg(feature = "full")]
mod words;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use dandyroll_files::keyfile;
#[cfg(feature = "full")]
use dandyroll_files::profile;

#[cfg(feature = "full")]
use crate::args::{ModelCommand, ProfilesCommand, SchemeCommand};
use crate::command::{Arguments, Command};
use crate::failure::{Failure, Outcome};

fn run(arguments: Arguments) -> Result<Outcome, Failure> {
    #[cfg(feature = "full")]
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
        #[cfg(feature = "full")]
        Command::Generate(args) => generate::run(&args, runtime, &mut out),
        #[cfg(feature = "full")]
        Command::Detect(args) => match &args.dump.output {
            Some(folder) => dump::run(&args, folder, runtime, &mut out),
            None => detect::run(&args, runtime, &mut out),
        },
        #[cfg(feature = "full")]
        Command::Model(ModelCommand::Inspect { directory, json }) => {
            model::inspect(&directory, json, runtime, &mut out)
        }
        #[cfg(feature = "full")]
        Command::Profiles(ProfilesCommand::Show { profile, model, tokenizer, background }) => {
            words::show_profile(
                &profile,
                model.as_deref(),
                tokenizer.as_deref(),
                background.as_deref(),
                &mut out,
            )
        }
        #[cfg(feature = "full")]
        Command::Calibrate(args) => calibrate::run(&args, runtime, &mut out),
        #[cfg(feature = "full")]
        Command::Background(command) => background::run(&command, &mut out),
        #[cfg(feature = "full")]
        Command::Profiles(ProfilesCommand::ProposeThreshold(args)) => {
            threshold::run(&args, runtime, &mut out)
        }
        #[cfg(feature = "full")]
        Command::Scheme(SchemeCommand::Words(args)) => words::run(&args, &mut out),
        Command::Keys { store, command } => admin::keys(
            &store,
            command,
            #[cfg(feature = "full")]
            runtime,
            &mut out,
        ),
        Command::Tokens { store, command } => admin::tokens(&store, command, &mut out),
        Command::Audit { store, command } => admin::audit(&store, command, &mut out),
        Command::Migrate(store) => admin::migrate(&store, &mut out),
        #[cfg(feature = "full")]
        Command::Serve(args) => serve::run(&args, runtime, &mut out),
        #[cfg(feature = "full")]
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
