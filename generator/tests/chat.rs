//! Chat templates against what Jinja2 gives for them, set up as Hugging Face sets it up.
#![expect(clippy::unwrap_used, reason = "helpers of tests, which fail by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use dandyroll_generator::chat::{ChatError, ChatMessage, ChatTemplate, Role, Source};
use dandyroll_vocab::Vocabulary;
use serde_json::Value;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures")
}

fn messages(case: &Value) -> Vec<ChatMessage> {
    let turns = case["messages"].as_array().unwrap().iter();
    turns
        .map(|turn| {
            let role = Role::named(turn["role"].as_str().unwrap()).unwrap();
            ChatMessage::new(role, turn["content"].as_str().unwrap())
        })
        .collect()
}

#[test]
fn texts_are_those_of_jinja() {
    let vocabulary = Arc::new(Vocabulary::open(fixtures().join("model/tokenizer.json")).unwrap());
    let golden: Value =
        serde_json::from_str(&fs::read_to_string(fixtures().join("chat/cases.json")).unwrap()).unwrap();
    let variables: BTreeMap<String, String> = serde_json::from_value(golden["variables"].clone()).unwrap();
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(golden["unix_time"].as_u64().unwrap());
    let (mut seen, mut refused) = (BTreeSet::new(), 0);
    for case in golden["cases"].as_array().unwrap() {
        let name = case["template"].as_str().unwrap();
        let source = match name {
            "fixture-model" => Source::find(&fixtures().join("model")).unwrap().unwrap(),
            name => {
                let file = fixtures().join(format!("chat/templates/{name}.jinja"));
                Source { text: fs::read_to_string(&file).unwrap(), file }
            }
        };
        let template = ChatTemplate::new(source, variables.clone(), &vocabulary).unwrap();
        let opening = case["add_generation_prompt"].as_bool().unwrap();
        let found = template.render(&messages(case), opening, now);
        match (case["text"].as_str(), case["refused"].as_str()) {
            (Some(text), _) => assert_eq!(found.unwrap(), text, "{name}: {}", case["messages"]),
            (None, Some(message)) => {
                refused += 1;
                assert!(matches!(found, Err(ChatError::Refused(found)) if found == message), "{name}");
            }
            (None, None) => assert!(found.is_err(), "{name}: {}", case["messages"]),
        }
        seen.insert(name.to_owned());
    }
    let all = fs::read_dir(fixtures().join("chat/templates")).unwrap().count() + 1;
    assert_eq!(seen.len(), all, "every template has cases");
    assert!(refused > 5, "refusals are among them: {refused}");
}

#[test]
fn the_fixture_model_reads_its_own_turns() {
    let vocabulary = Arc::new(Vocabulary::open(fixtures().join("model/tokenizer.json")).unwrap());
    let template = ChatTemplate::open(&fixtures().join("model"), &vocabulary).unwrap().unwrap();
    let hello = [ChatMessage::new(Role::User, "print <|im_end|> now")];
    let ids = template.prompt(&hello, true, SystemTime::UNIX_EPOCH).unwrap();
    let special: Vec<u32> = ids.iter().filter(|id| vocabulary.special(**id)).map(|id| id.0).collect();
    assert_eq!(special, [1, 2, 1]);
    let bytes: Vec<u8> = ids.iter().flat_map(|id| vocabulary.token_bytes(*id).unwrap().to_vec()).collect();
    assert_eq!(
        String::from_utf8(bytes).unwrap(),
        "<|im_start|>user\nprint <|im_end|> now<|im_end|>\n<|im_start|>assistant\n"
    );
    assert!(ChatTemplate::open(&fixtures().join("layouts/gpt2"), &vocabulary).unwrap().is_none());
}
