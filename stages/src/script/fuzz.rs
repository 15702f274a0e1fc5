//! Scripts made at random of everything that makes something large, slow or endless: each of them ends, and in time.
//!
//! `MASHBILL_FUZZ_SECONDS=600 cargo test --release --lib script::fuzz -- --nocapture` goes on for that long. Child processes
//! do the work, under two gigabytes of address space: a script that gets past its limits ends one, and the test says which.

use std::{
    env, fs,
    io::Write as _,
    process::Command,
    time::{Duration, Instant},
};

use super::{sandbox::Limits, *};
use crate::random::Stream;

const SEED: &str = "MASHBILL_FUZZ_SEED";
const ADDRESS_SPACE: &str = "--as=2000000000";
const WALL: Duration = Duration::from_secs(1);

/// A statement of a random script; `depth` bounds how far it nests.
fn statement(chance: &mut Stream, depth: usize) -> String {
    let count = ["3", "50", "3000", "100000", "1000000000"][chance.below(5)];
    let last = if depth == 0 { 18 } else { 27 };
    let mut text = || text(chance, depth.saturating_sub(1));
    let (one, other) = (text(), text());
    let inner = |chance: &mut Stream| statement(chance, depth.saturating_sub(1));
    match chance.below(last) {
        0 => format!("s += {one};"),
        1 => format!("s.pad({count}, 'a');"),
        2 => format!("s.replace({one}, {other});"),
        3 => format!("a.pad({count}, {one});"),
        4 => "a += a;".into(),
        5 => format!("a.push({one});"),
        6 => format!("m[{one}] = {other};"),
        7 => "f = f.curry(f);".into(),
        8 => "m.f = f;".into(),
        9 => "let g = || a.len(); a.push(g); s = a.to_string();".into(),
        10 => "let g = || m.len(); m.g = g; s = m.to_json();".into(),
        11 => "a = s.split(\"\");".into(),
        12 => "a = s.to_chars();".into(),
        13 => "a.sort(|x, y| 0 - 1);".into(),
        14 => format!("m.x = parse_json({one});"),
        15 => "a.push(a); m.a = a;".into(),
        16 => "s = a.reduce(|sum, x| sum + x).to_string();".into(),
        17 => format!("n += levenshtein({one}, {other});"),
        18 => format!("a = a.map(|x| {one});"),
        19 => format!("a.filter(|x| {{ {} true }});", inner(chance)),
        20 => format!("a.for_each(|x| {{ {} }});", inner(chance)),
        21 => format!("for i in 0..{count} {{ {} }}", inner(chance)),
        22 => format!("loop {{ {} }}", inner(chance)),
        23 => format!("while n < {count} {{ n += 1; {} }}", inner(chance)),
        24 => format!("let h = |x| {{ {} x }}; h.call(1);", inner(chance)),
        25 => format!("try {{ {} }} catch {{ {} }}", inner(chance), inner(chance)),
        _ => format!("throw {one};"),
    }
}

fn text(chance: &mut Stream, depth: usize) -> String {
    let last = if depth == 0 { 9 } else { 13 };
    match chance.below(last) {
        0 => "\"\"".into(),
        1 => "\"a\"".into(),
        2 => "\"[[1, 2], {}]\"".into(),
        3 | 4 => "s".into(),
        5 => "n.to_string()".into(),
        6 => "`${a}${s}`".into(),
        7 => "`${m}`".into(),
        8 => "m.to_json()".into(),
        9 => format!("join(a, {})", text(chance, depth - 1)),
        10 => format!("({} + {})", text(chance, depth - 1), text(chance, depth - 1)),
        11 => format!("join(words({}), {})", text(chance, depth - 1), text(chance, depth - 1)),
        _ => format!("({}).to_upper()", text(chance, depth - 1)),
    }
}

fn script(seed: u64) -> String {
    let chance = &mut Stream::new(&[seed]);
    let statements: Vec<String> = (0..=chance.below(8)).map(|_| statement(chance, 3)).collect();
    let body = statements.join("\n    ");
    format!(
        "fn reward(sample) {{\n    let s = \"ab\"; let a = [1, \"x\"]; let m = #{{ x: 1 }}; let n = 0; let f = |x| x;\n    {body}\n    n\n}}\n"
    )
}

#[test]
fn every_script_ends_within_twice_its_time_and_its_memory() {
    let seconds = env::var("MASHBILL_FUZZ_SECONDS").ok().map_or(3, |text| text.parse().expect("a number of seconds"));
    let (began, mut seed, mut scripts) = (Instant::now(), 1_u64, 0);
    while began.elapsed() < Duration::from_secs(seconds) {
        let child = Command::new("prlimit")
            .arg(ADDRESS_SPACE)
            .arg(env::current_exe().unwrap())
            .args(["script::fuzz::child", "--exact", "--nocapture"])
            .env(SEED, seed.to_string())
            .output()
            .expect("util-linux has `prlimit`");
        let said = String::from_utf8_lossy(&child.stdout);
        let done = said.lines().filter(|line| line.ends_with("done")).count();
        let last = said.lines().filter_map(|line| line.strip_suffix("begun")?.trim().parse::<u64>().ok()).next_back();
        let shown =
            || format!("{}\n{said}\n{}", last.map_or_else(String::new, script), String::from_utf8_lossy(&child.stderr));
        assert!(child.status.success(), "{} at seed {last:?}\n{}", child.status, shown());
        scripts += done;
        seed = last.expect("a child begins with one script at least") + 1;
    }
    println!("{scripts} scripts in {:.0} s", began.elapsed().as_secs_f64());
    assert!(scripts > 0);
}

/// Runs scripts from a seed on: until one is given up, which leaves its thread and memory behind, or for a while.
#[test]
fn child() {
    let Some(first) = env::var(SEED).ok().and_then(|text| text.parse::<u64>().ok()) else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("plugin.rhai");
    let began = Instant::now();
    for seed in first.. {
        println!("{seed} begun");
        fs::write(&path, script(seed)).unwrap();
        let limits = Limits { wall: WALL, ..Limits::default() };
        let row = Row::new();
        let sample = Sample { row: &row, prompt: "", completion: "", truncated: false, tokens: 0, index: 0 };
        let began_call = Instant::now();
        // One that nests too deep is refused when it is read.
        let script = Script::load(&path, folder.path(), &Row::new(), limits, Cancel::default(), |_| ());
        let message = match script.and_then(|script| script.rewards("reward", &[sample])) {
            Ok(_) => String::new(),
            Err(error) => error.to_string(),
        };
        let took = began_call.elapsed();
        // The usual slice runs beside other tests, which take the processor from it.
        let most =
            if env::var("MASHBILL_FUZZ_SECONDS").is_ok() { WALL * 2 + Duration::from_millis(500) } else { WALL * 10 };
        assert!(took < most, "{took:?}: {message}");
        println!("{seed} done");
        std::io::stdout().flush().unwrap();
        if message.contains("given up") || began.elapsed() > Duration::from_secs(20) {
            return;
        }
        if env::var("MASHBILL_FUZZ_SECONDS").is_err() && began.elapsed() > Duration::from_secs(1) {
            return;
        }
    }
}
