//! What looks wrong in a run that no error stops: steps that teach nothing, a policy that collapsed, a reward part that
//! says nothing. Figures go in step by step, and sentences about spans of steps come out.
//! Knows nothing of files; computes nothing that a step has not computed already.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::rollout::Rollout;
use crate::text::{
    complete::{MOST_TRUNCATED, percent},
    room::excerpt,
};

// The bounds beyond which axolotl's guide (docs/training_stability.qmd) calls a run bad.

/// Entropy of a token in nats, below which a policy has collapsed.
const COLLAPSED: f64 = 0.01;
/// Estimated KL divergence from the reference policy in nats a token, above which nothing holds the policy any more.
const KL_BLOWN: f64 = 2.0;

/// The share of the largest entropy, that of all tokens drawn evenly, above which a policy knows nothing.
const UNIFORM: f64 = 0.98;
/// The share of all tokens of a rollout phase that may be one and the same.
const ONE_TOKEN: f64 = 0.9;
/// The phase after which a part that has not varied yet is told to whoever watches.
const SETTLED: u64 = 4;
/// Spans of one kind that are kept, the longest, and told at the end.
const KEPT: usize = 16;
const TOLD: usize = 3;

/// What a run has shown so far. Saved with it, so that a resumed run tells what an uninterrupted one does.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Findings {
    phases: u64,
    rollouts: u64,
    /// Of each part; where the reward has none, of the reward itself under the empty name.
    parts: BTreeMap<String, Range>,
    spans: Vec<Span>,
    /// Steps of spans that were not kept.
    more: BTreeMap<Kind, u64>,
    /// What whoever watches has been told.
    noticed: BTreeSet<Kind>,
}

/// What a step can be found to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    /// Every group's rewards are equal.
    Dead,
    /// Most completions were cut off.
    CutOff,
    /// Most tokens are the same one.
    OneToken,
    Collapsed,
    Uniform,
    KlBlown,
}

/// Steps in a row of one kind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Span {
    kind: Kind,
    first: u64,
    last: u64,
    /// What the kind is told by: the reward of dead groups, a share, the entropy or the KL divergence.
    value: Range,
    /// Of the phases' rollouts; of what is found step by step there are none.
    answers: Option<Answers>,
}

impl Span {
    fn steps(&self) -> u64 {
        self.last - self.first + 1
    }
}

/// The smallest and the largest of several values.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Range {
    low: f64,
    high: f64,
    /// How many there were.
    count: u64,
}

impl Range {
    fn of(value: f64) -> Self {
        Self { low: value, high: value, count: 1 }
    }

    fn and(self, other: Self) -> Self {
        Self { low: self.low.min(other.low), high: self.high.max(other.high), count: self.count + other.count }
    }

    fn is_one_value(self) -> bool {
        self.high - self.low < 1e-6
    }
}

/// What the completions of some phases have in common.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Answers {
    count: usize,
    cut: usize,
    /// Lengths in tokens.
    shortest: usize,
    longest: usize,
    /// The text of all of them, where it is one.
    same: Option<String>,
    /// The token that is most of them.
    token: u32,
    /// How often it is in them, and how many tokens they have.
    of_token: usize,
    tokens: usize,
}

impl Answers {
    fn of(rollouts: &[Rollout]) -> Self {
        let mut counts: BTreeMap<u32, usize> = BTreeMap::new();
        for token in rollouts.iter().flat_map(|rollout| &rollout.completed.tokens) {
            *counts.entry(*token).or_default() += 1;
        }
        let (token, of_token) = counts.into_iter().max_by_key(|(_, count)| *count).unwrap_or_default();
        let lengths = || rollouts.iter().map(|rollout| rollout.completed.tokens.len());
        let text = |rollout: &Rollout| rollout.completed.text.clone();
        let first = rollouts.first().map(text);
        Self {
            count: rollouts.len(),
            cut: rollouts.iter().filter(|rollout| rollout.completed.truncated()).count(),
            shortest: lengths().min().unwrap_or_default(),
            longest: lengths().max().unwrap_or_default(),
            same: first.filter(|first| rollouts.iter().all(|rollout| rollout.completed.text == *first)),
            token,
            of_token,
            tokens: lengths().sum(),
        }
    }

    fn and(self, other: Self) -> Self {
        Self {
            count: self.count + other.count,
            cut: self.cut + other.cut,
            shortest: self.shortest.min(other.shortest),
            longest: self.longest.max(other.longest),
            same: self.same.filter(|text| other.same.as_ref() == Some(text)),
            // Told as that of the last phase.
            token: other.token,
            of_token: if self.token == other.token { self.of_token + other.of_token } else { other.of_token },
            tokens: if self.token == other.token { self.tokens + other.tokens } else { other.tokens },
        }
    }

    fn told(&self, max_new_tokens: usize) -> String {
        let plural = if self.longest == 1 { "one token".to_owned() } else { format!("{} tokens", self.longest) };
        let lengths = if self.shortest == self.longest {
            format!("answers of {plural}")
        } else {
            format!("answers of {} to {plural}", self.shortest)
        };
        let cut = match self.cut {
            0 => String::new(),
            cut if cut == self.count => format!(", all cut off at `max_new_tokens: {max_new_tokens}`"),
            cut => format!(", {} cut off", percent(cut, self.count)),
        };
        let same = self.same.as_ref().map(|text| format!(", all the same: \"{}\"", excerpt(text)));
        format!("{lengths}{cut}{}", same.unwrap_or_default())
    }
}

/// What sentences need to know of the run.
pub struct Run<'a> {
    pub max_new_tokens: usize,
    pub vocabulary: usize,
    pub has_kl_term: bool,
    /// A token as text.
    pub token: &'a dyn Fn(u32) -> String,
    /// The reward script's name and text.
    pub script: (&'a str, &'a str),
}

impl Findings {
    /// Takes in a rollout phase, whose rollouts the steps `first` to `last` learn from.
    pub fn phase(&mut self, (first, last): (u64, u64), rollouts: &[Rollout], are_all_dead: bool) {
        self.phases += 1;
        self.rollouts += rollouts.len() as u64;
        for rollout in rollouts {
            let bare = [(String::new(), rollout.reward)];
            let parts = rollout.parts.iter().map(|(name, value)| (name.as_str(), *value));
            let bare = bare.iter().filter(|_| rollout.parts.is_empty()).map(|(name, value)| (name.as_str(), *value));
            for (name, value) in parts.chain(bare) {
                let value = Range::of(f64::from(value));
                let range = self.parts.get(name).map_or(value, |range| range.and(value));
                self.parts.insert(name.to_owned(), range);
            }
        }
        let answers = Answers::of(rollouts);
        let shares = [
            (Kind::CutOff, answers.cut as f64 / answers.count as f64, MOST_TRUNCATED),
            (Kind::OneToken, answers.of_token as f64 / answers.tokens.max(1) as f64, ONE_TOKEN),
        ];
        for (kind, share, most) in shares {
            if share > most {
                self.add(Span { kind, first, last, value: Range::of(share), answers: Some(answers.clone()) });
            }
        }
        if are_all_dead {
            let rewards = rollouts.iter().map(|rollout| Range::of(f64::from(rollout.reward)));
            let value = rewards.reduce(Range::and).unwrap_or(Range::of(0.0));
            self.add(Span { kind: Kind::Dead, first, last, value, answers: Some(answers) });
        }
    }

    /// Takes in a step's own figures. `vocabulary`: how many tokens there are to choose from.
    pub fn step(&mut self, step: u64, entropy: f64, kl: f64, vocabulary: usize) {
        let most = (vocabulary.max(2) as f64).ln();
        // What is saved as JSON is finite.
        let kl = kl.min(f64::from(f32::MAX));
        let found = [
            (Kind::Collapsed, entropy, entropy < COLLAPSED),
            (Kind::Uniform, entropy, entropy > UNIFORM * most),
            (Kind::KlBlown, kl, kl > KL_BLOWN),
        ];
        for (kind, value, is_found) in found {
            if is_found {
                self.add(Span { kind, first: step, last: step, value: Range::of(value), answers: None });
            }
        }
    }

    fn add(&mut self, span: Span) {
        let latest = self.spans.iter_mut().rev().find(|before| before.kind == span.kind);
        if let Some(before) = latest
            && before.last + 1 == span.first
        {
            before.last = span.last;
            before.value = before.value.and(span.value);
            before.answers = before.answers.take().zip(span.answers).map(|(before, now)| before.and(now));
            return;
        }
        let kind = span.kind;
        self.spans.push(span);
        let of_kind: Vec<usize> = (0..self.spans.len()).filter(|at| self.spans[*at].kind == kind).collect();
        if of_kind.len() > KEPT {
            // The newest may still grow.
            let shortest = of_kind[..KEPT].iter().copied().min_by_key(|at| self.spans[*at].steps());
            let gone = self.spans.remove(shortest.expect("there are more than are kept"));
            *self.more.entry(kind).or_default() += gone.steps();
        }
    }

    /// What whoever watches has not heard of yet: every kind once, as it begins.
    pub fn news(&mut self, run: &Run) -> Vec<String> {
        let new: Vec<Span> = self.spans.iter().filter(|span| !self.noticed.contains(&span.kind)).cloned().collect();
        let mut told: Vec<String> = new.iter().map(|span| sentence(span, run)).collect();
        self.noticed.extend(new.iter().map(|span| span.kind));
        if self.phases == SETTLED && self.rollouts > 0 {
            told.extend(self.constant_parts(run).into_iter().map(|part| format!("so far {part}")));
        }
        told
    }

    /// Everything, for the end of the run.
    #[must_use]
    pub fn sentences(&self, run: &Run) -> Vec<String> {
        let mut told = self.constant_parts(run);
        let kinds: BTreeSet<Kind> = self.spans.iter().map(|span| span.kind).collect();
        for kind in kinds {
            let mut spans: Vec<&Span> = self.spans.iter().filter(|span| span.kind == kind).collect();
            spans.sort_by_key(|span| std::cmp::Reverse(span.steps()));
            let kept = TOLD.min(spans.len());
            let left_out = spans[kept..].iter().map(|span| span.steps()).sum::<u64>();
            let left_out = left_out + self.more.get(&kind).copied().unwrap_or_default();
            spans.truncate(kept);
            spans.sort_by_key(|span| span.first);
            told.extend(spans.iter().map(|span| sentence(span, run)));
            if let (Some(last), 1..) = (told.last_mut(), left_out) {
                last.extend([" (and in ", &left_out.to_string(), " more steps)"]);
            }
        }
        told
    }

    /// The parts of the reward that never varied, which therefore teach nothing.
    fn constant_parts(&self, run: &Run) -> Vec<String> {
        let constant = |(name, range): (&String, &Range)| {
            // Where a sample has no such part it adds nothing.
            let range = if range.count < self.rollouts { range.and(Range::of(0.0)) } else { *range };
            range.is_one_value().then(|| {
                let what =
                    if name.is_empty() { "the reward".to_owned() } else { format!("the reward's part `{name}`") };
                let rollouts = self.rollouts;
                let hint = if range.low.fract() == 0.0 { division(name, run.script) } else { None };
                let hint = hint.map(|hint| format!("; {hint}")).unwrap_or_default();
                format!("{what} was {} in all {rollouts} rollouts, so it teaches nothing{hint}", range.low as f32)
            })
        };
        self.parts.iter().filter_map(constant).collect()
    }
}

fn sentence(span: &Span, run: &Run) -> String {
    let steps = if span.first == span.last {
        format!("step {}", span.first)
    } else {
        format!("steps {}-{}", span.first, span.last)
    };
    let Range { low, high, .. } = span.value;
    let answers = span.answers.as_ref();
    let told = || answers.map(|answers| answers.told(run.max_new_tokens)).unwrap_or_default();
    let what = match span.kind {
        Kind::Dead => {
            let but = if run.has_kl_term { " but that of the KL term" } else { "" };
            let reward =
                if span.value.is_one_value() { format!(" ({} every time)", low as f32) } else { String::new() };
            format!("every group of equal reward{reward}, so no gradient{but}: {}", told())
        }
        Kind::CutOff => {
            let share = answers.map(|answers| percent(answers.cut, answers.count)).unwrap_or_default();
            format!("{share} of completions were cut off at `max_new_tokens: {}`", run.max_new_tokens)
        }
        Kind::OneToken => {
            let share = answers.map(|answers| percent(answers.of_token, answers.tokens)).unwrap_or_default();
            let token = answers.map(|answers| (run.token)(answers.token)).unwrap_or_default();
            format!("{share} of all tokens sampled were `{token}`: the policy collapsed; {}", told())
        }
        Kind::Collapsed => format!(
            "an entropy down to {low:.1e} nats a token, below {COLLAPSED}: the policy says the same whatever it is asked, \
             or is sure of every token; a lower `learning_rate` or a larger `kl_coef` is the usual mend"
        ),
        Kind::Uniform => format!(
            "an entropy up to {high:.2} nats a token, where all {} tokens drawn evenly have {:.2}: the policy knows nothing \
             (any longer); a lower `learning_rate` is the usual mend",
            run.vocabulary,
            (run.vocabulary as f64).ln()
        ),
        Kind::KlBlown => format!(
            "a KL divergence from the reference policy of up to {high:.3} nats a token, above {KL_BLOWN}: a lower \
             `learning_rate` or a larger `kl_coef` is the usual mend"
        ),
    };
    format!("{steps}: {what}")
}

/// Where a script divides by a whole number, which makes a whole number of a whole number: preferably in a line that
/// names the part.
fn division(part: &str, (name, text): (&str, &str)) -> Option<String> {
    let mut lines: Vec<(usize, &str)> =
        text.lines().enumerate().filter(|(_, line)| divides_by_whole(line)).map(|(at, line)| (at + 1, line)).collect();
    lines.sort_by_key(|(_, line)| part.is_empty() || !line.contains(part));
    let (line, _) = lines.first()?;
    Some(format!(
        "{name}:{line} divides by a whole number, and the quotient of two whole numbers is one: 7 / 1000 is 0, \
         7 / 1000.0 is 0.007"
    ))
}

fn divides_by_whole(line: &str) -> bool {
    let code = line.split("//").next().unwrap_or_default();
    code.match_indices('/').any(|(at, _)| {
        let after = code[at + 1..].trim_start();
        let rest = after.trim_start_matches(|letter: char| letter.is_ascii_digit() || letter == '_');
        let is_number = after.starts_with(|letter: char| letter.is_ascii_digit());
        let has_fraction = rest.strip_prefix('.').is_some_and(|rest| !rest.starts_with(char::is_alphabetic));
        // A method's dot, as in `1000.to_float()`, makes something else of the number.
        is_number && !has_fraction && !rest.starts_with(|letter: char| letter.is_alphabetic() || letter == '.')
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{decode::Finish, text::complete::Completed};

    fn rollout(text: &str, tokens: &[u32], reward: f32, parts: &[(&str, f32)]) -> Rollout {
        let completed = Completed {
            tokens: tokens.to_vec(),
            logprobs: vec![-1.0; tokens.len()],
            text: text.into(),
            finish: Finish::Eos,
        };
        let mut rollout = Rollout::new(0, 0, &[1], completed);
        rollout.reward = reward;
        rollout.parts = parts.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
        rollout
    }

    fn run(script: &str) -> Run<'_> {
        Run {
            max_new_tokens: 8,
            vocabulary: 18,
            has_kl_term: false,
            token: &|id| format!("t{id}"),
            script: ("r.rhai", script),
        }
    }

    /// Answers that vary in everything.
    fn lively() -> Vec<Rollout> {
        vec![rollout("1", &[1, 9], 1.0, &[]), rollout("2", &[2, 3, 9], 0.0, &[])]
    }

    #[test]
    fn a_healthy_run_is_silent() {
        let mut findings = Findings::default();
        for step in 1..=20 {
            findings.phase((step, step), &lively(), false);
            findings.step(step, 0.4, 0.1, 18);
        }
        assert_eq!(findings.sentences(&run("")), Vec::<String>::new());
        assert_eq!(findings.news(&run("")), Vec::<String>::new());
    }

    #[test]
    fn dead_steps_are_told_as_a_span_with_what_the_answers_were() {
        let mut findings = Findings::default();
        for step in 1..=20 {
            let dead = vec![rollout("", &[9], 0.0, &[]), rollout("", &[9], 0.0, &[])];
            let is_dead = step >= 9;
            findings.phase((step, step), &if is_dead { dead } else { lively() }, is_dead);
            findings.step(step, 0.4, 0.1, 18);
        }
        assert_eq!(
            findings.sentences(&run("")),
            [
                "steps 9-20: every group of equal reward (0 every time), so no gradient: answers of one token, all the \
                 same: \"\"",
                "steps 9-20: 100 % of all tokens sampled were `t9`: the policy collapsed; answers of one token, all the \
                 same: \"\"",
            ]
        );
        // As it began, and once.
        let news = findings.news(&run(""));
        assert_eq!(news.len(), 2, "{news:?}");
        assert!(findings.news(&run("")).is_empty());
    }

    #[test]
    fn phases_of_several_steps_join_and_a_gap_parts_them() {
        let mut findings = Findings::default();
        let dead = vec![rollout("1", &[1, 9], 2.0, &[]), rollout("2", &[2, 3, 9], 2.0, &[])];
        for (first, is_dead) in [(1, true), (5, true), (9, false), (13, true)] {
            findings.phase((first, first + 3), &dead, is_dead);
        }
        let told: Vec<String> = findings.sentences(&run("")).into_iter().filter(|one| one.contains("group")).collect();
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].starts_with("steps 1-8: ") && told[0].ends_with("answers of 2 to 3 tokens"), "{told:?}");
        assert!(told[1].starts_with("steps 13-16: "), "{told:?}");
    }

    #[test]
    fn many_spans_are_counted_and_the_longest_are_told() {
        let mut findings = Findings::default();
        for step in (1..=200).filter(|step| step % 2 == 1 || *step == 100 || *step == 102) {
            findings.step(step, 0.001, 0.0, 18);
        }
        let told = findings.sentences(&run(""));
        assert_eq!(told.len(), TOLD, "{told:?}");
        assert!(told.iter().any(|one| one.starts_with("steps 99-103: ")), "{told:?}");
        // 102 steps in all, of which five and twice one are told.
        assert!(told.last().unwrap().ends_with("(and in 95 more steps)"), "{told:?}");
        assert!(findings.spans.len() <= KEPT);
    }

    #[test]
    fn entropy_and_kl_beyond_their_bounds_are_told() {
        let mut findings = Findings::default();
        findings.step(1, 1.0, 0.1, 18);
        findings.step(2, 2.88, 0.1, 18);
        findings.step(3, 0.002, 7.5, 18);
        let told = findings.sentences(&run(""));
        for (at, beginning) in [
            "step 3: an entropy down to 2.0e-3 nats a token, below 0.01",
            "step 2: an entropy up to 2.88 nats a token, where all 18 tokens drawn evenly have 2.89",
            "step 3: a KL divergence from the reference policy of up to 7.500 nats a token, above 2",
        ]
        .into_iter()
        .enumerate()
        {
            assert!(told[at].starts_with(beginning), "{told:?}");
        }
    }

    #[test]
    fn a_part_that_never_varies_is_named_with_the_integer_division_in_the_script() {
        let mut findings = Findings::default();
        for step in 1..=2 {
            let reward =
                |right: f32| rollout("x", &[1, 2, 3], right, &[("right", right), ("brevity", 0.0), ("fair", 0.5)]);
            findings.phase((step, step), &[reward(0.0), reward(1.0)], false);
        }
        let script = "fn reward(s) {\n    // 1 / 2\n    let x = 3 / 4;\n    #{ brevity: -s.tokens / 1000 }\n}";
        assert_eq!(
            findings.sentences(&run(script)),
            [
                "the reward's part `brevity` was 0 in all 4 rollouts, so it teaches nothing; r.rhai:4 divides by a whole \
                 number, and the quotient of two whole numbers is one: 7 / 1000 is 0, 7 / 1000.0 is 0.007",
                "the reward's part `fair` was 0.5 in all 4 rollouts, so it teaches nothing",
            ]
        );
    }

    #[test]
    fn a_part_that_some_samples_lack_varies_unless_it_is_nothing() {
        let mut findings = Findings::default();
        let some = [rollout("x", &[1, 2], 1.0, &[("a", 1.0)]), rollout("y", &[2, 3], 0.0, &[("b", 0.0)])];
        findings.phase((1, 1), &some, false);
        let told = findings.sentences(&run(""));
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].contains("`b` was 0 in all 2 rollouts"), "{told:?}");
    }

    #[test]
    fn only_a_division_by_a_whole_number_is_one() {
        for line in ["-s.tokens / 1000", "x/2", "a / 1_000;", "(a) / 3)"] {
            assert!(divides_by_whole(line), "{line}");
        }
        for line in ["x / 1000.0", "x / 2.", "x / y", "// x / 2", "x / 1e3", "x / 1000.to_float()"] {
            assert!(!divides_by_whole(line), "{line}");
        }
    }

    #[test]
    fn what_was_found_survives_being_saved() {
        let mut findings = Findings::default();
        findings.phase((1, 4), &lively(), true);
        findings.step(1, 0.001, 3.0, 18);
        let text = serde_json::to_string(&findings).unwrap();
        assert_eq!(serde_json::from_str::<Findings>(&text).unwrap(), findings);
    }
}
