//! Generation and detection below HTTP, with the fixture model, on both stores.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use dandyroll_api::detect::{
    BatchRequest, BatchText, DetectRequest, Detection, Finding, Look, ModeName, StreamLine, TextItem,
};
use dandyroll_api::openai::{ChatChunk, Completion, CompletionRequest, Prompt, Watermark, WatermarkRequest};
use dandyroll_api::problem::Problem;
use dandyroll_detector::{Correction, Detector, Hypothesis, Mode, Policy as Bounds, Text, Verdict};
use dandyroll_ledger::Timestamp;
use dandyroll_ledger::keys::{Alias, NewRing, Target, Version};
use dandyroll_ledger::node::Node;
use dandyroll_ledger::store::{EntryFilter, StoredEntry};
use dandyroll_ledger::tokens::{Grant, Policy, Scope};
use dandyroll_scheme::schemes::green_list;
use dandyroll_scheme::{Background, Mark, Recipe, Seeding};
use dandyroll_server::telemetry::metrics::Exporter;
use dandyroll_service::Asker;
use dandyroll_service::detection::{Detecting, DetectionError, DetectionSettings, ToProblem, Tokenizer};
use dandyroll_service::generation::{
    Answer, Event, Generating, GenerationError, GenerationSettings, Model, Order, Running,
};
use dandyroll_vocab::normalise;
use futures_util::{StreamExt, stream};

use crate::model::{Fixture, FixtureModel};
use crate::place::Place;

on_both!(
    a_marked_text_is_detected_and_names_its_version,
    policies_are_kept_and_refusals_are_rows,
    a_text_that_was_begun_is_finished_under_its_version,
    who_leaves_ends_its_text,
    a_stream_is_the_same_text,
    without_an_audit_nothing_is_handed_out,
    results_are_the_library_s_number_for_number,
    windows_of_a_profile_s_background_list_are_not_scored,
    scorable_pairs_are_what_detection_scores,
    a_mark_that_chooses_needs_a_choice,
    tiers_hide_what_they_must,
    keys_are_named_in_every_way,
    one_bad_text_costs_itself_only,
    ten_thousand_lines_and_some_bad_ones,
);

struct World {
    node: Node,
    generating: Generating,
    detecting: Detecting,
}

fn alias(name: &str) -> Alias {
    name.parse().unwrap()
}

async fn world(place: &Place, settings: DetectionSettings) -> World {
    world_with(place, settings, Vec::new()).await
}

/// With background lists.
async fn listed_world(place: &Place, lists: Vec<Arc<Background>>) -> World {
    world_with(place, DetectionSettings::standard(), lists).await
}

async fn world_with(place: &Place, settings: DetectionSettings, lists: Vec<Arc<Background>>) -> World {
    let node = place.node("a").await;
    for name in ["default", "other"] {
        let new = NewRing { alias: alias(name), allow_export: true, allow_destroy: true, rotate_every: None };
        node.keys().create_ring(new).await.unwrap();
    }
    let fixture = Fixture::get();
    for name in ["prose-v1", "code-v1", "gumbel-v1"] {
        let profile = fixture.profile(Recipe::built_in(name).unwrap());
        node.profiles().put(&profile, Some(&alias(name))).await.unwrap();
    }
    node.refresh().await.unwrap();
    node.refresh().await.unwrap();
    let models: Vec<Arc<dyn Model>> = vec![Arc::new(FixtureModel(Arc::clone(&fixture)))];
    let metrics = Exporter::new().unwrap().service().clone();
    let generating =
        Generating::new(node.clone(), metrics.clone(), models, lists.clone(), GenerationSettings::standard())
            .unwrap();
    let tokenizer = Tokenizer { backgrounds: lists, ..fixture.tokenizer() };
    let detecting = Detecting::start(node.clone(), metrics, vec![tokenizer], settings).unwrap();
    World { node, generating, detecting }
}

async fn plain(place: &Place) -> World {
    world(place, DetectionSettings::standard()).await
}

fn asker(scopes: &[Scope], policy: Policy, aliases: Option<&[&str]>) -> Asker {
    let grant = Grant {
        name: "t".into(),
        scopes: scopes.iter().copied().collect(),
        aliases: aliases.map(|all| all.iter().map(|name| alias(name)).collect()),
        policy,
        limit: None,
        expires_at: None,
    };
    let id = "aaaaaaaaaaaaaaaa".parse().unwrap();
    let token =
        dandyroll_ledger::tokens::TokenInfo { id, grant, created_at: Timestamp::now(), revoked_at: None };
    Asker { token, request: "rq_test".into() }
}

fn writer() -> Asker {
    asker(&[Scope::Generate], Policy::DefaultOn, None)
}

fn reader() -> Asker {
    asker(&[Scope::DetectTokens], Policy::Off, None)
}

const PROMPT: &str = "import os\n\n\ndef read_lines(path):\n    \"\"\"Return the lines of a file.\"\"\"\n";

fn request(seed: i64, tokens: u32) -> CompletionRequest {
    let json = serde_json::json!({"model": "model", "prompt": PROMPT, "max_tokens": tokens, "seed": seed});
    serde_json::from_value(json).unwrap()
}

async fn start(world: &World, asker: &Asker, request: CompletionRequest) -> Result<Running, GenerationError> {
    let order = Order::completion(request, world.generating.settings())?;
    world.generating.start(asker, order).await
}

async fn complete(
    world: &World,
    asker: &Asker,
    request: CompletionRequest,
) -> Result<Completion, GenerationError> {
    match start(world, asker, request).await?.collect().await? {
        Answer::Completion(completion) => Ok(*completion),
        Answer::Chat(_) => panic!("a completion was asked for"),
    }
}

fn only(completion: &Completion) -> (String, Watermark) {
    assert_eq!(completion.choices.len(), 1);
    (completion.choices[0].text.clone(), completion.watermark.clone().unwrap())
}

/// A marked text that the model did not end before its time and in which it does not repeat itself: keys are
/// random, and so are the texts.
async fn long(world: &World, asker: &Asker) -> (i64, String, Watermark) {
    for seed in 1..80 {
        let (text, mark) = only(&complete(world, asker, request(seed, 400)).await.unwrap());
        if mark.generated == 400 && Fixture::get().is_varied(&text) {
            return (seed, text, mark);
        }
    }
    panic!("the model ends every text");
}

fn text(text: &str) -> DetectRequest {
    serde_json::from_value(serde_json::json!({ "text": text })).unwrap()
}

async fn rotate(world: &World, ring: &str) {
    world.node.keys().rotate(&alias(ring), Target::Generate, false).await.unwrap();
    world.node.refresh().await.unwrap();
    world.node.refresh().await.unwrap();
}

/// The ends of all operations of a kind; waits for those that were left.
async fn ends(world: &World, action: &str) -> Vec<StoredEntry> {
    let filter = EntryFilter { action: Some(action.into()), ..EntryFilter::default() };
    let begin = Instant::now();
    loop {
        let (entries, _) = world.node.audit().list(&filter, None, 1000).await.unwrap();
        let (begun, ended): (Vec<_>, Vec<_>) = entries.into_iter().partition(|entry| entry.kind == "begin");
        if ended.len() == begun.len() {
            return ended;
        }
        assert!(begin.elapsed() < Duration::from_secs(20), "{} of {} ended", ended.len(), begun.len());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn of_receipt<'a>(rows: &'a [StoredEntry], receipt: Option<&String>) -> &'a StoredEntry {
    rows.iter().find(|row| Some(&row.receipt) == receipt).unwrap()
}

async fn a_marked_text_is_detected_and_names_its_version(place: Place) {
    let world = plain(&place).await;
    let (_, old, mark) = long(&world, &writer()).await;
    assert_eq!((mark.applied, mark.reason.as_str(), mark.version), (true, "default_on", Some(1)));
    assert_eq!((mark.generated, mark.eligible, mark.marked), (400, 398, 398));
    rotate(&world, "default").await;
    let (_, new, renewed) = long(&world, &writer()).await;
    assert_eq!(renewed.version, Some(2));
    for (marked, version, key) in [(&old, 1, &mark.key_id), (&new, 2, &renewed.key_id)] {
        let found = world.detecting.detect(&reader(), text(marked)).await.unwrap();
        assert_eq!((found.verdict.as_str(), found.hypotheses), ("detected", Some(3)), "{found:?}");
        let best = &found.findings.as_ref().unwrap()[0];
        assert_eq!((best.key.alias.as_str(), best.key.version), ("default", version));
        assert_eq!(Some(&best.key.key_id), key.as_ref());
        assert_eq!(best.profiles[0].names, ["prose-v1"]);
        assert!(found.findings.as_ref().unwrap()[1..].iter().all(|other| other.verdict != "detected"));
    }
    // What a detector can score is what was promised.
    let found = world.detecting.detect(&reader(), text(&old)).await.unwrap();
    assert_eq!(Some(u64::from(found.findings.unwrap()[0].scored)), mark.scorable_pairs);
    // The rows name key, counts and the hash of the text, and hold no text.
    let rows = ends(&world, "generate").await;
    let row = of_receipt(&rows, mark.receipt.as_ref());
    let hash = world.node.hasher().hash(normalise(&old).text()).to_string();
    assert_eq!((row.output.as_deref(), row.outcome.as_deref()), (Some(hash.as_str()), Some("ok")));
    assert_eq!((row.version, row.key_id.as_ref()), (Some(1), mark.key_id.as_ref()));
    assert!(row.detail.contains("\"marked_tokens\":398"), "{}", row.detail);
    let rows = ends(&world, "detect").await;
    assert_eq!((rows.len(), rows[0].output.as_deref(), rows[0].version), (3, Some(hash.as_str()), Some(1)));
    // Keys that were derived once are not derived again.
    let profile = Fixture::get().profile(green_list::prose_v1());
    let mark = || {
        let snapshot = world.node.snapshot();
        snapshot.rings.get(&alias("default")).unwrap().keys()[0].mark(&profile, None).unwrap()
    };
    let before = mark();
    world.node.refresh().await.unwrap();
    assert!(Arc::ptr_eq(&before, &mark()));
}

async fn policies_are_kept_and_refusals_are_rows(place: Place) {
    let world = plain(&place).await;
    let with =
        |watermark: WatermarkRequest| CompletionRequest { watermark: Some(watermark), ..request(1, 8) };
    let ask = WatermarkRequest::default;
    let of = |policy| asker(&[Scope::Generate], policy, None);

    let unmarked = WatermarkRequest { enabled: Some(false), ..ask() };
    let error = complete(&world, &of(Policy::Enforced), with(unmarked.clone())).await.unwrap_err();
    assert_eq!(error.code(), "opt_out_refused");
    let (_, mark) = only(&complete(&world, &of(Policy::DefaultOn), with(unmarked)).await.unwrap());
    assert_eq!(
        (mark.applied, mark.reason.as_str(), mark.marked, mark.version),
        (false, "opted_out", 0, None)
    );
    let (_, mark) = only(&complete(&world, &of(Policy::Off), request(1, 8)).await.unwrap());
    assert_eq!((mark.applied, mark.reason.as_str()), (false, "off"));
    let (_, mark) = only(&complete(&world, &of(Policy::Enforced), request(1, 8)).await.unwrap());
    assert_eq!((mark.applied, mark.reason.as_str()), (true, "enforced"));
    assert_eq!(mark.marked, mark.generated.saturating_sub(2));
    let named = WatermarkRequest { alias: Some("other".into()), profile: Some("code-v1".into()), ..ask() };
    let (_, mark) = only(&complete(&world, &of(Policy::Off), with(named.clone())).await.unwrap());
    assert_eq!((mark.alias.as_deref(), mark.reason.as_str()), (Some("other"), "requested"));
    let only_default = asker(&[Scope::Generate], Policy::Off, Some(&["default"]));
    let error = complete(&world, &only_default, with(named)).await.unwrap_err();
    assert_eq!(error.code(), "alias_not_allowed");
    for (alias, profile, expected) in [
        (Some("nobody"), None, "unknown_alias"),
        (None, Some("nothing"), "unknown_profile"),
        (Some("No Name"), None, "invalid_value"),
    ] {
        let ask = WatermarkRequest {
            alias: alias.map(str::to_owned),
            profile: profile.map(str::to_owned),
            ..ask()
        };
        assert_eq!(complete(&world, &of(Policy::Off), with(ask)).await.unwrap_err().code(), expected);
    }
    let required = WatermarkRequest { require: true, ..ask() };
    let short = CompletionRequest { max_tokens: Some(2), ..with(required.clone()) };
    assert_eq!(complete(&world, &of(Policy::Off), short).await.unwrap_err().code(), "watermark_required");

    // Without an active version: a mark that is required is missing, and nothing is generated.
    let first = Version::new(1).unwrap();
    world.node.keys().compromise(&alias("default"), first).await.unwrap();
    world.node.refresh().await.unwrap();
    for (policy, ask) in [(Policy::Off, required), (Policy::Enforced, ask())] {
        let error = complete(&world, &of(policy), with(ask)).await.unwrap_err();
        assert_eq!(error.code(), "no_active_key");
    }
    let (_, mark) = only(&complete(&world, &of(Policy::DefaultOn), request(1, 8)).await.unwrap());
    assert_eq!((mark.applied, mark.reason.as_str()), (false, "no_active_key"));
    let rows = ends(&world, "generate").await;
    let refused: Vec<&str> = rows
        .iter()
        .filter(|row| row.outcome.as_deref() == Some("refused"))
        .map(|row| row.detail.as_str())
        .collect();
    assert_eq!(refused.len(), 5, "{refused:?}");
    assert!(refused[0].contains("opt_out_refused") && refused[4].contains("no_active_key"));

    // A full queue is told, and written down.
    let busy = CompletionRequest { prompt: Some(Prompt::Ids(vec![7, 7, 7])), ..request(1, 8) };
    let error = complete(&world, &of(Policy::Off), busy).await.unwrap_err();
    assert!(matches!(error, GenerationError::Busy { retry_after } if retry_after.as_secs() == 2));
    let rows = ends(&world, "generate").await;
    assert!(rows.last().unwrap().detail.contains("overloaded"));
}

async fn a_text_that_was_begun_is_finished_under_its_version(place: Place) {
    let world = plain(&place).await;
    let (seed, expected, _) = long(&world, &writer()).await;
    let mut running = start(&world, &writer(), request(seed, 400)).await.unwrap();
    let mut whole = String::new();
    for _ in 0..20 {
        match running.next().await.unwrap() {
            Event::Token { piece, .. } => whole.push_str(&piece),
            other => panic!("{other:?}"),
        }
    }
    // The ring rotates, and the version that marks is even found to be compromised.
    rotate(&world, "default").await;
    world.node.keys().compromise(&alias("default"), Version::new(1).unwrap()).await.unwrap();
    world.node.refresh().await.unwrap();
    let watermark = loop {
        match running.next().await.unwrap() {
            Event::Token { piece, .. } => whole.push_str(&piece),
            Event::Ended { watermark, .. } => break watermark,
            Event::Failed(error) => panic!("{error}"),
        }
    };
    assert_eq!((watermark.version, watermark.marked, whole == expected), (Some(1), 398, true));
    let found = world.detecting.detect(&reader(), text(&whole)).await.unwrap();
    assert_ne!(found.verdict, "detected", "a compromised version detects only when asked");
    let asked = DetectRequest { include_compromised: true, ..text(&whole) };
    let found = world.detecting.detect(&reader(), asked).await.unwrap();
    assert_eq!((found.verdict.as_str(), found.compromised), ("detected", Some(true)));
    assert_eq!(found.findings.unwrap()[0].key.state, "compromised");
}

async fn who_leaves_ends_its_text(place: Place) {
    let world = plain(&place).await;
    let (seed, ..) = long(&world, &writer()).await;
    let mut running = start(&world, &writer(), request(seed, 4000)).await.unwrap();
    for _ in 0..5 {
        assert!(matches!(running.next().await, Some(Event::Token { .. })));
    }
    drop(running);
    let row = ends(&world, "generate").await.pop().unwrap();
    assert_eq!((row.outcome.as_deref(), row.output), (Some("interrupted"), None));
    let detail: serde_json::Value = serde_json::from_str(&row.detail).unwrap();
    let generated = detail["generated"].as_u64().unwrap();
    // Few are computed ahead of what is taken: the channels' lengths.
    assert!((5..60).contains(&generated), "{detail}");
    // The model is free again.
    complete(&world, &writer(), request(4, 4)).await.unwrap();
}

/// The data of every event of a stream.
async fn events(running: Running) -> Vec<String> {
    let envelope = |error: &GenerationError| format!("{{\"error\":\"{}\"}}", error.code());
    let all: Vec<Bytes> = running.events(envelope).collect().await;
    let whole = String::from_utf8(all.concat()).unwrap();
    let events = whole.split("\n\n").filter(|event| !event.is_empty());
    events.map(|event| event.strip_prefix("data: ").unwrap().to_owned()).collect()
}

async fn a_stream_is_the_same_text(place: Place) {
    let world = plain(&place).await;
    let several = CompletionRequest {
        prompt: Some(Prompt::Texts(vec![PROMPT.into(), "class A:\n".into()])),
        n: Some(2),
        logprobs: Some(0),
        ..request(5, 24)
    };
    let whole = complete(&world, &writer(), several.clone()).await.unwrap();
    assert_eq!(whole.choices.iter().map(|choice| choice.index).collect::<Vec<_>>(), [0, 1, 2, 3]);
    assert_eq!(whole.choices[0].text, only(&complete(&world, &writer(), request(5, 24)).await.unwrap()).0);
    let mut receipts: Vec<_> =
        whole.choices.iter().map(|choice| choice.watermark.clone().unwrap().receipt.unwrap()).collect();
    receipts.dedup();
    assert_eq!((receipts.len(), whole.watermark.as_ref().unwrap().receipt.as_ref()), (4, None));

    let streamed = CompletionRequest {
        stream: Some(true),
        stream_options: serde_json::from_str("{\"include_usage\":true}").unwrap(),
        ..several
    };
    let mut all = events(start(&world, &writer(), streamed).await.unwrap()).await;
    assert_eq!(all.pop().as_deref(), Some("[DONE]"));
    let chunks: Vec<Completion> = all.iter().map(|event| serde_json::from_str(event).unwrap()).collect();
    let last = chunks.last().unwrap();
    assert!(last.choices.is_empty());
    assert_eq!(
        (last.usage, last.watermark.as_ref().unwrap().marked),
        (whole.usage, whole.watermark.unwrap().marked)
    );
    for choice in &whole.choices {
        let parts: Vec<_> = chunks
            .iter()
            .flat_map(|chunk| &chunk.choices)
            .filter(|part| part.index == choice.index)
            .collect();
        let text: String = parts.iter().map(|part| part.text.as_str()).collect();
        assert_eq!(text, choice.text);
        let logprobs: Vec<f64> =
            parts.iter().filter_map(|part| part.logprobs.clone()).flat_map(|l| l.token_logprobs).collect();
        assert_eq!(logprobs, choice.logprobs.as_ref().unwrap().token_logprobs);
        assert!(logprobs.iter().all(|logprob| *logprob <= 0.0));
        let end = parts.last().unwrap();
        assert_eq!(end.finish_reason, choice.finish_reason);
        let (own, other) = (end.watermark.as_ref().unwrap(), choice.watermark.as_ref().unwrap());
        assert_eq!((own.marked, own.scorable_pairs), (other.marked, other.scorable_pairs));
    }

    let chat = serde_json::json!({"model": "model", "messages": [{"role": "user", "content": "write"}],
        "max_tokens": 12, "seed": 1, "stream": true});
    let order = Order::chat(serde_json::from_value(chat).unwrap(), world.generating.settings()).unwrap();
    let mut all = events(world.generating.start(&writer(), order).await.unwrap()).await;
    assert_eq!(all.pop().as_deref(), Some("[DONE]"));
    let chunks: Vec<ChatChunk> = all.iter().map(|event| serde_json::from_str(event).unwrap()).collect();
    assert_eq!(chunks[0].choices[0].delta.role.as_deref(), Some("assistant"));
    let last = chunks.last().unwrap();
    assert!(last.watermark.as_ref().unwrap().receipt.is_some() && last.choices[0].finish_reason.is_some());
}

async fn without_an_audit_nothing_is_handed_out(place: Place) {
    let world = plain(&place).await;
    // Long enough not to be done before the store is gone.
    let (seed, ..) = long(&world, &writer()).await;
    let streamed = CompletionRequest { stream: Some(true), ..request(seed, 400) };
    let running = start(&world, &writer(), streamed).await.unwrap();
    let whole = start(&world, &writer(), request(seed, 400)).await.unwrap();
    world.node.store().close().await;
    // Both at once: either may have the fixture's one model first, and holds it while nobody reads.
    let (all, whole) = tokio::join!(events(running), whole.collect());
    assert_eq!(all.last().map(String::as_str), Some("{\"error\":\"audit_unavailable\"}"));
    assert!(!all.contains(&"[DONE]".to_owned()));
    assert_eq!(whole.unwrap_err().code(), "audit_unavailable");
    assert_eq!(start(&world, &writer(), request(6, 12)).await.unwrap_err().code(), "audit_unavailable");
    let error = world.detecting.detect(&reader(), text("any")).await.unwrap_err();
    assert_eq!(error.code(), "audit_unavailable");
}

async fn windows_of_a_profile_s_background_list_are_not_scored(place: Place) {
    let world = plain(&place).await;
    let fixture = Fixture::get();
    let human = "The quick brown fox jumps over the lazy dog, and nobody saw why it did so.";
    let ids = fixture.vocabulary().encode_ids(human).unwrap();
    let listed = ids.windows(3).step_by(2);
    let width = green_list::prose_v1().width();
    let list = Background::new(fixture.vocabulary().digest(), width, listed.clone()).unwrap();
    let profile = fixture.profile(green_list::prose_v1()).with_background(Some(list.digest()));
    world.node.profiles().put(&profile, Some(&alias("prose-listed"))).await.unwrap();
    world.node.refresh().await.unwrap();
    let request = DetectRequest {
        profiles: Some(vec!["prose-v1".into(), "prose-listed".into()]),
        keys: Some(vec!["default".into()]),
        ..text(human)
    };
    // Never judged as if there were no list.
    let error = world.detecting.detect(&reader(), request.clone()).await.unwrap_err();
    assert_eq!((error.code(), error.field()), ("tokenizer_not_loaded", Some("profiles")), "{error}");

    let tokenizer = Tokenizer { backgrounds: vec![Arc::new(list)], ..fixture.tokenizer() };
    let settings = DetectionSettings::standard();
    let detecting = Detecting::start(
        world.node.clone(),
        Exporter::new().unwrap().service().clone(),
        vec![tokenizer],
        settings,
    )
    .unwrap();
    let found = detecting.detect(&reader(), request).await.unwrap().findings.unwrap();
    // No window of this text comes twice.
    let scored = |id: &str| {
        let of = |finding: &&Finding| finding.profiles.iter().any(|profile| profile.id == id);
        found.iter().find(of).unwrap().scored
    };
    let all = u32::try_from(ids.len() - 2).unwrap();
    let plain = fixture.profile(green_list::prose_v1());
    assert_eq!(scored(plain.id().as_str()), all);
    assert_eq!(scored(profile.id().as_str()), all - u32::try_from(listed.count()).unwrap());
}

/// Under either seeding, with and without a background list, for pairs and for contexts.
async fn scorable_pairs_are_what_detection_scores(place: Place) {
    let fixture = Fixture::get();
    let human = std::fs::read_to_string(
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/corpora/python_heldout.jsonl"),
    )
    .unwrap();
    let ids = fixture.vocabulary().encode_ids(normalise(&human[..20_000]).text()).unwrap();
    let width = |h: u8| dandyroll_scheme::ContextWidth::new(h).unwrap();
    let list = |h: u8| {
        let windows = ids.windows(usize::from(h) + 1);
        Arc::new(Background::new(fixture.vocabulary().digest(), width(h), windows).unwrap())
    };
    let lists = [list(1), list(2), list(4)];
    let world = listed_world(&place, lists.iter().map(Arc::clone).collect()).await;
    let of = |name: &str| Recipe::built_in(name).unwrap();
    let min = |h: u8| green_list::recipe(0.25, 2.0, h, None).unwrap().seeded(Seeding::Min);
    for (number, (recipe, background)) in [
        (of("prose-v1"), None),
        (of("prose-v1"), Some(&lists[1])),
        (of("code-v1"), Some(&lists[0])),
        (min(4), None),
        (min(4), Some(&lists[2])),
        (min(8), None),
        (of("gumbel-v1"), None),
        (of("gumbel-v1"), Some(&lists[1])),
        (of("gumbel-v1").seeded(Seeding::Min), None),
    ]
    .into_iter()
    .enumerate()
    {
        let profile = fixture.profile(recipe).with_background(background.map(|list| list.digest()));
        let name = format!("case-{number}");
        world.node.profiles().put(&profile, Some(&alias(&name))).await.unwrap();
        world.node.refresh().await.unwrap();
        let watermark =
            WatermarkRequest { profile: Some(name.clone()), require: true, ..WatermarkRequest::default() };
        let asked = CompletionRequest { watermark: Some(watermark), ..request(1, 200) };
        let answer = complete(&world, &asker(&[Scope::Generate], Policy::Off, None), asked).await.unwrap();
        let (written, mark) = only(&answer);
        let asked = DetectRequest {
            profiles: Some(vec![name.clone()]),
            keys: Some(vec!["default".into()]),
            modes: Some(vec![ModeName::ModelFree]),
            ..text(&written)
        };
        let found = world.detecting.detect(&reader(), asked).await.unwrap().findings.unwrap();
        assert_eq!(Some(u64::from(found[0].scored)), mark.scorable_pairs, "{name}");
        assert!(mark.scorable_pairs > Some(20), "{name}: {mark:?}");
    }
}

/// Nothing is generated where a mark is required and the sampler leaves no choice; else the answer says so.
async fn a_mark_that_chooses_needs_a_choice(place: Place) {
    let world = plain(&place).await;
    let by = asker(&[Scope::Generate], Policy::Off, None);
    let ask = |require| WatermarkRequest {
        profile: Some("gumbel-v1".into()),
        enabled: Some(true),
        require,
        ..WatermarkRequest::default()
    };
    let with = |require, temperature| CompletionRequest {
        watermark: Some(ask(require)),
        temperature: Some(temperature),
        ..request(1, 200)
    };
    let error = complete(&world, &by, with(true, 0.0)).await.unwrap_err();
    assert_eq!(error.code(), "watermark_required");
    assert!(error.to_string().contains("likeliest token"), "{error}");
    let (_, mark) = only(&complete(&world, &by, with(false, 0.0)).await.unwrap());
    assert_eq!((mark.applied, mark.reason.as_str(), mark.marked), (false, "not_markable", 0));
    let enforced = asker(&[Scope::Generate], Policy::Enforced, None);
    assert!(complete(&world, &enforced, with(false, 0.0)).await.is_err());

    let (written, mark) = only(&complete(&world, &by, with(true, 1.0)).await.unwrap());
    let others = mark.repeated_contexts + mark.low_entropy + mark.certain;
    assert_eq!((mark.applied, mark.low_entropy, mark.eligible), (true, 0, mark.generated - 2));
    assert_eq!(mark.marked + others, mark.eligible, "{mark:?}");
    let asked = DetectRequest { profiles: Some(vec!["gumbel-v1".into()]), ..text(&written) };
    let found = world.detecting.detect(&reader(), asked).await.unwrap();
    assert_eq!(found.verdict, "detected", "{found:?}");
    let rows = ends(&world, "generate").await;
    let row = of_receipt(&rows, mark.receipt.as_ref());
    assert!(row.detail.contains(&format!("\"marked_tokens\":{}", mark.marked)), "{}", row.detail);
}

async fn results_are_the_library_s_number_for_number(place: Place) {
    let world = plain(&place).await;
    let (_, marked, _) = long(&world, &writer()).await;
    // Marked, with human text around it, and with what normalisation removes.
    let human = "The quick brown fox jumps over the lazy dog, again and again.\r\n".repeat(3);
    let mixed = format!("\u{feff}{human}{marked}\n{human}");
    let fixture = Fixture::get();
    let normal = normalise(&mixed);
    let encoding = fixture.vocabulary().encode(normal.text()).unwrap();
    let prompt = fixture.vocabulary().encode_prompt("Write.").unwrap();
    let entropies = fixture.read(&prompt, encoding.ids());
    let (prose, code) = (fixture.profile(green_list::prose_v1()), fixture.profile(green_list::code_v1()));
    let snapshot = world.node.snapshot();
    let keys: Vec<_> = snapshot.rings.iter().flat_map(|(_, ring)| ring.keys()).collect();
    let marks: Vec<Arc<Mark>> =
        keys.iter().flat_map(|key| [&prose, &code].map(|profile| key.mark(profile, None).unwrap())).collect();
    let modes = [Mode::ModelFree, Mode::Weighted];
    let hypotheses: Vec<Hypothesis<'_>> =
        marks.iter().flat_map(|mark| modes.map(|mode| Hypothesis { mark, mode })).collect();
    let bounds = Bounds::new(1e-4, 1e-3, 16, Correction::Holm).unwrap();
    let input = Text { ids: encoding.ids(), prompt: 0, entropies: Some(&entropies) };
    let expected = Detector::new().detect_spans(&input, &hypotheses, &bounds).unwrap();
    // The passage is found in both modes, and each says so.
    assert_eq!((expected.verdict(), expected.spans.is_empty()), (Verdict::Detected, false));

    let request = DetectRequest {
        prompt: Some("Write.".into()),
        profiles: Some(vec!["prose-v1".into(), code.id().to_string()]),
        modes: Some(vec![ModeName::ModelFree, ModeName::EntropyWeighted]),
        alpha: Some(1e-4),
        spans: true,
        tokens: true,
        ..text(&mixed)
    };
    let found = world.detecting.detect(&reader(), request.clone()).await.unwrap();
    assert_eq!((found.hypotheses, found.correction.as_deref()), (Some(8), Some("holm")));
    assert_eq!(found.log10_p_adjusted, Some(expected.adjusted().get()));
    assert_eq!(found.windows, Some(expected.windows));
    let findings = found.findings.as_ref().unwrap();
    assert_eq!(findings.len(), 8);
    for (found, expected) in findings.iter().zip(&expected.report.findings) {
        let evidence = expected.evidence;
        assert_eq!(found.scored, evidence.scored);
        assert_eq!(found.score.to_bits(), evidence.score.to_bits());
        assert_eq!(found.expected.to_bits(), evidence.expected.to_bits());
        assert_eq!(found.log10_p.to_bits(), expected.evidence.log10_p.get().to_bits());
        assert_eq!(found.log10_p_adjusted.to_bits(), expected.adjusted.get().to_bits());
        assert_eq!(found.z, expected.evidence.z.map(|z| z.get()));
        assert_eq!((found.hypotheses, found.verdict.as_str()), (16, expected.verdict.name()));
        assert_eq!(found.key.key_id, keys[expected.hypothesis / 4].key_id.as_str());
        assert_eq!(found.mode, expected.evidence.mode.name());
    }
    let spans = found.spans.as_ref().unwrap();
    assert_eq!(spans.len(), expected.spans.len());
    for (span, expected) in spans.iter().zip(&expected.spans) {
        assert_eq!(
            (span.scored, span.score.to_bits(), span.mode.as_str()),
            (expected.scored, expected.score.to_bits(), expected.mode.name())
        );
        assert_eq!(span.log10_p_adjusted.to_bits(), expected.adjusted.get().to_bits());
    }
    // The passage, in characters and lines of the text as it was sent.
    let span = &spans[0];
    let chars: Vec<char> = mixed.chars().collect();
    let (start, end) = (usize::try_from(span.start_char).unwrap(), usize::try_from(span.end_char).unwrap());
    // Borders are estimates; most of what they enclose is the marked text.
    let from = mixed[..mixed.find(&marked).unwrap()].chars().count();
    let within = end.min(from + marked.chars().count()).saturating_sub(start.max(from));
    assert!(within * 2 > end - start, "characters {start} to {end}, the marked text begins at {from}");
    let place = &normal.places([encoding.byte_range_of(expected.spans[0].tokens.clone())])[0];
    assert_eq!(place.chars, start..end);
    let line = 1 + chars[..start].iter().filter(|c| **c == '\n').count();
    assert_eq!(span.start_line, u64::try_from(line).unwrap());
    assert_eq!((found.normalised.unwrap().bom, found.normalised.unwrap().crlf), (1, 6));
    // Every token has a colour, and together they are the text.
    let tokens = found.tokens.as_ref().unwrap();
    assert_eq!(tokens.len(), encoding.len());
    assert_eq!(tokens.last().unwrap().end_char, u64::try_from(chars.len()).unwrap());
    // And again the same.
    let again = world.detecting.detect(&reader(), request.clone()).await.unwrap();
    assert_eq!(Detection { receipt: None, ..again }, Detection { receipt: None, ..found });

    // Gated: code-v1 with its model; prose-v1 has no threshold.
    let auto = DetectRequest { modes: None, spans: false, tokens: false, ..request.clone() };
    let found = world.detecting.detect(&reader(), auto).await.unwrap();
    let modes: std::collections::BTreeSet<_> = found.findings.unwrap().into_iter().map(|f| f.mode).collect();
    assert_eq!(modes.into_iter().collect::<Vec<_>>(), ["entropy-gated", "model-free"]);
    let gated = DetectRequest { modes: Some(vec![ModeName::EntropyGated]), ..request.clone() };
    let error = world.detecting.detect(&reader(), gated).await.unwrap_err();
    assert!(matches!(&error, DetectionError::Mode { profile, .. } if profile == "prose-v1"), "{error}");
    // Profiles that differ in δ only are one test without a model.
    let twin = fixture.profile(green_list::recipe(0.25, 3.0, 2, None).unwrap());
    world.node.profiles().put(&twin, Some(&alias("twin"))).await.unwrap();
    world.node.refresh().await.unwrap();
    let twins = DetectRequest { profiles: Some(vec!["prose-v1".into(), "twin".into()]), ..text(&mixed) };
    let found = world.detecting.detect(&reader(), twins).await.unwrap();
    assert_eq!(found.hypotheses, Some(2));
    assert_eq!(found.findings.unwrap()[0].profiles.len(), 2);
}

async fn tiers_hide_what_they_must(place: Place) {
    let world = plain(&place).await;
    let (_, marked, _) = long(&world, &writer()).await;
    let of = |scope| asker(&[scope], Policy::Off, None);
    let public = world.detecting.detect(&of(Scope::DetectPublic), text(&marked)).await.unwrap();
    let receipt = public.receipt.clone();
    assert!(receipt.is_some());
    let band = public.band.clone();
    assert!(["strong", "very_strong"].contains(&band.as_str()));
    assert_eq!(public, Detection { receipt, ..Detection::public("detected", &band) });
    for (request, what) in [
        (DetectRequest { keys: Some(vec!["default".into()]), ..text("a") }, "keys"),
        (DetectRequest { alpha: Some(0.01), ..text("a") }, "alpha"),
        (DetectRequest { spans: true, ..text("a") }, "spans"),
        (DetectRequest { tokens: true, ..text("a") }, "tokens"),
    ] {
        let error = world.detecting.detect(&of(Scope::DetectPublic), request).await.unwrap_err();
        assert_eq!((error.code(), error.field()), ("forbidden_scope", Some(what)));
    }
    let full = world.detecting.detect(&of(Scope::DetectFull), text(&marked)).await.unwrap();
    assert!(full.findings.is_some() && full.tokens.is_none());
    let colours = DetectRequest { tokens: true, ..text(&marked) };
    let error = world.detecting.detect(&of(Scope::DetectFull), colours.clone()).await.unwrap_err();
    assert_eq!(error.code(), "forbidden_scope");
    assert!(world.detecting.detect(&of(Scope::DetectTokens), colours).await.unwrap().tokens.is_some());
    let error = world.detecting.detect(&of(Scope::Generate), text(&marked)).await.unwrap_err();
    assert_eq!(error.code(), "forbidden_scope");
    // A ring that the token may not use is not looked for.
    let blind = asker(&[Scope::DetectFull], Policy::Off, Some(&["other"]));
    let found = world.detecting.detect(&blind, text(&marked)).await.unwrap();
    assert_eq!((found.verdict == "detected", found.hypotheses), (false, Some(1)));
}

async fn keys_are_named_in_every_way(place: Place) {
    let world = plain(&place).await;
    let (_, marked, mark) = long(&world, &writer()).await;
    rotate(&world, "default").await;
    let key = mark.key_id.unwrap();
    let with = |keys: &[&str]| DetectRequest {
        keys: Some(keys.iter().map(|key| (*key).to_owned()).collect()),
        ..text(&marked)
    };
    for (keys, hypotheses, detected) in [
        (&["default"][..], 2, true),
        (&["default@1"], 1, true),
        (&["default@2"], 1, false),
        (&[key.as_str()], 1, true),
        (&[key.as_str(), "default@1", "default"], 2, true),
        (&["all"], 3, true),
        (&["other"], 1, false),
    ] {
        let found = world.detecting.detect(&reader(), with(keys)).await.unwrap();
        assert_eq!((found.hypotheses, found.verdict == "detected"), (Some(hypotheses), detected), "{keys:?}");
    }
    world.node.keys().disable(&alias("default"), Version::new(1).unwrap()).await.unwrap();
    world.node.refresh().await.unwrap();
    let bound = asker(&[Scope::DetectFull], Policy::Off, Some(&["other"]));
    for (who, keys, code) in [
        (&reader(), &["default@1"][..], "state_refused"),
        (&reader(), &["default@9"], "unknown_version"),
        (&reader(), &["wk_aaaaaaaaaaaaaaaa"], "unknown_version"),
        (&reader(), &["nobody"], "unknown_alias"),
        (&reader(), &["A b"], "invalid_value"),
        (&reader(), &[], "invalid_value"),
        (&bound, &["default"], "alias_not_allowed"),
        (&bound, &[key.as_str()], "unknown_version"),
    ] {
        let error = world.detecting.detect(who, with(keys)).await.unwrap_err();
        assert_eq!(error.code(), code, "{keys:?}: {error}");
    }
    let unknown = DetectRequest { profiles: Some(vec!["nothing".into()]), ..text("a") };
    assert_eq!(world.detecting.detect(&reader(), unknown).await.unwrap_err().code(), "unknown_profile");
    let alpha = DetectRequest { alpha: Some(0.5), ..text("a") };
    let error = world.detecting.detect(&reader(), alpha).await.unwrap_err();
    assert!(error.to_string().contains("alpha"), "{error}");
    let found = world.detecting.detect(&reader(), text("")).await.unwrap();
    assert_eq!(found.verdict, "too_short");
}

fn to_problem() -> ToProblem {
    Arc::new(|error: &DetectionError| Problem {
        kind: String::new(),
        title: String::new(),
        status: 400,
        detail: error.to_string(),
        code: error.code().into(),
        request_id: "rq_test".into(),
        parameter: None,
    })
}

fn small() -> DetectionSettings {
    DetectionSettings { max_text_bytes: 4096, max_batch_texts: 200, ..DetectionSettings::standard() }
}

async fn one_bad_text_costs_itself_only(place: Place) {
    let world = world(&place, small()).await;
    let (_, marked, _) = long(&world, &writer()).await;
    let mut texts: Vec<BatchText> = (0..100).map(|i| BatchText::Text(format!("short text {i}"))).collect();
    texts[3] = BatchText::Item(TextItem { id: Some("mine".into()), text: marked, prompt: None });
    texts[50] = BatchText::Text("x".repeat(5000));
    let batch = BatchRequest { texts, look: Look::default() };
    let answer = world.detecting.batch(&reader(), batch.clone(), &to_problem()).await.unwrap();
    assert_eq!(answer.results.len(), 100);
    for (index, result) in answer.results.iter().enumerate() {
        assert_eq!(result.index, u64::try_from(index).unwrap());
        let verdict = result.result.as_ref().map(|found| found.verdict.as_str());
        match index {
            3 => assert_eq!((verdict, result.id.as_deref()), (Some("detected"), Some("mine"))),
            50 => {
                assert_eq!((verdict, result.error.as_ref().unwrap().code.as_str()), (None, "text_too_large"));
            }
            _ => assert_eq!(verdict, Some("too_short")),
        }
    }
    let row = ends(&world, "detect.batch").await.remove(0);
    let detail: serde_json::Value = serde_json::from_str(&row.detail).unwrap();
    assert_eq!(
        (&detail["texts"], &detail["detected"], &detail["errors"]),
        (&100.into(), &1.into(), &1.into())
    );
    let many = BatchRequest { texts: vec![BatchText::Text("a".into()); 201], look: Look::default() };
    assert_eq!(
        world.detecting.batch(&reader(), many, &to_problem()).await.unwrap_err().code(),
        "invalid_value"
    );

    // With the model: one text that it does not take, among others.
    let thirteen = (1..200)
        .map(|words| "word ".repeat(words))
        .find(|text| Fixture::get().vocabulary().encode_ids(text).unwrap().len() == 13)
        .unwrap();
    let look = Look { modes: Some(vec![ModeName::EntropyWeighted]), ..Look::default() };
    let texts =
        ["a text", thirteen.as_str(), "another text"].map(|text| BatchText::Text(text.into())).to_vec();
    let answer = world.detecting.batch(&reader(), BatchRequest { texts, look }, &to_problem()).await.unwrap();
    let failed: Vec<bool> = answer.results.iter().map(|result| result.error.is_some()).collect();
    assert_eq!(failed, [false, true, false]);

    // No room: single texts, and batches, each by their own measure.
    let pool = world.detecting.pool();
    let singles: Vec<_> = std::iter::from_fn(|| pool.admit().ok()).collect();
    assert_eq!(singles.len(), 256);
    let error = world.detecting.detect(&reader(), text("a")).await.unwrap_err();
    assert!(matches!(error, DetectionError::Busy { retry_after } if retry_after.as_secs() >= 1));
    assert!(world.detecting.batch(&reader(), batch.clone(), &to_problem()).await.is_ok());
    let bulks: Vec<_> = std::iter::from_fn(|| pool.admit_bulk().ok()).collect();
    assert_eq!(bulks.len(), 32);
    assert_eq!(
        world.detecting.batch(&reader(), batch, &to_problem()).await.unwrap_err().code(),
        "overloaded"
    );
}

const IDLE: Duration = Duration::from_secs(30);

async fn ten_thousand_lines_and_some_bad_ones(place: Place) {
    let world = world(&place, small()).await;
    let (_, marked, _) = long(&world, &writer()).await;
    let mut body = Vec::new();
    for line in 1..=10_000_u32 {
        match line {
            17 => body.extend(b"{\"text\": 5}"),
            18 => body.extend(b"\xff\xfe"),
            19 => body.extend(serde_json::to_vec(&serde_json::json!({ "text": "x".repeat(5000) })).unwrap()),
            20 => body.extend(vec![b'x'; 200_000]),
            21 => {}
            22 => body.extend(b"{\"text\":\"a\",\"keys\":[\"other\"]}"),
            5000 => body.extend(serde_json::to_vec(&serde_json::json!({"id": "m", "text": marked})).unwrap()),
            _ => body.extend(format!("{{\"id\":\"{line}\",\"text\":\"line {line}\"}}").into_bytes()),
        }
        body.push(b'\n');
    }
    body.pop();
    let pieces: Vec<Result<Bytes, String>> =
        body.chunks(7919).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    let answer = world.detecting.stream(&reader(), &Look::default(), to_problem()).await.unwrap();
    let out: Vec<Bytes> = answer.answer(stream::iter(pieces), 16_384, IDLE).collect().await;
    let whole = String::from_utf8(out.concat()).unwrap();
    let lines: Vec<StreamLine> = whole.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    // Line 21 is empty.
    let numbers: Vec<u64> = lines.iter().map(|line| line.line).collect();
    assert_eq!(numbers, (1..=10_000).filter(|line| *line != 21).collect::<Vec<_>>());
    for line in &lines {
        let code = line.error.as_ref().map(|error| error.code.as_str());
        match line.line {
            17 | 18 | 22 => assert_eq!(code, Some("invalid_value"), "{line:?}"),
            19 | 20 => assert_eq!(code, Some("text_too_large"), "{line:?}"),
            5000 => assert_eq!(line.result.as_ref().unwrap().verdict, "detected"),
            number => assert_eq!(line.id.as_deref(), Some(number.to_string().as_str())),
        }
    }
    let row = ends(&world, "detect.stream").await.remove(0);
    let detail: serde_json::Value = serde_json::from_str(&row.detail).unwrap();
    assert_eq!((&detail["texts"], &detail["errors"]), (&9_999.into(), &5.into()));

    // A client that leaves: what was done until then is written down.
    let answer = world.detecting.stream(&reader(), &Look::default(), to_problem()).await.unwrap();
    let endless = stream::repeat_with(|| Ok::<_, String>(Bytes::from_static(b"{\"text\":\"a\"}\n")));
    let mut out = Box::pin(answer.answer(endless, 16_384, IDLE));
    for _ in 0..5 {
        out.next().await.unwrap();
    }
    drop(out);
    let row = ends(&world, "detect.stream").await.remove(1);
    assert_eq!(row.outcome.as_deref(), Some("interrupted"));
    let detail: serde_json::Value = serde_json::from_str(&row.detail).unwrap();
    assert!(detail["texts"].as_u64().unwrap() >= 5, "{detail}");
    // A body that breaks off: the last line says so.
    let answer = world.detecting.stream(&reader(), &Look::default(), to_problem()).await.unwrap();
    let broken = stream::iter([Ok(Bytes::from_static(b"{\"text\":\"a\"}\n")), Err("gone".to_owned())]);
    let out: Vec<Bytes> = answer.answer(broken, 16_384, IDLE).collect().await;
    let whole = String::from_utf8(out.concat()).unwrap();
    let last: StreamLine = serde_json::from_str(whole.lines().last().unwrap()).unwrap();
    assert_eq!((last.line, last.error.is_some(), whole.lines().count()), (0, true, 2));
}
