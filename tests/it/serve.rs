//! A model behind OpenAI's API. `tests/reference/openai_client.py` asks the same server by OpenAI's own client.

#![cfg(unix)]

use std::{
    collections::BTreeSet,
    fs,
    io::{Read, Write},
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    client::{Served, fixture, with_model},
    project::Project,
};

const TEXT: &str = "/v1/completions";
const CHAT: &str = "/v1/chat/completions";

/// One whose answers never end by themselves, and may be long.
fn endless() -> Project {
    let project = with_model("llama");
    project.edit("m/config.json", "\"max_position_embeddings\": 128", "\"max_position_embeddings\": 30000");
    project
}

/// What it asks keeps the model busy for long.
fn forever() -> Value {
    json!({ "model": "m", "prompt": "12+7=", "max_tokens": 29000, "logit_bias": { "1": -100 }, "stream": true })
}

fn is_json() -> [(&'static str, &'static str); 1] {
    [("content-type", "application/json")]
}

#[test]
fn answers_have_openais_shape() {
    let served = Served::start(&with_model("llama"), "m");
    let models = served.get("/v1/models").json();
    assert_eq!((&models["object"], &models["data"][0]["id"]), (&json!("list"), &json!("m")));
    assert_eq!(served.get("/v1/models/m").json(), models["data"][0]);
    assert_eq!(served.get("/health").json(), json!({ "status": "ok" }));

    let text = served.answer(TEXT, &json!({ "model": "m", "prompt": "12+7=", "temperature": 0, "max_tokens": 5 }));
    let choice = &text["choices"][0];
    assert_eq!(
        (&text["object"], &choice["index"], &choice["logprobs"]),
        (&json!("text_completion"), &json!(0), &json!(null))
    );
    assert_eq!(
        (&choice["finish_reason"], said(&text, 0).chars().count()),
        (&json!("length"), 5),
        "one character a token"
    );
    assert_eq!(text["usage"], json!({ "prompt_tokens": 5, "completion_tokens": 5, "total_tokens": 10 }));

    let messages = json!([{ "role": "user", "content": "12+7=" }]);
    let chat = served
        .answer(CHAT, &json!({ "model": "m", "messages": messages, "temperature": 0, "max_completion_tokens": 5 }));
    let message = &chat["choices"][0]["message"];
    assert_eq!((&chat["object"], &message["role"]), (&json!("chat.completion"), &json!("assistant")));
    assert_eq!(chat["usage"]["prompt_tokens"], 10, "`u:12+7=` and a line's end, and `a:`");
    // The conversation is the text that the template makes of it.
    let same =
        served.answer(TEXT, &json!({ "model": "m", "prompt": "u:12+7=\na:", "temperature": 0, "max_tokens": 5 }));
    assert_eq!(message["content"], same["choices"][0]["text"]);
    let parts =
        json!([{ "role": "user", "content": [{ "type": "text", "text": "12+" }, { "type": "text", "text": "7=" }] }]);
    let again = served.answer(CHAT, &json!({ "model": "m", "messages": parts, "temperature": 0, "max_tokens": 5 }));
    assert_eq!(again["choices"], chat["choices"]);
}

fn said(response: &Value, index: usize) -> &str {
    response["choices"][index]["text"].as_str().unwrap()
}

#[test]
fn the_likeliest_tokens_have_the_logprobs_of_transformers() {
    for family in ["llama", "qwen3"] {
        let project = with_model(family);
        let served = Served::start(&project, "m");
        let reference: Value =
            serde_json::from_slice(&fs::read(fixture(family).join("reference.json")).unwrap()).unwrap();
        let scored = reference["logits"].as_array().or(reference["scored"].as_array()).unwrap();
        for case in scored {
            let logits: Vec<f64> = serde_json::from_value(case["last_logits"].clone()).unwrap();
            let total = logits.iter().map(|logit| logit.exp()).sum::<f64>().ln();
            let mut expected: Vec<f64> = logits.iter().map(|logit| logit - total).collect();
            expected.sort_by(|a, b| b.total_cmp(a));
            let asked =
                json!({ "model": "m", "prompt": case["ids"], "max_tokens": 1, "temperature": 0, "logprobs": 20 });
            let logprobs = served.answer(TEXT, &asked)["choices"][0]["logprobs"].take();
            let tops = logprobs["top_logprobs"][0].as_object();
            // Where the likeliest token is the end of the text, no token is told of.
            let Some(tops) = tops else { continue };
            let mut told: Vec<f64> = tops.values().map(|logprob| logprob.as_f64().unwrap()).collect();
            told.sort_by(|a, b| b.total_cmp(a));
            assert_eq!(told.len(), 20);
            assert_eq!(logprobs["token_logprobs"][0], tops[logprobs["tokens"][0].as_str().unwrap()]);
            for (told, expected) in told.iter().zip(&expected) {
                assert!((told - expected).abs() < 1e-4, "{family}: {told} is not {expected}");
            }
        }
    }
}

#[test]
fn a_stream_says_what_a_whole_answer_says() {
    let served = Served::start(&with_model("llama"), "m");
    let text =
        json!({ "model": "m", "prompt": ["12+7=", "sort: cab"], "seed": 3, "n": 2, "max_tokens": 30, "logprobs": 2 });
    let whole = served.answer(TEXT, &text);
    let mut asked = text.clone();
    asked["stream_options"] = json!({ "include_usage": true });
    let mut chunks = served.stream(TEXT, &asked);
    let usage = chunks.pop().unwrap();
    assert_eq!((&usage["usage"], &usage["choices"]), (&whole["usage"], &json!([])));
    assert!(chunks.iter().all(|chunk| chunk["usage"].is_null() && chunk["id"] == usage["id"]));
    for index in 0..4 {
        let of: Vec<&Value> =
            chunks.iter().map(|chunk| &chunk["choices"][0]).filter(|choice| choice["index"] == index).collect();
        let joined: String = of.iter().map(|choice| choice["text"].as_str().unwrap()).collect();
        assert_eq!(joined, said(&whole, index));
        for key in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
            let joined: Vec<Value> =
                of.iter().flat_map(|choice| choice["logprobs"][key].as_array().unwrap().clone()).collect();
            assert_eq!(json!(joined), whole["choices"][index]["logprobs"][key], "{key}");
        }
        let reasons: Vec<&Value> =
            of.iter().map(|choice| &choice["finish_reason"]).filter(|reason| !reason.is_null()).collect();
        assert_eq!(reasons, [&whole["choices"][index]["finish_reason"]]);
    }

    let messages = json!([{ "role": "system", "content": "add" }, { "role": "user", "content": "12+7=" }]);
    let chat =
        json!({ "model": "m", "messages": messages, "seed": 3, "max_tokens": 30, "logprobs": true, "top_logprobs": 1 });
    let whole = served.answer(CHAT, &chat);
    let chunks = served.stream(CHAT, &chat);
    let deltas: Vec<&Value> = chunks.iter().map(|chunk| &chunk["choices"][0]["delta"]).collect();
    assert_eq!(deltas[0], &json!({ "role": "assistant", "content": "", "refusal": null }));
    assert_eq!(deltas[deltas.len() - 1], &json!({}));
    let joined: String = deltas.iter().filter_map(|delta| delta["content"].as_str()).collect();
    assert_eq!(whole["choices"][0]["message"]["content"], joined);
    let joined: Vec<Value> = chunks
        .iter()
        .flat_map(|chunk| chunk["choices"][0]["logprobs"]["content"].as_array().cloned().unwrap_or_default())
        .collect();
    assert_eq!(json!(joined), whole["choices"][0]["logprobs"]["content"]);
}

#[test]
fn an_answer_ends_before_its_stop_string_and_no_part_of_it_is_streamed() {
    let served = Served::start(&with_model("llama"), "m");
    let plain = json!({ "model": "m", "prompt": "12+7=", "temperature": 0, "max_tokens": 24, "logprobs": 0 });
    let full = said(&served.answer(TEXT, &plain), 0).to_owned();
    // One token a character: a stop string of three spans three tokens.
    let letters: Vec<char> = full.chars().collect();
    let stop: String = letters[10..13].iter().collect();
    let expected = &full[..full.find(&stop).unwrap()];
    for stop in [json!(stop), json!(["never said", stop])] {
        let mut asked = plain.clone();
        asked["stop"] = stop;
        let stopped = served.answer(TEXT, &asked);
        assert_eq!((said(&stopped, 0), &stopped["choices"][0]["finish_reason"]), (expected, &json!("stop")));
        let tokens: String = serde_json::from_value::<Vec<String>>(stopped["choices"][0]["logprobs"]["tokens"].clone())
            .unwrap()
            .concat();
        assert_eq!(tokens, expected);
        let chunks = served.stream(TEXT, &asked);
        let streamed: String = chunks.iter().map(|chunk| chunk["choices"][0]["text"].as_str().unwrap()).collect();
        assert_eq!(streamed, expected);
    }
}

#[test]
fn a_seed_draws_the_same_answers_again_and_each_of_n_differs() {
    let served = Served::start(&with_model("llama"), "m");
    let ask = |seed: Value, n: usize| {
        let body = json!({ "model": "m", "prompt": "12+7=", "seed": seed, "n": n, "max_tokens": 20 });
        let choices = served.answer(TEXT, &body)["choices"].take();
        choices.as_array().unwrap().iter().map(|choice| choice["text"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let four = ask(json!(7), 4);
    assert_eq!(four, ask(json!(7), 4));
    assert_eq!(four[..1], ask(json!(7), 1), "an answer does not depend on how many are asked for");
    assert_eq!(four.iter().collect::<BTreeSet<_>>().len(), 4);
    assert_ne!(four, ask(json!(-7), 4));
    assert_ne!(ask(Value::Null, 4), ask(Value::Null, 4), "without a seed, others each time");
    let body = json!({ "model": "m", "prompt": "12+7=", "echo": true, "seed": 7, "max_tokens": 20 });
    assert_eq!(said(&served.answer(TEXT, &body), 0), format!("12+7={}", four[0]));
}

#[test]
fn an_answer_does_not_depend_on_what_else_is_served() {
    let served = Served::start(&with_model("qwen3"), "m --slots 5");
    let asked = |i: usize| {
        json!({
            "model": "m", "prompt": &"1+2+3+4+5+6+7+8="[..2 + i % 15], "seed": i, "max_tokens": 5 + 7 * (i % 9), "logprobs": 3,
            "temperature": if i.is_multiple_of(4) { 0.0 } else { 0.8 }, "top_p": if i.is_multiple_of(3) { 0.9 } else { 1.0 },
        })
    };
    let choices = |i: usize| served.answer(TEXT, &asked(i))["choices"].take();
    let alone: Vec<Value> = (0..24).map(choices).collect();
    let together: Vec<Value> = thread::scope(|scope| {
        let threads: Vec<_> = (0..24).map(|i| scope.spawn(move || choices(i))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(alone, together, "log-probabilities too are equal to the last bit");
}

#[test]
fn what_cannot_be_heeded_is_refused_by_name() {
    let served = Served::start(&with_model("llama"), "m");
    let text = |more: Value| with(json!({ "model": "m", "prompt": "12+7=" }), more);
    let chat = |more: Value| with(json!({ "model": "m", "messages": [{ "role": "user", "content": "1" }] }), more);
    let long = "1".repeat(200);
    let cases = [
        (TEXT, json!({ "prompt": "1" }), 400, "- model"),
        (TEXT, text(json!({ "model": "gpt-4o" })), 404, "model_not_found model"),
        (TEXT, json!({ "model": "m" }), 400, "- prompt"),
        (TEXT, text(json!({ "prompt": long })), 400, "context_length_exceeded prompt"),
        (TEXT, text(json!({ "max_tokens": 124 })), 400, "context_length_exceeded max_tokens"),
        (TEXT, text(json!({ "max_tokens": 0 })), 400, "- max_tokens"),
        (TEXT, text(json!({ "prompt": [1, 64] })), 400, "- prompt"),
        (TEXT, text(json!({ "prompt": [] })), 400, "- prompt"),
        (TEXT, text(json!({ "prompt": "" })), 400, "- prompt"),
        (TEXT, text(json!({ "prompt": "\u{e9}" })), 400, "- prompt"),
        (TEXT, text(json!({ "temperature": 3 })), 400, "- temperature"),
        (TEXT, text(json!({ "top_p": "0.5" })), 400, "- top_p"),
        (TEXT, text(json!({ "n": 129 })), 400, "- n"),
        (TEXT, text(json!({ "stop": [""] })), 400, "- stop"),
        (TEXT, text(json!({ "seed": 1.5 })), 400, "- seed"),
        (TEXT, text(json!({ "logprobs": true })), 400, "- logprobs"),
        (TEXT, text(json!({ "stream_options": {} })), 400, "- stream_options"),
        (TEXT, text(json!({ "presence_penalty": 0.5 })), 400, "unsupported_parameter presence_penalty"),
        (TEXT, text(json!({ "best_of": 3 })), 400, "unsupported_parameter best_of"),
        (TEXT, text(json!({ "suffix": "x" })), 400, "unsupported_parameter suffix"),
        (TEXT, text(json!({ "echo": true, "logprobs": 1 })), 400, "unsupported_parameter echo"),
        (TEXT, text(json!({ "logit_bias": { "64": 1 } })), 400, "- logit_bias.64"),
        (TEXT, text(json!({ "temprature": 1 })), 400, "unknown_parameter temprature"),
        (CHAT, chat(json!({ "messages": [] })), 400, "- messages"),
        (CHAT, chat(json!({ "messages": [{ "role": "tool", "content": "1" }] })), 400, "- messages[0].role"),
        (
            CHAT,
            chat(json!({ "messages": [{ "role": "user", "content": [{ "type": "image_url" }] }] })),
            400,
            "- messages[0].content",
        ),
        (
            CHAT,
            chat(json!({ "messages": [{ "role": "user", "content": long }] })),
            400,
            "context_length_exceeded messages",
        ),
        (CHAT, chat(json!({ "tools": [{ "type": "function" }] })), 400, "unsupported_parameter tools"),
        (
            CHAT,
            chat(json!({ "response_format": { "type": "json_object" } })),
            400,
            "unsupported_parameter response_format",
        ),
        (CHAT, chat(json!({ "reasoning_effort": "high" })), 400, "unsupported_parameter reasoning_effort"),
        (CHAT, chat(json!({ "top_logprobs": 2 })), 400, "- top_logprobs"),
        (CHAT, chat(json!({ "max_tokens": 1, "max_completion_tokens": 2 })), 400, "- max_tokens"),
    ];
    for (path, body, status, name) in cases {
        let error = served.post(path, &body).error();
        assert_eq!((error.0, error.1.as_str()), (status, name), "{body}: {}", error.2);
    }
    let message = |body: &Value| served.post(TEXT, body).error().2;
    assert_eq!(
        message(&text(json!({ "temprature": 1 }))),
        "`temprature` is no parameter that this server knows; did you mean `temperature`?"
    );
    assert_eq!(
        message(&text(json!({ "max_tokens": 124 }))),
        "the prompt has 5 tokens and `max_tokens` is 124, 129 together, more than the model's context of 128"
    );
    // What asks for nothing is no reason to refuse.
    let nothing = json!({ "presence_penalty": 0, "frequency_penalty": 0.0, "logit_bias": {}, "user": "u", "stop": null, "best_of": 1 });
    served.answer(TEXT, &text(nothing));
    let nothing = json!({ "tools": [], "tool_choice": "none", "response_format": { "type": "text" }, "store": false, "max_tokens": 2 });
    served.answer(CHAT, &chat(nothing));

    let send = |method: &str, path: &str, headers: &[(&str, &str)], body: &str| {
        served.send(method, path, headers, body).error()
    };
    assert_eq!(send("POST", TEXT, &is_json(), "{").0, 400);
    assert_eq!(send("POST", TEXT, &is_json(), "[]").0, 400);
    assert_eq!(send("POST", TEXT, &[("content-type", "text/plain")], "{}").0, 415);
    assert_eq!(send("POST", TEXT, &is_json(), &"x".repeat(9 << 20)).0, 413);
    assert_eq!(send("GET", TEXT, &[], "").0, 405);
    assert_eq!((send("GET", "/v1/engines", &[], "").0, send("GET", "/v1/models/other", &[], "").0), (404, 404));
}

fn with(mut body: Value, more: Value) -> Value {
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

#[test]
fn a_key_and_a_loopback_name_are_asked_for() {
    let project = with_model("llama");
    let mut command = project.command("serve m --port 0");
    command.env("MASHBILL_API_KEY", "secret");
    let served = Served::of(command);
    let status = |headers: &[(&str, &str)]| served.send("GET", "/v1/models", headers, "").status;
    assert_eq!(status(&[("authorization", "Bearer secret")]), 200);
    let refused = served.send("GET", "/v1/models", &[("authorization", "Bearer secreT")], "");
    assert_eq!(
        (refused.error().0, refused.error().1, refused.header("www-authenticate")),
        (401, "invalid_api_key -".into(), Some("Bearer"))
    );
    assert_eq!((status(&[]), served.get("/health").status), (401, 200));
    // What a browser sends whose page has made the name of its own server mean this one.
    assert_eq!(status(&[("authorization", "Bearer secret"), ("host", "evil.example")]), 403);
    assert_eq!(status(&[("authorization", "Bearer secret"), ("host", "localhost:1")]), 200);
    served.signal("-TERM");
    let (_, stderr) = served.end();
    assert!(!stderr.contains("secret"), "{stderr}");
}

#[test]
fn a_full_queue_asks_to_come_back_and_a_client_who_leaves_frees_his_place() {
    let served = Served::start(&endless(), "m --slots 1 --queue 1");
    let busy = [(); 2].map(|()| served.begin("POST", TEXT, &is_json(), &forever().to_string()));
    served.wait_for("answers_growing", |growing| growing == 1);
    served.wait_for("answers_waiting", |waiting| waiting == 1);
    let short = json!({ "model": "m", "prompt": "1", "max_tokens": 2 });
    let refused = served.post(TEXT, &short);
    assert_eq!(
        (refused.error().0, refused.error().1.as_str(), refused.header("retry-after")),
        (429, "queue_full -", Some("1"))
    );
    assert_eq!(served.post(TEXT, &with(short.clone(), json!({ "n": 3 }))).error().0, 400, "that many never fit");
    drop(busy);
    served.wait_for("answers_growing", |growing| growing == 0);
    served.answer(TEXT, &short);
    assert_eq!(served.count("answers_total"), 1, "those of who left were not finished");
}

#[test]
fn a_server_that_is_asked_to_stop_finishes_what_it_has_begun() {
    for (signal, code) in [("-INT", 130), ("-TERM", 143)] {
        let served = Served::start(&with_model("llama"), "m --slots 1");
        // Ended by its length, for sure, and long enough to be caught at it.
        let asked = json!({ "model": "m", "prompt": "12+7=", "max_tokens": 120, "n": 12, "logit_bias": { "1": -100 } });
        let mut running = served.begin("POST", TEXT, &is_json(), &asked.to_string());
        served.wait_for("answers_growing", |growing| growing == 1);
        served.signal(signal);
        let mut text = String::new();
        running.read_to_string(&mut text).unwrap();
        assert!(text.contains("\"completion_tokens\":1440"), "{text}");
        assert!(TcpStream::connect(served.address()).is_err());
        let (ended, stderr) = served.end();
        assert_eq!(ended, Some(code), "{stderr}");
        assert!(stderr.contains("POST /v1/completions 200: 5 + 1440 tokens, "), "{stderr}");
    }
}

#[test]
fn a_server_that_is_told_twice_ends_at_once() {
    let served = Served::start(&endless(), "m");
    let mut running = served.begin("POST", TEXT, &is_json(), &forever().to_string());
    let mut status = [0; 15];
    running.read_exact(&mut status).unwrap();
    assert_eq!(&status, b"HTTP/1.1 200 OK");
    let begun = Instant::now();
    served.signal("-INT");
    served.wait_for_closing();
    served.signal("-INT");
    assert_eq!(served.end().0, Some(130));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[test]
fn a_connection_serves_one_request_after_another() {
    let served = Served::start(&with_model("llama"), "m");
    let mut stream = TcpStream::connect(served.address()).unwrap();
    let mut read = [0; 4096];
    for _ in 0..3 {
        write!(stream, "GET /health HTTP/1.1\r\nhost: {}\r\n\r\n", served.address()).unwrap();
        let count = stream.read(&mut read).unwrap();
        assert!(read[..count].starts_with(b"HTTP/1.1 200 OK"));
    }
}

#[test]
fn what_cannot_be_served_is_said() {
    let project = with_model("llama");
    project.write("p.yaml", "name: p\nnodes:\n  rows: { stage: generate, with: { script: a.rhai, rows: 1 } }\n  m: { stage: import, with: { path: m } }\n");
    project.write("a.rhai", "fn row(rng, index) { #{ text: \"1\" } }\n");
    let cases = [
        (
            "serve nowhere",
            2,
            "error: no model folder `nowhere`\n  hint: give a Hugging Face model folder, or a pipeline's file and a node of it\n",
        ),
        ("serve p.yaml", 2, "error: `p.yaml` is a pipeline: say which of its nodes\n  hint: a model is made by `m`\n"),
        ("serve p.yaml m", 1, "error: `m` has no result yet\n  hint: mashbill run p.yaml --until m\n"),
        (
            "serve m rows",
            2,
            "error: `m` is a folder; it has no node `rows`\n  hint: give a model's folder alone, or a pipeline's file with a node\n",
        ),
        (
            "serve m --seed 1",
            2,
            "error: `--seed` picks the result of a pipeline, and a folder has none\n  hint: the seed of the answers is `--sample-seed`\n",
        ),
    ];
    for (words, code, message) in cases {
        let said = project.mashbill(words);
        assert_eq!((said.code, said.stderr.as_str()), (Some(code), message), "{words}");
    }
    assert_eq!(project.mashbill("run p.yaml").code, Some(0));
    assert_eq!(
        project.mashbill("serve p.yaml rows").stderr,
        "error: `rows` makes `rows`, not a model\n  hint: a model is made by `m`\n"
    );
    let served = Served::start(&project, "p.yaml m");
    assert_eq!(served.get("/v1/models").json()["data"][0]["id"], "m");
    let port = served.address().rsplit(':').next().unwrap();
    let said = project.mashbill(&format!("serve m --port {port}"));
    assert_eq!(said.code, Some(2));
    assert!(said.stderr.starts_with(&format!("error: cannot listen on 127.0.0.1:{port}: ")), "{}", said.stderr);
}
