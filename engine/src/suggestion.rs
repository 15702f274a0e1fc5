//! "Did you mean": the word that someone probably meant.
//! Knows nothing of where the words come from, but for the names of files.

use std::path::Path;

/// The candidate nearest to `word`, by rustc's rule: equal but for case, or at most a third of its
/// letters wrong, or the same words in another order. The first of equally near ones.
pub(crate) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let candidates: Vec<&str> = candidates.into_iter().filter(|candidate| *candidate != word).collect();
    if let Some(same) = candidates.iter().find(|candidate| candidate.eq_ignore_ascii_case(word)) {
        return Some(same);
    }
    let allowed = word.chars().count().max(3) / 3;
    let by_distance = candidates
        .iter()
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), *candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance);
    if let Some((_, candidate)) = by_distance {
        return Some(candidate);
    }
    candidates.into_iter().find(|candidate| sorted_words(candidate) == sorted_words(word))
}

/// ``did you mean `steps`?``, or all there is to choose from.
#[must_use]
pub fn hint<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>, all: &str) -> Option<String> {
    let candidates: Vec<&str> = candidates.into_iter().collect();
    match nearest(word, candidates.iter().copied()) {
        Some(candidate) => Some(format!("did you mean `{candidate}`?")),
        None if candidates.is_empty() => None,
        None => Some(format!("{all} {}", list(candidates))),
    }
}

/// A file of nearly that name beside it; else where the path was looked for.
pub(crate) fn file(path: &Path, root: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let folder = path.parent()?;
    let mut beside: Vec<String> = std::fs::read_dir(root.join(folder))
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    beside.sort_unstable();
    let hint = match nearest(name, beside.iter().map(String::as_str)) {
        Some(near) => format!("did you mean `{}`?", folder.join(near).display()),
        None if path.is_relative() => format!("paths are relative to the project's root, {}", root.display()),
        None => return None,
    };
    Some(hint)
}

/// `` `a`, `b` and `c` ``.
pub(crate) fn list<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    let mut quoted: Vec<String> = words.into_iter().map(|word| format!("`{word}`")).collect();
    match quoted.pop() {
        None => String::new(),
        Some(only) if quoted.is_empty() => only,
        Some(last) => format!("{} and {last}", quoted.join(", ")),
    }
}

fn sorted_words(name: &str) -> Vec<String> {
    let mut words: Vec<String> = name.split(['_', '-', '.']).map(str::to_lowercase).collect();
    words.sort_unstable();
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORDS: [&str; 6] = ["steps", "group_size", "paper_weight", "brush", "max_new_sheets", "seed"];

    #[test]
    fn a_single_slip_of_the_finger_finds_its_word() {
        for word in WORDS {
            let letters: Vec<char> = word.chars().collect();
            for at in 0..letters.len() {
                let mut dropped = letters.clone();
                dropped.remove(at);
                let mut doubled = letters.clone();
                doubled.insert(at, letters[at]);
                let mut replaced = letters.clone();
                replaced[at] = 'z';
                let mut swapped = letters.clone();
                swapped.swap(at, (at + 1) % letters.len().max(1));
                // Swapping the last letter with the first is no slip of the finger.
                if at + 1 == letters.len() {
                    swapped.clone_from(&letters);
                }
                for slip in [dropped, doubled, replaced, swapped] {
                    let slip: String = slip.into_iter().collect();
                    let expected = (slip != word).then_some(word);
                    let others: Vec<&str> = WORDS.into_iter().filter(|other| slip != *other).collect();
                    let others = if expected.is_none() { Vec::new() } else { others };
                    assert_eq!(nearest(&slip, others), expected, "{slip}");
                }
            }
        }
    }

    #[test]
    fn an_unlike_word_finds_nothing() {
        for word in ["temperature", "x", "", "pw", "brushing_it", "st"] {
            assert_eq!(nearest(word, WORDS), None, "{word}");
        }
    }

    #[test]
    fn case_and_order_of_words_do_not_matter() {
        assert_eq!(nearest("STEPS", WORDS), Some("steps"));
        assert_eq!(nearest("size_group", WORDS), Some("group_size"));
        assert_eq!(nearest("sheets-max-new", WORDS), Some("max_new_sheets"));
    }

    #[test]
    fn letters_are_counted_not_bytes() {
        // Three of nine letters; as bytes it would be six of nine.
        assert_eq!(nearest("größßß", ["größe"]), Some("größe"));
        assert_eq!(nearest("ÄÖÜ", ["äöx"]), None);
    }

    #[test]
    fn lists_read_as_english() {
        assert_eq!(list([]), "");
        assert_eq!(list(["a"]), "`a`");
        assert_eq!(list(["a", "b"]), "`a` and `b`");
        assert_eq!(list(["a", "b", "c"]), "`a`, `b` and `c`");
    }
}
