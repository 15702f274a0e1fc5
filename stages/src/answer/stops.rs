//! Stop strings in a text that comes in pieces: none of one is ever let through, however it is cut.
//! Knows nothing of tokens.

use std::sync::Arc;

/// The stop strings of a request, prepared once for all its answers.
#[derive(Debug, Default)]
pub struct StopMatcher(Vec<Needle>);

/// A stop string and its failure function (Knuth, Morris and Pratt 1977): an answer is searched in a time that grows
/// with its length alone, not with that of the stop string.
#[derive(Debug)]
struct Needle {
    bytes: Box<[u8]>,
    /// For the first `n` bytes, the length of their longest proper suffix that the stop string begins with too.
    failure: Box<[usize]>,
}

impl StopMatcher {
    /// Empty stop strings stop nothing.
    pub fn new(stops: impl IntoIterator<Item = String>) -> Self {
        Self(stops.into_iter().filter(|stop| !stop.is_empty()).map(|stop| Needle::new(&stop)).collect())
    }
}

impl Needle {
    fn new(stop: &str) -> Self {
        let mut needle = Self { bytes: stop.as_bytes().into(), failure: vec![0; stop.len() + 1].into() };
        for length in 2..=stop.len() {
            needle.failure[length] = needle.onward(needle.failure[length - 1], needle.bytes[length - 1]);
        }
        needle
    }

    /// Bytes of the stop string that the text ends with, when `byte` comes behind a text that ends with `matched`.
    fn onward(&self, mut matched: usize, byte: u8) -> usize {
        while matched == self.bytes.len() || self.bytes[matched] != byte {
            if matched == 0 {
                return 0;
            }
            matched = self.failure[matched];
        }
        matched + 1
    }
}

/// An answer before its stop strings: what has come and may yet turn out to be the beginning of one.
#[derive(Debug, Clone)]
pub struct Stops {
    matcher: Arc<StopMatcher>,
    /// Of each stop string, the bytes that the text ends with.
    matched: Vec<usize>,
    held: String,
}

/// What of the text is sure now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sure {
    /// This much, and it goes on.
    Text(String),
    /// This much, and then a stop string came.
    End(String),
}

impl Stops {
    pub fn new(matcher: Arc<StopMatcher>) -> Self {
        let matched = vec![0; matcher.0.len()];
        Self { matcher, matched, held: String::new() }
    }

    /// Takes the next piece. The stop string that begins first ends the text.
    pub fn push(&mut self, piece: &str) -> Sure {
        let before = self.held.len();
        self.held.push_str(piece);
        let mut ends_at = None;
        for (needle, matched) in self.matcher.0.iter().zip(&mut self.matched) {
            for (at, byte) in piece.bytes().enumerate() {
                *matched = needle.onward(*matched, byte);
                if *matched == needle.bytes.len() {
                    // All of it was held back.
                    let begins = before + at + 1 - needle.bytes.len();
                    ends_at = Some(ends_at.map_or(begins, |first: usize| first.min(begins)));
                    break;
                }
            }
        }
        if let Some(at) = ends_at {
            self.held.truncate(at);
            return Sure::End(std::mem::take(&mut self.held));
        }
        let doubtful = self.matched.iter().copied().max().unwrap_or_default();
        let sure = self.held.len() - doubtful;
        Sure::Text(self.held.drain(..sure).collect())
    }

    /// What was held back, when nothing more comes.
    pub fn rest(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(stops: &[&str]) -> Stops {
        Stops::new(Arc::new(StopMatcher::new(stops.iter().map(ToString::to_string))))
    }

    /// What is let through when the text comes cut at every place into two, and letter by letter.
    fn through(stops: &[&str], text: &str) -> String {
        let of = |pieces: &[&str]| {
            let mut stops = new(stops);
            let mut out = String::new();
            for piece in pieces {
                match stops.push(piece) {
                    Sure::Text(sure) => out.push_str(&sure),
                    Sure::End(sure) => return out + sure.as_str(),
                }
            }
            out + stops.rest().as_str()
        };
        let whole = of(&[text]);
        for (at, _) in text.char_indices() {
            assert_eq!(of(&[&text[..at], &text[at..]]), whole, "cut at {at}");
        }
        let letters: Vec<String> = text.chars().map(String::from).collect();
        assert_eq!(of(&letters.iter().map(String::as_str).collect::<Vec<_>>()), whole, "letter by letter");
        whole
    }

    #[test]
    fn a_text_ends_before_its_stop_string_however_it_is_cut() {
        assert_eq!(through(&["</answer>"], "a<b</answer>c"), "a<b");
        assert_eq!(through(&["\n\n", "é!"], "caféé!x\n\n"), "café");
        assert_eq!(through(&["aab"], "aaaab"), "aa");
    }

    #[test]
    fn a_beginning_that_comes_to_nothing_is_let_through() {
        assert_eq!(through(&["</answer>"], "1 < 2 </ans"), "1 < 2 </ans");
        assert_eq!(through(&["abc", "bd"], "ab"), "ab");
    }

    #[test]
    fn what_may_be_a_beginning_waits() {
        let mut stops = new(&["STOP"]);
        assert_eq!(stops.push("go ST"), Sure::Text("go ".into()));
        assert_eq!(stops.push("S"), Sure::Text("ST".into()));
        assert_eq!(stops.push("TOP on"), Sure::End(String::new()));
    }
    #[test]
    fn every_text_of_two_letters_ends_where_a_search_of_the_whole_ends_it() {
        let letter = |bits: u32, at: u32| if bits >> at & 1 == 0 { 'a' } else { 'b' };
        let texts = |length: u32| {
            (0..1 << length).map(move |bits: u32| (0..length).map(|at| letter(bits, at)).collect::<String>())
        };
        for stop in (1..=4).flat_map(texts) {
            for text in texts(8) {
                let whole = text.find(stop.as_str()).map_or(text.as_str(), |at| &text[..at]);
                assert_eq!(through(&[&stop], &text), whole, "{stop} in {text}");
            }
        }
    }

    #[test]
    fn a_long_beginning_at_every_place_takes_no_longer() {
        // Sixteen stop strings that are nearly there after every piece: a search over each took minutes.
        let long = "a".repeat(100_000) + "b";
        let mut stops = new(&[long.as_str(); 16]);
        let begun = std::time::Instant::now();
        for _ in 0..200_000 {
            stops.push("a");
        }
        assert_eq!(stops.rest().len(), 100_000);
        assert!(begun.elapsed().as_secs() < 5, "{:?}", begun.elapsed());
    }
}
