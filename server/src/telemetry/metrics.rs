//! Prometheus metrics. Each server value has its own recorder: two in one process do not mix.
//!
//! Labels are few and bounded: routes come from the table of endpoints, codes from the table of errors; rings,
//! tokens and keys are never labels.

use std::sync::Arc;
use std::time::Duration;

use dandyroll_service::metrics::Metrics;
use metrics::{Key, Label, Level, Metadata, Recorder, Unit};
use metrics_exporter_prometheus::{BuildError, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

const METADATA: Metadata<'static> = Metadata::new("dandyroll", Level::INFO, None);

/// Upper bounds of latency buckets, in seconds.
const SECONDS: [f64; 14] = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 15.0, 60.0];

/// One answered request.
#[derive(Clone, Copy, Debug)]
pub struct RequestRecord {
    /// The path in the table of endpoints, or `none`.
    pub route: &'static str,
    /// The method, or `other`.
    pub method: &'static str,
    /// The status.
    pub status: u16,
    /// The error's code.
    pub code: Option<&'static str>,
    /// Until the answer's head was ready.
    pub took: Duration,
}

/// What is read at the moment of scraping.
#[derive(Clone, Debug)]
pub struct Gauges {
    /// Whether requests should be sent here.
    pub ready: bool,
    /// Whether the database answered at the last try.
    pub store_up: bool,
    /// Key versions in memory by state.
    pub keys: Vec<(&'static str, u64)>,
    /// Keys that do not open.
    pub broken_keys: u64,
    /// Entries that wait for the audit's writer.
    pub audit_queue: u64,
    /// Single texts that may be under way in detection.
    pub detection_limit: f64,
}

/// What records, and shows what was recorded. Clones share it.
#[derive(Clone)]
pub struct Exporter {
    recorder: Arc<PrometheusRecorder>,
    handle: PrometheusHandle,
    service: Metrics,
}

impl std::fmt::Debug for Exporter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Exporter")
    }
}

impl Exporter {
    /// An empty recorder.
    pub fn new() -> Result<Self, BuildError> {
        let recorder = PrometheusBuilder::new().set_buckets(&SECONDS)?.build_recorder();
        let (handle, recorder) = (recorder.handle(), Arc::new(recorder));
        let service = Metrics::new(recorder.clone());
        let exporter = Self { recorder, handle, service };
        exporter.describe();
        Ok(exporter)
    }

    fn describe(&self) {
        let counter = |name: &'static str, about: &'static str| {
            self.recorder.describe_counter(name.into(), Some(Unit::Count), about.into());
        };
        let gauge = |name: &'static str, about: &'static str| {
            self.recorder.describe_gauge(name.into(), Some(Unit::Count), about.into());
        };
        let seconds = |name: &'static str, about: &'static str| {
            self.recorder.describe_histogram(name.into(), Some(Unit::Seconds), about.into());
        };
        counter("dandyroll_http_requests_total", "Requests answered");
        seconds("dandyroll_http_request_seconds", "From the request's head to the answer's head");
        gauge("dandyroll_http_in_flight", "Requests not yet answered");
        counter("dandyroll_errors_total", "Requests answered with an error, by its code");
        counter(
            "dandyroll_refused_unwritten_total",
            "Callers without a valid token turned away without an audit row",
        );
        gauge("dandyroll_ready", "1 if requests should be sent here");
        gauge("dandyroll_store_up", "1 if the database answered at the last try");
        gauge("dandyroll_key_versions", "Key versions in memory by state");
        gauge("dandyroll_broken_keys", "Key versions that do not open");
        gauge("dandyroll_audit_queue", "Audit rows that wait for the writer");
        gauge(
            "dandyroll_detection_limit",
            "Single texts that detection takes at a time now; falls under overload",
        );
    }

    fn key(name: &'static str, labels: &[(&'static str, &'static str)]) -> Key {
        let labels: Vec<_> =
            labels.iter().map(|(name, value)| Label::from_static_parts(name, value)).collect();
        Key::from_parts(name, labels)
    }

    fn count(&self, name: &'static str, labels: &[(&'static str, &'static str)], by: u64) {
        self.recorder.register_counter(&Self::key(name, labels), &METADATA).increment(by);
    }

    fn seconds(&self, name: &'static str, labels: &[(&'static str, &'static str)], took: Duration) {
        self.recorder.register_histogram(&Self::key(name, labels), &METADATA).record(took.as_secs_f64());
    }

    fn gauge(&self, name: &'static str, labels: &[(&'static str, &'static str)]) -> metrics::Gauge {
        self.recorder.register_gauge(&Self::key(name, labels), &METADATA)
    }

    /// What detection and generation record to.
    pub fn service(&self) -> &Metrics {
        &self.service
    }

    /// A request came in; told again with the answer by [`Self::request`].
    pub fn in_flight(&self) -> metrics::Gauge {
        self.gauge("dandyroll_http_in_flight", &[])
    }

    /// A request was answered.
    pub fn request(&self, record: &RequestRecord) {
        let RequestRecord { route, method, status, code, took } = *record;
        let labels = [("route", route), ("method", method), ("status", status_name(status))];
        self.count("dandyroll_http_requests_total", &labels, 1);
        self.seconds("dandyroll_http_request_seconds", &labels[..2], took);
        if let Some(code) = code {
            self.count("dandyroll_errors_total", &[("code", code)], 1);
        }
    }

    /// A caller was turned away without an audit row.
    pub fn refused_unwritten(&self) {
        self.count("dandyroll_refused_unwritten_total", &[], 1);
    }

    /// Everything in Prometheus's text format.
    pub fn render(&self, gauges: &Gauges) -> String {
        let yes = |yes: bool| if yes { 1.0 } else { 0.0 };
        self.gauge("dandyroll_ready", &[]).set(yes(gauges.ready));
        self.gauge("dandyroll_store_up", &[]).set(yes(gauges.store_up));
        for (state, count) in &gauges.keys {
            self.gauge("dandyroll_key_versions", &[("state", state)]).set(number(*count));
        }
        self.gauge("dandyroll_broken_keys", &[]).set(number(gauges.broken_keys));
        self.gauge("dandyroll_audit_queue", &[]).set(number(gauges.audit_queue));
        self.gauge("dandyroll_detection_limit", &[]).set(gauges.detection_limit);
        self.handle.render()
    }

    /// Empties the histograms' buffers; to be called every few seconds whether anybody scrapes or not.
    pub fn upkeep(&self) {
        self.handle.run_upkeep();
    }
}

fn number(count: u64) -> f64 {
    // Exact up to 2^32 of anything.
    u32::try_from(count).map_or(f64::from(u32::MAX), f64::from)
}

fn status_name(status: u16) -> &'static str {
    match status {
        200 => "200",
        201 => "201",
        202 => "202",
        204 => "204",
        400 => "400",
        401 => "401",
        403 => "403",
        404 => "404",
        405 => "405",
        408 => "408",
        409 => "409",
        413 => "413",
        415 => "415",
        422 => "422",
        429 => "429",
        500 => "500",
        503 => "503",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use dandyroll_detector::Verdict;
    use dandyroll_service::metrics::{DetectionRecord, GenerationRecord};

    use super::*;

    #[test]
    fn what_was_recorded_is_rendered() {
        let metrics = Exporter::new().unwrap();
        let took = Duration::from_millis(3);
        metrics.request(&RequestRecord {
            route: "/x",
            method: "GET",
            status: 429,
            code: Some("rate_limited"),
            took,
        });
        metrics.service().generation(&GenerationRecord {
            prompt_tokens: 5,
            generated_tokens: 7,
            marked: true,
            first_token: Some(took),
            decode: took,
        });
        metrics.service().detection(&DetectionRecord {
            verdict: Verdict::Detected,
            tokens: 9,
            hypotheses: 2,
            took,
        });
        let gauges = Gauges {
            ready: true,
            store_up: false,
            keys: vec![("active", 2)],
            broken_keys: 0,
            audit_queue: 4,
            detection_limit: 256.0,
        };
        let text = metrics.render(&gauges);
        for line in [
            r#"dandyroll_http_requests_total{route="/x",method="GET",status="429"} 1"#,
            r#"dandyroll_http_request_seconds_bucket{route="/x",method="GET",le="0.005"} 1"#,
            r#"dandyroll_errors_total{code="rate_limited"} 1"#,
            r#"dandyroll_generated_tokens_total{marked="yes"} 7"#,
            r#"dandyroll_generation_seconds_count{stage="decode"} 1"#,
            r#"dandyroll_detections_total{verdict="detected"} 1"#,
            r#"dandyroll_detections_total{verdict="too_short"} 0"#,
            "dandyroll_detected_tokens_total 9",
            "dandyroll_hypotheses_total 2",
            "dandyroll_detection_seconds_count 1",
            "dandyroll_ready 1",
            "dandyroll_store_up 0",
            r#"dandyroll_key_versions{state="active"} 2"#,
            "dandyroll_audit_queue 4",
            "dandyroll_detection_limit 256",
        ] {
            assert!(text.contains(line), "{line} not in\n{text}");
        }
        assert!(!Exporter::new().unwrap().render(&gauges).contains("rate_limited"), "two recorders mix");
    }
}
