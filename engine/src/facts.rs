//! Everything that decides a result, its fingerprint, and the differences of two such documents as sentences.
//! Knows nothing of folders, graphs or the work itself.
//!
//! | decides the result | does not |
//! |---|---|
//! | the engine's format | names of pipeline and nodes (but where an input is `Arity::Named`) |
//! | the stage's name and version | comments, order and layout of the YAML |
//! | `with:` after defaults and presets | `run:`: device, micro-batch, workers |
//! | bytes of every source, and of what a script imports | the paths where they lie |
//! | the seed | clock, host, user |
//! | per input its name, kind and content digest, in order | which results or how many runs made that content |

use std::{collections::BTreeMap, fmt, path::PathBuf, str::FromStr};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{diagnostic::Place, digest::Digest};

/// Raised when the same facts begin to mean another result for every stage, or are encoded anew.
pub const FORMAT: u32 = 1;

/// What decides a result. Saved beside it; its hash is the result's name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Facts {
    /// The format of facts that this was written in.
    pub engine: u32,
    pub stage: String,
    pub version: u32,
    /// Parameters after defaults; null where a source's path stands.
    pub with: Value,
    /// Parameter that holds a source, to the digest of its file or folder and then of each file it imports.
    pub sources: BTreeMap<String, Vec<Digest>>,
    pub seed: u64,
    pub inputs: BTreeMap<String, Vec<InputFacts>>,
}

/// One artifact of an input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InputFacts {
    /// The node's name, where the stage writes it into its result.
    pub name: Option<String>,
    pub kind: String,
    pub content: Digest,
}

/// Hash of facts: names a result.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fingerprint(Digest);

impl Fingerprint {
    /// # Panics
    /// Never: facts are plain data.
    #[must_use]
    pub fn of(facts: &Facts) -> Self {
        let document = serde_json::to_value(facts).expect("facts are plain data with text for keys");
        Self(Digest::of_document("mashbill 1 facts", &document))
    }

    /// The first eight letters, for people.
    #[must_use]
    pub fn short(self) -> String {
        self.0.short()
    }
}

impl FromStr for Fingerprint {
    type Err = NoFingerprint;

    fn from_str(text: &str) -> Result<Self, NoFingerprint> {
        Digest::read(text).map(Self).ok_or(NoFingerprint)
    }
}

/// A text that names no result.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("a fingerprint has 64 hexadecimal digits")]
pub struct NoFingerprint;

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One difference between two facts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    Engine {
        old: u32,
        new: u32,
    },
    Stage {
        old: String,
        new: String,
    },
    Version {
        stage: String,
        old: u32,
        new: u32,
    },
    Seed {
        old: u64,
        new: u64,
    },
    /// `path` has dots between names: `shape.layers`.
    Parameter {
        path: String,
        old: Option<Value>,
        new: Option<Value>,
    },
    /// `file` is zero for the source itself, then one for each import.
    Source {
        parameter: String,
        file: usize,
        old: Digest,
        new: Digest,
    },
    /// A source appeared, vanished, or imports another number of files.
    SourceFiles {
        parameter: String,
        old: usize,
        new: usize,
    },
    Input {
        name: String,
        position: usize,
        old: InputFacts,
        new: InputFacts,
    },
    /// An input takes another number of artifacts.
    InputCount {
        name: String,
        old: usize,
        new: usize,
    },
}

/// Where things stand in the pipeline: what a sentence needs and a result does not.
#[derive(Debug, Clone, Default)]
pub struct Legend {
    /// Where each value is written, by its path: `with.shape.layers`.
    pub places: BTreeMap<String, Place>,
    /// Parameter that holds a source to its path and those of its imports.
    pub files: BTreeMap<String, Vec<PathBuf>>,
}

impl Facts {
    /// Every difference from `old` to `self`. Empty exactly when both have the same fingerprint.
    #[must_use]
    pub fn changes_since(&self, old: &Facts) -> Vec<Change> {
        // Every field by name, so that a new one can't be forgotten here.
        let Facts { engine, stage, version, with, sources, seed, inputs } = self;
        let mut changes = Vec::new();
        if *engine != old.engine {
            changes.push(Change::Engine { old: old.engine, new: *engine });
        }
        if *stage != old.stage {
            // Parameters and inputs of two stages have nothing to do with each other.
            changes.push(Change::Stage { old: old.stage.clone(), new: stage.clone() });
            return changes;
        }
        if *version != old.version {
            changes.push(Change::Version { stage: stage.clone(), old: old.version, new: *version });
        }
        compare_values("", Some(&old.with), Some(with), &mut changes);
        for (parameter, old, new) in pairs(&old.sources, sources) {
            compare_sources(parameter, old, new, &mut changes);
        }
        if *seed != old.seed {
            changes.push(Change::Seed { old: old.seed, new: *seed });
        }
        for (name, old, new) in pairs(&old.inputs, inputs) {
            compare_inputs(name, old, new, &mut changes);
        }
        changes
    }
}

/// Names of both maps in order, with the items of each, none where the name is absent.
fn pairs<'a, T>(
    old: &'a BTreeMap<String, Vec<T>>,
    new: &'a BTreeMap<String, Vec<T>>,
) -> impl Iterator<Item = (&'a str, &'a [T], &'a [T])> {
    let names: std::collections::BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let items = |map: &'a BTreeMap<String, Vec<T>>, name: &String| map.get(name).map_or(&[][..], Vec::as_slice);
    names.into_iter().map(move |name| (name.as_str(), items(old, name), items(new, name)))
}

fn compare_values(path: &str, old: Option<&Value>, new: Option<&Value>, changes: &mut Vec<Change>) {
    if let (Some(Value::Object(before)), Some(Value::Object(after))) = (old, new) {
        let names: std::collections::BTreeSet<&String> = before.keys().chain(after.keys()).collect();
        for name in names {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            compare_values(&path, before.get(name), after.get(name), changes);
        }
    } else if old.map(crate::encoding::encode) != new.map(crate::encoding::encode) {
        changes.push(Change::Parameter { path: path.into(), old: old.cloned(), new: new.cloned() });
    }
}

fn compare_sources(parameter: &str, old: &[Digest], new: &[Digest], changes: &mut Vec<Change>) {
    let parameter = parameter.to_owned();
    if old.len() != new.len() {
        changes.push(Change::SourceFiles { parameter: parameter.clone(), old: old.len(), new: new.len() });
    }
    for (file, (old, new)) in old.iter().zip(new).enumerate() {
        if old != new {
            changes.push(Change::Source { parameter: parameter.clone(), file, old: *old, new: *new });
        }
    }
}

fn compare_inputs(name: &str, old: &[InputFacts], new: &[InputFacts], changes: &mut Vec<Change>) {
    if old.len() != new.len() {
        changes.push(Change::InputCount { name: name.into(), old: old.len(), new: new.len() });
    }
    for (position, (old, new)) in old.iter().zip(new).enumerate() {
        if old != new {
            changes.push(Change::Input { name: name.into(), position, old: old.clone(), new: new.clone() });
        }
    }
}

impl Change {
    /// Which fact it is: `with.rate`, `seed`, `inputs.rows.0`.
    #[must_use]
    pub fn fact(&self) -> String {
        match self {
            Change::Engine { .. } => "engine".into(),
            Change::Stage { .. } => "stage".into(),
            Change::Version { .. } => "version".into(),
            Change::Seed { .. } => "seed".into(),
            Change::Parameter { path, .. } => format!("with.{path}"),
            Change::Source { parameter, file, .. } => format!("sources.{parameter}.{file}"),
            Change::SourceFiles { parameter, .. } => format!("sources.{parameter}"),
            Change::Input { name, position, .. } => format!("inputs.{name}.{position}"),
            Change::InputCount { name, .. } => format!("inputs.{name}"),
        }
    }

    /// Old and new, as the facts hold them; of a list that grew or shrank, its lengths.
    #[must_use]
    pub fn values(&self) -> (Value, Value) {
        let or_null = |value: &Option<Value>| value.clone().unwrap_or_default();
        let text = |digest: &Digest| Value::from(digest.to_string());
        let input = |facts: &InputFacts| serde_json::to_value(facts).expect("facts are plain data with text for keys");
        match self {
            Change::Engine { old, new } | Change::Version { old, new, .. } => ((*old).into(), (*new).into()),
            Change::Stage { old, new } => (old.as_str().into(), new.as_str().into()),
            Change::Seed { old, new } => ((*old).into(), (*new).into()),
            Change::Parameter { old, new, .. } => (or_null(old), or_null(new)),
            Change::Source { old, new, .. } => (text(old), text(new)),
            Change::SourceFiles { old, new, .. } | Change::InputCount { old, new, .. } => {
                ((*old).into(), (*new).into())
            }
            Change::Input { old, new, .. } => (input(old), input(new)),
        }
    }

    /// Where the new value is written, where that is known.
    #[must_use]
    pub fn place<'a>(&self, legend: &'a Legend) -> Option<&'a Place> {
        match self {
            Change::Parameter { path, .. } => legend.place(path),
            Change::Source { parameter, .. } | Change::SourceFiles { parameter, .. } => legend.place(parameter),
            Change::Stage { .. } | Change::Version { .. } => legend.places.get("stage"),
            Change::Input { name, .. } | Change::InputCount { name, .. } => {
                legend.places.get(&format!("inputs.{name}"))
            }
            Change::Engine { .. } | Change::Seed { .. } => None,
        }
    }

    /// The difference in words: `with.rate: 1e-5 -> 3e-6 (pipelines/r1.yaml:41:22)`.
    #[must_use]
    pub fn sentence(&self, legend: &Legend) -> String {
        match self {
            Change::Engine { old, new } => format!("engine format: {old} -> {new}"),
            Change::Stage { old, new } => format!("stage: {old} -> {new}"),
            Change::Version { stage, old, new } => format!("version of stage {stage}: {old} -> {new}"),
            Change::Seed { old, new } => format!("seed: {old} -> {new}"),
            Change::Parameter { path, old, new } => {
                let place = legend.place(path).map_or(String::new(), |place| format!(" ({place})"));
                format!("with.{path}: {} -> {}{place}", brief(old.as_ref()), brief(new.as_ref()))
            }
            Change::Source { parameter, file, old, new } => {
                let path = legend.file(parameter, *file);
                format!("with.{parameter}: bytes of {path} changed, {} -> {}", old.short(), new.short())
            }
            Change::SourceFiles { parameter, old, new } => match (old, new) {
                (0, _) => format!("with.{parameter}: (none) -> {}", legend.file(parameter, 0)),
                (_, 0) => format!("with.{parameter}: a file -> (none)"),
                (old, new) => {
                    format!("with.{parameter}: imports of {}: {} -> {}", legend.file(parameter, 0), old - 1, new - 1)
                }
            },
            Change::Input { name, position, old, new } => {
                let name = if *position == 0 { name.clone() } else { format!("{name}[{position}]") };
                if old.kind != new.kind {
                    format!("input {name}: kind {} -> {}", old.kind, new.kind)
                } else if old.content != new.content {
                    format!("input {name}: content changed, {} -> {}", old.content.short(), new.content.short())
                } else {
                    let node = |facts: &InputFacts| facts.name.clone().unwrap_or_else(|| "(unnamed)".into());
                    format!("input {name}: name of its node: {} -> {}", node(old), node(new))
                }
            }
            Change::InputCount { name, old, new } => format!("input {name}: {old} artifacts -> {new}"),
        }
    }
}

impl Legend {
    /// Place of a parameter, else that of the nearest one around it.
    fn place(&self, parameter: &str) -> Option<&Place> {
        let mut path = format!("with.{parameter}");
        while path != "with" {
            if let Some(place) = self.places.get(&path) {
                return Some(place);
            }
            path.truncate(path.rfind('.')?);
        }
        None
    }

    fn file(&self, parameter: &str, file: usize) -> String {
        let path = self.files.get(parameter).and_then(|files| files.get(file));
        path.map_or_else(|| format!("file {file}"), |path| path.display().to_string())
    }
}

fn brief(value: Option<&Value>) -> String {
    const LONGEST: usize = 80;
    let Some(value) = value else { return "(none)".into() };
    let text = fact_text(value);
    if text.chars().count() <= LONGEST {
        return text;
    }
    text.chars().take(LONGEST).chain("...".chars()).collect()
}

/// A parameter's value as people write it.
#[must_use]
pub fn fact_text(value: &Value) -> String {
    match value {
        Value::Number(number) if number.is_f64() => number.as_f64().map_or_else(String::new, float_text),
        other => other.to_string(),
    }
}

/// As its author wrote it: a parameter of 32 bits is widened on its way here, `3e-6` to `3.000000106112566e-6`.
fn float_text(wide: f64) -> String {
    let narrow = wide as f32;
    if f64::from(narrow).to_bits() == wide.to_bits() { format!("{narrow:?}") } else { format!("{wide:?}") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn facts() -> Facts {
        let digest = |text: &str| Digest::of_bytes(text.as_bytes());
        Facts {
            engine: 1,
            stage: "press".into(),
            version: 2,
            with: json!({"rate": 1e-5, "steps": 150, "script": null, "shape": {"layers": 4}}),
            sources: [("script".to_owned(), vec![digest("script"), digest("import")])].into(),
            seed: 17,
            inputs: [(
                "paper".to_owned(),
                vec![InputFacts { name: None, kind: "sheet".into(), content: digest("bytes") }],
            )]
            .into(),
        }
    }

    fn legend() -> Legend {
        Legend {
            places: [("with.rate".to_owned(), Place { file: "r1.yaml".into(), line: 41, column: 22 })].into(),
            files: [("script".to_owned(), vec!["plugins/main.txt".into(), "plugins/lib.txt".into()])].into(),
        }
    }

    #[test]
    fn fingerprint_is_the_published_one() {
        // From a separate implementation: tests/reference/fingerprint.py.
        assert_eq!(Fingerprint::of(&facts()).to_string(), GOLDEN);
    }

    const GOLDEN: &str = "2c5c367541ecd065d5c8f4c8ec850eee1343d32690d057c93bf96c191392f684";

    type Edit = fn(&mut Facts);
    const EDITS: [(Edit, &str); 14] = [
        (|f| f.engine = 2, "engine format: 1 -> 2"),
        (|f| f.stage = "fold".into(), "stage: press -> fold"),
        (|f| f.version = 3, "version of stage press: 2 -> 3"),
        (|f| f.with["rate"] = json!(f64::from(3e-6_f32)), "with.rate: 1e-5 -> 3e-6 (r1.yaml:41:22)"),
        (|f| f.with["steps"] = json!(150.0), "with.steps: 150 -> 150.0"),
        (|f| f.with["shape"]["layers"] = json!(6), "with.shape.layers: 4 -> 6"),
        (|f| f.with["clip"] = json!("a"), "with.clip: (none) -> \"a\""),
        (
            |f| f.sources.get_mut("script").unwrap()[0] = Digest::of_bytes(b"edited"),
            "with.script: bytes of plugins/main.txt changed, 6c737280 -> 69da6dbe",
        ),
        (
            |f| f.sources.get_mut("script").unwrap()[1] = Digest::of_bytes(b"edited"),
            "with.script: bytes of plugins/lib.txt changed, 6b042a83 -> 69da6dbe",
        ),
        (|f| f.sources.get_mut("script").unwrap().truncate(1), "with.script: imports of plugins/main.txt: 1 -> 0"),
        (|f| f.seed = 18, "seed: 17 -> 18"),
        (
            |f| f.inputs.get_mut("paper").unwrap()[0].content = Digest::of_bytes(b"edited"),
            "input paper: content changed, df19b1f1 -> 69da6dbe",
        ),
        (
            |f| f.inputs.get_mut("paper").unwrap()[0].name = Some("base".into()),
            "input paper: name of its node: (unnamed) -> base",
        ),
        (|f| f.inputs.clear(), "input paper: 1 artifacts -> 0"),
    ];

    #[test]
    fn every_fact_changes_the_fingerprint_and_has_its_sentence() {
        for (edit, sentence) in EDITS {
            let mut edited = facts();
            edit(&mut edited);
            assert_ne!(Fingerprint::of(&edited), Fingerprint::of(&facts()), "{sentence}");
            let sentences: Vec<_> =
                edited.changes_since(&facts()).iter().map(|change| change.sentence(&legend())).collect();
            assert_eq!(sentences, [sentence]);
        }
    }

    #[test]
    fn facts_read_back_from_their_document_have_the_same_fingerprint() {
        let text = serde_json::to_string_pretty(&facts()).unwrap();
        let read: Facts = serde_json::from_str(&text).unwrap();
        assert_eq!(Fingerprint::of(&read), Fingerprint::of(&facts()));
        assert!(read.changes_since(&facts()).is_empty());
    }
}
