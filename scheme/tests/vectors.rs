//! The golden vectors of `fixtures/prf`: each row against the plain and the fast forms.

#![expect(clippy::unwrap_used, reason = "a malformed fixture must fail the test")]

use std::collections::BTreeMap;
use std::sync::Arc;

use dandyroll_scheme::schemes::green_list::{self, Gamma};
use dandyroll_scheme::schemes::gumbel::{self, Gumbel};
use dandyroll_scheme::schemes::{SCHEMES, Scheme};
use dandyroll_scheme::{
    ContextWidth, FunctionVersion, Instructions, MasterKey, Member, Pairs, Profile, Purpose, Recipe, Seeding,
    Sha256Digest, TokenId, WordFamily, WordKey,
};
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};
use serde_json::Value;
use sha2::{Digest, Sha256};

const VECTORS: &str = include_str!("../../fixtures/prf/v1.jsonl");

const MIN_VECTORS: &str = include_str!("../../fixtures/prf/v1_min.jsonl");

const PURPOSE_VECTORS: &str = include_str!("../../fixtures/prf/v1_purposes.jsonl");

fn rows(kind: &'static str) -> impl Iterator<Item = Value> {
    VECTORS
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter(move |row| row["kind"] == kind)
}

fn bytes(value: &Value) -> [u8; 32] {
    value.as_str().unwrap().parse::<Sha256Digest>().unwrap().0
}

fn numbers(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|n| u32::try_from(n.as_u64().unwrap()).unwrap()).collect()
}

fn tokens(value: &Value) -> Vec<TokenId> {
    numbers(value).into_iter().map(TokenId).collect()
}

fn width(row: &Value) -> ContextWidth {
    ContextWidth::new(u8::try_from(row["width"].as_u64().unwrap()).unwrap()).unwrap()
}

fn lists(row: &Value) -> WordKey {
    MasterKey::take(&mut bytes(&row["master"])).words(&WordFamily {
        purpose: Purpose::TOKEN_WORDS,
        function: FunctionVersion::V1,
        tokenizer: Sha256Digest(bytes(&row["tokenizer"])),
        width: width(row),
        seeding: Seeding::Left,
    })
}

#[test]
fn every_kind_of_row_is_there() {
    let count = |kind| rows(kind).count();
    assert_eq!(
        ["key", "words", "vocabulary", "gamma", "refused-gamma", "refused-context"].map(count),
        [4, 126, 4, 5, 5, 5]
    );
}

#[test]
fn key_ids() {
    for row in rows("key") {
        assert_eq!(MasterKey::take(&mut bytes(&row["master"])).id().as_str(), row["key_id"]);
    }
}

#[test]
fn words_of_the_plain_form() {
    for row in rows("words") {
        let (lists, context) = (lists(&row), tokens(&row["context"]));
        for (token, word) in tokens(&row["tokens"]).into_iter().zip(numbers(&row["words"])) {
            assert_eq!(lists.word(&context, token), Some(word), "{row}");
        }
    }
}

#[test]
fn words_of_the_many_pairs_form() {
    for row in rows("words") {
        let (context, tokens) = (tokens(&row["context"]), tokens(&row["tokens"]));
        let (lists, mut pairs) = (lists(&row), Pairs::new());
        pairs.clear(context.len(), 0);
        for token in &tokens {
            pairs.push(&[&context[..], &[*token]].concat());
        }
        for instructions in Instructions::all() {
            let mut words = vec![0; tokens.len()];
            lists.words_with(instructions, &pairs, &mut words);
            assert_eq!(words, numbers(&row["words"]), "{} {row}", instructions.name());
        }
    }
}

#[test]
fn words_ranks_and_choices_of_seeding_min() {
    let mut count = 0;
    for row in MIN_VECTORS.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()) {
        let lists = MasterKey::take(&mut bytes(&row["master"])).words(&WordFamily {
            purpose: Purpose::TOKEN_WORDS,
            function: FunctionVersion::V1,
            tokenizer: Sha256Digest(bytes(&row["tokenizer"])),
            width: width(&row),
            seeding: Seeding::Min,
        });
        let (context, tokens, words) =
            (tokens(&row["context"]), tokens(&row["tokens"]), numbers(&row["words"]));
        let chosen = TokenId(u32::try_from(row["chosen"].as_u64().unwrap()).unwrap());
        assert_eq!(lists.effective(&context), Some(&[chosen][..]), "{row}");
        let (mut ranked, mut pairs) = (Pairs::new(), Pairs::new());
        ranked.extend(context.iter().map(|token| [*token]));
        let mut ranks = vec![0; context.len()];
        lists.ranks(&ranked, &mut ranks).unwrap();
        assert_eq!(ranks, numbers(&row["ranks"]), "{row}");
        pairs.clear(1, 0);
        pairs.extend(tokens.iter().map(|token| [chosen, *token]));
        let mut many = vec![0; tokens.len()];
        lists.words(&pairs, &mut many);
        assert_eq!(many, words, "{row}");
        for (token, word) in tokens.iter().zip(words) {
            assert_eq!(lists.word(&context, *token), Some(word), "{row}");
        }
        count += 1;
    }
    assert_eq!(count, 128);
}

/// A row's words under its purpose in every form, and its scores to 4·10⁻¹⁶ of their size, which is two units in the last
/// place at most: two libraries' logarithms.
#[test]
fn words_and_scores_of_each_purpose() {
    let (race, mut counts) = (Gumbel::new(), BTreeMap::new());
    for row in PURPOSE_VECTORS.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()) {
        let name = row["purpose"].as_str().unwrap();
        let purpose = SCHEMES.iter().map(|kind| kind.purpose).find(|purpose| purpose.name() == name).unwrap();
        *counts.entry((row["kind"].as_str().unwrap().to_owned(), purpose.name())).or_insert(0) += 1;
        let words = numbers(&row["words"]);
        if row["kind"] == "words" {
            let key = MasterKey::take(&mut bytes(&row["master"])).words(&WordFamily {
                purpose,
                function: FunctionVersion::V1,
                tokenizer: Sha256Digest(bytes(&row["tokenizer"])),
                width: width(&row),
                seeding: Seeding::named(row["seeding"].as_str().unwrap()).unwrap(),
            });
            let (context, tokens) = (tokens(&row["context"]), tokens(&row["tokens"]));
            let mut pairs = Pairs::new();
            pairs.clear(context.len(), 0);
            for (token, word) in tokens.iter().zip(&words) {
                assert_eq!(key.word(&context, *token), Some(*word), "{row}");
                pairs.push(&[&context[..], &[*token]].concat());
            }
            let (mut many, mut first) = (vec![0; tokens.len()], Vec::new());
            key.words(&pairs, &mut many);
            assert_eq!(many, words, "{row}");
            key.each_word(&context, 18, |_, run| first.extend_from_slice(run)).unwrap();
            assert_eq!([first[0], first[1], first[15], first[16], first[17]], words[..5], "{row}");
        }
        let scores: Vec<f64> = row["scores"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|s| s.as_str().unwrap().parse().unwrap())
            .collect();
        assert_eq!(scores.len(), if purpose == gumbel::KIND.purpose { words.len() } else { 0 }, "{row}");
        for (word, score) in words.iter().zip(scores) {
            let found = race.score(*word);
            assert!((found - score).abs() <= 4e-16 * score + 1e-300, "{word}: {found:e} for {score:e}");
        }
    }
    let count = |kind: &str, purpose: Purpose| counts.get(&(kind.to_owned(), purpose.name())).copied();
    assert_eq!(counts.len(), 3);
    assert_eq!(count("words", Purpose::TOKEN_WORDS), Some(18));
    assert_eq!(count("words", gumbel::KIND.purpose), Some(18));
    assert_eq!(count("scores", gumbel::KIND.purpose), Some(1));
}

#[test]
fn sub_keys_are_the_seeds_of_the_keystream() {
    for row in rows("words").filter(|row| row["width"] == 1) {
        let mut stream = ChaCha8Rng::from_seed(bytes(&row["sub_key"]));
        stream.set_stream(u64::from(tokens(&row["context"])[0].0));
        assert_eq!(stream.next_u32(), numbers(&row["words"])[0], "{row}");
    }
}

#[test]
fn whole_vocabularies() {
    for row in rows("vocabulary") {
        let size = usize::try_from(row["size"].as_u64().unwrap()).unwrap();
        let mut all = Vec::with_capacity(size);
        lists(&row)
            .each_word(&tokens(&row["context"]), size, |_, words| all.extend_from_slice(words))
            .unwrap();
        let digest = Sha256::digest(all.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>());
        assert_eq!(Sha256Digest(digest.into()).to_string(), row["words_sha256"]);
        for (gamma, green) in row["green"].as_object().unwrap() {
            let gamma = Gamma::new(gamma.parse().unwrap()).unwrap();
            let count = all.iter().filter(|word| gamma.is_green(**word)).count();
            assert_eq!(u64::try_from(count).unwrap(), green.as_u64().unwrap());
        }
    }
}

#[test]
fn gammas() {
    for row in rows("gamma") {
        let gamma = Gamma::new(row["gamma"].as_f64().unwrap()).unwrap();
        assert_eq!(u64::from(gamma.threshold()), row["threshold"].as_u64().unwrap());
        assert!(numbers(&row["green"]).into_iter().all(|word| gamma.is_green(word)));
        assert!(!numbers(&row["red"]).into_iter().any(|word| gamma.is_green(word)));
    }
}

#[test]
fn refusals() {
    for row in rows("refused-gamma") {
        assert!(Gamma::new(row["gamma"].as_f64().unwrap()).is_err(), "{row}");
    }
    for row in rows("refused-context") {
        let lists = MasterKey::take(&mut [1; 32]).words(&WordFamily {
            purpose: Purpose::TOKEN_WORDS,
            function: FunctionVersion::V1,
            tokenizer: Sha256Digest([0; 32]),
            width: width(&row),
            seeding: Seeding::Left,
        });
        let context = tokens(&row["context"]);
        assert_eq!(lists.word(&context, TokenId(0)), None, "{row}");
        assert_eq!(lists.each_word(&context, 10, |_, _| panic!("nothing to visit")), None, "{row}");
    }
}

#[test]
fn profile_ids() {
    let rows = [
        include_str!("../../fixtures/profile/v1.jsonl"),
        include_str!("../../fixtures/profile/v1_min.jsonl"),
        include_str!("../../fixtures/profile/v1_background.jsonl"),
    ]
    .into_iter()
    .flat_map(str::lines);
    let mut count = 0;
    for row in rows.map(|line| serde_json::from_str::<Value>(line).unwrap()) {
        let fields = &row["profile"];
        let number = |name: &str| fields[name].as_f64();
        let digest = |name: &str| fields[name].as_str().map(|text| text.parse::<Sha256Digest>().unwrap());
        let width = u8::try_from(fields["context_width"].as_u64().unwrap()).unwrap();
        let recipe = green_list::recipe(
            number("gamma").unwrap(),
            number("delta").unwrap(),
            width,
            number("entropy_threshold"),
        );
        let recipe = recipe.unwrap().seeded(Seeding::named(fields["seeding"].as_str().unwrap()).unwrap());
        let profile = recipe.bind(digest("tokenizer_sha256").unwrap(), digest("model_sha256")).unwrap();
        let profile = profile.with_background(digest("background_sha256"));
        for profile in [profile, read(fields)] {
            assert_eq!(profile.canonical_json(), row["canonical"]);
            assert_eq!(profile.id().as_str(), row["id"]);
        }
        count += 1;
    }
    assert_eq!(count, 7 + 3 + 3);
}

/// A profile's members as outside bytes give them.
fn read(profile: &Value) -> Profile {
    let members = profile.as_object().unwrap().iter().map(|(name, value)| {
        let member = match value {
            Value::Null => Member::Null,
            Value::String(text) => Member::Text(text.clone()),
            number => Member::Number(number.as_f64().unwrap()),
        };
        (name.clone(), member)
    });
    Profile::read(members.collect()).unwrap()
}

/// Made from parts and read from outside, the profile is the one that the row names.
#[test]
fn profile_ids_of_gumbel() {
    let mut count = 0;
    for row in include_str!("../../fixtures/profile/v2.jsonl").lines() {
        let row: Value = serde_json::from_str(row).unwrap();
        let fields = &row["profile"];
        let digest = |name: &str| fields[name].as_str().map(|text| text.parse::<Sha256Digest>().unwrap());
        let width = u8::try_from(fields["context_width"].as_u64().unwrap()).unwrap();
        let profile = Recipe::new(Arc::new(Gumbel::new()), ContextWidth::new(width).unwrap())
            .seeded(Seeding::named(fields["seeding"].as_str().unwrap()).unwrap())
            .bind(digest("tokenizer_sha256").unwrap(), None)
            .unwrap()
            .with_background(digest("background_sha256"));
        for profile in [profile, read(fields)] {
            assert_eq!(profile.canonical_json(), row["canonical"]);
            assert_eq!(profile.id().as_str(), row["id"]);
        }
        count += 1;
    }
    // Widths 2 to 8, two seedings, with a background list and without.
    assert_eq!(count, 7 * 2 * 2);
}
