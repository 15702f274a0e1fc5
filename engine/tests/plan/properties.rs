//! What holds for every text, not for the ones that somebody thought of.
//!
//! `MASHBILL_FUZZ_SECONDS=600 cargo test -p engine --test plan bytes_of_any_kind -- --nocapture` changes texts at random for
//! ten minutes and tells how many it read.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use crate::toys::{plan_with, spec};

/// Pieces that mean something somewhere in a pipeline, so that random texts get past the first line.
const PIECES: [&str; 64] = [
    "nodes:",
    "\n",
    "\n  ",
    "\n    ",
    "a:",
    "b: ",
    "{ ",
    " }",
    "[",
    "]",
    ", ",
    ": ",
    "- ",
    "stage: ",
    "press",
    "paint",
    "hang",
    "frame",
    "with: ",
    "inputs: ",
    "run: ",
    "matrix: ",
    "when: ",
    "seed: ",
    "vars: ",
    "defaults: ",
    "profiles: ",
    "include: ",
    "env: ",
    "text: main.rs",
    "sheets: ",
    "paper: ",
    "pictures: ",
    "\"",
    "'",
    "${{ ",
    " }}",
    "vars.",
    "matrix.",
    "a",
    "b.c",
    "[0]",
    "[*]",
    "[n=1]",
    "+",
    "-",
    "1",
    "0.5",
    "1e999",
    "99999999999999999999",
    "true",
    "null",
    "default(",
    "len(",
    "join(",
    ")",
    " ? ",
    "&x ",
    "*x",
    "<<: *x",
    "!!binary ",
    "|\n",
    "\u{FEFF}",
    "žluť",
];

/// Reads a text in every way that a user can, and says every mistake.
fn read(text: &str, overrides: &[&str]) {
    if let Err(mistakes) = plan_with(text, overrides) {
        assert!(!mistakes.is_empty());
        for mistake in mistakes {
            let told = mistake.to_string();
            assert!(told.contains(&format!("error[{}]", mistake.code)), "{told}");
            assert!(mistake.to_json()["line"].is_number());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn texts_made_of_meaningful_pieces_are_read_or_refused(
        pieces in prop::collection::vec(prop::sample::select(&PIECES[..]), 0..60),
        path in "[a-z.+~\\[\\]=]{0,20}",
    ) {
        read(&pieces.concat(), &[]);
        read("nodes: { a: { stage: press, with: { text: main.rs } } }", &[&format!("{path}={}", pieces.concat())]);
    }

    #[test]
    fn expressions_made_of_meaningful_pieces_are_computed_or_refused(
        pieces in prop::collection::vec(
            prop::sample::select(&["vars", "n", ".", "1", "0.5", " + ", "-", "*", "/", "%", "==", "<", "&&", "||", "!", "?", ":", "(",
                ")", "[", "]", ",", "len(", "join(", "default(", "'a'", "\\\"", "null", "true", "9223372036854775807", "é", "}}", " "][..]),
            0..30,
        ),
    ) {
        let text = format!(
            "vars: {{ n: 3 }}\nnodes: {{ a: {{ stage: press, with: {{ text: main.rs, sheets: \"${{{{ {} }}}} ${{{{ vars.n }}}}\" }} }} }}\n",
            pieces.concat()
        );
        read(&text, &[]);
    }

    #[test]
    fn a_number_that_is_written_is_the_number_that_is_read(number in any::<i64>(), fraction in any::<f64>()) {
        let text = format!("vars: {{ a: {number} }}\nseed: \"${{{{ vars.a == {number} || vars.a < 0 ? 7 : 8 }}}}\"\nnodes: {{}}\n");
        // The smallest integer is its positive neighbour negated, which is too large.
        if number > i64::MIN {
            prop_assert_eq!(spec(&text, &[]).expect("it is right").seed, 7);
        }
        if fraction.is_finite() {
            let text = format!("vars: {{ a: {fraction:e} }}\nseed: \"${{{{ vars.a == {fraction:e} ? 7 : 8 }}}}\"\nnodes: {{}}\n");
            prop_assert_eq!(spec(&text, &[]).expect("it is right").seed, 7);
        }
    }
}

/// Random changes of texts that are right, and of bytes that are nothing: 200 of them, or as many as fit the seconds that
/// were asked for.
#[test]
fn bytes_of_any_kind_are_read_or_refused() {
    const SEEDS: [&str; 4] = [
        include_str!("../../../pipelines/r1_tiny.yaml"),
        include_str!("../../../pipelines/stories.yaml"),
        include_str!("lib/gallery.yaml"),
        "vars: { n: 3 }\nnodes:\n  p: { stage: press, matrix: { n: [1, 2] }, with: { text: main.rs, sheets: \"${{ matrix.n * vars.n }}\" } }\n  \
         a: { stage: paint, when: \"${{ vars.n > 1 }}\", inputs: { paper: \"p[n=1]\" } }\n  w: { stage: hang, inputs: { pictures: [a] } }\n",
    ];
    let seconds = std::env::var("MASHBILL_FUZZ_SECONDS").ok().map(|text| text.parse().expect("a number of seconds"));
    let last = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("fuzzed.yaml");
    let (started, mut count, mut chance) = (Instant::now(), 0_u64, Chance(0x5EED));
    while seconds.map_or(count < 200, |seconds| started.elapsed() < Duration::from_secs(seconds)) {
        let mut bytes = SEEDS[chance.below(SEEDS.len())].as_bytes().to_vec();
        for _ in 0..=chance.below(8) {
            chance.change(&mut bytes);
        }
        // Left behind for whoever looks for what overflowed the stack.
        std::fs::write(&last, &bytes).unwrap();
        read(&String::from_utf8_lossy(&bytes), &[]);
        count += 1;
    }
    println!("{count} texts in {:.0} s, and no panic", started.elapsed().as_secs_f64());
}

struct Chance(u64);

impl Chance {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        ((mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB) >> 20) as usize % end.max(1)
    }

    fn change(&mut self, bytes: &mut Vec<u8>) {
        let at = self.below(bytes.len() + 1);
        match self.below(6) {
            0 => bytes.truncate(at),
            1 if at < bytes.len() => bytes[at] = self.below(256) as u8,
            2 => drop(bytes.splice(at..at, PIECES[self.below(PIECES.len())].bytes())),
            3 => drop(bytes.drain(at..(at + self.below(40)).min(bytes.len()))),
            4 => {
                let end = (at + self.below(80)).min(bytes.len());
                let (copy, to) = (bytes[at..end].to_vec(), self.below(bytes.len() + 1));
                bytes.splice(to..to, copy);
            }
            _ => {
                let piece = PIECES[self.below(PIECES.len())].repeat(self.below(100));
                bytes.splice(at..at, piece.into_bytes());
            }
        }
    }
}
