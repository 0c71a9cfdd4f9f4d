//! What can be typed after the commands on texts, before anything is looked up or checked.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use dandyroll_generator::onnx::{ExecutionProvider, Options};
use dandyroll_scheme::built_in_names;

/// What names a profile: the built-in ones come from the table of schemes.
fn profile_help() -> String {
    format!("A built-in profile ({}) or a profile's JSON file", built_in_names().join(", "))
}

/// What runs models.
#[derive(Args, Debug)]
pub(crate) struct RuntimeArgs {
    /// The ONNX Runtime library; default: where `x.py setup` puts it, or beside this program.
    #[arg(long, global = true, value_name = "FILE", env = "DANDYROLL_ONNXRUNTIME")]
    pub(crate) onnxruntime: Option<PathBuf>,
    /// What models are computed on: cpu (unless given), cuda, or cuda:1 for the second GPU, if that library has it.
    #[arg(long, global = true, value_name = "PROVIDER", env = "DANDYROLL_EXECUTION_PROVIDER")]
    pub(crate) execution_provider: Option<ExecutionProvider>,
}

impl RuntimeArgs {
    /// How a model is run, on one thread.
    pub(crate) fn options(&self) -> Options {
        let provider = self.execution_provider.unwrap_or_default();
        Options { runtime: self.onnxruntime.clone(), provider, ..Options::new() }
    }
}

/// How the next token is drawn.
#[derive(Debug, Args)]
pub(crate) struct SamplingArgs {
    /// Stop after so many tokens.
    #[arg(long, default_value_t = 256, value_name = "N")]
    pub(crate) max_new_tokens: usize,
    /// 0 takes the likeliest token always. A mark shows only where there is a choice.
    #[arg(long, allow_negative_numbers = true, default_value_t = 1.0, value_name = "T")]
    pub(crate) temperature: f64,
    /// Draw from the K likeliest tokens only; 0 for all.
    #[arg(long, default_value_t = 0, value_name = "K")]
    pub(crate) top_k: u32,
    /// Draw from the likeliest tokens that together have this probability.
    #[arg(long, allow_negative_numbers = true, default_value_t = 1.0, value_name = "P")]
    pub(crate) top_p: f64,
    /// Divide positive (multiply negative) logits of tokens that occurred by this.
    #[arg(long, allow_negative_numbers = true, default_value_t = 1.0, value_name = "R")]
    pub(crate) repetition_penalty: f64,
    /// The same seed gives the same text; default: drawn anew and printed.
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// End before this string; may be given several times.
    #[arg(long, value_name = "TEXT")]
    pub(crate) stop: Vec<String>,
    /// Threads that the model may use; default: all cores.
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<NonZeroUsize>,
}

#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("prompt_source").required(true)))]
pub(crate) struct GenerateArgs {
    /// A model directory as Hugging Face exports decoders to ONNX.
    #[arg(long, value_name = "DIR")]
    pub(crate) model: PathBuf,
    #[arg(long, value_name = "P", help = profile_help(), required_unless_present = "unmarked")]
    pub(crate) profile: Option<String>,
    /// The key to mark with.
    #[arg(long, value_name = "FILE", required_unless_present = "unmarked")]
    pub(crate) key_file: Option<PathBuf>,
    /// The background list that the profile names: to count the positions that detection will score.
    #[arg(long, value_name = "FILE", conflicts_with = "unmarked")]
    pub(crate) background: Option<PathBuf>,
    /// Do not mark.
    #[arg(long, conflicts_with_all = ["profile", "key_file"])]
    pub(crate) unmarked: bool,
    /// The prompt.
    #[arg(long, value_name = "TEXT", group = "prompt_source")]
    pub(crate) prompt: Option<String>,
    /// A file with the prompt; - for standard input.
    #[arg(long, value_name = "FILE", group = "prompt_source")]
    pub(crate) prompt_file: Option<PathBuf>,
    /// The prompt as a JSON array of token ids.
    #[arg(long, value_name = "JSON", group = "prompt_source")]
    pub(crate) prompt_ids: Option<String>,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
    /// Print one JSON object with text, token ids and what was marked.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Which positions count, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ModeArg {
    /// entropy-gated if the profile has an entropy threshold and a model is given, else and with --output model-free
    Auto,
    /// every position, no model
    ModelFree,
    /// positions with entropy above the profile's threshold
    EntropyGated,
    /// every position, weighted by entropy
    EntropyWeighted,
}

impl ModeArg {
    /// The name as it is typed, and as results carry it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::ModelFree => "model-free",
            Self::EntropyGated => "entropy-gated",
            Self::EntropyWeighted => "entropy-weighted",
        }
    }
}

#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("vocabulary").required(true).multiple(true)))]
#[command(group(clap::ArgGroup::new("reader").multiple(true)))]
pub(crate) struct DetectArgs {
    /// Texts to look at; - or none for standard input. With --output also folders and quoted patterns.
    #[arg(value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    #[arg(long, value_name = "P", help = profile_help())]
    pub(crate) profile: String,
    /// A key to look for; may be given several times, the verdicts are corrected for the number.
    #[arg(long, value_name = "FILE", required = true)]
    pub(crate) key_file: Vec<PathBuf>,
    /// The model that wrote the text: gives the tokenizer, and the entropies for the entropy modes.
    #[arg(long, value_name = "DIR", groups = ["vocabulary", "reader"])]
    pub(crate) model: Option<PathBuf>,
    /// The tokenizer alone, for detection without a model.
    #[arg(long, value_name = "FILE", group = "vocabulary", conflicts_with = "model")]
    pub(crate) tokenizer: Option<PathBuf>,
    /// Another model to read entropies with, of the same tokenizer: a quantised or smaller one. Results name it.
    #[arg(long, value_name = "DIR", group = "reader")]
    pub(crate) entropy_model: Option<PathBuf>,
    /// A file with the prompt, for entropies nearer to those at generation.
    #[arg(long, value_name = "FILE", requires = "reader")]
    pub(crate) prompt_file: Option<PathBuf>,
    /// The prompt as a JSON array of token ids.
    #[arg(long, value_name = "JSON", requires = "reader", conflicts_with = "prompt_file")]
    pub(crate) prompt_ids: Option<String>,
    /// How to count; may be given several times, the verdicts are corrected for the number.
    #[arg(long, value_name = "MODE", default_value = "auto")]
    pub(crate) mode: Vec<ModeArg>,
    /// The background list that the profile names, if it names one.
    #[arg(long, value_name = "FILE")]
    pub(crate) background: Option<PathBuf>,
    /// Detected at an adjusted p at or below this.
    #[arg(long, allow_negative_numbers = true, default_value_t = 1e-5, value_name = "P")]
    pub(crate) alpha: f64,
    /// Too short if fewer (context, token) pairs can be scored, whatever alpha allows.
    #[arg(long, value_name = "N")]
    pub(crate) min_scored: Option<u32>,
    /// Look for the passages that carry a mark, too; every p is then corrected for that search as well.
    #[arg(long)]
    pub(crate) spans: bool,
    /// The inputs are JSON arrays of token ids, not text.
    #[arg(long)]
    pub(crate) ids: bool,
    /// Print one JSON object for each input.
    #[arg(long)]
    pub(crate) json: bool,
    /// Print the text with the tokens that speak for the mark and those that do not; without colour as [+for] and [-not].
    #[arg(long)]
    pub(crate) show_tokens: bool,
    /// Write the coloured text and the verdict as a page.
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
    /// Threads that the model, or with --output the judging, may use; default: all cores.
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<NonZeroUsize>,
    #[command(flatten)]
    pub(crate) dump: DumpArgs,
}

/// How documents lie in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum InputFormatArg {
    /// one JSON object a line
    Jsonl,
    /// comma-separated with a header
    Csv,
    /// tab-separated with a header
    Tsv,
    /// Apache Parquet
    Parquet,
    /// web archive or its extracted text, WET
    Warc,
    /// the file is the document
    Text,
}

/// How results are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ResultFormatArg {
    /// one JSON object a line
    Jsonl,
    /// Apache Parquet
    Parquet,
    /// attributes for Dolma's tools
    Dolma,
}

/// Which rows are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnlyArg {
    /// what was detected, and what could not be judged
    Detected,
}

/// A dump: many documents in files.
#[derive(Debug, Args)]
#[command(next_help_heading = "Dumps")]
pub(crate) struct DumpArgs {
    /// Judge every document in the inputs, without a model, and write results into this folder, laid out like
    /// the inputs; - writes JSON lines to standard output.
    #[arg(long, value_name = "DIR")]
    pub(crate) output: Option<PathBuf>,
    /// How documents lie in the inputs; default: by the ending of each file.
    #[arg(long, value_name = "FORMAT", requires = "output")]
    pub(crate) input_format: Option<InputFormatArg>,
    /// The text: a column, or a path such as `meta.text` or `messages[0].content`.
    #[arg(long, value_name = "PATH", default_value = "text", requires = "output")]
    pub(crate) text_field: String,
    /// The id; default: id, and WARC-Record-ID in web archives.
    #[arg(long, value_name = "PATH", requires = "output")]
    pub(crate) id_field: Option<String>,
    /// How results are written.
    #[arg(long, value_name = "FORMAT", default_value = "jsonl", requires = "output")]
    pub(crate) format: ResultFormatArg,
    /// The attributes' name in Dolma's format.
    #[arg(long, value_name = "NAME", default_value = "dandyroll", requires = "output")]
    pub(crate) attribute: String,
    /// Write only these rows, and those that could not be judged.
    #[arg(long, value_name = "WHICH", requires = "output")]
    pub(crate) only: Option<OnlyArg>,
    /// Keep results that are whole and of the same input, keys, profile and settings; do the rest.
    #[arg(long, requires = "output")]
    pub(crate) resume: bool,
    /// Write over results that exist.
    #[arg(long, requires = "output", conflicts_with = "resume")]
    pub(crate) overwrite: bool,
    /// Do every N-th file, from the I-th: for job arrays.
    #[arg(long, value_name = "I/N", requires = "output")]
    pub(crate) shard: Option<String>,
    /// End at the first record that cannot be judged.
    #[arg(long, requires = "output")]
    pub(crate) strict: bool,
    /// The largest document that is judged, in MiB; also the largest line or record that is held.
    #[arg(long, value_name = "MIB", default_value = "8", requires = "output")]
    pub(crate) max_document: NonZeroUsize,
    /// Memory for documents on their way and for texts seen before, in MiB; the tokenizer's comes on top.
    #[arg(long, value_name = "MIB", default_value = "256", requires = "output")]
    pub(crate) memory: NonZeroUsize,
    /// The false-discovery rate for which the summary names a threshold.
    #[arg(long, value_name = "RATE", default_value_t = 0.01, requires = "output")]
    pub(crate) fdr: f64,
}

/// Which texts keys are calibrated on, and by what they are judged.
#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("calibration_vocabulary").required(true).multiple(true)))]
pub(crate) struct TrialArgs {
    /// Human texts of the kind that will be judged: .jsonl files with a field `text` a line, any other file as one.
    #[arg(value_name = "FILE", required = true)]
    pub(crate) corpora: Vec<PathBuf>,
    #[arg(long, value_name = "P", help = profile_help())]
    pub(crate) profile: String,
    /// The model: gives the tokenizer, and the entropies for the entropy modes.
    #[arg(long, value_name = "DIR", group = "calibration_vocabulary")]
    pub(crate) model: Option<PathBuf>,
    /// The tokenizer alone.
    #[arg(long, value_name = "FILE", group = "calibration_vocabulary", conflicts_with = "model")]
    pub(crate) tokenizer: Option<PathBuf>,
    /// The background list that the profile names, if it names one.
    #[arg(long, value_name = "FILE")]
    pub(crate) background: Option<PathBuf>,
    /// Threads that the model may use; default: all cores.
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<NonZeroUsize>,
}

#[derive(Debug, Args)]
pub(crate) struct CalibrateArgs {
    #[command(flatten)]
    pub(crate) trial: TrialArgs,
    /// A key; may be given several times.
    #[arg(long, value_name = "FILE", required = true)]
    pub(crate) key_file: Vec<PathBuf>,
    /// How to count; may be given several times.
    #[arg(long, value_name = "MODE", default_value = "auto")]
    pub(crate) mode: Vec<ModeArg>,
    /// Print the report of each key and mode as a line of JSON, as a key version keeps it.
    #[arg(long)]
    pub(crate) json: bool,
    /// Draw the rates and their intervals.
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum BackgroundCommand {
    /// Make a list from human texts: windows that occur in many of them.
    Build(BackgroundBuildArgs),
    /// Print the windows of a list, one JSON object a line.
    Show(BackgroundShowArgs),
}

#[derive(Debug, Args)]
pub(crate) struct BackgroundBuildArgs {
    /// Human texts: .jsonl files with a field `text` a line, any other file as one text.
    #[arg(value_name = "FILE", required = true)]
    pub(crate) corpora: Vec<PathBuf>,
    /// The tokenizer that the list is for.
    #[arg(long, value_name = "FILE")]
    pub(crate) tokenizer: PathBuf,
    /// The context width of the profiles that the list is for: windows have one token more.
    #[arg(long, value_name = "H")]
    pub(crate) context_width: u8,
    /// A window is common if it occurs in so many texts.
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub(crate) min_documents: u32,
    /// Of the common windows, take those that occur in the most texts, so many at most;
    /// docs/evidence.md shows what other sizes give and cost.
    #[arg(long, value_name = "N", default_value_t = 16_384)]
    pub(crate) most: usize,
    /// The list.
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct BackgroundShowArgs {
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// The list's tokenizer, to print the windows as text, too.
    #[arg(long, value_name = "FILE")]
    pub(crate) tokenizer: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ModelCommand {
    /// Print files, inputs, outputs, shapes and digests of a model directory.
    Inspect {
        #[arg(value_name = "DIR")]
        directory: PathBuf,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ProfilesCommand {
    /// Print a profile's id and canonical JSON.
    Show {
        #[arg(value_name = "P", help = profile_help())]
        profile: String,
        /// The model that it is bound to.
        #[arg(long, value_name = "DIR")]
        model: Option<PathBuf>,
        /// The tokenizer that it is bound to, for profiles without an entropy threshold.
        #[arg(long, value_name = "FILE", conflicts_with = "model")]
        tokenizer: Option<PathBuf>,
        /// A list of windows that are not to be scored, to be named by the profile.
        #[arg(long, value_name = "FILE")]
        background: Option<PathBuf>,
    },
    /// Propose an entropy threshold from how a model predicts human texts; keys and scores take no part.
    ProposeThreshold(ThresholdArgs),
}

/// Which threshold is proposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum RuleArg {
    /// the one with the greatest expected z: there a position adds evidence if its lift is above half the mean
    Power,
    /// the largest whose expected z is no less than without a threshold: least damage at no cost in power
    Free,
}

#[derive(Debug, Args)]
pub(crate) struct ThresholdArgs {
    /// Human texts of the kind that will be marked: .jsonl files with a field `text`, or plain text.
    #[arg(value_name = "FILE", required = true)]
    pub(crate) corpus: Vec<PathBuf>,
    /// The model that will write.
    #[arg(long, value_name = "DIR")]
    pub(crate) model: PathBuf,
    /// The profile whose parameters are kept and whose threshold is replaced.
    #[arg(long, value_name = "P", default_value = "code-v1")]
    pub(crate) profile: String,
    /// Read so many tokens at most.
    #[arg(long, value_name = "N", default_value_t = 50_000)]
    pub(crate) tokens: usize,
    /// What the threshold is chosen for.
    #[arg(long, value_name = "RULE", default_value = "power")]
    pub(crate) rule: RuleArg,
    /// Instead of a rule: the smallest threshold that keeps at most this share of positions.
    #[arg(long, value_name = "SHARE", conflicts_with = "rule")]
    pub(crate) keep: Option<f64>,
    /// Write the profile with the proposed threshold.
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    /// Write the picture.
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
    /// Print JSON, with every threshold that was looked at.
    #[arg(long)]
    pub(crate) json: bool,
    /// Threads that the model may use; default: all cores.
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<NonZeroUsize>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SchemeCommand {
    /// Print word and greenness of tokens after a context.
    Words(WordsArgs),
}

#[derive(Debug, Args)]
pub(crate) struct WordsArgs {
    /// The key whose words are printed.
    #[arg(long, value_name = "FILE")]
    pub(crate) key_file: PathBuf,
    #[arg(long, value_name = "P", help = profile_help())]
    pub(crate) profile: String,
    /// The tokenizer.json, or its SHA-256; not needed with a profile's JSON file.
    #[arg(long, value_name = "FILE|SHA256")]
    pub(crate) tokenizer: Option<String>,
    /// The previous token ids, oldest first: as many as the profile's context width.
    #[arg(long, value_name = "JSON", default_value = "[]")]
    pub(crate) context: String,
    /// The first token and the one after the last.
    #[arg(long, value_name = "FROM..TO", default_value = "0..16")]
    pub(crate) tokens: String,
    /// Print one JSON object a line.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Flags win over the environment (`DANDYROLL_HTTP_LISTEN`, …), which wins over the file. Secrets are given there, not here.
#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// A TOML file with settings.
    #[arg(long, value_name = "FILE", env = "DANDYROLL_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// Print the settings in effect, without secrets, and exit; 2 if any is wrong.
    #[arg(long)]
    pub(crate) check_config: bool,
    /// Address and port; default: 127.0.0.1:8080.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) listen: Option<String>,
    /// Where database, keys and checkpoints are kept; default: ./dandyroll-data.
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// The model: a directory as Hugging Face exports decoders to ONNX.
    #[arg(long, value_name = "DIR")]
    pub(crate) model: Option<PathBuf>,
    /// A file with the database's address, for PostgreSQL; or the variable DANDYROLL_DATABASE_URL.
    #[arg(long, value_name = "FILE")]
    pub(crate) database_url_file: Option<PathBuf>,
    /// The key-encryption key; default: the file kek in the data folder, made if the store is new.
    #[arg(long, value_name = "FILE")]
    pub(crate) kek_file: Option<PathBuf>,
    /// text or json.
    #[arg(long, value_name = "FORMAT")]
    pub(crate) log_format: Option<String>,
    /// Which events are logged, such as info or warn,dandyroll::access=info.
    #[arg(long, value_name = "FILTER")]
    pub(crate) log_filter: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Folder with the fixture model and the held-out human texts.
    #[arg(long, value_name = "DIR", default_value = "fixtures")]
    pub(crate) fixtures: PathBuf,
    /// A built-in profile or a profile's JSON file.
    #[arg(long, value_name = "P", default_value = "prose-v1")]
    pub(crate) profile: String,
    /// How many prompts.
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub(crate) prompts: usize,
    /// Tokens to generate for each.
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub(crate) tokens: usize,
    /// Also write a page with the marked texts coloured.
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
}
