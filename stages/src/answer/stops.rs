//! Stop strings in a text that comes in pieces: none of one is ever let through, however it is cut.
//! Knows nothing of tokens.

/// What has come and may yet turn out to be the beginning of a stop string.
#[derive(Debug, Clone)]
pub struct Stops {
    stops: Vec<String>,
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
    pub fn new(stops: Vec<String>) -> Self {
        let stops = stops.into_iter().filter(|stop| !stop.is_empty()).collect();
        Self { stops, held: String::new() }
    }

    /// Takes the next piece. The stop string that begins first ends the text.
    pub fn push(&mut self, piece: &str) -> Sure {
        self.held.push_str(piece);
        if let Some(at) = self.stops.iter().filter_map(|stop| self.held.find(stop.as_str())).min() {
            self.held.truncate(at);
            return Sure::End(std::mem::take(&mut self.held));
        }
        let sure = self.held.len() - self.doubtful();
        Sure::Text(self.held.drain(..sure).collect())
    }

    /// What was held back, when nothing more comes.
    pub fn rest(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Bytes at the end that are the beginning of a stop string.
    fn doubtful(&self) -> usize {
        let begun = |stop: &String| {
            let most = self.held.len().min(stop.len() - 1);
            (1..=most)
                .rev()
                .find(|length| stop.is_char_boundary(*length) && self.held.ends_with(&stop[..*length]))
                .unwrap_or(0)
        };
        self.stops.iter().map(begun).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is let through when the text comes cut at every place into two, and letter by letter.
    fn through(stops: &[&str], text: &str) -> String {
        let of = |pieces: &[&str]| {
            let mut stops = Stops::new(stops.iter().map(ToString::to_string).collect());
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
        let mut stops = Stops::new(vec!["STOP".into()]);
        assert_eq!(stops.push("go ST"), Sure::Text("go ".into()));
        assert_eq!(stops.push("S"), Sure::Text("ST".into()));
        assert_eq!(stops.push("TOP on"), Sure::End(String::new()));
    }
}
