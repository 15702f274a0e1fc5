//! Is the text written in the language it should be? By script, as DeepSeek-R1 counts words.

use std::sync::LazyLock;

use regex::Regex;
use rhai::{EvalAltResult, Module, export_module, exported_module};

pub(super) fn module() -> Module {
    exported_module!(functions)
}

#[export_module]
mod functions {
    /// The share of the text's words that are written in the language's script, 0 to 1: DeepSeek-R1's
    /// language consistency (arXiv 2501.12948, 2.2.2). A word is a run of letters; a Han character is a
    /// word of its own, numbers and signs are none. 1 where there are no words. Languages of one script
    /// (`"en"`, `"de"`) can't be told apart.
    #[rhai_fn(return_raw)]
    pub fn language_share(text: &str, language: &str) -> Result<f64, Box<EvalAltResult>> {
        share(text, language).map_err(Into::into)
    }
}

/// What one word of the language looks like, whole, by ISO 639-1 code.
const SCRIPTS: &[(&[&str], &str)] = &[
    (&["en", "de", "fr", "es", "it", "pt", "nl", "pl", "cs", "sv", "da", "fi", "tr", "vi", "id"], r"\p{Latin}"),
    (&["zh"], r"\p{Han}"),
    (&["ja"], r"\p{Han}\p{Hiragana}\p{Katakana}ー"),
    (&["ko"], r"\p{Hangul}"),
    (&["ru", "uk", "bg", "sr"], r"\p{Cyrillic}"),
    (&["el"], r"\p{Greek}"),
    (&["ar", "fa", "ur"], r"\p{Arabic}"),
    (&["he"], r"\p{Hebrew}"),
    (&["hi", "mr", "ne"], r"\p{Devanagari}"),
    (&["th"], r"\p{Thai}"),
];

static WORD: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"\p{Han}|[\p{L}\p{M}--\p{Han}]+").expect("a constant that tests compile"));

static WHOLE_WORDS: LazyLock<Vec<Regex>> = LazyLock::new(|| {
    let whole =
        |(_, class): &(_, &str)| Regex::new(&format!(r"^[{class}\p{{M}}]+$")).expect("constants that tests compile");
    SCRIPTS.iter().map(whole).collect()
});

fn share(text: &str, language: &str) -> Result<f64, String> {
    let Some(place) = SCRIPTS.iter().position(|(codes, _)| codes.contains(&language)) else {
        let codes: Vec<_> = SCRIPTS.iter().flat_map(|(codes, _)| *codes).copied().collect();
        return Err(format!("language_share: no language `{language}`; there are {}", codes.join(", ")));
    };
    let whole = &WHOLE_WORDS[place];
    let (mut all, mut theirs) = (0_usize, 0_usize);
    for word in WORD.find_iter(text) {
        all += 1;
        theirs += usize::from(whole.is_match(word.as_str()));
    }
    Ok(if all == 0 { 1.0 } else { theirs as f64 / all as f64 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_counts_words_by_script() {
        let cases = [
            ("so two and two make four", "en", 1.0),
            ("so 2 + 2 = 4", "en", 1.0),
            ("2 + 2 = 4", "en", 1.0),
            ("", "en", 1.0),
            // Three English words, two Han characters.
            ("let us see 首先", "en", 0.6),
            ("let us see 首先", "zh", 0.4),
            ("первое second", "ru", 0.5),
            // Latin and Cyrillic letters in one word: neither.
            ("приveт", "ru", 0.0),
            ("приveт", "en", 0.0),
            ("ひらがな と カタカナー", "ja", 1.0),
            ("naïve café", "fr", 1.0),
        ];
        for (text, language, expected) in cases {
            let found = share(text, language).unwrap();
            assert!((found - expected).abs() < 1e-12, "{text:?} in {language}: {found}");
        }
    }

    #[test]
    fn an_unknown_language_is_an_error() {
        assert!(share("a", "xx").unwrap_err().starts_with("language_share: no language `xx`; there are en, de, "));
    }
}
