//! A run as it happens: a moving line for each node that runs for a person, a few plain lines for a log.

use std::{
    collections::BTreeMap,
    io::{IsTerminal, stderr},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use engine::{Event, Outcome, Progress, Reason, Watch};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::screen::{self, BOLD, GREEN, RED, RESET};

/// How often a log gets a line of progress.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Tells every event on stderr.
pub fn watch() -> Watch {
    let is_person = stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
    let bars = is_person.then(MultiProgress::new);
    if let Some(bars) = &bars {
        screen::set_bars(bars.clone());
    }
    // The nodes that run now.
    let running = Mutex::new(BTreeMap::new());
    Arc::new(move |event| {
        let mut running = running.lock().expect("no holder of this lock panics");
        match event {
            Event::Started { node, reasons, resumes } => {
                screen::note(&start_line(&node.name, node.stage, reasons, *resumes));
                running.insert(node.name.clone(), Running::new(&node.name, bars.as_ref()));
            }
            Event::Retrying { node, error, pause } => {
                running.remove(&node.name);
                let pause = duration(*pause);
                screen::note(&format!("{BOLD}{}{RESET} {RED}failed{RESET}, again in {pause}: {error}", node.name));
            }
            Event::Waiting { node } => {
                screen::note(&format!("{BOLD}{}{RESET} waits: another process is making it", node.name));
            }
            Event::Progress { node, progress } => {
                if let Some(running) = running.get_mut(*node) {
                    running.progress(node, progress);
                }
            }
            Event::Warned { node, text } => screen::warning(node, text),
            Event::Finished(report) => {
                running.remove(&report.node);
                let time = duration(Duration::from_secs_f64(report.seconds));
                let node = format!("{BOLD}{}{RESET}", report.node);
                match &report.outcome {
                    // They are in the table at the end, and there is nothing to wait for.
                    Outcome::Reused | Outcome::Skipped(_) => {}
                    Outcome::Made => screen::note(&format!("{node} {GREEN}made{RESET} in {time}")),
                    Outcome::Failed(_) => screen::note(&format!("{node} {RED}failed{RESET} after {time}")),
                }
            }
        }
    })
}

fn start_line(node: &str, stage: &str, reasons: &[Reason], resumes: bool) -> String {
    let reasons: Vec<String> = reasons.iter().map(ToString::to_string).collect();
    let how = if resumes { " continues" } else { " starts" };
    format!("{BOLD}{node}{RESET}{how} ({stage}): {}", reasons.join("; "))
}

/// A node that runs now.
struct Running {
    bar: Option<ProgressBar>,
    /// Where the stage began to count, and when: a resumed one doesn't begin at zero.
    first: Option<(u64, Instant)>,
    last_line: Instant,
}

impl Running {
    fn new(node: &str, bars: Option<&MultiProgress>) -> Self {
        let bar = bars.map(|bars| {
            let bar = ProgressBar::no_length().with_prefix(node.to_owned());
            let bar = bars.add(bar.with_style(style("{prefix:.bold} {spinner}")));
            bar.enable_steady_tick(Duration::from_millis(250));
            bar
        });
        Self { bar, first: None, last_line: Instant::now() }
    }

    fn progress(&mut self, node: &str, progress: &Progress) {
        let Progress { done, total, message } = progress;
        let (first, since) = *self.first.get_or_insert((*done, Instant::now()));
        let left = time_left(*done - first.min(*done), total.saturating_sub(*done), since.elapsed());
        let left = left.map(|left| format!("{} left", duration(left)));
        let figures = [(!message.is_empty()).then(|| message.clone()), left];
        let figures = figures.into_iter().flatten().collect::<Vec<_>>().join(", ");
        if let Some(bar) = &self.bar {
            if *total > 0 {
                bar.set_style(style("{prefix:.bold} [{bar:24}] {pos}/{len} {msg}"));
                bar.set_length(*total);
            } else {
                bar.set_style(style("{prefix:.bold} {spinner} {pos} {msg}"));
            }
            bar.set_position(*done);
            bar.set_message(figures);
        } else if self.last_line.elapsed() >= LOG_INTERVAL {
            self.last_line = Instant::now();
            let of = if *total > 0 { format!("/{total}") } else { String::new() };
            screen::note(&format!("{node} {done}{of} {figures}"));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the templates are in this file").progress_chars("=> ")
}

/// As long for each that is left as for each that is done; none before the first is done.
fn time_left(done: u64, left: u64, elapsed: Duration) -> Option<Duration> {
    if done == 0 || left == 0 {
        return None;
    }
    Some(Duration::from_secs_f64(elapsed.as_secs_f64() * left as f64 / done as f64))
}

/// In two units at most: `0.31 s`, `12.3 s`, `4m05s`, `2h08m`.
pub fn duration(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    let whole = seconds.round() as u64;
    match whole {
        0..10 if seconds < 9.995 => format!("{seconds:.2} s"),
        0..60 => format!("{seconds:.1} s"),
        60..3600 => format!("{}m{:02}s", whole / 60, whole % 60),
        _ => format!("{}h{:02}m", whole / 3600, whole % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_well_at_every_size() {
        let cases = [
            (0.314, "0.31 s"),
            (9.996, "10.0 s"),
            (59.4, "59.4 s"),
            (59.96, "1m00s"),
            (245.0, "4m05s"),
            (7_685.0, "2h08m"),
        ];
        for (seconds, text) in cases {
            assert_eq!(duration(Duration::from_secs_f64(seconds)), text);
        }
    }

    #[test]
    fn time_left_counts_from_where_the_stage_began() {
        // 20 of 120 done in 10 s: 50 s for the other 100.
        assert_eq!(time_left(20, 100, Duration::from_secs(10)), Some(Duration::from_secs(50)));
        assert_eq!(time_left(0, 100, Duration::from_secs(10)), None);
        assert_eq!(time_left(100, 0, Duration::from_secs(10)), None);
    }
}
