//! What a node's work will hold in memory at its peak, said before it begins, and whether that fits.
//! Knows nothing of what the memory is for.

use std::{
    any::{Any, type_name},
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use serde_json::Value;

use crate::stage::Source;

/// What is known of an input before the work that reads it begins.
#[derive(Debug, Clone, PartialEq)]
pub enum Prospect {
    /// It is there: the artifact's data folder.
    There(PathBuf),
    /// The node that will make it says this of it, by [`crate::Stage::outline`].
    Outlined(Value),
    Unknown,
}

/// The inputs of a node as far as they are known, each with the name of the node that makes it.
#[derive(Debug, Clone, Default)]
pub struct Prospects {
    pub(crate) root: PathBuf,
    pub(crate) inputs: BTreeMap<String, Vec<(String, Prospect)>>,
    pub(crate) shared: Shared,
}

/// What the looks at the nodes of one plan share.
#[derive(Clone, Default)]
pub(crate) struct Shared(Arc<Mutex<BTreeMap<String, Arc<dyn Any + Send + Sync>>>>);

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shared")
    }
}

impl Prospects {
    /// Of a stage outside any pipeline, for tests: sources lie below `root`.
    #[must_use]
    pub fn standalone(root: PathBuf) -> Self {
        Self { root, ..Self::default() }
    }

    /// Adds an input to standalone ones.
    #[must_use]
    pub fn with_input(mut self, name: &str, node: &str, prospect: Prospect) -> Self {
        self.inputs.entry(name.into()).or_default().push((node.into(), prospect));
        self
    }

    /// All of an input, in the order of the pipeline.
    #[must_use]
    pub fn of(&self, input: &str) -> &[(String, Prospect)] {
        self.inputs.get(input).map_or(&[], Vec::as_slice)
    }

    /// What `make` gives, made once for all nodes of a plan that ask by the same key: a script that many name is
    /// compiled once.
    pub fn once<T: Any + Send + Sync>(&self, key: &str, make: impl FnOnce() -> T) -> Arc<T> {
        let key = format!("{} {key}", type_name::<T>());
        let made = || self.shared.0.lock().unwrap_or_else(PoisonError::into_inner);
        let earlier = made().get(&key).cloned();
        if let Some(earlier) = earlier.and_then(|earlier| earlier.downcast().ok()) {
            return earlier;
        }
        // The lock is not held meanwhile: what is made may ask for something else.
        let fresh = Arc::new(make());
        made().insert(key, fresh.clone());
        fresh
    }

    /// The folder that relative paths start from.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where a source lies.
    #[must_use]
    pub fn source(&self, source: &Source) -> PathBuf {
        self.root.join(&source.0)
    }
}

/// What work holds in memory at its peak.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Footprint {
    /// Bytes by name, in the order in which they are told.
    pub parts: Vec<(&'static str, u64)>,
    /// The nodes whose results decide more of it and are not there yet: until then it is what it may be at most,
    /// and nothing at all where `parts` are empty.
    pub after: Vec<String>,
    /// What the user can do to make it smaller: lower a setting, and what it is now.
    pub advice: String,
}

impl Footprint {
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.parts.iter().map(|(_, bytes)| bytes).sum()
    }

    /// Why a node with these settings does not start on a machine with so many bytes free; none where it does. What a
    /// node says in `memory_gb` goes before what is free.
    #[must_use]
    pub fn refusal(&self, settings: &Value, free: u64) -> Option<String> {
        let said = settings["memory_gb"].as_f64();
        let room = said.map_or(free, |gigabytes| (gigabytes * 1e9) as u64);
        if self.bytes() <= room {
            return None;
        }
        let Self { advice, .. } = self;
        let room = amount(room);
        let enough = self.bytes().div_ceil(1_000_000_000);
        Some(match said {
            Some(_) => format!("it needs {self}, and its `memory_gb` is {room}: {advice}, or raise `memory_gb`"),
            None => format!(
                "it needs {self}, and {room} are free: {advice}; `memory_gb: {enough}` below `run:` starts it all the same"
            ),
        })
    }
}

/// `3.2 GB of memory (weights 2.0 GB, the rest 1.2 GB)`.
impl fmt::Display for Footprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<String> = self.parts.iter().map(|(name, bytes)| format!("{name} {}", amount(*bytes))).collect();
        write!(f, "{} of memory ({})", amount(self.bytes()), parts.join(", "))
    }
}

fn amount(bytes: u64) -> String {
    let megabytes = bytes as f64 / 1e6;
    if megabytes >= 1000.0 { format!("{:.1} GB", megabytes / 1e3) } else { format!("{megabytes:.0} MB") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_the_nodes_of_a_plan_share_is_made_once_for_each_key_and_type() {
        let inputs = Prospects::default();
        let mut made = 0;
        for _ in 0..3 {
            made = *inputs.once("jar", || made + 1);
        }
        assert_eq!((made, *inputs.clone().once("jar", || 7)), (1, 1));
        assert_eq!((*inputs.once("lid", || 2), &**inputs.once("jar", || "clay")), (2, "clay"));
    }

    #[test]
    fn a_footprint_that_does_not_fit_says_what_is_needed_what_is_free_and_what_helps() {
        let footprint = Footprint {
            parts: vec![("clay", 2_500_000_000), ("water", 300_000_000)],
            after: Vec::new(),
            advice: "lower `jars` (it is 4)".into(),
        };
        assert_eq!(footprint.refusal(&json!({}), 2_800_000_000), None);
        assert_eq!(
            footprint.refusal(&json!({}), 2_000_000_000).unwrap(),
            "it needs 2.8 GB of memory (clay 2.5 GB, water 300 MB), and 2.0 GB are free: lower `jars` (it is 4); \
             `memory_gb: 3` below `run:` starts it all the same"
        );
        assert_eq!(footprint.refusal(&json!({ "memory_gb": 3 }), 1), None);
        assert_eq!(
            footprint.refusal(&json!({ "memory_gb": 0.5 }), 9_000_000_000).unwrap(),
            "it needs 2.8 GB of memory (clay 2.5 GB, water 300 MB), and its `memory_gb` is 500 MB: lower `jars` (it is 4), \
             or raise `memory_gb`"
        );
    }
}
