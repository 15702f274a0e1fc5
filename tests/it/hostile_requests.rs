//! What nobody means well by asks of a server: it answers, it goes on, and its memory stays small.
//!
//! A slice of the seeded attack by default; all of it with `MASHBILL_TEST_ALL=1`. Bodies changed at random for as long as
//! `MASHBILL_FUZZ_SECONDS` says: `MASHBILL_FUZZ_SECONDS=600 cargo test --test it bodies_of_any_kind -- --nocapture`.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    client::{Response, Served, with_model},
    project::Project,
};

const TEXT: &str = "/v1/completions";
const CHAT: &str = "/v1/chat/completions";
/// Bytes that the server may ask of the system: what is not bounded aborts it, and does no harm to the machine.
const ADDRESS_SPACE: &str = "--as=2000000000";
/// Megabytes that it holds at the most, whatever is asked: docs/security.md names it.
const MOST_MEMORY: u64 = 512;

fn start(project: &Project, words: &str) -> Served {
    Served::limited(&project.command(&format!("serve {words} --quiet --port 0")), &[ADDRESS_SPACE])
}

/// One whose answers may be long.
fn endless() -> Project {
    let project = with_model("llama");
    project.edit("m/config.json", "\"max_position_embeddings\": 128", "\"max_position_embeddings\": 30000");
    project
}

fn is_all() -> bool {
    std::env::var_os("MASHBILL_TEST_ALL").is_some()
}

/// It is healthy, answers as ever, and holds little memory.
fn is_well(served: &Served) {
    assert_eq!(served.get("/health").status, 200);
    let asked = json!({ "model": "m", "prompt": "12+7=", "temperature": 0, "max_tokens": 3 });
    assert_eq!(served.answer(TEXT, &asked)["usage"]["completion_tokens"], 3);
    assert!(served.peak() < MOST_MEMORY, "{} MB", served.peak());
}

/// What a client makes an exception of, or an answer.
fn is_well_formed(response: &Response) {
    match response.status {
        200 => assert!(!response.body.is_empty()),
        400..=599 => assert!(!response.error().2.is_empty(), "{response:?}"),
        _ => panic!("{response:?}"),
    }
}

fn within<T>(seconds: u64, what: &str, work: impl FnOnce() -> T) -> T {
    let begun = Instant::now();
    let result = work();
    assert!(begun.elapsed() < Duration::from_secs(seconds), "{what} took {:?}", begun.elapsed());
    result
}

fn post(served: &Served, path: &str, body: &str) -> Response {
    served.send("POST", path, &[("content-type", "application/json")], body)
}

#[test]
fn a_request_that_could_take_gigabytes_is_refused_at_once() {
    let served = start(&endless(), "m");
    let stop = "x".repeat(6_000_000);
    let prompts = vec!["12+7="; 2000];
    let biases: serde_json::Map<String, Value> = (0..60).map(|id| (id.to_string(), json!(1))).collect();
    let ones = |count: usize, one: &str| format!("[{}{one}]", format!("{one},").repeat(count - 1));
    let text = |field: &str, value: &str| format!(r#"{{"model":"m","prompt":"1",{field:?}:{value}}}"#);
    let mib = 1 << 20;
    let cases = [
        (TEXT, json!({ "model": "m", "prompt": prompts, "stop": stop }).to_string(), "- prompt"),
        (TEXT, json!({ "model": "m", "prompt": prompts[..200], "stop": stop }).to_string(), "- stop"),
        (
            TEXT,
            format!(r#"{{"model":"m","logit_bias":{},"prompt":{}}}"#, json!(biases), ones(1_000_000, "[1]")),
            "- prompt",
        ),
        (TEXT, json!({ "model": "m", "prompt": prompts[..200], "n": 128 }).to_string(), "- n"),
        (TEXT, text("prompt", &ones(4 * mib - 100, "1")), "context_length_exceeded prompt"),
        (TEXT, text("prompt", &ones(1000, "[1,1,1,1]")), "- n"),
        (TEXT, text("prompt", &format!("{:?}", "1".repeat(8 * mib - 100))), "context_length_exceeded prompt"),
        (TEXT, text("prompt", &format!("{:?}", "1".repeat(450_000))), "context_length_exceeded prompt"),
        (TEXT, text("user", &ones(4 * mib - 100, "1")), "- -"),
        (TEXT, text("stop", &ones(2 * mib, "{}")), "- -"),
        (TEXT, text("metadata", &format!("{}{}", "[".repeat(4 * mib - 50), "]".repeat(4 * mib - 50))), "- -"),
        (TEXT, text(&"k".repeat(8 * mib - 100), "1"), "unknown_parameter"),
        (TEXT, text("model", &format!("{:?}", "k".repeat(8 * mib - 100))), "model_not_found model"),
        (TEXT, text("logit_bias", &format!("{{{:?}:1}}", "7".repeat(8 * mib - 100))), "- logit_bias"),
        (CHAT, format!(r#"{{"model":"m","messages":{}}}"#, ones(2 * mib, "{}")), "- -"),
        (CHAT, format!(r#"{{"model":"m","messages":{}}}"#, ones(200_000, r#"{"role":"user","content":""}"#)), "- -"),
        (
            CHAT,
            json!({ "model": "m", "messages": [{ "role": "user", "content": "1".repeat(8 * mib - 100) }] }).to_string(),
            "context_length_exceeded messages",
        ),
    ];
    for (path, body, name) in &cases {
        let response = within(5, name, || post(&served, path, body));
        let error = response.error();
        assert!(error.0 == 400 || error.0 == 404, "{}: {error:?}", &body[..80]);
        assert!(error.1.starts_with(name), "{}: {error:?}", &body[..80]);
        assert!(error.2.len() < 3000);
    }
    is_well(&served);

    // All of them together, and each of them eight times.
    thread::scope(|scope| {
        for (path, body, _) in cases.iter().cycle().take(8 * cases.len()) {
            let served = &served;
            scope.spawn(move || {
                let response = post(served, path, body);
                assert!([400, 404, 503].contains(&response.status), "{response:?}");
                is_well_formed(&response);
            });
        }
    });
    is_well(&served);
    println!("peak: {} MB", served.peak());
}

#[test]
fn an_answer_that_would_be_too_large_to_send_at_once_is_refused() {
    let served = start(&endless(), "m");
    let asked = json!({
        "model": "m", "prompt": "12+7=", "n": 16, "max_tokens": 29000, "logprobs": 20, "logit_bias": { "1": -100 },
    });
    let error = within(20, "the refusal", || served.post(TEXT, &asked).error());
    assert_eq!((error.0, error.1.as_str()), (400, "- logprobs"));
    assert!(error.2.ends_with("; `stream: true` sends them as they come"), "{}", error.2);
    // One that is just small enough.
    let asked = json!({
        "model": "m", "messages": [{ "role": "user", "content": "1" }], "max_tokens": 4000, "logprobs": true,
        "top_logprobs": 20, "logit_bias": { "1": -100 }, "n": 3,
    });
    assert_eq!(served.answer(CHAT, &asked)["usage"]["completion_tokens"], 12_000);
    println!("peak: {} MB", served.peak());
    is_well(&served);
}

#[test]
fn no_request_holds_up_another() {
    let served = start(&endless(), "m --slots 160");
    // All of them nearly there at every token: `1` is what is said over and over.
    let stops = |length: usize| -> Vec<String> { (0..16).map(|i| "1".repeat(length - i) + "x").collect() };
    let one = served.answer(TEXT, &json!({ "model": "m", "prompt": "1", "max_tokens": 1, "echo": true }));
    assert_eq!(one["usage"]["completion_tokens"], 1);
    for (length, is_taken) in [(490_000, false), (1000, true)] {
        let asked = json!({
            "model": "m", "prompt": "12+7=", "n": 128, "stop": stops(length), "max_tokens": 1500, "stream": true,
            "logit_bias": { "1": -100, "19": 100 }, "temperature": 0,
        });
        let mut busy = served.begin("POST", TEXT, &[("content-type", "application/json")], &asked.to_string());
        let mut status = [0; 12];
        busy.read_exact(&mut status).unwrap();
        assert_eq!(&status, if is_taken { b"HTTP/1.1 200" } else { b"HTTP/1.1 400" });
        if is_taken {
            served.wait_for("answers_growing", |growing| growing >= 128);
        }
        let short = json!({ "model": "m", "prompt": "1", "max_tokens": 1 });
        within(10, "one token", || served.answer(TEXT, &short));
        drop(busy);
    }
    served.wait_for("answers_growing", |growing| growing == 0);
    is_well(&served);
}

#[test]
fn clients_that_send_nothing_or_half_of_something_take_nobodys_place() {
    let project = with_model("llama");
    let command = project.command("serve m --quiet --port 0 --client-timeout 3");
    let served = Served::limited(&command, &[ADDRESS_SPACE, "--nofile=1024"]);
    let half = format!("POST {TEXT} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n");
    let kinds = [
        String::new(),
        "GET /health HTTP/1.1\r\nhost:".to_owned(),
        "GET /health HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n".to_owned(),
        format!("{half}content-length: 100\r\n\r\n{{"),
        format!("{half}transfer-encoding: chunked\r\n\r\n5\r\n{{"),
    ];
    let open = |count: usize, kind: &str| -> Vec<TcpStream> {
        let connect = |_| {
            let mut stream = TcpStream::connect(served.address()).unwrap();
            let _ = stream.write_all(kind.as_bytes());
            stream
        };
        (0..count).map(connect).collect()
    };
    for kind in kinds.iter().step_by(if is_all() { 1 } else { 2 }) {
        let held = open(1100, kind);
        within(2, "health", || assert_eq!(served.get("/health").status, 200, "{kind:?}"));
        is_well(&served);
        drop(held);
    }
    // Nobody needs their places, and still they end.
    let held: Vec<(&String, TcpStream)> =
        kinds.iter().flat_map(|kind| open(3, kind).into_iter().map(move |stream| (kind, stream))).collect();
    within(8, "the end of all connections", || {
        for (kind, mut stream) in held {
            stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            if let Err(error) = stream.read_to_end(&mut Vec::new()) {
                assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{kind:?}");
            }
        }
    });
    is_well(&served);
}

#[test]
fn a_client_that_does_not_read_loses_its_answers() {
    let project = endless();
    let served = start(&project, "m --slots 128 --client-timeout 2");
    let before = served.peak();
    let asked = json!({
        "model": "m", "prompt": "12+7=", "n": 8, "max_tokens": 29000, "logit_bias": { "1": -100 }, "stream": true,
        "logprobs": 20,
    });
    let clients = if is_all() { 12 } else { 4 };
    let unread: Vec<TcpStream> = (0..clients)
        .map(|_| served.begin("POST", TEXT, &[("content-type", "application/json")], &asked.to_string()))
        .collect();
    served.wait_for("answers_growing", |growing| growing == 8 * clients);
    let begun = Instant::now();
    while served.count("answers_growing") > 0 {
        assert!(begun.elapsed() < Duration::from_secs(50), "they grow on: {} MB", served.peak());
        thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(served.count("answers_total"), 0, "none came to its end");
    let held = served.peak() - before;
    assert!(held < 60, "{held} MB");
    println!("held: {held} MB, ended after {:?}", begun.elapsed());
    drop(unread);
    is_well(&served);
}

#[test]
fn a_key_that_no_client_can_send_is_refused_at_the_start() {
    let project = with_model("llama");
    for (key, message) in [
        ("secret\r", "holds a control character"),
        ("secret\n", "holds a control character"),
        (" secret", "begins or ends with a space"),
        ("", "is empty"),
    ] {
        let mut command = project.command("serve m --port 0");
        let output = command.env("MASHBILL_API_KEY", key).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.starts_with(&format!("error: the API key {message}")), "{stderr}");
        assert!(!stderr.contains("secret"), "{stderr}");
    }
}

#[test]
fn what_two_servers_could_read_in_two_ways_is_refused() {
    let served = start(&with_model("llama"), "m");
    let head = "content-type: application/json\r\nconnection: close\r\n";
    let host = "host: 127.0.0.1\r\n";
    let cases = [
        (format!("GET /health HTTP/1.1\r\n{host}{host}connection: close\r\n\r\n"), "is given more than once"),
        (format!("GET /v1/models HTTP/1.1\r\n{host}host: localhost\r\nconnection: close\r\n\r\n"), "more than once"),
        (
            format!("POST {TEXT} HTTP/1.1\r\n{host}{head}transfer-encoding: chunked\r\n\r\nzz\r\n{{}}\r\n0\r\n\r\n"),
            "malformed",
        ),
        (
            format!("POST {TEXT} HTTP/1.1\r\n{host}{head}transfer-encoding: chunked\r\n\r\n2\r\n{{}}junk\r\n0\r\n\r\n"),
            "malformed",
        ),
        (
            format!("POST {TEXT} HTTP/1.1\r\n{host}{head}transfer-encoding: chunked\r\n\r\n-2\r\n{{}}\r\n0\r\n\r\n"),
            "malformed",
        ),
    ];
    for (text, message) in cases {
        let error = served.raw(text.as_bytes()).unwrap().error();
        assert_eq!(error.0, 400, "{text}: {error:?}");
        assert!(error.2.contains(message), "{text}: {error:?}");
    }
    is_well(&served);
}

#[test]
fn half_a_request_does_not_keep_a_server_that_is_to_stop() {
    let served = start(&with_model("llama"), "m");
    let half = format!("POST {TEXT} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n");
    let parts = ["", "GET /hea", &half, &format!("{half}content-length: 100\r\n\r\n{{")];
    let mut held: Vec<TcpStream> = parts
        .iter()
        .map(|part| {
            let mut stream = TcpStream::connect(served.address()).unwrap();
            stream.write_all(part.as_bytes()).unwrap();
            stream
        })
        .collect();
    is_well(&served);
    let begun = Instant::now();
    served.signal("-TERM");
    let mut answer = String::new();
    held[3].set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    held[3].read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("shutting down"), "{answer}");
    let (code, stderr) = served.end();
    assert_eq!(code, Some(143), "{stderr}");
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}: {stderr}", begun.elapsed());
}

/// Every parameter with every odd value at both endpoints.
#[test]
fn odd_values_of_every_parameter_are_answered_or_refused() {
    const NAMES: [&str; 41] = [
        "model",
        "messages",
        "prompt",
        "max_tokens",
        "max_completion_tokens",
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "n",
        "stop",
        "seed",
        "stream",
        "stream_options",
        "logprobs",
        "top_logprobs",
        "logit_bias",
        "repetition_penalty",
        "presence_penalty",
        "frequency_penalty",
        "echo",
        "suffix",
        "best_of",
        "user",
        "metadata",
        "store",
        "tools",
        "functions",
        "tool_choice",
        "function_call",
        "parallel_tool_calls",
        "response_format",
        "modalities",
        "audio",
        "prediction",
        "reasoning_effort",
        "verbosity",
        "web_search_options",
        "service_tier",
        "",
        "\u{0}é",
    ];
    let values = odd_values();
    let served = start(&with_model("llama"), "m");
    let (mut count, step) = (0, if is_all() { 1 } else { 29 });
    for (i, (name, value)) in NAMES.iter().flat_map(|name| values.iter().map(move |value| (name, value))).enumerate() {
        for path in [TEXT, CHAT] {
            if i % step != usize::from(path == CHAT) % step {
                continue;
            }
            let mut body = if path == TEXT {
                json!({ "model": "m", "prompt": "1", "max_tokens": 2 })
            } else {
                json!({ "model": "m", "messages": [{ "role": "user", "content": "1" }], "max_tokens": 2 })
            };
            // Written by hand, as JSON has no word for some.
            body.as_object_mut().unwrap().remove(*name);
            let rest = body.to_string();
            let text = format!("{{{}:{value},{}", json!(name), &rest[1..]);
            is_well_formed(&post(&served, path, &text));
            count += 1;
        }
    }
    is_well(&served);
    println!("{count} requests, peak {} MB", served.peak());
}

fn odd_values() -> Vec<String> {
    let mut values: Vec<String> = [
        "null",
        "true",
        "false",
        "0",
        "-0",
        "1",
        "-1",
        "2",
        "0.5",
        "1e-400",
        "1e300",
        "1e400",
        "-1e300",
        "18446744073709551615",
        "18446744073709551616",
        "-9223372036854775808",
        "4294967296",
        "NaN",
        "Infinity",
        "\"\"",
        "\"1\"",
        "\"m\"",
        "\"auto\"",
        "\"\\u0000\"",
        "\"\\ud800\"",
        "\"\\ud83d\\ude00\"",
        "\"é\"",
        "[]",
        "[[]]",
        "[\"\"]",
        "[1]",
        "[-1]",
        "[0.5]",
        "[null]",
        "[1,\"1\"]",
        "[[1],\"1\"]",
        "{}",
        "{\"\":\"\"}",
        "{\"1\":1}",
        "{\"type\":\"text\"}",
        "{\"include_usage\":true}",
        "{\"a\":{\"b\":[]}}",
    ]
    .map(str::to_owned)
    .into();
    values.push(format!("{:?}", "1".repeat(100_000)));
    values.push(format!("{}{}", "[".repeat(1000), "]".repeat(1000)));
    values.push(format!("[{}1]", "1,".repeat(100_000)));
    values
}

/// Bytes that are no HTTP, or hardly.
#[test]
fn every_raw_form_is_answered_or_ended() {
    let served = start(&with_model("llama"), "m --client-timeout 1");
    let forms = raw_forms();
    let step = if is_all() { 1 } else { 2 };
    thread::scope(|scope| {
        for form in forms.iter().step_by(step) {
            let served = &served;
            scope.spawn(move || {
                if let Some(response) = served.raw(form) {
                    let shown = String::from_utf8_lossy(&form[..form.len().min(200)]);
                    assert!((100..600).contains(&response.status), "{shown}: {response:?}");
                }
            });
        }
    });
    is_well(&served);
    println!("{} forms, peak {} MB", forms.len(), served.peak());
}

fn raw_forms() -> Vec<Vec<u8>> {
    let host = "host: 127.0.0.1\r\n";
    let kind = "content-type: application/json\r\n";
    let body = r#"{"model":"m","prompt":"1","max_tokens":1}"#;
    let length = format!("content-length: {}\r\n", body.len());
    let chunked = "transfer-encoding: chunked\r\n";
    let post = |headers: &str, body: &str| format!("POST {TEXT} HTTP/1.1\r\n{host}{kind}{headers}\r\n{body}");
    let get = |line: &str, headers: &str| format!("{line}\r\n{host}{headers}\r\n");
    let ok = "GET /health HTTP/1.1";
    let mut forms: Vec<Vec<u8>> = [
        String::new(),
        "\r\n\r\n".into(),
        "\n".repeat(1000),
        "GET".into(),
        "GET /health".into(),
        "GET /health\r\n\r\n".into(),
        get("GET /health HTTP/0.9", ""),
        get("GET /health HTTP/1.0", ""),
        get("GET /health HTTP/2.0", ""),
        get("GET /health HTTP/9.9", ""),
        get("GET  /health  HTTP/1.1", ""),
        get("get /health HTTP/1.1", ""),
        get("PRI * HTTP/2.0", "\r\nSM\r\n\r\n"),
        get("CONNECT example.com:443 HTTP/1.1", ""),
        get("OPTIONS * HTTP/1.1", ""),
        get("TRACE /health HTTP/1.1", ""),
        get("HEAD /health HTTP/1.1", ""),
        get("DELETE /v1/models HTTP/1.1", ""),
        get(&format!("{} /health HTTP/1.1", "M".repeat(10_000)), ""),
        get(&format!("GET /{} HTTP/1.1", "a".repeat(60_000)), ""),
        get(&format!("GET /{} HTTP/1.1", "a".repeat(5_000)), ""),
        get(&format!("GET /{} HTTP/1.1", "../".repeat(1_000)), ""),
        get("GET /v1/models/%00%ff%2e%2e HTTP/1.1", ""),
        get("GET /v1/models/%zz HTTP/1.1", ""),
        get("GET http://evil.example/health HTTP/1.1", ""),
        get("GET http://[::1/health HTTP/1.1", ""),
        get("GET ?#%20 HTTP/1.1", ""),
        get(ok, host),
        get(ok, "host:\r\n"),
        get(ok, "no colon\r\n"),
        get(ok, ": no name\r\n"),
        get(ok, " folded: x\r\n\t y\r\n"),
        get(ok, "x: \u{0}\r\n"),
        get(ok, "x: a\rb\r\n"),
        get(ok, &format!("x: {}\r\n", "a".repeat(1_000_000))),
        get(ok, &"x: a\r\n".repeat(5_000)),
        get(ok, "upgrade: websocket\r\nconnection: upgrade\r\n"),
        get(ok, "expect: 200-nonsense\r\n"),
        get(ok, "connection: close\r\n").repeat(50),
        post(&length, body),
        post(&length, &format!("{body}{body}")),
        post(&format!("{length}{length}"), body),
        post(&format!("{length}content-length: 3\r\n"), body),
        post("content-length: -1\r\n", body),
        post("content-length: 99999999999999999999999\r\n", body),
        post("content-length: 8388608\r\n", body),
        post("content-length: 1e1\r\n", body),
        post(&format!("{length}{chunked}"), "0\r\n\r\n"),
        post(chunked, &format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len())),
        post(chunked, "ffffffffffffffffff\r\n{}\r\n0\r\n\r\n"),
        post(chunked, &format!("2;{}\r\n{{}}\r\n0\r\n\r\n", "x".repeat(100_000))),
        post(chunked, &format!("2\r\n{{}}\r\n0\r\n{}\r\n", "t: x\r\n".repeat(50_000))),
        post("transfer-encoding: gzip, chunked\r\n", "0\r\n\r\n"),
        post("transfer-encoding: chunked, gzip\r\n", "0\r\n\r\n"),
        post("expect: 100-continue\r\ncontent-length: 41\r\n", ""),
    ]
    .map(String::into_bytes)
    .into();
    let mut chance = Chance(7);
    forms.push((0..10_000).map(|_| chance.below(256) as u8).collect());
    forms.push(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec());
    forms
}

#[test]
fn clients_that_leave_at_any_moment_leave_nothing_behind() {
    let served = start(&endless(), "m --slots 4 --queue 16");
    let mut chance = Chance(11);
    let count = if is_all() { 700 } else { 80 };
    for i in 0..count {
        let body = json!({
            "model": "m", "prompt": "12+7=", "n": 1 + chance.below(4), "max_tokens": 1 + chance.below(2000),
            "logit_bias": { "1": -100 }, "stream": chance.below(2) == 0,
        });
        let body = body.to_string();
        let length = body.len();
        let mut text = format!(
            "POST {TEXT} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        if chance.below(3) == 0 {
            text.truncate(chance.below(text.len()));
        }
        let mut stream = TcpStream::connect(served.address()).unwrap();
        stream.write_all(text.as_bytes()).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(1 + chance.below(20) as u64))).unwrap();
        let mut read = vec![0; chance.below(2000)];
        let _ = stream.read_exact(&mut read);
        if i % 100 == 0 {
            assert_eq!(served.get("/health").status, 200);
        }
    }
    served.wait_for("answers_growing", |growing| growing == 0);
    served.wait_for("answers_waiting", |waiting| waiting == 0);
    is_well(&served);
    println!("{count} clients, peak {} MB", served.peak());
}

/// Bodies that are right, changed at random: 300 of them, or as many as fit the seconds that were asked for.
#[test]
fn bodies_of_any_kind_are_answered_or_refused() {
    const SEEDS: [&str; 4] = [
        r#"{"model":"m","prompt":["12+7=",[5,6,7],"1"],"n":2,"max_tokens":3,"stop":["1","23"],"logit_bias":{"5":1.5,"7":-100},"logprobs":3,"seed":-7,"echo":false,"stream":false}"#,
        r#"{"model":"m","prompt":"12+7=","temperature":0.5,"top_p":0.9,"top_k":3,"min_p":0.1,"repetition_penalty":1.2,"echo":true,"max_tokens":2,"stop":null,"user":"u"}"#,
        r#"{"model":"m","messages":[{"role":"system","content":"1"},{"role":"user","content":[{"type":"text","text":"2"}]}],"max_completion_tokens":3,"logprobs":true,"top_logprobs":2,"n":2}"#,
        r#"{"model":"m","messages":[{"role":"user","content":"1"}],"stream":true,"stream_options":{"include_usage":true},"max_tokens":4,"tools":[],"response_format":{"type":"text"}}"#,
    ];
    let seconds = std::env::var("MASHBILL_FUZZ_SECONDS").ok().map(|text| text.parse().expect("a number of seconds"));
    let served = start(&with_model("llama"), "m");
    let last = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("fuzzed-body.json");
    let (started, mut count, mut taken, mut chance) = (Instant::now(), 0_u64, 0_u64, Chance(0x5EED));
    while seconds.map_or(count < 300, |seconds| started.elapsed() < Duration::from_secs(seconds)) {
        let pick = count as usize % SEEDS.len();
        let mut bytes = SEEDS[pick].as_bytes().to_vec();
        // The seeds themselves are right.
        let changes = if count < SEEDS.len() as u64 { 0 } else { 1 + chance.below(4) };
        for _ in 0..changes {
            chance.change(&mut bytes);
        }
        // Left behind for whoever looks for what ended the server.
        std::fs::write(&last, &bytes).unwrap();
        let path = if pick < 2 { TEXT } else { CHAT };
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
            bytes.len()
        );
        let begun = Instant::now();
        let response = served.raw(&[head.as_bytes(), &bytes].concat()).expect("every body is answered");
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
        is_well_formed(&response);
        assert!(count >= SEEDS.len() as u64 || response.status == 200, "{response:?}");
        count += 1;
        taken += u64::from(response.status == 200);
    }
    is_well(&served);
    println!("{count} bodies in {:.0} s, {taken} answered, peak {} MB", started.elapsed().as_secs_f64(), served.peak());
}

/// What changes put in between.
const PIECES: [&str; 30] = [
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\"",
    "\\",
    "\\u0000",
    "\\ud800",
    "null",
    "true",
    "-1",
    "0",
    "1e400",
    "0.5",
    "18446744073709551616",
    "\"prompt\":",
    "\"messages\":",
    "\"stop\":",
    "\"n\":",
    "\"logit_bias\":{",
    "\"stream\":true,",
    "[1],",
    "[[",
    "{\"role\":",
    "\u{0}",
    "\u{feff}",
    "é",
    "  ",
];

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
                let times = [self.below(100), self.below(20_000)][usize::from(self.below(10) == 0)];
                let piece = PIECES[self.below(PIECES.len())].repeat(times);
                bytes.splice(at..at, piece.into_bytes());
            }
        }
    }
}
