//! How alike two texts are, for rewards with more than two values.

use rhai::{EvalAltResult, Module, export_module, exported_module};

pub(super) fn module() -> Module {
    exported_module!(functions)
}

#[export_module]
mod functions {
    /// How many characters have to be put in, taken out or replaced to make one text the other.
    #[rhai_fn(return_raw)]
    pub fn levenshtein(left: &str, right: &str) -> Result<i64, Box<EvalAltResult>> {
        bounded(left, right)?;
        Ok(i64::try_from(strsim::levenshtein(left, right)).expect("no longer than the texts"))
    }

    /// 1 for equal texts, 0 where every character differs: 1 less `levenshtein` as a share of the longer text.
    #[rhai_fn(return_raw)]
    pub fn similarity(left: &str, right: &str) -> Result<f64, Box<EvalAltResult>> {
        bounded(left, right)?;
        Ok(strsim::normalized_levenshtein(left, right))
    }

    /// The share of the longer text's characters that both texts begin with; 1 for two empty texts.
    pub fn prefix_share(left: &str, right: &str) -> f64 {
        let longer = left.chars().count().max(right.chars().count());
        let same = left.chars().zip(right.chars()).take_while(|(left, right)| left == right).count();
        if longer == 0 { 1.0 } else { same as f64 / longer as f64 }
    }
}

/// The work is the product of the lengths: a tenth of a second at this bound.
fn bounded(left: &str, right: &str) -> Result<(), String> {
    const MOST: usize = 4096;
    let longer = left.chars().count().max(right.chars().count());
    if longer > MOST {
        return Err(format!("a text of {longer} characters is too long to compare; {MOST} is the most"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::functions::*;

    #[test]
    fn texts_are_compared_by_edits_and_by_prefix() {
        assert_eq!(levenshtein("kitten", "sitting").unwrap(), 3);
        assert!((similarity("kitten", "sitting").unwrap() - 4.0 / 7.0).abs() < 1e-12);
        assert!((prefix_share("abcd", "abxd") - 0.5).abs() < 1e-12);
        assert!((prefix_share("ab", "abcd") - 0.5).abs() < 1e-12);
        assert!((prefix_share("", "") - 1.0).abs() < 1e-12);
        assert!((prefix_share("", "a")).abs() < 1e-12);
    }

    #[test]
    fn a_text_too_long_to_compare_in_time_is_an_error() {
        let error = levenshtein(&"a".repeat(5000), "b").unwrap_err().to_string();
        assert!(error.contains("a text of 5000 characters is too long to compare; 4096 is the most"), "{error}");
    }
}
