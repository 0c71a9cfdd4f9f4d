//! Keys in memory: what a server marks and detects with, re-read whenever the store changes.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use dandyroll_scheme::{
    Background, KeyId, Mark, MarkError, MasterKey, Profile, ProfileId, WordFamily, WordKey,
};

use super::{Alias, KeyError, Keys, State, Version};
use crate::store::{StoreError, Tx};

/// A master with what was derived from it: erased together.
struct Held {
    master: MasterKey,
    derived: Mutex<Derived>,
}

/// Sub-keys by family of words; marks by profile and by whether the background list that it names is there. Both are
/// few: as many as there are profiles.
#[derive(Default)]
struct Derived {
    words: Vec<(WordFamily, Arc<WordKey>)>,
    marks: Vec<(ProfileId, Arc<Mark>)>,
}

/// One version, ready for use. Clones share the master and what was derived from it, which are erased with the
/// last of them.
#[derive(Clone)]
pub struct LoadedKey {
    /// The ring.
    pub alias: Alias,
    /// Its number.
    pub version: Version,
    /// Its public id.
    pub key_id: KeyId,
    /// What it may be used for.
    pub state: State,
    held: Arc<Held>,
}

impl LoadedKey {
    /// The master.
    pub fn master(&self) -> &MasterKey {
        &self.held.master
    }

    /// The mark of a profile, made at its first use. Marks of one family share their words. Detection needs the
    /// background list that the profile names.
    ///
    /// Whoever holds it can finish a text under this version, whatever becomes of the version meanwhile.
    pub fn mark(
        &self,
        profile: &Profile,
        background: Option<Arc<Background>>,
    ) -> Result<Arc<Mark>, MarkError> {
        let mut derived = self.derived();
        let same = |mark: &Mark| mark.background().is_some() == background.is_some();
        let known = derived.marks.iter().find(|(id, mark)| *id == profile.id() && same(mark));
        if let Some((_, mark)) = known {
            return Ok(Arc::clone(mark));
        }
        let family = profile.family();
        let words = match derived.words.iter().find(|(known, _)| *known == family) {
            Some((_, words)) => Arc::clone(words),
            None => {
                let words = Arc::new(self.held.master.words(&family));
                derived.words.push((family, Arc::clone(&words)));
                words
            }
        };
        let mark = Arc::new(Mark::of_words(words, &self.key_id, profile, background)?);
        derived.marks.push((profile.id(), Arc::clone(&mark)));
        Ok(mark)
    }

    fn derived(&self) -> std::sync::MutexGuard<'_, Derived> {
        // Entries are pushed whole: a thread that died here left nothing half done.
        self.held.derived.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for LoadedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?} {} ({})", self.alias, self.version, self.key_id, self.state)
    }
}

/// A ring's versions that are held in memory, oldest first.
#[derive(Clone, Debug, Default)]
pub struct LoadedRing {
    keys: Vec<LoadedKey>,
}

impl LoadedRing {
    /// The version that marks, if there is one.
    pub fn active(&self) -> Option<&LoadedKey> {
        self.keys.iter().find(|key| key.state.marks())
    }

    /// The versions that detect; compromised ones only when asked for.
    pub fn detecting(&self, with_compromised: bool) -> impl Iterator<Item = &LoadedKey> {
        self.keys
            .iter()
            .filter(move |key| key.state.detects() || (with_compromised && key.state == State::Compromised))
    }

    /// All of them.
    pub fn keys(&self) -> &[LoadedKey] {
        &self.keys
    }
}

/// Every ring, as of one revision of the store.
#[derive(Debug, Default)]
pub struct Rings {
    rings: BTreeMap<Alias, LoadedRing>,
    /// Versions that should be here and do not open, with the reason.
    pub broken: Vec<KeyError>,
    /// Rows that can't be read, named: what they held is not used, everything else is.
    pub damaged: Vec<StoreError>,
}

impl Rings {
    /// The ring of that name.
    pub fn get(&self, alias: &Alias) -> Option<&LoadedRing> {
        self.rings.get(alias)
    }

    /// Every ring, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&Alias, &LoadedRing)> {
        self.rings.iter()
    }

    /// Whether that version is here.
    pub fn holds(&self, alias: &Alias, version: Version) -> bool {
        self.get(alias).is_some_and(|ring| ring.keys.iter().any(|key| key.version == version))
    }

    fn held(&self, key_id: &KeyId) -> Option<Arc<Held>> {
        let mut keys = self.rings.values().flat_map(|ring| &ring.keys);
        keys.find(|key| key.key_id == *key_id).map(|key| Arc::clone(&key.held))
    }
}

impl Keys {
    /// Reads every version that is used; masters that `before` holds are not opened again.
    ///
    /// A master that does not open is noted and the rest is loaded: one damaged row must not stop all marking. So it is with a row that can't be read.
    pub(crate) async fn load(&self, tx: &mut Tx, before: &Rings) -> Result<Rings, KeyError> {
        let mut loaded = Rings::default();
        let rings = tx.rings().await?;
        loaded.damaged.extend(rings.damaged);
        for ring in rings.rows {
            loaded.rings.insert(ring.alias, LoadedRing::default());
        }
        let versions = tx.all_versions().await?;
        loaded.damaged.extend(versions.damaged);
        for row in versions.rows {
            if !row.state.loaded() {
                continue;
            }
            let held = match before.held(&row.key_id) {
                Some(held) => held,
                None => match self.open(&row) {
                    Ok(Some(master)) => Arc::new(Held { master, derived: Mutex::default() }),
                    Ok(None) => continue,
                    Err(error) => {
                        loaded.broken.push(error);
                        continue;
                    }
                },
            };
            let key = LoadedKey {
                alias: row.alias.clone(),
                version: row.version,
                key_id: row.key_id,
                state: row.state,
                held,
            };
            // A version whose ring can't be read is not used: what the ring allows is not known.
            if let Some(ring) = loaded.rings.get_mut(&row.alias) {
                ring.keys.push(key);
            }
        }
        Ok(loaded)
    }
}
