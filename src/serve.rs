//! `mashbill serve`: a model behind OpenAI's API.
//! Knows nothing of tokens.

mod body;
mod connections;
mod doors;
mod fault;
mod fields;
mod guard;
mod parse;
mod queue;
mod told;
mod wanted;

use std::{net::SocketAddr, sync::Arc, thread::JoinHandle, time::Duration};

use ::stages::{
    answer::{self, Scribe},
    text::complete::Policy,
};
use engine::Cancel;
use tokio::{net::TcpListener, runtime::Runtime, sync::watch, time};

use self::{
    body::Allowance,
    connections::Closing,
    doors::Server,
    guard::Guard,
    queue::{Queue, Size},
    wanted::House,
};
use crate::{
    args::{Asked, Draw, Global},
    model,
    outcome::{Code, Trouble},
    screen::{self, say},
    signals,
};

/// How it is served. Not to be printed: it holds the key.
pub struct Form {
    pub draw: Draw,
    pub address: SocketAddr,
    pub name: Option<String>,
    pub slots: usize,
    pub queue: usize,
    pub api_key: Option<String>,
    /// How long a client may keep its connection waiting.
    pub patience: Duration,
    pub quiet: bool,
}

/// How long running answers have to finish after the server was asked to stop.
const GRACE: Duration = Duration::from_secs(10);
/// Requests that are parsed and encoded at once, which takes a core each.
const READERS: usize = 2;
/// How often it is looked whether it was.
const GLANCE: Duration = Duration::from_millis(50);

pub fn serve(asked: &Asked, form: Form, global: &Global) -> Result<Code, Trouble> {
    let Form { draw, address, name, slots, queue, api_key, patience, quiet } = form;
    if let Some(fault) = api_key.as_deref().and_then(Guard::fault) {
        return Err(Trouble::usage(fault));
    }
    let model = model::find(asked, global)?;
    let Policy { decoder, tokenizer } = model.open()?;
    let scribe = Scribe::new(&tokenizer, &decoder.config).map_err(model::trouble)?;
    let sampling = draw.over(answer::habits(&tokenizer).map_err(model::trouble)?);
    let size = Size { slots, queue };
    let house = House { scribe: scribe.clone(), model: name.unwrap_or(model.name), sampling, places: size.places() };

    let cancel = Cancel::default();
    let stop = signals::listen_and_say(
        cancel.clone(),
        "stopping when the running answers are finished; once more ends at once",
    );
    let stop = stop.map_err(|error| Trouble::usage(format!("cannot listen for signals: {error}")))?;
    let started = Queue::start(decoder, scribe, size);
    let (queue, decoding) = started.map_err(|error| failed(format!("cannot start a thread: {error}")))?;
    let guard = Guard::new(api_key, address);
    let started = told::now();
    let (close, closed) = Closing::new();
    let (is_quiet, closing, allowance) = (quiet, cancel.clone(), Allowance::new(patience));
    let server = Arc::new(Server { house, guard, queue, allowance, started, is_quiet, closing, closed });

    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(READERS)
        .enable_all()
        .build();
    let runtime = runtime.map_err(|error| failed(format!("cannot start the server: {error}")))?;
    listen(&runtime, server, address, patience, &close, &cancel, &decoding)?;
    // Connections that are still open are closed.
    runtime.shutdown_background();
    if decoding.is_finished() {
        let why = match decoding.join() {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(format!("{error:#}")),
            Err(_) => Some("the decoding thread panicked".into()),
        };
        if let Some(why) = why {
            return Err(failed(format!("the model failed: {why}")));
        }
    }
    Ok(stop.code().unwrap_or(Code::Done))
}

/// Serves until it is asked to stop or the model fails.
fn listen(
    runtime: &Runtime,
    server: Arc<Server>,
    address: SocketAddr,
    patience: Duration,
    close: &watch::Sender<bool>,
    cancel: &Cancel,
    decoding: &JoinHandle<anyhow::Result<()>>,
) -> Result<(), Trouble> {
    let (model, is_keyed, closed) = (server.house.model.clone(), server.guard.asks_for_key(), server.closed.clone());
    runtime.block_on(async {
        let unbound = |error| Trouble::usage(format!("cannot listen on {address}: {error}"));
        let listener = TcpListener::bind(address).await.map_err(unbound)?;
        let address = listener.local_addr().map_err(unbound)?;
        say!("http://{address}/v1");
        let openness = match (address.ip().is_loopback(), is_keyed) {
            (true, _) => "",
            (false, true) => "; it can be reached from outside",
            (false, false) => "; it can be reached from outside, and asks for no key (`--api-key`)",
        };
        screen::note(&format!("serving `{model}`{openness}; Ctrl-C stops"));

        let limits = connections::Limits { places: server.house.places, patience };
        let served = connections::serve(listener, doors::router(server), limits, closed);
        let cut_off = async {
            while !decoding.is_finished() && !cancel.is_cancelled() {
                time::sleep(GLANCE).await;
            }
            if !decoding.is_finished() {
                // Nobody waits for it where nothing is served any more.
                let _ = close.send(true);
                time::sleep(GRACE).await;
                screen::note("some answers were not finished in time");
            }
        };
        tokio::select! {
            () = served => {}
            () = cut_off => {}
        }
        Ok(())
    })
}

fn failed(message: String) -> Trouble {
    Trouble::Failed { message, hint: None }
}
