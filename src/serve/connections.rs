//! The connections of the server: how many there are, how long a client may take, and which ends when one too many comes.
//! Knows nothing of what is asked.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    io,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::{Body, Bytes},
};
use hyper::{
    Request,
    body::{Body as HttpBody, Frame, Incoming, SizeHint},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::process::{Resource, getrlimit};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::AbortHandle,
    time::{self, Sleep},
};
use tower_service::Service as _;

/// Connections besides those whose answers have places in the queue.
const SPARE_CONNECTIONS: usize = 240;
/// Descriptors of the process that are no connections: the model's files, the listener, standard streams.
const OTHER_DESCRIPTORS: usize = 64;
/// Bytes of a request's head, and bytes of a response that are ready to be sent before its client takes them.
const MOST_BUFFERED: usize = 32 << 10;
/// How long accepting rests after it has failed.
const REST: Duration = Duration::from_millis(100);

/// What a client hears that finds every connection taken by a request that is being answered.
const FULL: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\ncontent-length: 121\r\nretry-after: 1\r\nconnection: close\r\n\r\n\
    {\"error\":{\"message\":\"all connections are taken; ask again in a moment\",\"type\":\"server_error\",\"param\":null,\"code\":\"full\"}}";

/// The word that the server closes.
#[derive(Debug, Clone)]
pub struct Closing(watch::Receiver<bool>);

impl Closing {
    /// And what says it.
    pub fn new() -> (watch::Sender<bool>, Self) {
        let (sender, receiver) = watch::channel(false);
        (sender, Self(receiver))
    }

    pub async fn wait(&self) {
        // Whoever would say it is gone only when the server is.
        let _ = self.0.clone().wait_for(|is_closing| *is_closing).await;
    }
}

/// A connection, as far as its client keeps it waiting: since when, in milliseconds of the server, zero if it does not.
#[derive(Debug)]
pub struct Line {
    /// The server's beginning.
    clock: Instant,
    /// For a request, or for the rest of one.
    request: AtomicU64,
    /// For what was sent to be taken.
    response: AtomicU64,
    /// Has the head of a request come that is not answered yet?
    is_asked: AtomicBool,
}

impl Line {
    fn new(clock: Instant) -> Self {
        let (request, response, is_asked) = Default::default();
        let line = Self { clock, request, response, is_asked };
        line.awaits_client();
        line
    }

    /// From now on its client is to send something.
    pub fn awaits_client(&self) {
        self.request.store(self.now(), Relaxed);
    }

    /// The request is there, and is to be answered.
    pub fn awaits_server(&self) {
        self.request.store(0, Relaxed);
    }

    fn now(&self) -> u64 {
        self.clock.elapsed().as_millis() as u64 + 1
    }

    /// Since when the client has kept it waiting.
    fn waits_since(&self) -> Option<u64> {
        [&self.request, &self.response].into_iter().map(|since| since.load(Relaxed)).filter(|since| *since > 0).min()
    }

    /// Is there no request of which all that was to be sent is sent?
    fn is_idle(&self) -> bool {
        !self.is_asked.load(Relaxed) && self.response.load(Relaxed) == 0
    }
}

/// All connections there are.
struct Lines {
    open: Mutex<BTreeMap<u64, (Arc<Line>, AbortHandle)>>,
    places: Arc<Semaphore>,
    most: usize,
}

impl Lines {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, (Arc<Line>, AbortHandle)>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a new connection; where there is none, of the one whose client has kept it waiting longest.
    async fn place(&self) -> Option<OwnedSemaphorePermit> {
        if let Ok(place) = Arc::clone(&self.places).try_acquire_owned() {
            return Some(place);
        }
        let longest = {
            let mut open = self.lock();
            let waiting = open.iter().filter_map(|(id, (line, _))| Some((line.waits_since()?, *id)));
            let (_, id) = waiting.min()?;
            open.remove(&id).expect("it was found there").1
        };
        longest.abort();
        // Its place is free as soon as its task has been dropped.
        time::timeout(REST, Arc::clone(&self.places).acquire_owned()).await.ok()?.ok()
    }
}

/// What the connections are limited by.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Answers at once.
    pub places: usize,
    /// The head of a request must be there so long after its connection began, or after the last response on it; and a
    /// client that takes nothing of what is sent for so long has gone.
    pub patience: Duration,
}

/// Serves until the server closes, and then until all that was asked is answered.
pub async fn serve(listener: TcpListener, router: Router, limits: Limits, closing: Closing) {
    let Limits { places, patience } = limits;
    let descriptors = getrlimit(Resource::Nofile).current.map_or(usize::MAX, |most| most as usize);
    let most = descriptors.saturating_sub(OTHER_DESCRIPTORS).max(1).min(places.saturating_add(SPARE_CONNECTIONS));
    let most = most.min(u32::MAX as usize >> 1);
    let lines = Arc::new(Lines { open: Mutex::default(), places: Arc::new(Semaphore::new(most)), most });
    let clock = Instant::now();
    for id in 0_u64.. {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = closing.wait() => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Of a client that has gone already nothing is left; anything else may pass.
                if !matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) {
                    time::sleep(REST).await;
                }
                continue;
            }
        };
        let Some(place) = lines.place().await else {
            // Whether it is heard or not, this connection ends here.
            let _ = stream.try_write(FULL.as_bytes());
            continue;
        };
        // A token is a few bytes, and is wanted at once.
        let _ = stream.set_nodelay(true);
        let line = Arc::new(Line::new(clock));
        let stream = Watched { stream, line: Arc::clone(&line), patience, stalled: None };
        let work = connection(stream, router.clone(), closing.clone());
        let ended = End { lines: Arc::clone(&lines), id, place: Some(place) };
        // Locked, so that it is in the list before it ends.
        let mut open = lines.lock();
        let task = tokio::spawn(async move {
            let _ended = ended;
            work.await;
        });
        open.insert(id, (line, task.abort_handle()));
    }
    drop(listener);
    let most = u32::try_from(lines.most).expect("it is below");
    let _ = lines.places.acquire_many(most).await;
}

/// Takes a connection off the list when its task is dropped.
struct End {
    lines: Arc<Lines>,
    id: u64,
    place: Option<OwnedSemaphorePermit>,
}

impl Drop for End {
    fn drop(&mut self) {
        drop(self.lines.lock().remove(&self.id));
        drop(self.place.take());
    }
}

async fn connection(stream: Watched, router: Router, closing: Closing) {
    let (line, patience) = (Arc::clone(&stream.line), stream.patience);
    let answering = Arc::clone(&line);
    let service = service_fn(move |request: Request<Incoming>| {
        let (line, mut router) = (Arc::clone(&answering), router.clone());
        line.is_asked.store(true, Relaxed);
        line.awaits_server();
        async move {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(Arc::clone(&line));
            let response = router.call(request).await?;
            Ok::<_, Infallible>(response.map(|body| Sent { body, line }))
        }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(patience).max_buf_size(MOST_BUFFERED);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        // A client that breaks off is nobody's mistake here.
        _ = connection.as_mut() => return,
        () = closing.wait() => {}
    }
    // What has begun is finished; a request of which the head is not there yet has not.
    if !line.is_idle() {
        connection.as_mut().graceful_shutdown();
        let _ = connection.await;
    }
}

/// The body of a response: when all of it is sent, its client is to send the next request.
struct Sent {
    body: Body,
    line: Arc<Line>,
}

impl HttpBody for Sent {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        self.line.is_asked.store(false, Relaxed);
        self.line.awaits_client();
    }
}

/// A stream that fails when its client takes nothing for too long.
struct Watched {
    stream: TcpStream,
    line: Arc<Line>,
    patience: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Watched {
    fn watch<T>(&mut self, written: Poll<io::Result<T>>, context: &mut Context) -> Poll<io::Result<T>> {
        if written.is_ready() {
            if self.stalled.take().is_some() {
                self.line.response.store(0, Relaxed);
            }
            return written;
        }
        let stalled = self.stalled.get_or_insert_with(|| {
            self.line.response.store(self.line.now(), Relaxed);
            Box::pin(time::sleep(self.patience))
        });
        match stalled.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context, to: &mut ReadBuf) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, to)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.watch(written, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context,
        parts: &[io::IoSlice],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, parts);
        self.watch(written, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_refusal_has_the_length_it_says() {
        let (head, body) = FULL.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{}", body.len());
        assert!(serde_json::from_str::<serde_json::Value>(body).is_ok());
    }
}
