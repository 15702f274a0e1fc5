//! Work of somebody else's making, such as scripts and templates: bounded in memory, and given up where it does not end.
//! Knows nothing of what the work is.

pub mod memory;

use std::{
    mem,
    sync::{
        Arc,
        atomic::{
            AtomicBool, AtomicU8, AtomicU64, AtomicUsize,
            Ordering::{AcqRel, Acquire, Relaxed, Release},
        },
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use engine::Cancel;

/// What a piece of work may take at most.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Bytes that it may hold: an allocation beyond them never returns.
    pub memory_bytes: usize,
    /// Time after which it is taken not to end.
    pub time: Duration,
    /// Addresses for its stack: only what is touched is ever real memory.
    pub stack_bytes: usize,
}

/// Why not every piece of work has a result.
#[derive(Debug)]
pub enum Stopped<E> {
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

/// Does the work of every index below `count` on as many threads as there are cores; the results are in order.
///
/// `prepare` makes what `work` is given, and may borrow from the caller. `work` borrows nothing, so that a thread which
/// never comes back from it can be left behind. Memory is bounded where [`memory::Counted`] is the program's allocator.
///
/// # Errors
/// The first error of `work` in order, or that a piece of it was given up, or that `cancel` was asked for meanwhile.
pub fn run<P, R, E>(
    count: usize,
    bounds: Bounds,
    cancel: &Cancel,
    prepare: &(dyn Fn(usize) -> P + Sync),
    work: impl Fn(P) -> Result<R, E> + Send + Sync + 'static,
) -> Result<Vec<R>, Stopped<E>>
where
    P: 'static,
    R: Send + 'static,
    E: Send + 'static,
{
    // SAFETY: only the lifetime is another one. A thread calls it while its place is `OUTSIDE` and never after that is
    // `LEFT`, and `Leave` does not let this function end before no place is `OUTSIDE`.
    let prepare = unsafe {
        mem::transmute::<&(dyn Fn(usize) -> P + Sync), &'static (dyn Fn(usize) -> P + Sync + 'static)>(prepare)
    };
    let (next, failed) = (AtomicUsize::new(0), AtomicUsize::new(usize::MAX));
    let batch = Arc::new(Batch { count, prepare, work, next, failed });
    let (sender, receiver) = mpsc::channel();
    let began = Instant::now();
    let mut threads = Leave { next: &batch.next, count, places: Vec::new() };
    for number in 0..rayon::current_num_threads().min(count) {
        let place = Arc::new(Place::default());
        threads.places.push(Arc::clone(&place));
        let (batch, sender) = (Arc::clone(&batch), sender.clone());
        let cancel = cancel.clone();
        let work = move || {
            let done = batch.work_through(&place, bounds, &cancel, began);
            // Nobody listens any more where this thread was left behind.
            let _ = sender.send(done);
        };
        let thread = thread::Builder::new().name(format!("bounded-{number}")).stack_size(bounds.stack_bytes);
        if let Err(error) = thread.spawn(work) {
            threads.places.pop();
            // Fewer do as well.
            if threads.places.is_empty() {
                return Err(Stopped::GivenUp { index: 0, why: format!("given up: no thread can be started: {error}") });
            }
            break;
        }
    }
    drop(sender);

    let mut results: Vec<Option<Result<R, E>>> = (0..count).map(|_| None).collect();
    let (mut left, mut cancelled_at) = (threads.places.len(), None);
    while left > 0 {
        match receiver.recv_timeout(GLANCE) {
            Ok(done) => {
                left -= 1;
                for (index, result) in done {
                    results[index] = Some(result);
                }
            }
            Err(RecvTimeoutError::Timeout) => {
                if let Some((index, why)) = threads.places.iter().find_map(|place| place.stuck(bounds, began)) {
                    return Err(Stopped::GivenUp { index, why });
                }
                if cancel.is_cancelled() && cancelled_at.get_or_insert_with(Instant::now).elapsed() > GRACE {
                    return Err(Stopped::Cancelled);
                }
            }
            Err(RecvTimeoutError::Disconnected) => panic!("a thread ended without its results"),
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
struct Batch<P: 'static, F> {
    count: usize,
    prepare: &'static (dyn Fn(usize) -> P + Sync),
    work: F,
    /// The next index that nobody has taken.
    next: AtomicUsize,
    /// The lowest index that failed: no later one is begun.
    failed: AtomicUsize,
}

impl<P, F> Batch<P, F> {
    fn work_through<R, E>(
        &self,
        place: &Place,
        bounds: Bounds,
        cancel: &Cancel,
        began: Instant,
    ) -> Vec<(usize, Result<R, E>)>
    where
        F: Fn(P) -> Result<R, E>,
    {
        let _end = End(place);
        let mut done = Vec::new();
        while !cancel.is_cancelled() {
            let index = self.next.fetch_add(1, Relaxed);
            if index >= self.count || index > self.failed.load(Relaxed) {
                break;
            }
            let prepared = (self.prepare)(index);
            place.index.store(index, Relaxed);
            place.since_ms.store(1 + elapsed_ms(began), Relaxed);
            place.state.store(INSIDE, Release);
            let result = memory::within(bounds.memory_bytes, &place.is_over, || (self.work)(prepared));
            place.since_ms.store(0, Relaxed);
            if place.state.compare_exchange(INSIDE, OUTSIDE, AcqRel, Acquire).is_err() {
                break;
            }
            if result.is_err() {
                self.failed.fetch_min(index, Relaxed);
            }
            done.push((index, result));
        }
        done
    }
}

/// A thread that may be using what the caller lent.
const OUTSIDE: u8 = 0;
/// One that is in `work`, which uses nothing of the caller's.
const INSIDE: u8 = 1;
/// One that was left behind in there, and uses nothing of the caller's ever again.
const LEFT: u8 = 2;
/// One that has ended its loop.
const ENDED: u8 = 3;

/// What one thread is at.
#[derive(Default)]
struct Place {
    state: AtomicU8,
    index: AtomicUsize,
    /// When it began, in milliseconds and from one; zero between two pieces of work.
    since_ms: AtomicU64,
    /// It asked for more memory than there is for it.
    is_over: AtomicBool,
}

/// Says that a thread uses nothing of the caller's any more, also where it panicked.
struct End<'a>(&'a Place);

impl Drop for End<'_> {
    fn drop(&mut self) {
        let _ = self.0.state.compare_exchange(OUTSIDE, ENDED, AcqRel, Acquire);
    }
}

/// Leaves all threads behind that are still in `work`, and waits for the others.
struct Leave<'a> {
    next: &'a AtomicUsize,
    count: usize,
    places: Vec<Arc<Place>>,
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.next.store(self.count, Relaxed);
        for place in &self.places {
            // What a thread does outside of `work` is short: it comes in, or ends.
            while place.state.compare_exchange(INSIDE, LEFT, AcqRel, Acquire) == Err(OUTSIDE) {
                thread::yield_now();
            }
        }
    }
}

impl Place {
    /// The work that this thread will not come back from, and why.
    fn stuck(&self, bounds: Bounds, began: Instant) -> Option<(usize, String)> {
        let index = self.index.load(Relaxed);
        if self.is_over.load(Relaxed) {
            let most = bounds.memory_bytes >> 20;
            return Some((index, format!("given up: one step of it asked for more than {most} MiB of memory")));
        }
        let since_ms = self.since_ms.load(Relaxed).checked_sub(1)?;
        let took = Duration::from_millis(elapsed_ms(began).saturating_sub(since_ms));
        let most = bounds.time;
        (took > most)
            .then(|| (index, format!("given up after {} seconds: one step of it does not end", most.as_secs_f64())))
    }
}

fn elapsed_ms(began: Instant) -> u64 {
    u64::try_from(began.elapsed().as_millis()).expect("no run takes so long")
}
