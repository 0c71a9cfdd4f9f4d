//! What can be typed: the commands, each with its arguments.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::admin::args::{AuditCommand, KeysCommand, StoreArgs, TokensCommand};
#[cfg(feature = "full")]
use crate::args::{
    BackgroundCommand, CalibrateArgs, DemoArgs, DetectArgs, GenerateArgs, ModelCommand, ProfilesCommand,
    RuntimeArgs, SchemeCommand, ServeArgs,
};

/// Mark the text and code language models write, and find the marks again.
#[derive(Debug, Parser)]
#[command(name = "dandyroll", version, max_term_width = 110, arg_required_else_help = true)]
pub(crate) struct Arguments {
    #[cfg(feature = "full")]
    #[command(flatten)]
    pub(crate) runtime: RuntimeArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a new key and write it to a file that only you can read.
    Keygen(KeygenArgs),
    /// Generate text with a model and mark it under a key.
    #[cfg(feature = "full")]
    Generate(GenerateArgs),
    /// Look for a mark in text: files, or standard input.
    #[cfg(feature = "full")]
    Detect(DetectArgs),
    /// Look into a model directory.
    #[cfg(feature = "full")]
    #[command(subcommand)]
    Model(ModelCommand),
    /// Show profiles: what generation and detection must agree on.
    #[cfg(feature = "full")]
    #[command(subcommand)]
    Profiles(ProfilesCommand),
    /// Measure how often keys take human text for marked: a report to keep with each key.
    #[cfg(feature = "full")]
    Calibrate(CalibrateArgs),
    /// Lists of windows too common in human text to be scored, for profiles to name.
    #[cfg(feature = "full")]
    #[command(subcommand)]
    Background(BackgroundCommand),
    /// Look into the keyed function, to check another implementation against this one.
    #[cfg(feature = "full")]
    #[command(subcommand)]
    Scheme(SchemeCommand),
    /// Manage a store's key rings: rotate, disable, destroy, import, export.
    Keys {
        #[command(flatten)]
        store: StoreArgs,
        #[command(subcommand)]
        command: KeysCommand,
    },
    /// Manage a store's API tokens.
    Tokens {
        #[command(flatten)]
        store: StoreArgs,
        #[command(subcommand)]
        command: TokensCommand,
    },
    /// Verify a store's audit, and hand out evidence.
    Audit {
        #[command(flatten)]
        store: StoreArgs,
        #[command(subcommand)]
        command: AuditCommand,
    },
    /// Bring a store's schema up to date.
    Migrate(StoreArgs),
    /// Serve keys, generation, detection and audit over HTTP.
    #[cfg(feature = "full")]
    Serve(ServeArgs),
    /// Mark, generate unmarked, take human text, detect in all: the main job as one table.
    #[cfg(feature = "full")]
    Demo(DemoArgs),
}

#[derive(Debug, Args)]
pub(crate) struct KeygenArgs {
    /// The file to make; it must not exist yet.
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
}
