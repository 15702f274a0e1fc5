//! The bodies of requests: each has a limit of bytes and of time, and those of all requests one together.
//! Knows nothing of what they say.

use std::{future::poll_fn, pin::Pin, sync::Arc, time::Duration};

use axum::{
    body::{Body, HttpBody as _},
    extract::Request,
    http::{StatusCode, header},
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time,
};

use super::{
    connections::{Closing, Line},
    fault::Fault,
};

/// Bytes of a request: a prompt that fills a context of a million tokens is smaller.
const MOST_BYTES: usize = 8 << 20;
/// Bytes of a request that are read without asking: most requests are smaller, and wait for no large one.
const FREE_BYTES: usize = 64 << 10;
/// Bytes of all larger requests that come or are being answered. What is made of a byte takes up to four more.
const MOST_BYTES_TOGETHER: usize = 32 << 20;
/// How long a larger request waits for others to be answered.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// The bytes that all bodies together may have.
#[derive(Debug)]
pub struct Allowance {
    bytes: Arc<Semaphore>,
    /// Larger requests are parsed and encoded one at a time.
    turn: Arc<Semaphore>,
    /// How long a client may take to send so much as is read of a request at once.
    patience: Duration,
}

/// A body with its part of the allowance, given back when what was made of it is no longer needed.
#[derive(Debug)]
pub struct Taken {
    pub bytes: Vec<u8>,
    pub part: Part,
}

#[derive(Debug)]
pub struct Part(#[expect(dead_code, reason = "held until it is dropped")] Option<OwnedSemaphorePermit>);

impl Allowance {
    pub fn new(patience: Duration) -> Self {
        let (bytes, turn) = (Arc::new(Semaphore::new(MOST_BYTES_TOGETHER)), Arc::new(Semaphore::new(1)));
        Self { bytes, turn, patience }
    }

    /// When the body may be parsed and encoded: at once, or in its turn where that takes much memory.
    pub async fn turn(&self, taken: &Taken) -> Option<OwnedSemaphorePermit> {
        if taken.bytes.len() <= FREE_BYTES {
            return None;
        }
        Some(Arc::clone(&self.turn).acquire_owned().await.expect("it is never closed"))
    }

    /// The body of a request, once all of it has come.
    ///
    /// # Errors
    /// When it is too large, too slow or malformed, when there are too many others, or when the server closes.
    pub async fn take(&self, request: Request, line: &Line, closing: &Closing) -> Result<Taken, Fault> {
        line.awaits_client();
        let taken = tokio::select! {
            taken = self.read(request) => taken,
            () = closing.wait() => Err(Fault::new(StatusCode::SERVICE_UNAVAILABLE, "the server is shutting down")),
        };
        line.awaits_server();
        taken
    }

    async fn read(&self, request: Request) -> Result<Taken, Fault> {
        let too_large = || {
            let message = format!("the request is larger than {MOST_BYTES} bytes");
            Fault::new(StatusCode::PAYLOAD_TOO_LARGE, message)
        };
        let length = request.headers().get(header::CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
        if length.is_some_and(|length| length > MOST_BYTES) {
            return Err(too_large());
        }
        let mut body = request.into_body();
        let mut bytes = Vec::new();
        if self.fill(&mut bytes, &mut body, FREE_BYTES).await? {
            return Ok(Taken { bytes, part: Part(None) });
        }
        // All of it at once: requests that wait for each other's rest would wait for ever.
        let most = length.unwrap_or(MOST_BYTES).max(bytes.len());
        let part = self.part(most).await?;
        bytes.reserve_exact(most - bytes.len());
        if self.fill(&mut bytes, &mut body, most).await? {
            return Ok(Taken { bytes, part: Part(Some(part)) });
        }
        Err(too_large())
    }

    /// Reads on until all of the body is there, or more than `most` bytes are: whether it is all.
    async fn fill(&self, bytes: &mut Vec<u8>, body: &mut Body, most: usize) -> Result<bool, Fault> {
        let filled = async {
            while bytes.len() <= most {
                let frame = poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await;
                let Some(frame) = frame else { return Ok(true) };
                // Or the client has gone, and then nobody reads this.
                let broken =
                    |_| Fault::new(StatusCode::BAD_REQUEST, "the body ends early, or its chunks are malformed");
                // Trailers say nothing here.
                if let Ok(piece) = frame.map_err(broken)?.into_data() {
                    bytes.extend_from_slice(&piece);
                }
            }
            Ok(false)
        };
        let late = |_| Fault::new(StatusCode::REQUEST_TIMEOUT, "the request took too long to arrive");
        time::timeout(self.patience, filled).await.map_err(late)?
    }

    async fn part(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Fault> {
        let bytes = u32::try_from(bytes).expect("it is no more than a request may have");
        let part = time::timeout(LONGEST_WAIT, Arc::clone(&self.bytes).acquire_many_owned(bytes)).await;
        let part = part.map_err(|_| {
            let message = format!(
                "the large requests that are being answered have {MOST_BYTES_TOGETHER} bytes; ask again in a moment"
            );
            Fault::new(StatusCode::SERVICE_UNAVAILABLE, message).with_code("too_many_bytes")
        })?;
        Ok(part.expect("it is never closed"))
    }
}
