//! Names of things on the Hugging Face Hub, such as `hf:org/name@revision`.
//! Knows nothing of the network.

use std::{
    borrow::Cow,
    fmt::{self, Display, Formatter},
};

use anyhow::{Result, bail, ensure};
use engine::{Problem, Source};
use hf_hub::{Repo, RepoType};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::is_commit;

/// What a reference begins with.
const SCHEME: &str = "hf:";

/// A path whose bytes decide the result, or a name on the Hub, which decides it by what it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    Here(Source),
    /// With `hf:` before it; [`Place::check`] says whether it can be read.
    Hub(String),
}

impl Place {
    /// What is wrong with a name on the Hub, where it stands at `parameter` and should be of `kind`.
    #[must_use]
    pub fn check(&self, parameter: &str, kind: Kind) -> Option<Problem> {
        let Self::Hub(text) = self else { return None };
        let error = Reference::parse(text, kind).err()?;
        let hint = match kind {
            Kind::Model => "a model is named `hf:org/name` or `hf:org/name@revision`",
            Kind::Dataset => {
                "a dataset is named `hf:datasets/org/name`, with `@revision` or `:part` behind it where needed"
            }
        };
        Some(Problem { parameter: parameter.into(), message: error.to_string(), hint: Some(hint.into()) })
    }
}

impl From<String> for Place {
    fn from(text: String) -> Self {
        if text.starts_with(SCHEME) { Self::Hub(text) } else { Self::Here(Source(text.into())) }
    }
}

impl Display for Place {
    fn fmt(&self, formatter: &mut Formatter) -> fmt::Result {
        match self {
            Self::Here(source) => write!(formatter, "{}", source.0.display()),
            Self::Hub(text) => formatter.write_str(text),
        }
    }
}

impl Serialize for Place {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Here(source) => source.serialize(serializer),
            Self::Hub(text) => text.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Place {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::from)
    }
}

impl JsonSchema for Place {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Place".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let path = generator.subschema_for::<Source>();
        json_schema!({ "anyOf": [path, { "type": "string", "pattern": format!("^{SCHEME}") }] })
    }
}

/// What a repository holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Model,
    Dataset,
}

/// A repository on the Hub at a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    pub kind: Kind,
    /// `org/name`.
    pub name: String,
    /// A branch, a tag or a commit; `main` where none is given.
    pub revision: String,
    /// What of a dataset: `train`, `folder/train`, or a file.
    pub part: Option<String>,
}

impl Reference {
    /// Reads `hf:org/name[@revision]` or `hf:datasets/org/name[@revision][:part]`.
    ///
    /// # Errors
    /// Says what is wrong with the text.
    pub fn parse(text: &str, kind: Kind) -> Result<Self> {
        let rest = text.strip_prefix(SCHEME).unwrap_or(text);
        let rest = match (kind, rest.strip_prefix("datasets/")) {
            (Kind::Dataset, Some(rest)) => rest,
            (Kind::Dataset, None) => bail!("`{text}` names a model where a dataset is read"),
            (Kind::Model, None) => rest,
            (Kind::Model, Some(_)) => bail!("`{text}` names a dataset where a model is read"),
        };
        let (rest, part) = match rest.split_once(':') {
            Some(_) if kind == Kind::Model => bail!("`{text}` asks for a part of a model"),
            Some((rest, part)) => (rest, Some(part)),
            None => (rest, None),
        };
        let (name, revision) = rest.split_once('@').unwrap_or((rest, "main"));
        let is_name = |name: &str| {
            !name.is_empty()
                && !name.starts_with(['.', '-'])
                && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        };
        ensure!(
            name.split('/').count() <= 2 && name.split('/').all(is_name),
            "`{text}` names no repository: `{name}` is not of the form `org/name`"
        );
        ensure!(is_path(revision), "`{text}` has no revision behind its `@`");
        ensure!(part.is_none_or(is_path), "`{text}` names no part behind its `:`");
        Ok(Self { kind, name: name.into(), revision: revision.into(), part: part.map(str::to_owned) })
    }

    /// Does it name one state for good?
    #[must_use]
    pub fn is_pinned(&self) -> bool {
        is_commit(&self.revision)
    }

    /// The same at a commit.
    #[must_use]
    pub fn at(&self, commit: &str) -> Self {
        Self { revision: commit.into(), ..self.clone() }
    }

    pub(super) fn repo(&self) -> Repo {
        let kind = match self.kind {
            Kind::Model => RepoType::Model,
            Kind::Dataset => RepoType::Dataset,
        };
        Repo::with_revision(self.name.clone(), kind, self.revision.clone())
    }

    /// As Python's `hf download` takes it.
    pub(super) fn as_words(&self) -> String {
        let kind = if self.kind == Kind::Dataset { " --repo-type dataset" } else { "" };
        format!("{}{kind} --revision {}", self.name, self.revision)
    }
}

/// Path-like text that stays below the folder it is joined to.
pub(super) fn is_path(text: &str) -> bool {
    let is_step = |step: &str| !matches!(step, "" | "." | "..") && !step.contains(['\\', '\0']);
    text.split('/').all(is_step)
}

impl Display for Reference {
    fn fmt(&self, formatter: &mut Formatter) -> fmt::Result {
        let folder = if self.kind == Kind::Dataset { "datasets/" } else { "" };
        write!(formatter, "{SCHEME}{folder}{}@{}", self.name, self.revision)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaint(text: &str, kind: Kind) -> String {
        Place::from(text.to_owned()).check("path", kind).unwrap().message
    }

    #[test]
    fn references_are_read() {
        let read = |text, kind| {
            let Reference { name, revision, part, .. } = Reference::parse(text, kind).unwrap();
            format!("{name} {revision} {}", part.unwrap_or_default())
        };
        assert_eq!(read("hf:Qwen/Qwen2.5-0.5B", Kind::Model), "Qwen/Qwen2.5-0.5B main ");
        assert_eq!(read("hf:gpt2@refs/pr/5", Kind::Model), "gpt2 refs/pr/5 ");
        assert_eq!(read("hf:datasets/openai/gsm8k:main/train", Kind::Dataset), "openai/gsm8k main main/train");
        assert_eq!(
            read("hf:datasets/a/b@refs/convert/parquet:x/0.parquet", Kind::Dataset),
            "a/b refs/convert/parquet x/0.parquet"
        );
        assert!(matches!(Place::from("models/hf:x".to_owned()), Place::Here(_)));
    }

    #[test]
    fn what_names_nothing_is_refused() {
        assert_eq!(
            complaint("hf:datasets/a/b", Kind::Model),
            "`hf:datasets/a/b` names a dataset where a model is read"
        );
        assert_eq!(complaint("hf:a/b", Kind::Dataset), "`hf:a/b` names a model where a dataset is read");
        assert_eq!(complaint("hf:a/b:train", Kind::Model), "`hf:a/b:train` asks for a part of a model");
        assert_eq!(
            complaint("hf:a/b/c", Kind::Model),
            "`hf:a/b/c` names no repository: `a/b/c` is not of the form `org/name`"
        );
        assert_eq!(
            complaint("hf:../b", Kind::Model),
            "`hf:../b` names no repository: `../b` is not of the form `org/name`"
        );
        assert_eq!(complaint("hf:a/b@", Kind::Model), "`hf:a/b@` has no revision behind its `@`");
        assert_eq!(complaint("hf:a/b@../../x", Kind::Model), "`hf:a/b@../../x` has no revision behind its `@`");
        assert_eq!(complaint("hf:datasets/a/b:", Kind::Dataset), "`hf:datasets/a/b:` names no part behind its `:`");
    }
}
