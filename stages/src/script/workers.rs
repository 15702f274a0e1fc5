//! Threads that do pieces of work which may never end: they are given up then, and not waited for.
//! Knows nothing of what the work is.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use engine::Cancel;

use super::{
    memory,
    sandbox::{self, Limits},
};

/// Why not every piece of work has a result.
#[derive(Debug)]
pub(super) enum Stopped<E> {
    /// The first piece, by its index, that gave an error.
    Failed {
        index: usize,
        error: E,
    },
    /// A piece that could not be ended from inside.
    GivenUp {
        index: usize,
        why: String,
    },
    Cancelled,
}

/// How often a thread that waits looks at the ones it waits for.
const GLANCE: Duration = Duration::from_millis(20);
/// How long work has to end after it was cancelled.
const GRACE: Duration = Duration::from_secs(1);
/// An array may nest as deep as it may be long, and is dropped and measured by recursion: that takes more than the
/// usual two megabytes. Only what is touched is ever real memory.
const STACK_BYTES: usize = 256 << 20;

/// Does `work` for every index below `count` on as many threads as there are cores; the results are in order.
///
/// The threads share nothing with the caller but `work`, so that one which never ends can be left behind.
pub(super) fn run<R, E>(
    count: usize,
    limits: &Limits,
    cancel: &Cancel,
    work: impl Fn(usize) -> Result<R, E> + Send + Sync + 'static,
) -> Result<Vec<R>, Stopped<E>>
where
    R: Send + 'static,
    E: Send + 'static,
{
    let batch = Arc::new(Batch { count, work, next: AtomicUsize::new(0), failed: AtomicUsize::new(usize::MAX) });
    let (sender, receiver) = mpsc::channel();
    let began = Instant::now();
    let mut places = Vec::new();
    for number in 0..rayon::current_num_threads().min(count) {
        let here = Arc::new(Place::default());
        let (batch, place, sender) = (Arc::clone(&batch), Arc::clone(&here), sender.clone());
        let (limits, cancel) = (limits.clone(), cancel.clone());
        let work = move || {
            let done = batch.work_through(&place, &limits, &cancel, began);
            // Nobody listens any more where this thread was given up.
            let _ = sender.send(done);
        };
        let thread = thread::Builder::new().name(format!("script-{number}")).stack_size(STACK_BYTES);
        match thread.spawn(work) {
            Ok(_) => places.push(here),
            Err(error) if places.is_empty() => {
                return Err(Stopped::GivenUp { index: 0, why: format!("given up: no thread can be started: {error}") });
            }
            // Fewer do as well.
            Err(_) => break,
        }
    }
    drop(sender);

    let mut results: Vec<Option<Result<R, E>>> = (0..count).map(|_| None).collect();
    let (mut left, mut cancelled_at) = (places.len(), None);
    while left > 0 {
        match receiver.recv_timeout(GLANCE) {
            Ok(done) => {
                left -= 1;
                for (index, result) in done {
                    results[index] = Some(result);
                }
            }
            Err(RecvTimeoutError::Timeout) => {
                if let Some((index, why)) = places.iter().find_map(|place| place.stuck(limits, began)) {
                    batch.next.store(count, Relaxed);
                    return Err(Stopped::GivenUp { index, why });
                }
                if cancel.is_cancelled() && cancelled_at.get_or_insert_with(Instant::now).elapsed() > GRACE {
                    return Err(Stopped::Cancelled);
                }
            }
            Err(RecvTimeoutError::Disconnected) => unreachable!("a thread catches what panics in it, and then sends"),
        }
    }
    let is_whole = results.iter().all(|result| matches!(result, Some(Ok(_))));
    if !is_whole && cancel.is_cancelled() {
        return Err(Stopped::Cancelled);
    }
    let in_order = results.into_iter().enumerate().map(|(index, result)| {
        let result = result.expect("every index before a failed one was worked on");
        result.map_err(|error| Stopped::Failed { index, error })
    });
    in_order.collect()
}

/// What the threads share.
struct Batch<F> {
    count: usize,
    work: F,
    /// The next index that nobody has taken.
    next: AtomicUsize,
    /// The lowest index that failed: no later one is begun.
    failed: AtomicUsize,
}

impl<F> Batch<F> {
    fn work_through<R, E>(
        &self,
        place: &Place,
        limits: &Limits,
        cancel: &Cancel,
        began: Instant,
    ) -> Vec<(usize, Result<R, E>)>
    where
        F: Fn(usize) -> Result<R, E>,
    {
        let mut done = Vec::new();
        while !cancel.is_cancelled() {
            let index = self.next.fetch_add(1, Relaxed);
            if index >= self.count || index > self.failed.load(Relaxed) {
                break;
            }
            place.index.store(index, Relaxed);
            place.since_ms.store(1 + elapsed_ms(began), Relaxed);
            let work = || sandbox::timed(limits, || (self.work)(index));
            let result = memory::within(limits.wall_bytes(), &place.is_over, work);
            place.since_ms.store(0, Relaxed);
            if result.is_err() {
                self.failed.fetch_min(index, Relaxed);
            }
            done.push((index, result));
        }
        done
    }
}

/// What one thread is at.
#[derive(Default)]
struct Place {
    index: AtomicUsize,
    /// When it began, in milliseconds and from one; zero between two pieces of work.
    since_ms: AtomicU64,
    /// It asked for more memory than there is for it.
    is_over: AtomicBool,
}

impl Place {
    /// The work that this thread will not come back from, and why.
    fn stuck(&self, limits: &Limits, began: Instant) -> Option<(usize, String)> {
        let index = self.index.load(Relaxed);
        if self.is_over.load(Relaxed) {
            let most = limits.wall_bytes() >> 20;
            return Some((index, format!("given up: one step of it asked for more than {most} MiB of memory")));
        }
        let since_ms = self.since_ms.load(Relaxed).checked_sub(1)?;
        let seconds = Duration::from_millis(elapsed_ms(began).saturating_sub(since_ms));
        let most = limits.give_up();
        (seconds > most)
            .then(|| (index, format!("given up after {} seconds: one step of it does not end", most.as_secs_f64())))
    }
}

fn elapsed_ms(began: Instant) -> u64 {
    u64::try_from(began.elapsed().as_millis()).expect("no run takes so long")
}
