//! The paths of the server: each request from its bytes to its response.
//! Knows nothing of how answers are made.

use std::{
    collections::VecDeque,
    convert::Infallible,
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll, ready},
    time::Instant,
};

use axum::{
    Extension, Json, Router,
    extract::{Path, Request, State},
    http::{HeaderMap, Method, StatusCode, header},
    middleware::{self, Next},
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
    routing::{get, post},
};
use engine::Cancel;
use futures_core::Stream as Events;
use serde_json::{Value, json};

use super::{
    body::{Allowance, Part, Taken},
    connections::{Closing, Line},
    fault::{Fault, cut},
    guard::Guard,
    queue::{Answers, Queue, Refusal},
    told::Telling,
    wanted::{Form, House, Stream, Wanted, no_model, too_many},
};
use crate::screen;

/// What every request is served from.
pub struct Server {
    pub house: House,
    pub guard: Guard,
    pub queue: Queue,
    pub allowance: Allowance,
    /// Seconds of Unix time.
    pub started: u64,
    pub is_quiet: bool,
    /// Set when no more requests are taken.
    pub closing: Cancel,
    /// Says the same a moment later, to whoever waits for it.
    pub closed: Closing,
}

pub fn router(server: Arc<Server>) -> Router {
    let asked = |form: Form| {
        post(
            move |State(server): State<Arc<Server>>, Extension(line): Extension<Arc<Line>>, request: Request| async move {
                answer(&server, form, &line, request).await
            },
        )
    };
    Router::new()
        .route("/v1/completions", asked(Form::Text))
        .route("/v1/chat/completions", asked(Form::Chat))
        .route("/v1/models", get(models))
        .route("/v1/models/{*name}", get(model))
        .route("/metrics", get(metrics))
        .layer(middleware::from_fn_with_state(Arc::clone(&server), keyed))
        // Whoever watches over the server needs no key.
        .route("/health", get(health))
        .fallback(nowhere)
        .method_not_allowed_fallback(no_such_method)
        .layer(middleware::from_fn_with_state(Arc::clone(&server), named))
        .with_state(server)
}

async fn named(State(server): State<Arc<Server>>, request: Request, next: Next) -> Response {
    match server.guard.host(request.uri(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(fault) => fault.into_response(),
    }
}

async fn keyed(State(server): State<Arc<Server>>, request: Request, next: Next) -> Response {
    match server.guard.key(request.headers()) {
        Ok(()) => next.run(request).await,
        Err(fault) => {
            Visit::new(&server, &request).end(fault.status);
            fault.into_response()
        }
    }
}

async fn nowhere(request: Request) -> Fault {
    let message = format!(
        "no `{}` here; there are /v1/models, /v1/completions and /v1/chat/completions",
        cut(request.uri().path())
    );
    Fault::new(StatusCode::NOT_FOUND, message).with_code("unknown_url")
}

async fn no_such_method(method: Method, request: Request) -> Fault {
    let message = format!("`{}` does not take {}", cut(request.uri().path()), cut(method.as_str()));
    Fault::new(StatusCode::METHOD_NOT_ALLOWED, message).with_code("method_not_allowed")
}

async fn health(State(server): State<Arc<Server>>) -> Response {
    if server.closing.is_cancelled() {
        return (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "status": "closing" }))).into_response();
    }
    Json(json!({ "status": "ok" })).into_response()
}

async fn models(State(server): State<Arc<Server>>) -> Json<Value> {
    Json(json!({ "object": "list", "data": [card(&server)] }))
}

async fn model(State(server): State<Arc<Server>>, Path(name): Path<String>) -> Result<Json<Value>, Fault> {
    if name == server.house.model { Ok(Json(card(&server))) } else { Err(no_model(&name, &server.house)) }
}

fn card(server: &Server) -> Value {
    json!({
        "id": server.house.model,
        "object": "model",
        "created": server.started,
        "owned_by": "mashbill",
        "context_length": server.house.scribe.context,
    })
}

/// Counts in the text format of Prometheus.
async fn metrics(State(server): State<Arc<Server>>) -> Response {
    let counts = &server.queue.counts;
    let lines = [
        ("answers_growing", "gauge", counts.growing.load(Relaxed) as u64),
        ("answers_waiting", "gauge", counts.waiting.load(Relaxed) as u64),
        ("answers_total", "counter", counts.answers.load(Relaxed)),
        ("prompt_tokens_total", "counter", counts.prompt_tokens.load(Relaxed)),
        ("completion_tokens_total", "counter", counts.tokens.load(Relaxed)),
    ];
    let told = |(name, kind, value)| format!("# TYPE mashbill_{name} {kind}\nmashbill_{name} {value}\n");
    let text = lines.map(told).concat();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}

async fn answer(server: &Arc<Server>, form: Form, line: &Line, request: Request) -> Response {
    let mut visit = Visit::new(server, &request);
    match asked(server, form, line, request).await {
        Err(fault) => {
            visit.end(fault.status);
            fault.into_response()
        }
        Ok((telling, answers, _part)) if telling.stream() == Stream::No => {
            let outcome = whole(telling, answers, &mut visit).await;
            visit.end(outcome.as_ref().map_or_else(|fault| fault.status, |_| StatusCode::OK));
            outcome.into_response()
        }
        Ok((telling, answers, part)) => {
            let chunks = Chunks { telling, answers, visit, ready: VecDeque::new(), is_done: false, _part: part };
            // A proxy gives up on a connection that is silent for long.
            Sse::new(chunks).keep_alive(KeepAlive::new()).into_response()
        }
    }
}

/// From a request to its place in the queue.
async fn asked(
    server: &Arc<Server>,
    form: Form,
    line: &Line,
    request: Request,
) -> Result<(Telling, Answers, Part), Fault> {
    if server.closing.is_cancelled() {
        return Err(Fault::new(StatusCode::SERVICE_UNAVAILABLE, "the server is shutting down"));
    }
    is_json(request.headers())?;
    let taken = server.allowance.take(request, line, &server.closed).await?;
    let turn = server.allowance.turn(&taken).await;
    let (Taken { bytes, part }, reader) = (taken, Arc::clone(server));
    // A long prompt takes a while to encode; other requests go on meanwhile. Turn and part go with it, as its client may
    // leave.
    let read = move || {
        let wanted = Wanted::read(form, bytes, &reader.house);
        drop(turn);
        wanted.map(|wanted| (wanted, part))
    };
    let read = tokio::task::spawn_blocking(read).await;
    let broken = |_| Fault::new(StatusCode::INTERNAL_SERVER_ERROR, "reading the request failed");
    let (mut wanted, part) = read.map_err(broken)??;
    let telling = Telling::new(&mut wanted, &server.house.scribe, &server.house.model);
    let count = wanted.answers();
    let answers = server.queue.ask(wanted.questions()).map_err(|refusal| refused(refusal, count))?;
    Ok((telling, answers, part))
}

fn refused(refusal: Refusal, answers: usize) -> Fault {
    match refusal {
        Refusal::TooMany { places } => too_many(answers, places),
        Refusal::Full { places } => {
            let message = format!("all {places} places for answers are taken; ask again in a moment");
            Fault::new(StatusCode::TOO_MANY_REQUESTS, message).with_code("queue_full")
        }
        Refusal::Over => broken("the model is gone"),
    }
}

/// A web page can send plain text to any server without asking; JSON it can not. See also [`Guard::host`].
fn is_json(headers: &HeaderMap) -> Result<(), Fault> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let bare = kind.split(';').next().unwrap_or_default().trim();
    if bare.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    let message = format!("the header `Content-Type` must be `application/json`; it is {:?}", cut(kind));
    Err(Fault::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message))
}

async fn whole(mut telling: Telling, mut answers: Answers, visit: &mut Visit) -> Result<Json<Value>, Fault> {
    while let Some(said) = answers.recv().await {
        telling.hear(said.map_err(broken)?)?;
        visit.tokens = telling.tokens();
    }
    if telling.is_over() { Ok(Json(telling.whole())) } else { Err(broken("the model failed")) }
}

fn broken(message: impl Into<String>) -> Fault {
    Fault::new(StatusCode::INTERNAL_SERVER_ERROR, message)
}

/// A response that comes chunk by chunk. Dropped when the client goes away, which ends its answers.
struct Chunks {
    telling: Telling,
    answers: Answers,
    visit: Visit,
    ready: VecDeque<Event>,
    is_done: bool,
    _part: Part,
}

impl Events for Chunks {
    type Item = Result<Event, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            if let Some(event) = this.ready.pop_front() {
                return Poll::Ready(Some(Ok(event)));
            }
            if this.is_done {
                return Poll::Ready(None);
            }
            let event = |value: &Value| Event::default().data(value.to_string());
            match ready!(this.answers.poll_recv(context)) {
                Some(Ok(said)) => {
                    this.ready.extend(this.telling.chunks(said).iter().map(event));
                    this.visit.tokens = this.telling.tokens();
                }
                None if this.telling.is_over() => {
                    this.ready.push_back(Event::default().data("[DONE]"));
                    this.is_done = true;
                    this.visit.end(StatusCode::OK);
                }
                failed => {
                    let message = failed.and_then(Result::err).unwrap_or_else(|| "the model failed".into());
                    let fault = broken(message);
                    this.ready.push_back(event(&fault.to_json()));
                    this.is_done = true;
                    this.visit.end(fault.status);
                }
            }
        }
    }
}

/// A request from its beginning to its end, for the line that tells of it.
struct Visit {
    what: String,
    begun: Instant,
    /// Of prompts and of answers.
    tokens: (usize, usize),
    is_told: bool,
}

impl Visit {
    fn new(server: &Server, request: &Request) -> Self {
        let what = format!("{} {}", cut(request.method().as_str()), cut(request.uri().path()));
        Self { what, begun: Instant::now(), tokens: (0, 0), is_told: server.is_quiet }
    }

    fn end(&mut self, status: StatusCode) {
        self.tell(status.as_str());
    }

    fn tell(&mut self, outcome: &str) {
        if !std::mem::replace(&mut self.is_told, true) {
            let (prompt, said) = self.tokens;
            let tokens = if prompt == 0 { String::new() } else { format!("{prompt} + {said} tokens, ") };
            let seconds = self.begun.elapsed().as_secs_f64();
            screen::note(&format!("{} {outcome}: {tokens}{seconds:.2} s", self.what));
        }
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.tell("left by its client");
    }
}
