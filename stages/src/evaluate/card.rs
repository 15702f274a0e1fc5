//! Scores gathered by policy and by group, as a table and as JSON.

use std::{collections::BTreeMap, fmt::Write as _};

use serde::Serialize;

use super::interval::Estimate;

/// One prompt's result.
#[derive(Debug, Clone, Default)]
pub struct Line {
    pub group: String,
    /// Between 0 and 1, by name.
    pub scores: BTreeMap<String, f64>,
    /// Mean length of its completions, in tokens.
    pub length: f64,
    /// Share of its completions that were cut off.
    pub truncated: f64,
    /// Was every score of one sample 0 or 1?
    pub is_binary: bool,
}

/// All policies in the order in which they were examined.
#[derive(Debug, Default, Serialize)]
pub struct Card {
    policies: Vec<Examined>,
}

#[derive(Debug, Serialize)]
struct Examined {
    policy: String,
    groups: BTreeMap<String, Group>,
}

#[derive(Debug, Serialize)]
struct Group {
    scores: BTreeMap<String, Estimate>,
    length: f64,
    truncated: f64,
}

impl Card {
    /// Adds a policy, and returns its means as `group/score` for metrics.
    pub fn add(&mut self, policy: &str, lines: &[Line]) -> Vec<(String, f64)> {
        let mut groups = BTreeMap::new();
        let mut means = Vec::new();
        let mut by_group: BTreeMap<&str, Vec<&Line>> = BTreeMap::new();
        for line in lines {
            by_group.entry(&line.group).or_default().push(line);
        }
        for (name, lines) in by_group {
            let count = lines.len() as f64;
            let mut scores = BTreeMap::new();
            for score in lines[0].scores.keys() {
                let values: Vec<f64> =
                    lines.iter().map(|line| line.scores.get(score).copied().unwrap_or(0.0)).collect();
                let is_binary = lines.iter().all(|line| line.is_binary);
                let estimate = if is_binary { Estimate::of_binary(&values) } else { Estimate::of_shares(&values) };
                means.push((format!("{policy}/{name}/{score}"), estimate.mean));
                scores.insert(score.clone(), estimate);
            }
            let length = lines.iter().map(|line| line.length).sum::<f64>() / count;
            let truncated = lines.iter().map(|line| line.truncated).sum::<f64>() / count;
            groups.insert(name.to_owned(), Group { scores, length, truncated });
        }
        self.policies.push(Examined { policy: policy.to_owned(), groups });
        means
    }

    /// A table, one row a policy; per group its scores in per cent with their intervals, and the mean length.
    pub fn markdown(&self, prompts: usize, samples: usize) -> String {
        let mut text = format!(
            "# Report card\n\n{prompts} held-out prompts, {samples} completion{} each; per cent, 95 % intervals in brackets.\n\n",
            if samples == 1 { "" } else { "s" }
        );
        let Some(first) = self.policies.first() else { return text };
        let mut head = String::from("| policy |");
        let mut rule = String::from("|---|");
        for (group, about) in &first.groups {
            let count = about.scores.values().next().map_or(0, |score| score.count);
            for score in about.scores.keys() {
                let _ = write!(head, " {group} ({count}) {score} |");
                rule.push_str("---|");
            }
            let _ = write!(head, " tokens | cut off |");
            rule.push_str("--:|--:|");
        }
        let _ = writeln!(text, "{head}\n{rule}");
        for Examined { policy, groups } in &self.policies {
            let _ = write!(text, "| {policy} |");
            for group in groups.values() {
                for Estimate { mean, low, high, .. } in group.scores.values() {
                    let _ = write!(text, " {:.1} [{:.1}, {:.1}] |", mean * 100.0, low * 100.0, high * 100.0);
                }
                let _ = write!(text, " {:.0} | {:.1} % |", group.length, group.truncated * 100.0);
            }
            text.push('\n');
        }
        text
    }
}
