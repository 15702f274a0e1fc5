//! The Hub as far as it is used here, on a port of this machine, and the cache that Python leaves.
//! Knows nothing of what the files hold.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use engine::{Cancel, Cancelled};
use ring::digest;

use super::*;
use crate::{
    bench::{Bench, fixture},
    data::{self, checkpoint::Checkpoint},
    import,
};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What a server does besides answering.
#[derive(Debug, Clone, Default)]
struct Manner {
    /// Answers 401 to whoever does not say it.
    token: Option<&'static str>,
    /// Sends so many bytes of a large file, then ends the connection: at every request.
    cut: Option<usize>,
    /// Sends the whole file whatever range is asked for.
    ignores_ranges: bool,
    /// Sends a large file with one bit turned.
    damages: bool,
    /// Lists names alone, as some mirrors do.
    lists_names_only: bool,
    /// Answers every request for the listing with this status and code.
    refuses: Option<(u16, &'static str)>,
}

/// `GET path` with the headers that matter here.
#[derive(Debug, Clone)]
struct Request {
    path: String,
    host: String,
    range: Option<String>,
    token: Option<String>,
}

struct Server {
    endpoint: String,
    asked: Arc<Mutex<Vec<Request>>>,
}

type Files = Arc<BTreeMap<String, Vec<u8>>>;

impl Server {
    fn new(files: &[(&str, Vec<u8>)], manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let files: Files = Arc::new(files.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.clone())).collect());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = asked.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (files, manner, log) = (files.clone(), manner.clone(), log.clone());
                thread::spawn(move || answer(&stream.unwrap(), port, &files, &manner, &log));
            }
        });
        Self { endpoint: format!("http://127.0.0.1:{port}"), asked }
    }

    fn asked(&self) -> Vec<Request> {
        self.asked.lock().unwrap().clone()
    }

    /// The files that were sent, from which byte on.
    fn sent(&self) -> Vec<String> {
        let asked = self.asked();
        let files = asked.iter().filter_map(|request| {
            let (_, name) = request.path.split_once(&format!("/resolve/{COMMIT}/"))?;
            let range = request.range.as_deref().unwrap_or_default();
            Some(format!("{name} {range}").trim_end().to_owned())
        });
        files.collect()
    }
}

fn answer(stream: &TcpStream, port: u16, files: &Files, manner: &Manner, log: &Mutex<Vec<Request>>) {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let Some(first) = lines.next() else { return };
    let path = first.split(' ').nth(1).unwrap().to_owned();
    let mut headers = BTreeMap::new();
    for line in lines.take_while(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':').unwrap();
        headers.insert(name.to_lowercase(), value.trim().to_owned());
    }
    let token = headers.get("authorization").cloned();
    let request = Request { path, host: headers["host"].clone(), range: headers.get("range").cloned(), token };
    log.lock().unwrap().push(request.clone());
    let mut stream = stream;
    let mut send = |status: u16, more: &str, body: &[u8]| {
        let head = format!(
            "HTTP/1.1 {status} X\r\nX-Repo-Commit: {COMMIT}\r\nConnection: close\r\nContent-Length: {}\r\n{more}\r\n",
            body.len()
        );
        let _ = stream.write_all(head.as_bytes());
        let is_large = body.len() > 20_000;
        let body = if is_large { &body[..manner.cut.unwrap_or(body.len()).min(body.len())] } else { body };
        let _ = stream.write_all(body);
    };
    let is_known = request.token == manner.token.map(|token| format!("Bearer {token}"));
    // The second host is where large files lie: it is told where they are, and no token.
    let is_far = request.path.starts_with("/far/");
    if manner.token.is_some() && !is_far && !is_known {
        return send(401, "X-Error-Code: RepoNotFound\r\n", b"");
    }
    if let Some(path) = request.path.strip_prefix("/api/") {
        if let Some((status, code)) = manner.refuses {
            return send(status, &format!("X-Error-Code: {code}\r\n"), b"");
        }
        let pinned = format!("{COMMIT}?blobs=true");
        return match path.split_once("/revision/") {
            Some(("models/org/tiny", revision)) if revision == "main?blobs=true" || revision == pinned => {
                send(200, "Content-Type: application/json\r\n", listing(files, manner).as_bytes());
            }
            Some(("models/org/tiny", _)) => send(404, "X-Error-Code: RevisionNotFound\r\n", b""),
            _ => send(404, "X-Error-Code: RepoNotFound\r\n", b""),
        };
    }
    let (base, name) = request.path.split_once(&format!("/resolve/{COMMIT}/")).unwrap();
    let Some(bytes) = files.get(&name.replace("%20", " ")) else {
        return send(404, "X-Error-Code: EntryNotFound\r\n", b"");
    };
    let etag = format!("ETag: \"{}\"\r\n", blob(bytes));
    if bytes.len() > 20_000 && !is_far {
        let linked = format!("X-Linked-ETag: \"{}\"\r\n", blob(bytes));
        let location = format!("Location: http://localhost:{port}/far{base}/resolve/{COMMIT}/{name}\r\n");
        return send(302, &format!("{linked}{location}"), b"");
    }
    let mut bytes = bytes.clone();
    if manner.damages && bytes.len() > 20_000 {
        bytes[1000] ^= 1;
    }
    let range = request.range.as_deref().and_then(|range| range.strip_prefix("bytes=")?.split_once('-'));
    match range.filter(|_| !manner.ignores_ranges) {
        Some((from, to)) => {
            let from: usize = from.parse().unwrap();
            let end = to.parse().map_or(bytes.len(), |to: usize| to + 1);
            let range = format!("Content-Range: bytes {from}-{}/{}\r\n", end - 1, bytes.len());
            send(206, &format!("{etag}{range}"), &bytes[from..end]);
        }
        None => send(200, &etag, &bytes),
    }
}

fn listing(files: &Files, manner: &Manner) -> String {
    let sibling = |(name, bytes): (&String, &Vec<u8>)| {
        let mut sibling = json!({ "rfilename": name });
        if !manner.lists_names_only {
            sibling["size"] = bytes.len().into();
            if bytes.len() > 20_000 {
                sibling["blobId"] = "of the pointer".into();
                sibling["lfs"] = json!({ "sha256": blob(bytes), "size": bytes.len(), "pointerSize": 130 });
            } else {
                sibling["blobId"] = blob(bytes).into();
            }
        }
        sibling
    };
    json!({ "id": "org/tiny", "sha": COMMIT, "siblings": files.iter().map(sibling).collect::<Vec<_>>() }).to_string()
}

/// SHA-256 of a large file, git's name of another.
fn blob(bytes: &[u8]) -> String {
    let digest = if bytes.len() > 20_000 {
        digest::digest(&digest::SHA256, bytes)
    } else {
        let whole = [format!("blob {}\0", bytes.len()).as_bytes(), bytes].concat();
        digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, &whole)
    };
    transfer::hexadecimal(&digest)
}

/// The fixture's model, among files that nobody needs.
fn model() -> Vec<(&'static str, Vec<u8>)> {
    let names =
        ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"];
    let read = |name| (name, std::fs::read(fixture("llama").join(name)).unwrap());
    let others = [("README.md", b"# Tiny".to_vec()), ("pytorch_model.bin", vec![7; 50_000])];
    names.map(read).into_iter().chain(others).collect()
}

fn settings(bench: &Bench, endpoint: &str) -> Settings {
    Settings {
        endpoint: endpoint.to_owned(),
        cache: bench.path("hub"),
        token: None,
        token_from: String::new(),
        is_offline: false,
    }
}

fn tiny(revision: &str) -> Reference {
    Reference::parse(&format!("hf:org/tiny{revision}"), Kind::Model).unwrap()
}

fn import(bench: &Bench, settings: &Settings) -> Result<PathBuf> {
    let repository = Repository::open(&tiny(""), settings)?;
    import::fetch(&repository, &Context::standalone(&bench.path("run"), 7)?)?;
    Ok(repository.folder())
}

fn complaint(bench: &Bench, settings: &Settings) -> String {
    bench.message(&import(bench, settings).unwrap_err()).replace(&settings.endpoint, "http://hub")
}

fn is_the_fixture(folder: &Path) -> bool {
    let [found, original] = [folder, &fixture("llama")].map(|folder| Checkpoint::open(folder).unwrap().weights);
    found == original
}

#[test]
fn a_model_lies_in_the_cache_as_python_has_it_and_nothing_else_was_fetched() {
    let (bench, server) = (Bench::new(), Server::new(&model(), Manner::default()));
    let settings = settings(&bench, &server.endpoint);
    let folder = import(&bench, &settings).unwrap();
    assert!(is_the_fixture(&folder));
    assert_eq!(
        server.sent(),
        // The large file is asked for once more, where it lies.
        [
            "config.json",
            "tokenizer.json",
            "generation_config.json",
            "tokenizer_config.json",
            "model.safetensors",
            "model.safetensors"
        ]
    );
    // https://huggingface.co/docs/huggingface_hub/guides/manage-cache
    let root = bench.path("hub/models--org--tiny");
    assert_eq!(folder, root.join("snapshots").join(COMMIT));
    assert_eq!(std::fs::read_to_string(root.join("refs/main")).unwrap(), COMMIT);
    for (name, bytes) in model().iter().take(5) {
        let target = Path::new("../../blobs").join(blob(bytes));
        assert_eq!(std::fs::read_link(folder.join(name)).unwrap(), target, "{name}");
    }
    let before = server.asked().len();
    import(&bench, &settings).unwrap();
    assert_eq!(server.asked().len(), before + 1, "only what the branch stands for is asked again");

    let offline = Settings { endpoint: "http://127.0.0.1:9".into(), is_offline: true, ..settings };
    assert_eq!(import(&bench, &offline).unwrap(), folder);
    let pinned = Repository::open(&tiny(&format!("@{COMMIT}")), &offline).unwrap();
    assert_eq!((pinned.commit(), pinned.folder()), (COMMIT, folder));
}

#[test]
fn a_connection_that_is_cut_goes_on_where_it_was() {
    let bench = Bench::new();
    let server = Server::new(&model(), Manner { cut: Some(15_000), ..Manner::default() });
    let settings = settings(&bench, &server.endpoint);
    assert!(is_the_fixture(&import(&bench, &settings).unwrap()));
    let size = std::fs::metadata(fixture("llama/model.safetensors")).unwrap().len();
    let stretches = size.div_ceil(15_000);
    assert!(stretches > 3, "the file is too small for this test");
    let sent = server.sent();
    let far: Vec<&String> = sent.iter().filter(|file| file.starts_with("model")).step_by(2).collect();
    assert_eq!(far.len() as u64, stretches);
    for (index, file) in far.into_iter().enumerate().skip(1) {
        assert_eq!(*file, format!("model.safetensors bytes={}-", index * 15_000));
    }
}

#[test]
fn what_an_earlier_try_left_is_gone_on_with() {
    for manner in [Manner::default(), Manner { ignores_ranges: true, ..Manner::default() }] {
        let (bench, server) = (Bench::new(), Server::new(&model(), manner));
        let bytes = &model()[2].1;
        let name = blob(bytes);
        bench.file(&format!("hub/models--org--tiny/blobs/{name}.incomplete"), &bytes[..12_345]);
        assert!(is_the_fixture(&import(&bench, &settings(&bench, &server.endpoint)).unwrap()));
        assert_eq!(server.sent().last().unwrap(), "model.safetensors bytes=12345-");
        assert!(!bench.path(&format!("hub/models--org--tiny/blobs/{name}.incomplete")).exists());
    }
}

#[test]
fn bytes_that_differ_from_their_digest_are_refused() {
    let (bench, server) = (Bench::new(), Server::new(&model(), Manner { damages: true, ..Manner::default() }));
    let settings = settings(&bench, &server.endpoint);
    let message = complaint(&bench, &settings);
    let expected = format!("fetching model.safetensors of hf:org/tiny@{COMMIT}: it arrived damaged: its digest is ");
    assert!(message.starts_with(&expected), "{message}");
    assert!(message.ends_with("; run again to fetch it anew"), "{message}");
    let blobs = std::fs::read_dir(bench.path("hub/models--org--tiny/blobs")).unwrap().count();
    assert_eq!(blobs, 4, "what is damaged does not stay");
    // A left-over that is not what it should be is found out too.
    let server = Server::new(&model(), Manner::default());
    let bytes = &model()[2].1;
    bench.file(&format!("hub/models--org--tiny/blobs/{}.incomplete", blob(bytes)), vec![0; 12_345]);
    let message = complaint(&bench, &Settings { endpoint: server.endpoint, ..settings });
    assert!(message.starts_with(&expected), "{message}");
}

#[test]
fn a_token_is_said_to_the_hub_and_to_no_other_host() {
    let (bench, server) = (Bench::new(), Server::new(&model(), Manner { token: Some("secret"), ..Manner::default() }));
    let settings = settings(&bench, &server.endpoint);
    assert_eq!(
        complaint(&bench, &settings),
        "hf:org/tiny@main is not there, or is private\n  hint: no token was sent: set `HF_TOKEN` to one that may read it"
    );
    let wrong = Settings { token: Some("other".into()), token_from: "`HF_TOKEN`".into(), ..settings.clone() };
    assert_eq!(
        complaint(&bench, &wrong),
        "hf:org/tiny@main is not there, or is private\n  hint: the token of `HF_TOKEN` may not read it: set `HF_TOKEN` to one that may"
    );
    let right = Settings { token: Some("secret".into()), ..settings };
    assert!(is_the_fixture(&import(&bench, &right).unwrap()));
    let far: Vec<Request> = server.asked().into_iter().filter(|request| request.path.starts_with("/far/")).collect();
    assert_eq!(far.len(), 1);
    assert!(far[0].host.starts_with("localhost:") && far[0].token.is_none(), "{far:?}");
}

#[test]
fn what_the_hub_refuses_is_said_with_what_to_do() {
    let bench = Bench::new();
    let of = |status, code| {
        let server = Server::new(&model(), Manner { refuses: Some((status, code)), ..Manner::default() });
        complaint(&bench, &settings(&bench, &server.endpoint))
    };
    let gated = "hf:org/tiny@main is gated\n  hint: accept its conditions at http://hub/org/tiny; no token was sent: set `HF_TOKEN` to one that may read it";
    assert_eq!(of(401, "GatedRepo"), gated);
    assert_eq!(of(403, "GatedRepo"), gated);
    assert_eq!(of(404, "RepoNotFound"), "hf:org/tiny@main is not there: http://hub/org/tiny answers 404");
    assert_eq!(of(500, "Unknown"), "http://hub/org/tiny answers 500");
    let server = Server::new(&model(), Manner::default());
    let settings = settings(&bench, &server.endpoint);
    let revision = Repository::open(&tiny("@v9"), &settings).err().unwrap().to_string();
    assert_eq!(revision, "hf:org/tiny@v9 has no revision `v9`");
}

#[test]
fn a_repository_without_what_is_needed_is_told_apart() {
    let bench = Bench::new();
    let without = |missing: &str| {
        let files: Vec<_> = model().into_iter().filter(|(name, _)| *name != missing).collect();
        let server = Server::new(&files, Manner::default());
        complaint(&bench, &settings(&bench, &server.endpoint))
    };
    assert_eq!(without("tokenizer.json"), "hf:org/tiny@main has no file `tokenizer.json`");
    assert_eq!(
        without("model.safetensors"),
        format!(
            "hf:org/tiny@{COMMIT} has neither `model.safetensors` nor `model.safetensors.index.json`; it has README.md, config.json, generation_config.json, pytorch_model.bin, tokenizer.json, tokenizer_config.json"
        )
    );
}

#[test]
fn an_adapter_that_lies_beside_a_model_or_alone_is_fetched() {
    let adapter = ["adapter_config.json", "adapter_model.safetensors"]
        .map(|name| (name, std::fs::read(fixture("lora/all").join(name)).unwrap()));
    let bench = Bench::new();
    let server = Server::new(&[&model()[..], &adapter[..]].concat(), Manner::default());
    let folder = import(&bench, &settings(&bench, &server.endpoint)).unwrap();
    assert!(Checkpoint::open(&folder).unwrap().adapter.is_some());

    let (bench, server) = (Bench::new(), Server::new(&adapter, Manner::default()));
    let repository = Repository::open(&tiny(""), &settings(&bench, &server.endpoint)).unwrap();
    import::fetch_adapter(&repository, &Context::standalone(&bench.path("run"), 7).unwrap()).unwrap();
    let config = Checkpoint::open(&fixture("llama")).unwrap().config;
    assert!(data::adapter::read(&repository.folder(), &config).is_ok());
}

#[test]
fn a_mirror_that_lists_names_alone_is_asked_for_sizes() {
    let manner = Manner { lists_names_only: true, ..Manner::default() };
    let (bench, server) = (Bench::new(), Server::new(&model(), manner));
    assert!(is_the_fixture(&import(&bench, &settings(&bench, &server.endpoint)).unwrap()));
    let bytes = &model()[2].1;
    assert!(bench.path("hub/models--org--tiny/blobs").join(blob(bytes)).exists());
}

#[test]
fn nobody_answers() {
    let bench = Bench::new();
    // A port that was free a moment ago.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let message = complaint(&bench, &settings(&bench, &format!("http://127.0.0.1:{port}")));
    assert!(message.starts_with("http://hub does not answer: "), "{message}");
    let hint = "\n  hint: what is in the cache is used without asking if `HF_HUB_OFFLINE=1` is set";
    assert!(message.ends_with(hint), "{message}");
}

#[test]
fn a_request_to_stop_keeps_what_arrived() {
    let (bench, server) = (Bench::new(), Server::new(&model(), Manner::default()));
    let settings = settings(&bench, &server.endpoint);
    let cancel = Cancel::default();
    cancel.cancel();
    let ctx = Context::standalone(&bench.path("run"), 7).unwrap().with_cancel(cancel);
    let repository = Repository::open(&tiny(""), &settings).unwrap();
    let error = import::fetch(&repository, &ctx).unwrap_err();
    assert!(error.downcast_ref::<Cancelled>().is_some(), "{error:#}");
    assert!(is_the_fixture(&import(&bench, &settings).unwrap()));
}

#[test]
fn the_cache_that_python_filled_is_read_offline() {
    // The layout of https://huggingface.co/docs/huggingface_hub/guides/manage-cache, made by hand.
    let bench = Bench::new();
    let root = "hub/models--org--tiny";
    bench.file(&format!("{root}/refs/main"), COMMIT);
    bench.file(&format!("{root}/snapshots/{COMMIT}/.keep"), "");
    for (name, bytes) in model().into_iter().take(5) {
        bench.file(&format!("{root}/blobs/{}", blob(&bytes)), &bytes);
        let link = bench.path(root).join("snapshots").join(COMMIT).join(name);
        std::os::unix::fs::symlink(format!("../../blobs/{}", blob(&bytes)), link).unwrap();
    }
    let offline = Settings { is_offline: true, ..settings(&bench, "http://127.0.0.1:9") };
    assert!(is_the_fixture(&import(&bench, &offline).unwrap()));

    let refused = |reference: &str| {
        let reference = Reference::parse(reference, Kind::Model).unwrap();
        bench
            .message(&Repository::open(&reference, &offline).err().unwrap())
            .replace(&format!("{}", bench.path("hub").display()), "hub")
    };
    assert_eq!(
        refused("hf:org/other"),
        "hf:org/other@main: it is not in the cache hub, and `HF_HUB_OFFLINE` forbids to ask for it\n  hint: run once without `HF_HUB_OFFLINE`, or `hf download org/other --revision main` where the network can be reached"
    );
    assert!(refused("hf:org/tiny@v2").starts_with("hf:org/tiny@v2: it is not in the cache hub"));
    // A link whose blob is gone is no file.
    let bytes = &model()[3].1;
    std::fs::remove_file(bench.path(root).join("blobs").join(blob(bytes))).unwrap();
    let message = bench.message(&import(&bench, &offline).unwrap_err());
    assert!(message.starts_with("hf:org/tiny@main: `tokenizer.json` is not in the cache"), "{message}");
}
