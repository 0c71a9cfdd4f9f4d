//! The same text is scored once, as far as memory goes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest, Sha256};

use crate::fault::Fault;
use crate::judge::{Judge, Judged, Judgement, Passage, Scratch};

impl Judgement {
    /// Bytes it occupies, about.
    fn size(&self) -> usize {
        let passages = self.passages.as_ref().map_or(0, Vec::len);
        size_of::<Self>() + self.findings.len() * size_of::<Judged>() + passages * size_of::<Passage>() + 96
    }
}

/// Judgements of texts by the SHA-256 of the text, within bounds: the older half is forgotten when the newer
/// is full.
#[derive(Debug)]
pub(crate) struct Seen {
    shards: Vec<Mutex<Halves>>,
    /// Bytes of one half of one shard.
    half: usize,
}

type Key = [u8; 32];
type Answer = Result<Arc<Judgement>, Fault>;

#[derive(Debug, Default)]
struct Halves {
    new: HashMap<Key, Arc<Judgement>>,
    old: HashMap<Key, Arc<Judgement>>,
    bytes: usize,
}

impl Seen {
    const SHARDS: usize = 16;

    pub(crate) fn new(bytes: usize) -> Self {
        let shards = (0..Self::SHARDS).map(|_| Mutex::default()).collect();
        Self { shards, half: bytes / Self::SHARDS / 2 }
    }

    fn shard(&self, key: &Key) -> Option<&Mutex<Halves>> {
        self.shards.get(usize::from(key[0]) % Self::SHARDS)
    }

    fn put(&self, halves: &mut Halves, key: Key, judgement: Arc<Judgement>) {
        halves.bytes += judgement.size();
        halves.new.insert(key, judgement);
        if halves.bytes > self.half {
            halves.old = std::mem::take(&mut halves.new);
            halves.bytes = 0;
        }
    }

    /// The judgement of a text: remembered, or made now. Also whether it was remembered.
    pub(crate) fn judge(&self, judge: &Judge, scratch: &mut Scratch, text: &str) -> (Answer, bool) {
        let key: Key = Sha256::digest(text.as_bytes()).into();
        let shard = self.shard(&key);
        let lock = |shard: &'_ Mutex<Halves>| -> Option<Arc<Judgement>> {
            let mut halves = shard.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(found) = halves.new.get(&key) {
                return Some(Arc::clone(found));
            }
            let found = halves.old.remove(&key)?;
            self.put(&mut halves, key, Arc::clone(&found));
            Some(found)
        };
        if let Some(found) = shard.and_then(lock) {
            return (Ok(found), true);
        }
        let made = judge.judge(scratch, text).map(Arc::new);
        if let (Ok(made), Some(shard)) = (&made, shard) {
            let mut halves = shard.lock().unwrap_or_else(PoisonError::into_inner);
            self.put(&mut halves, key, Arc::clone(made));
        }
        (made, false)
    }
}
