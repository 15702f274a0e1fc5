//! Where the Hub is and where its cache lies: the environment variables of Python's `huggingface_hub`.
//! Knows nothing of what is asked for.

use std::path::PathBuf;

/// How to reach the Hub.
///
/// | variable | meaning |
/// |---|---|
/// | `HF_ENDPOINT` | the Hub's address; `https://huggingface.co` |
/// | `HF_HUB_CACHE` | the cache; `$HF_HOME/hub` |
/// | `HF_HOME` | `$XDG_CACHE_HOME/huggingface`, else `~/.cache/huggingface` |
/// | `HF_TOKEN` | the token; else what stands in the file `$HF_TOKEN_PATH`, else in `$HF_HOME/token` |
/// | `HF_HUB_OFFLINE` | 1: ask the cache alone |
#[derive(Debug, Clone)]
pub struct Settings {
    /// Without a slash at its end.
    pub endpoint: String,
    pub cache: PathBuf,
    pub token: Option<String>,
    /// Where the token was found, for messages.
    pub token_from: String,
    pub is_offline: bool,
}

impl Settings {
    /// As the environment says.
    #[must_use]
    pub fn from_env() -> Self {
        Self::of(|name| std::env::var(name).ok())
    }

    /// As variables say; an empty one counts as absent.
    pub fn of(variable: impl Fn(&str) -> Option<String>) -> Self {
        let set = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
        let cache_home = || set("XDG_CACHE_HOME").map(PathBuf::from);
        let user = || PathBuf::from(set("HOME").unwrap_or_default()).join(".cache");
        let home = set("HF_HOME").map_or_else(|| cache_home().unwrap_or_else(user).join("huggingface"), PathBuf::from);
        let cache = set("HF_HUB_CACHE").map_or_else(|| home.join("hub"), PathBuf::from);
        let path = set("HF_TOKEN_PATH").map_or_else(|| home.join("token"), PathBuf::from);
        let told =
            ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"].into_iter().find_map(|name| Some((set(name)?, format!("`{name}`"))));
        let kept = || Some((std::fs::read_to_string(&path).ok()?, path.display().to_string()));
        let found = told.or_else(kept).map(|(token, from)| (token.trim().to_owned(), from));
        let (token, token_from) = found.filter(|(token, _)| !token.is_empty()).unzip();
        let endpoint = set("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into());
        let is_true = |value: String| matches!(value.to_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE");
        Self {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            cache,
            token,
            token_from: token_from.unwrap_or_default(),
            is_offline: set("HF_HUB_OFFLINE").is_some_and(is_true),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn of(variables: &[(&str, &str)]) -> Settings {
        let variables: BTreeMap<&str, &str> = variables.iter().copied().collect();
        Settings::of(|name| variables.get(name).map(|value| (*value).to_owned()))
    }

    #[test]
    fn the_cache_lies_where_python_has_it() {
        let cache = |variables: &[(&str, &str)]| of(variables).cache.display().to_string();
        assert_eq!(cache(&[("HOME", "/h")]), "/h/.cache/huggingface/hub");
        assert_eq!(cache(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")]), "/x/huggingface/hub");
        assert_eq!(cache(&[("HF_HOME", "/hf"), ("XDG_CACHE_HOME", "/x")]), "/hf/hub");
        assert_eq!(cache(&[("HF_HOME", "/hf"), ("HF_HUB_CACHE", "/c")]), "/c");
    }

    #[test]
    fn the_token_of_the_environment_comes_before_that_of_the_file() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("token"), "kept\n").unwrap();
        let home = folder.path().to_str().unwrap();
        let token = |variables: &[(&str, &str)]| of(&[&[("HF_HOME", home)], variables].concat()).token;
        assert_eq!(token(&[]).as_deref(), Some("kept"));
        assert_eq!(token(&[("HF_TOKEN", "told")]).as_deref(), Some("told"));
        assert_eq!(token(&[("HF_TOKEN", "")]).as_deref(), Some("kept"));
        assert_eq!(token(&[("HF_TOKEN_PATH", "/nowhere")]), None);
        assert!(of(&[("HF_HUB_OFFLINE", "true")]).is_offline && !of(&[("HF_HUB_OFFLINE", "0")]).is_offline);
    }
}
