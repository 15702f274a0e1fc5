//! A conversation, line by line through a pipe.

#![cfg(unix)]

use std::{
    io::{BufRead, BufReader, Read, Write},
    process::{Command, Stdio},
};

use serde_json::json;

use crate::{
    client::{Served, with_model},
    project::{Project, Said},
};

fn chat(project: &Project, words: &str, lines: &str) -> Said {
    let mut child = project.command(&format!("chat {words}"));
    let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // It may have refused already.
    let _ = child.stdin.take().unwrap().write_all(lines.as_bytes());
    let output = child.wait_with_output().unwrap();
    Said {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// The answer that the server gives, greedily.
fn answer(served: &Served, messages: serde_json::Value) -> String {
    let body = json!({ "model": "m", "messages": messages, "temperature": 0, "max_tokens": 12 });
    let response = served.answer("/v1/chat/completions", &body);
    response["choices"][0]["message"]["content"].as_str().unwrap().to_owned()
}

#[test]
fn every_line_is_a_turn_of_one_conversation() {
    let project = with_model("llama");
    let said = chat(
        &project,
        "m --temperature 0 --max-tokens 12 --system add",
        "12+7=\n\n5*8=\n/reset\n12+7=\n/system\n12+7=\n",
    );
    assert_eq!(said.code, Some(0), "{said:#?}");
    let served = Served::start(&project, "m");
    let turn = |role: &str, content: &str| json!({ "role": role, "content": content });
    let first = answer(&served, json!([turn("system", "add"), turn("user", "12+7=")]));
    let second = answer(
        &served,
        json!([turn("system", "add"), turn("user", "12+7="), turn("assistant", &first), turn("user", "5*8=")]),
    );
    let bare = answer(&served, json!([turn("user", "12+7=")]));
    let lines = |texts: &[&String]| {
        texts.iter().flat_map(|text| [text.strip_suffix('\n').unwrap_or(text), "\n"]).collect::<String>()
    };
    assert_eq!(said.stdout, lines(&[&first, &second, &first, &bare]));
}

#[test]
fn a_seed_draws_the_same_answers_again() {
    let project = with_model("llama");
    let said = |words: &str| chat(&project, &format!("m --max-tokens 12 {words}"), "12+7=\n12+7=\n").stdout;
    assert_eq!(said("--sample-seed 3"), said("--sample-seed 3"));
    assert_ne!(said("--sample-seed 3"), said("--sample-seed 4"));
    assert_ne!(said(""), said(""));
}

#[test]
fn a_conversation_that_outgrows_the_context_says_so() {
    let project = with_model("llama");
    let said = chat(&project, "m --temperature 0", &format!("{}\n12+7=\n", "1+".repeat(70)));
    assert_eq!(said.code, Some(1), "a script must not take later answers for earlier ones");
    assert_eq!(
        said.stderr,
        "error: the prompt has 145 tokens, and prompt and completion together have room for 128\n  hint: `/reset` begins a new conversation\n"
    );
}

#[test]
fn a_model_without_a_template_can_be_asked_plainly() {
    let project = with_model("llama");
    std::fs::remove_file(project.path().join("m/chat_template.jinja")).unwrap();
    let said = chat(&project, "m", "12+7=\n");
    assert_eq!(said.code, Some(1));
    assert!(
        said.stderr
            .ends_with("  hint: the model brings no chat template; `--plain` continues each line as it stands\n"),
        "{}",
        said.stderr
    );
    let said = chat(&project, "m --plain --temperature 0 --max-tokens 9", "12+7=\n12+7=\n");
    assert_eq!(said.code, Some(0), "{said:#?}");
    let (first, second) = said.stdout.split_at(said.stdout.len() / 2);
    assert_eq!(first, second, "no line depends on those before");
}

#[test]
fn a_wrong_command_is_no_turn() {
    let said = chat(&with_model("llama"), "m", "/rest\n");
    assert_eq!((said.code, said.stdout.as_str()), (Some(1), ""));
    assert_eq!(said.stderr, "error: no command `/rest`\n  hint: `/help` tells them; `//` begins a turn with a slash\n");
    assert!(chat(&with_model("llama"), "m", "/help\n").stderr.starts_with("/reset "));
}

#[test]
fn ctrl_c_stops_the_answer_and_not_the_program() {
    let project = with_model("llama");
    project.edit("m/config.json", "\"max_position_embeddings\": 128", "\"max_position_embeddings\": 30000");
    let mut command = project.command("chat m --plain --temperature 0 --max-tokens 29000");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let id = child.id().to_string();
    let interrupt = || assert!(Command::new("kill").args(["-INT", &id]).status().unwrap().success());
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    for _ in 0..2 {
        stdin.write_all(b"12+7=\n").unwrap();
        stdout.read_exact(&mut [0; 30]).unwrap();
        interrupt();
        let mut line = String::new();
        stderr.read_line(&mut line).unwrap();
        assert_eq!(line, "[stopped]\n");
        // All of this answer is written by now, and none of the next.
        let left = rustix::io::ioctl_fionread(&stdout).unwrap();
        stdout.read_exact(&mut vec![0; usize::try_from(left).unwrap()]).unwrap();
    }
    interrupt();
    assert_eq!(child.wait().unwrap().code(), Some(130), "with no answer under way it leaves");
}
