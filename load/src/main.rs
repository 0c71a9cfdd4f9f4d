//! `dandyroll-load`: open-loop load on a running service, its saturation, half of it and twice of it.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use dandyroll_load::arrivals::Process;
use dandyroll_load::http::{OpenLoop, Phase, Target, closed_loop, open_loop};
use dandyroll_load::machine::{Origin, write};
use dandyroll_load::mix::{Material, Mix, Part};
use dandyroll_load::{Failure, texts};
use dandyroll_vocab::Vocabulary;
use serde::Serialize;

/// Load on a running service. Latency is counted from the intended arrival, so that a stall cannot hide.
#[derive(Debug, Parser)]
#[command(name = "dandyroll-load", max_term_width = 110)]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Sends at a given rate, whatever the answers do.
    Open {
        #[command(flatten)]
        common: Common,
        /// Requests a second.
        #[arg(long)]
        rate: f64,
        /// Seconds.
        #[arg(long, default_value_t = 60.0)]
        seconds: f64,
    },
    /// As many callers as given, each of whom waits for its answer: throughput only, no latency to quote.
    Closed {
        #[command(flatten)]
        common: Common,
        #[arg(long, default_value_t = 8)]
        connections: usize,
        /// Seconds.
        #[arg(long, default_value_t = 10.0)]
        seconds: f64,
    },
    /// Finds the rate that the service keeps up with (a closed loop), then runs half of it and twice of it.
    Saturate {
        #[command(flatten)]
        common: Common,
        /// Connections of the closed loops; the best of them is the saturation.
        #[arg(long, value_delimiter = ',', default_values_t = [2, 8, 32])]
        connections: Vec<usize>,
        /// Seconds of each closed loop.
        #[arg(long, default_value_t = 10.0)]
        probe_seconds: f64,
        /// Minutes at half the saturation.
        #[arg(long, default_value_t = 1.0)]
        minutes: f64,
        /// Minutes at twice the saturation.
        #[arg(long, default_value_t = 0.5)]
        overload_minutes: f64,
    },
}

#[derive(Args, Debug)]
struct Common {
    /// The service.
    #[arg(long, default_value = "http://127.0.0.1:8080")]
    url: String,
    /// A file with the API token; else the environment's DANDYROLL_TOKEN.
    #[arg(long)]
    token_file: Option<PathBuf>,
    /// The service's process, whose memory is watched.
    #[arg(long)]
    pid: Option<u32>,
    /// A part of the mix: detect:TOKENS, batch:TEXTSxTOKENS, stream:TEXTSxTOKENS, generate:TOKENS; =WEIGHT.
    #[arg(long = "part", default_values = ["detect:100=3", "detect:300=6", "detect:1000=1"])]
    parts: Vec<Part>,
    /// How arrivals are spaced.
    #[arg(long, value_enum, default_value_t = Process::Poisson)]
    process: Process,
    /// The most requests under way; more are counted as unsent.
    #[arg(long, default_value_t = 4096)]
    most: usize,
    /// Seconds after which a request is given up.
    #[arg(long, default_value_t = 30)]
    timeout_seconds: u64,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Texts to detect in, JSON lines; may be given several times.
    #[arg(long, default_values_os_t = texts::default_corpora())]
    corpus: Vec<PathBuf>,
    /// What generations go on from, JSON lines.
    #[arg(long, default_value = "fixtures/corpora/prompts.jsonl")]
    prompts: PathBuf,
    /// What counts the tokens of a text.
    #[arg(long, default_value = "fixtures/model/tokenizer.json")]
    tokenizer: PathBuf,
    /// The model's name in requests of generation.
    #[arg(long, default_value = "model")]
    model: String,
    /// Threads of the generator.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// The result file.
    #[arg(long, default_value = "target/load/load.json")]
    out: PathBuf,
}

#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    origin: Origin,
    parts: Vec<Part>,
    /// The best accepted rate of a closed loop, in requests a second.
    saturation: Option<f64>,
    phases: Vec<Phase>,
    /// Load average when the last phase ended.
    load_average_after: Option<f64>,
}

impl Common {
    fn prepare(&self) -> Result<(Target, Arc<Mix>), Failure> {
        let documents = texts::read_all(&self.corpus)?;
        let prompts = texts::read(&self.prompts)?;
        let vocabulary = Vocabulary::open(&self.tokenizer).map_err(Failure::new)?;
        let material = Material {
            documents: &documents,
            prompts: &prompts,
            vocabulary: &vocabulary,
            model: &self.model,
        };
        let mix = Mix::prepare(self.parts.clone(), &material)?;
        let timeout = Duration::from_secs(self.timeout_seconds);
        Ok((Target::new(&self.url, self.token_file.as_deref(), timeout, self.pid)?, Arc::new(mix)))
    }

    fn open(&self, rate: f64, seconds: f64) -> OpenLoop {
        OpenLoop { rate, process: self.process, seconds, most: self.most, seed: self.seed }
    }
}

fn say(phase: &Phase) {
    let all = &phase.all;
    let ms = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), |value| format!("{value:.1} ms"));
    let faults: u64 = all.faults.values().sum();
    eprintln!(
        "{}: {} sent, {:.1}/s accepted, p50 {}, p99 {}, p99.9 {}; {} × 429 (p99 {}), {faults} faults {:?}, {} unsent",
        phase.name,
        all.sent,
        all.accepted_per_second,
        ms(all.latency.p50_ms),
        ms(all.latency.p99_ms),
        ms(all.latency.p999_ms),
        all.refused,
        ms(all.refusal.p99_ms),
        all.faults,
        phase.unsent,
    );
}

fn length(seconds: f64) -> Result<Duration, Failure> {
    Duration::try_from_secs_f64(seconds).map_err(Failure::new)
}

async fn measure(what: &What, common: &Common) -> Result<(Option<f64>, Vec<Phase>), Failure> {
    let (target, mix) = common.prepare()?;
    target.ready().await?;
    let mut phases = Vec::new();
    let mut keep = |phase: Phase| {
        say(&phase);
        phases.push(phase);
    };
    let saturation = match what {
        What::Open { rate, seconds, .. } => {
            keep(open_loop(&target, mix, "open", common.open(*rate, *seconds)).await?);
            None
        }
        What::Closed { connections, seconds, .. } => {
            let length = length(*seconds)?;
            keep(closed_loop(&target, mix, "closed", *connections, length, common.seed).await?);
            None
        }
        What::Saturate { connections, probe_seconds, minutes, overload_minutes, .. } => {
            // What is first used is slow: code and files come from disk, pools grow.
            let warm =
                closed_loop(&target, Arc::clone(&mix), "warm-up", 4, length(2.0)?, common.seed).await?;
            say(&warm);
            let mut best = 0.0_f64;
            for connections in connections {
                let (mix, name) = (Arc::clone(&mix), format!("closed, {connections} connections"));
                let length = length(*probe_seconds)?;
                let phase = closed_loop(&target, mix, &name, *connections, length, common.seed).await?;
                best = best.max(phase.all.accepted_per_second);
                keep(phase);
            }
            if best <= 0.0 {
                return Err(Failure::new("the service accepted nothing"));
            }
            for (name, share, minutes) in
                [("half of saturation", 0.5, minutes), ("twice saturation", 2.0, overload_minutes)]
            {
                let plan = common.open(best * share, minutes * 60.0);
                keep(open_loop(&target, Arc::clone(&mix), name, plan).await?);
            }
            Some(best)
        }
    };
    Ok((saturation, phases))
}

fn run(arguments: &Arguments) -> Result<(), Failure> {
    let (What::Open { common, .. } | What::Closed { common, .. } | What::Saturate { common, .. }) =
        &arguments.what;
    let origin = Origin::now("dandyroll-load");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(common.threads.max(1))
        .enable_all()
        .build()
        .map_err(Failure::new)?;
    let (saturation, phases) = runtime.block_on(Box::pin(measure(&arguments.what, common)))?;
    let load_average_after = dandyroll_load::machine::Machine::here().load_average;
    let report = Report { origin, parts: common.parts.clone(), saturation, phases, load_average_after };
    write(&common.out, &report)?;
    eprintln!("written: {}", common.out.display());
    Ok(())
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("dandyroll-load: {failure}");
            ExitCode::FAILURE
        }
    }
}
