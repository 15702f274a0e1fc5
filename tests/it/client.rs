//! A served model, and the plainest HTTP client that can speak with it.
//! Knows nothing of what is asked.

#![cfg(unix)]

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::Path,
    process::{Child, Command, Stdio},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::project::{Project, workspace};

/// The server as a process, ended with the test.
pub struct Served {
    child: Child,
    address: String,
    stderr: Option<JoinHandle<String>>,
}

/// What came back.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Served {
    /// `mashbill serve WORDS --port 0`, once it says where it listens.
    pub fn start(project: &Project, words: &str) -> Self {
        Self::of(project.command(&format!("serve {words} --port 0")))
    }

    pub fn of(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let mut pipe = child.stderr.take().unwrap();
        let stderr = thread::spawn(move || {
            let mut text = String::new();
            pipe.read_to_string(&mut text).unwrap();
            text
        });
        let Some(address) = line.trim().strip_prefix("http://").and_then(|url| url.strip_suffix("/v1")) else {
            child.wait().unwrap();
            panic!("it does not serve: {line:?}\n{}", stderr.join().unwrap());
        };
        Self { child, address: address.to_owned(), stderr: Some(stderr) }
    }

    /// The same under limits of `prlimit`, such as `--as=2000000000`.
    #[cfg(target_os = "linux")]
    pub fn limited(command: &Command, limits: &[&str]) -> Self {
        let mut limited = Command::new("prlimit");
        limited.args(limits).arg(command.get_program()).args(command.get_args());
        limited.current_dir(command.get_current_dir().unwrap());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => limited.env(name, value),
                None => limited.env_remove(name),
            };
        }
        Self::of(limited)
    }

    /// The most memory that it has held, in megabytes.
    #[cfg(target_os = "linux")]
    pub fn peak(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.split_whitespace().next().unwrap().parse::<u64>().unwrap() >> 10
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    pub fn get(&self, path: &str) -> Response {
        self.send("GET", path, &[], "")
    }

    /// Posts JSON; what came back must be JSON.
    pub fn post(&self, path: &str, body: &Value) -> Response {
        self.send("POST", path, &[("content-type", "application/json")], &body.to_string())
    }

    /// Posts JSON, which must be answered well.
    pub fn answer(&self, path: &str, body: &Value) -> Value {
        let response = self.post(path, body);
        assert_eq!(response.status, 200, "{body}: {response:#?}");
        response.json()
    }

    /// Posts JSON with `stream`: the events' data, `[DONE]` taken off.
    pub fn stream(&self, path: &str, body: &Value) -> Vec<Value> {
        let mut body = body.clone();
        body["stream"] = json!(true);
        let response = self.post(path, &body);
        assert_eq!((response.status, response.header("content-type")), (200, Some("text/event-stream")));
        let mut events: Vec<&str> = response.body.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
        assert_eq!(events.pop(), Some("[DONE]"), "{}", response.body);
        events.into_iter().map(|event| serde_json::from_str(event).unwrap()).collect()
    }

    pub fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Response {
        let mut stream = self.begin(method, path, headers, body);
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        Response::read(&bytes)
    }

    /// Sends a request and leaves the answer to whoever holds the stream.
    pub fn begin(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> TcpStream {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
        let host = ("host", self.address.as_str());
        let is_called = headers.iter().any(|(name, _)| *name == "host");
        let lines =
            headers.iter().chain((!is_called).then_some(&host)).map(|(name, value)| format!("{name}: {value}\r\n"));
        let lines: Vec<String> = lines.collect();
        let first = format!("{method} {path} HTTP/1.1\r\nconnection: close\r\ncontent-length: {}\r\n", body.len());
        let text = first + lines.concat().as_str();
        // A server that refuses a large body may close before it has read it.
        let _ = stream.write_all(format!("{text}\r\n{body}").as_bytes());
        stream
    }

    /// Sends bytes as they are: what comes back until the server ends the connection, if anything does.
    #[cfg(target_os = "linux")]
    pub fn raw(&self, bytes: &[u8]) -> Option<Response> {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
        let _ = stream.write_all(bytes);
        let mut answer = Vec::new();
        // What was not read of a request may reset the connection behind the answer.
        let _ = stream.read_to_end(&mut answer);
        (!answer.is_empty()).then(|| Response::read(&answer))
    }

    /// A line of `/metrics`.
    pub fn count(&self, name: &str) -> u64 {
        let text = self.get("/metrics").body;
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("mashbill_{name} ")));
        line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
    }

    pub fn wait_for(&self, name: &str, is_right: impl Fn(u64) -> bool) {
        let begun = Instant::now();
        while !is_right(self.count(name)) {
            assert!(begun.elapsed() < Duration::from_secs(30), "{name} stays {}", self.count(name));
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until it takes no more requests.
    pub fn wait_for_closing(&self) {
        let begun = Instant::now();
        while TcpStream::connect(&self.address).is_ok() {
            assert!(begun.elapsed() < Duration::from_secs(30), "it goes on listening");
            thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args([name, &self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    /// Its exit code and what it said on stderr, once it has ended.
    pub fn end(mut self) -> (Option<i32>, String) {
        let code = self.child.wait().unwrap().code();
        (code, self.stderr.take().unwrap().join().unwrap())
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Response {
    fn read(bytes: &[u8]) -> Self {
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no HTTP: {text:?}"));
        let mut lines = head.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let mut response = Self { status, headers, body: body.to_owned() };
        if response.header("transfer-encoding") == Some("chunked") {
            response.body = whole(body);
        }
        response
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:#?}"))
    }

    /// Status, code and parameter of an error, and its message.
    pub fn error(&self) -> (u16, String, String) {
        let error = self.json()["error"].take();
        let text = |key: &str| error[key].as_str().unwrap_or("-").to_owned();
        assert!(
            ["invalid_request_error", "rate_limit_error", "server_error"].contains(&text("type").as_str()),
            "{error}"
        );
        (self.status, format!("{} {}", text("code"), text("param")), text("message"))
    }
}

/// The body of a response that came in chunks.
fn whole(mut chunks: &str) -> String {
    let mut body = String::new();
    loop {
        let (size, rest) = chunks.split_once("\r\n").unwrap();
        let size = usize::from_str_radix(size, 16).unwrap();
        if size == 0 {
            return body;
        }
        body += &rest[..size];
        chunks = &rest[size + 2..];
    }
}

/// A copy of a tiny random model, with a template that its characters suffice for, as `m` in a project.
pub fn with_model(family: &str) -> Project {
    let project = Project::new(&[("m/chat_template.jinja", TEMPLATE)]);
    for entry in std::fs::read_dir(fixture(family)).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), project.path().join("m").join(entry.file_name())).map(drop).unwrap();
    }
    project
}

pub fn fixture(family: &str) -> std::path::PathBuf {
    let folder: &Path = workspace();
    folder.join("tests/fixtures").join(family)
}

/// `s:` of the system, `u:` of the user, `a:` of the assistant.
const TEMPLATE: &str = "\
{%- for message in messages -%}
{{ message.role[0] + ':' + message.content }}{% if message.role == 'assistant' %}{{ eos_token }}{% endif %}{{ '\\n' }}
{%- endfor -%}
{%- if add_generation_prompt %}a:{% endif -%}
";
