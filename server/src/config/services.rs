//! Settings of generation and detection.

use std::num::NonZeroUsize;
use std::path::Path;

use dandyroll_ledger::keys::Alias;
use dandyroll_service::detection::{DetectionSettings, PoolSettings};
use dandyroll_service::generation::GenerationSettings;
use dandyroll_service::jobs::JobSettings;

use super::reader::Reader;

/// Reads the settings of generation.
pub(super) fn generation(reader: &mut Reader) -> GenerationSettings {
    let standard = GenerationSettings::standard();
    let name = "a ring's name: 1 to 64 of a-z, 0-9, '-', '_', '.', beginning with a letter or digit";
    let default_alias: String = reader.parsed("generation.default_ring", &standard.default_alias, name);
    if default_alias.parse::<Alias>().is_err() {
        reader.fault("generation.default_ring", &format!("it is {name}"));
    }
    GenerationSettings {
        default_alias,
        default_profile: reader.parsed(
            "generation.default_profile",
            &standard.default_profile,
            "a profile's name or id",
        ),
        max_tokens: reader.count("generation.max_tokens", standard.max_tokens, 1..=1_000_000),
        max_texts: reader.count("generation.max_texts", standard.max_texts, 1..=256),
    }
}

/// Reads the settings of detection. Texts may be as long as a request's body.
pub(super) fn detection(reader: &mut Reader, max_text_bytes: usize) -> DetectionSettings {
    let standard = DetectionSettings::standard();
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let threads = NonZeroUsize::new(reader.count("detection.threads", cores, 1..=1024));
    let queue = reader.count("detection.queue", standard.pool.queue, 1..=1_000_000);
    let bulk = reader.count("detection.batches_at_once", standard.pool.bulk, 1..=10_000);
    let profiles: String = reader.parsed(
        "detection.default_profiles",
        &standard.default_profiles.join(","),
        "names or ids, separated by commas",
    );
    DetectionSettings {
        pool: PoolSettings { threads, queue, bulk },
        default_profiles: profiles.split(',').map(|name| name.trim().to_owned()).collect(),
        max_text_bytes,
        max_batch_texts: reader.count("detection.batch_texts", standard.max_batch_texts, 1..=1_000_000),
        max_hypotheses: reader.count("detection.hypotheses", standard.max_hypotheses, 1..=100_000),
        max_model_tokens: reader.count("detection.model_tokens", standard.max_model_tokens, 16..=10_000_000),
    }
}

const MEBIBYTE: usize = 1 << 20;

/// Reads the settings of jobs. Half the cores judge them, so that requests find the others.
pub(super) fn jobs(reader: &mut Reader, data_dir: &Path) -> JobSettings {
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let threads = NonZeroUsize::new(reader.count("jobs.threads", (cores / 2).max(1), 1..=1024));
    let days = |days: usize| days * 86_400_000;
    JobSettings {
        folder: reader.path("jobs.dir", &data_dir.join("jobs")),
        root: reader.optional_path("jobs.root"),
        running: reader.count("jobs.running", 1, 1..=64),
        open: reader.count("jobs.open", 16, 1..=100_000),
        kept: reader.count("jobs.kept", 256, 1..=100_000),
        keep: reader.millis("jobs.keep_ms", days(7), 1_000..=days(3_650)),
        upload_wait: reader.millis("jobs.upload_wait_ms", 3_600_000, 1_000..=days(30)),
        upload_limit: reader.count("jobs.upload_limit_bytes", 1 << 30, 1024..=1 << 50),
        disk_limit: reader.count("jobs.disk_limit_bytes", 4 << 30, 1024..=1 << 50),
        max_document: reader.count(
            "jobs.document_limit_bytes",
            8 * MEBIBYTE,
            1024..=dandyroll_vocab::MAX_TEXT_BYTES,
        ),
        memory: reader.count("jobs.memory_bytes", 256 * MEBIBYTE, MEBIBYTE..=1 << 40),
        threads: threads.unwrap_or(NonZeroUsize::MIN),
        retry_after: reader.millis("jobs.retry_after_ms", 60_000, 10..=days(1)),
    }
}
