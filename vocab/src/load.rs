//! Reads a `tokenizer.json`, checking everything offsets rest on before the library sees it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::Read;
use std::path::Path;

use dandyroll_scheme::{Sha256Digest, TokenId};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::error::{LoadProblem, VocabError};
use crate::limits::MAX_IDS;
use crate::pairs::{Merge, Rules, Splitting, is_misread, pattern};
use crate::spelling::{BLANK, Kind, Opening, Spelling, Surfaces};
use crate::vocabulary::{Added, Vocabulary};

type Object = Map<String, Value>;

/// The largest file that is read as a tokenizer, in bytes (the largest in use have about 35 million).
const MAX_FILE_BYTES: u64 = 1 << 28;

fn read(path: &Path) -> Result<Vec<u8>, VocabError> {
    let failed = |source| VocabError::Read { path: path.to_path_buf(), source };
    let mut bytes = Vec::new();
    File::open(path).map_err(failed)?.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length <= MAX_FILE_BYTES) {
        Ok(bytes)
    } else {
        let problem = LoadProblem::TooLarge { limit: MAX_FILE_BYTES };
        Err(VocabError::Load { origin: path.display().to_string(), problem })
    }
}

fn digest(bytes: &[u8]) -> Sha256Digest {
    Sha256Digest(Sha256::digest(bytes).into())
}

impl Vocabulary {
    /// Reads a `tokenizer.json`, of any version.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, VocabError> {
        let path = path.as_ref();
        Self::from_bytes(&read(path)?, &path.display().to_string())
    }

    /// Reads a `tokenizer.json` and refuses, before looking into it, any other file than the one whose
    /// bytes have this SHA-256.
    pub fn open_pinned(path: impl AsRef<Path>, expected: Sha256Digest) -> Result<Self, VocabError> {
        let path = path.as_ref();
        let bytes = read(path)?;
        let actual = digest(&bytes);
        if actual != expected {
            return Err(VocabError::DigestMismatch { path: path.to_path_buf(), expected, actual });
        }
        Self::from_bytes(&bytes, &path.display().to_string())
    }

    /// Reads a `tokenizer.json` from memory; `origin` names it in errors.
    pub fn from_bytes(bytes: &[u8], origin: &str) -> Result<Self, VocabError> {
        load(bytes, digest(bytes)).map_err(|problem| VocabError::Load { origin: origin.into(), problem })
    }
}

fn load(bytes: &[u8], digest: Sha256Digest) -> Result<Vocabulary, LoadProblem> {
    let mut file: Value = serde_json::from_slice(bytes).map_err(|error| LoadProblem::Json {
        line: error.line(),
        column: error.column(),
        message: without_place(&error),
    })?;
    check_model(&file)?;
    // Before the library makes it its own.
    let processor = file.get("post_processor").cloned().unwrap_or(Value::Null);
    tokenizers::canonicalize_value(&mut file).map_err(|error| LoadProblem::Library(error.to_string()))?;

    let model = object(&file, "model")?;
    let tokens = tokens(model)?;
    let merges = merges(model, &tokens)?;
    check_added(&file)?;
    check_words(&file)?;
    let (spelling, changes) = spelling(&file, model)?;
    check_bytes(&tokens, spelling)?;

    let tokenizer =
        tokenizers::from_json(&file.to_string()).map_err(|error| LoadProblem::Library(error.to_string()))?;
    check_numbers(&file, &tokens)?;
    let added = added(&file, &tokenizer)?;

    let mut names: BTreeMap<u32, &str> = tokens.iter().map(|(token, id)| (*id, *token)).collect();
    for (id, added) in &added {
        names.entry(id.0).or_insert(&added.form);
    }
    let size = names.last_key_value().map_or(0, |(id, _)| id + 1);
    let mut surfaces = Surfaces::default();
    for id in 0..size {
        let pushed = match (added.get(&TokenId(id)), names.get(&id)) {
            (Some(token), _) => surfaces.push(Kind::Added, |bytes| spelling.spell_added(&token.form, bytes)),
            (None, Some(token)) => surfaces.push(Kind::Model, |bytes| spelling.spell(token, bytes)),
            (None, None) => surfaces.push(Kind::Unused, |_| ()),
        };
        pushed.ok_or_else(|| LoadProblem::NotATokenizer("its tokens have more than 4 GiB".into()))?;
    }
    let splitting = file.get("pre_tokenizer").and_then(Splitting::read);
    let ignore_merges = model.get("ignore_merges").and_then(Value::as_bool) == Some(true);
    let shadowed = || {
        let shadowed = tokens.iter().filter(|(_, id)| added.contains_key(&TokenId(**id)));
        let bytes = shadowed.map(|(token, _)| {
            let mut bytes = Vec::new();
            spelling.spell(token, &mut bytes);
            bytes.into()
        });
        bytes.collect()
    };
    let rules = splitting.filter(|_| spelling == Spelling::ByteLevel).map(|splitting| Rules {
        splitting,
        merges,
        whole_words: ignore_merges.then(shadowed),
    });
    let faithful = spelling == Spelling::ByteLevel
        && !changes
        && added.values().all(|token| !token.takes_left && !token.takes_right);
    let mut ids: HashMap<String, TokenId> =
        tokens.iter().map(|(token, id)| ((*token).to_owned(), TokenId(*id))).collect();
    ids.extend(added.iter().map(|(id, token)| (token.form.clone(), *id)));
    let before = before_text(&processor, &ids)?;
    Ok(Vocabulary { digest, tokenizer, spelling, surfaces, added, ids, faithful, before, rules })
}

/// The special tokens that the post-processor puts before a single text: `<s>` for Llama, nothing for GPT-2.
/// What it would put behind is left out, since a prompt goes on.
fn before_text(processor: &Value, ids: &HashMap<String, TokenId>) -> Result<Vec<TokenId>, LoadProblem> {
    let wrong = |what: &str| LoadProblem::NotATokenizer(format!("its post_processor {what}"));
    let named = |name: &Value| {
        let name = name.as_str().unwrap_or_default();
        ids.get(name).copied().ok_or_else(|| wrong(&format!("names a token {name:?} that is not there")))
    };
    match processor.get("type").and_then(Value::as_str) {
        // `cls` is [token, id].
        Some("RobertaProcessing" | "BertProcessing") => Ok(vec![named(&processor["cls"][0])?]),
        Some("Sequence") => {
            let parts = processor.get("processors").and_then(Value::as_array);
            let parts = parts.ok_or_else(|| wrong("is a sequence of nothing"))?;
            parts
                .iter()
                .map(|part| before_text(part, ids))
                .collect::<Result<Vec<_>, _>>()
                .map(|all| all.concat())
        }
        Some("TemplateProcessing") => {
            let single = processor.get("single").and_then(Value::as_array);
            let names = single.ok_or_else(|| wrong("has no template for a single text"))?.iter();
            names.map_while(|piece| piece.get("SpecialToken")).map(|token| named(&token["id"])).collect()
        }
        _ => Ok(Vec::new()),
    }
}

/// The message of a JSON error without " at line 1 column 2", which is told apart.
fn without_place(error: &serde_json::Error) -> String {
    let message = error.to_string();
    message.rsplit_once(" at line ").map_or(message.clone(), |(message, _)| message.to_owned())
}

fn lacks(what: &str) -> LoadProblem {
    LoadProblem::NotATokenizer(format!("it lacks {what}"))
}

fn object<'a>(value: &'a Value, key: &str) -> Result<&'a Object, LoadProblem> {
    value.get(key).and_then(Value::as_object).ok_or_else(|| lacks(&format!("the object `{key}`")))
}

/// The `type` of a part, or what else it is.
fn type_of(part: &Value) -> &str {
    part.get("type").and_then(Value::as_str).unwrap_or("without a type")
}

fn unsupported(part: &'static str, name: &str, why: &'static str) -> LoadProblem {
    LoadProblem::UnsupportedPart { part, name: name.into(), why }
}

/// Refuses what is no BPE model, before conversion can fail for a lesser reason.
fn check_model(file: &Value) -> Result<(), LoadProblem> {
    if !file.is_object() {
        return Err(LoadProblem::NotATokenizer("it is not a JSON object".into()));
    }
    let model = object(file, "model")?;
    match model.get("type").and_then(Value::as_str) {
        Some("BPE") => {}
        Some(other) => return Err(LoadProblem::UnsupportedModel(other.into())),
        // Old files have no type; a BPE model is the one that has merges.
        None if model.contains_key("merges") => {}
        None if model.get("vocab").is_some_and(Value::is_array) => {
            return Err(LoadProblem::UnsupportedModel("Unigram".into()));
        }
        None => return Err(lacks("`model.type` and `model.merges`")),
    }
    if !model.get("vocab").is_some_and(Value::is_object) {
        return Err(lacks("the object `model.vocab`"));
    }
    if !model.get("merges").is_some_and(Value::is_array) {
        return Err(lacks("the array `model.merges`"));
    }
    for affix in ["continuing_subword_prefix", "end_of_word_suffix"] {
        if model.get(affix).and_then(Value::as_str).is_some_and(|affix| !affix.is_empty()) {
            return Err(unsupported("model option", affix, "its characters are not in the text"));
        }
    }
    if model.get("dropout").and_then(Value::as_f64).is_some_and(|dropout| dropout != 0.0) {
        return Err(unsupported("model option", "dropout", "the same text would not give the same tokens"));
    }
    Ok(())
}

/// An id within bounds.
fn id(token: &str, value: Option<&Value>) -> Result<u32, LoadProblem> {
    let id = value.and_then(Value::as_u64).and_then(|id| u32::try_from(id).ok()).filter(|id| *id < MAX_IDS);
    id.ok_or_else(|| LoadProblem::BadId {
        token: token.into(),
        id: value.map_or("missing".into(), Value::to_string),
    })
}

fn tokens(model: &Object) -> Result<HashMap<&str, u32>, LoadProblem> {
    let vocab = model.get("vocab").and_then(Value::as_object).ok_or_else(|| lacks("`model.vocab`"))?;
    let mut tokens = HashMap::with_capacity(vocab.len());
    let mut owners: HashMap<u32, &str> = HashMap::with_capacity(vocab.len());
    for (token, value) in vocab {
        let id = id(token, Some(value))?;
        if let Some(first) = owners.insert(id, token) {
            return Err(LoadProblem::DuplicateId { id, first: first.into(), second: token.clone() });
        }
        tokens.insert(token.as_str(), id);
    }
    if tokens.is_empty() { Err(lacks("any token in `model.vocab`")) } else { Ok(tokens) }
}

/// The merges. Halves and wholes must be tokens: the library trusts that.
fn merges(model: &Object, tokens: &HashMap<&str, u32>) -> Result<Vec<Merge>, LoadProblem> {
    let merges = model.get("merges").and_then(Value::as_array).ok_or_else(|| lacks("`model.merges`"))?;
    let mut whole = String::new();
    let read = |(index, merge): (usize, &Value)| {
        let [Value::String(left), Value::String(right)] =
            merge.as_array().map(Vec::as_slice).unwrap_or_default()
        else {
            return Err(LoadProblem::NotATokenizer(format!("merge {index} is no pair of tokens")));
        };
        let token = |text: &str| {
            let found = tokens.get(text).copied().map(TokenId);
            found.ok_or_else(|| LoadProblem::BadMerge { index, token: text.into() })
        };
        whole.clear();
        whole.push_str(left);
        whole.push_str(right);
        Ok(Merge { left: token(left)?, right: token(right)?, whole: token(&whole)? })
    };
    merges.iter().enumerate().map(read).collect()
}

/// Refuses a splitting into words that the library gets wrong: other ids than the model's own are another verdict.
fn check_words(file: &Value) -> Result<(), LoadProblem> {
    let mut parts = Vec::new();
    flatten(file.get("pre_tokenizer").unwrap_or(&Value::Null), "pretokenizers", &mut parts);
    match parts.iter().filter_map(|part| pattern(part)).find(|pattern| is_misread(pattern)) {
        Some(pattern) => {
            let why = "the tokenizer library would split its digits by threes";
            Err(unsupported("pre_tokenizer pattern", pattern, why))
        }
        None => Ok(()),
    }
}

/// Two tokens that spell the same bytes would make decoding and lookups ambiguous in the library.
fn check_bytes(tokens: &HashMap<&str, u32>, spelling: Spelling) -> Result<(), LoadProblem> {
    if spelling != Spelling::ByteLevel {
        return Ok(());
    }
    let mut seen = HashSet::with_capacity(tokens.len());
    for token in tokens.keys() {
        let mut bytes = Vec::with_capacity(token.len());
        spelling.spell(token, &mut bytes);
        if !seen.insert(bytes) {
            return Err(LoadProblem::DuplicateBytes { token: (*token).into() });
        }
    }
    Ok(())
}

fn added_entries(file: &Value) -> Result<&[Value], LoadProblem> {
    match file.get("added_tokens") {
        None | Some(Value::Null) => Ok(&[]),
        Some(Value::Array(entries)) => Ok(entries),
        Some(_) => Err(LoadProblem::NotATokenizer("`added_tokens` is not an array".into())),
    }
}

fn check_added(file: &Value) -> Result<(), LoadProblem> {
    for (index, entry) in added_entries(file)?.iter().enumerate() {
        let Some(content) = entry.get("content").and_then(Value::as_str) else {
            return Err(lacks(&format!("`content` in item {index} of `added_tokens`")));
        };
        id(content, entry.get("id"))?;
        let single_word = entry.get("single_word").and_then(Value::as_bool) == Some(true);
        if single_word && !content.starts_with(|c: char| c.is_ascii()) {
            // The library resumes its search one byte, not one character, behind a refused match.
            return Err(unsupported("added token", content, "`single_word` needs an ASCII first character"));
        }
    }
    Ok(())
}

/// An added token may be one of the model's, but not have the number of another.
fn check_numbers(file: &Value, tokens: &HashMap<&str, u32>) -> Result<(), LoadProblem> {
    let owners: HashMap<u32, &str> = tokens.iter().map(|(token, id)| (*id, *token)).collect();
    for entry in added_entries(file)? {
        let content = entry.get("content").and_then(Value::as_str).unwrap_or_default();
        let id = id(content, entry.get("id"))?;
        match owners.get(&id) {
            Some(owner) if *owner != content => {
                return Err(LoadProblem::DuplicateId { id, first: (*owner).into(), second: content.into() });
            }
            _ => {}
        }
    }
    Ok(())
}

/// The added tokens as the library will look for them, each with the id that the file declares.
fn added(
    file: &Value,
    tokenizer: &tokenizers::pipeline::PipelineTokenizer,
) -> Result<HashMap<TokenId, Added>, LoadProblem> {
    let found = tokenizer.get_added_vocabulary().get_added_tokens_decoder();
    for entry in added_entries(file)? {
        let content = entry.get("content").and_then(Value::as_str).unwrap_or_default();
        let declared = id(content, entry.get("id"))?;
        // The form of a normalized token may differ from its content; that of any other may not.
        let right = found.get(&declared).is_some_and(|token| token.normalized || token.content == content);
        if !right && !content.is_empty() {
            let actual = found.iter().find(|(_, token)| token.content == content);
            return Err(LoadProblem::AddedTokenId {
                token: content.into(),
                declared,
                actual: actual.map_or("another".into(), |(id, _)| id.to_string()),
            });
        }
    }
    Ok(found
        .into_iter()
        .map(|(id, token)| {
            let added = Added {
                raw: !token.normalized,
                takes_left: token.lstrip,
                takes_right: token.rstrip,
                special: token.special,
                form: token.content,
            };
            (TokenId(id), added)
        })
        .collect())
}

/// How the vocabulary spells text, and whether a normalizer may change text before it is encoded.
fn spelling(file: &Value, model: &Object) -> Result<(Spelling, bool), LoadProblem> {
    let mut normalizers = Vec::new();
    flatten(file.get("normalizer").unwrap_or(&Value::Null), "normalizers", &mut normalizers);
    if model.get("byte_level").and_then(Value::as_bool) == Some(true) {
        for normalizer in &normalizers {
            if type_of(normalizer) != "NFC" {
                let why = "it changes the text, and byte-level tokens spell what it leaves";
                return Err(unsupported("normalizer", type_of(normalizer), why));
            }
        }
        return Ok((Spelling::ByteLevel, !normalizers.is_empty()));
    }
    let mut opening = Opening::Never;
    for normalizer in &normalizers {
        let text = |key: &str| normalizer.get(key).and_then(Value::as_str);
        let name = type_of(normalizer);
        match name {
            "NFC" => {}
            "Prepend" if text("prepend") == Some(BLANK) => opening = Opening::Always,
            "Replace"
                if text("content") == Some(BLANK)
                    && normalizer.pointer("/pattern/String").and_then(Value::as_str) == Some(" ") => {}
            "MetaspaceNormalizer"
                if text("replacement") == Some(BLANK)
                    && normalizer.get("drop_whitespace").and_then(Value::as_bool) != Some(true) =>
            {
                match text("prepend") {
                    Some("always") => opening = Opening::UnlessBlank,
                    Some("first") => opening = Opening::FirstUnlessBlank,
                    _ => {}
                }
            }
            _ => {
                let why = "it changes the text other than by writing ▁ for a space";
                return Err(unsupported("normalizer", name, why));
            }
        }
    }
    let byte_fallback = model.get("byte_fallback").and_then(Value::as_bool) == Some(true);
    Ok((Spelling::Pieces { byte_fallback, opening }, true))
}

/// The members of a sequence, of those in it, too, or the part itself.
fn flatten<'a>(part: &'a Value, members: &str, into: &mut Vec<&'a Value>) {
    match part.get(members).and_then(Value::as_array).filter(|_| type_of(part) == "Sequence") {
        Some(parts) => parts.iter().for_each(|part| flatten(part, members, into)),
        None if part.is_null() => {}
        None => into.push(part),
    }
}
