//! The thread that owns the model: it takes what was asked, step by step, and sends every piece to whoever asked.
//! Knows nothing of HTTP.

use std::{
    collections::BTreeMap,
    future::poll_fn,
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
        mpsc::{Receiver, Sender, channel},
    },
    task::{Context, Poll, ready},
    thread::{self, JoinHandle},
};

use stages::{
    answer::{Desk, Id, Piece, Question, Scribe, Word},
    nn::decoder::Decoder,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// What is said to whoever asked: a piece of an answer to the prompt of this index.
#[derive(Debug)]
pub struct Said {
    pub prompt: usize,
    pub piece: Piece,
}

/// What whoever asked listens to; an error, which is a sentence, ends it.
#[derive(Debug)]
pub struct Answers {
    said: mpsc::UnboundedReceiver<Result<Said, String>>,
    unread: Arc<Unread>,
}

impl Answers {
    pub async fn recv(&mut self) -> Option<Result<Said, String>> {
        poll_fn(|context| self.poll_recv(context)).await
    }

    pub fn poll_recv(&mut self, context: &mut Context) -> Poll<Option<Result<Said, String>>> {
        let said = ready!(self.said.poll_recv(context));
        if let Some(Ok(said)) = &said {
            self.unread.add(size(said).wrapping_neg());
        }
        Poll::Ready(said)
    }
}

/// Bytes of what was said to a client and not yet taken over by its connection, which takes no more than it can send.
const MOST_UNREAD: usize = 1 << 20;
/// The same of all clients together. Beyond it, whoever leaves more than [`FEW_UNREAD`] bytes unread is given up.
const MOST_UNREAD_TOGETHER: usize = 32 << 20;
const FEW_UNREAD: usize = 64 << 10;

/// Bytes that wait for a client.
#[derive(Debug)]
struct Unread {
    own: AtomicUsize,
    all: Arc<AtomicUsize>,
}

impl Unread {
    /// Is it too much then?
    fn add(&self, bytes: usize) -> bool {
        // Wraps around where bytes are taken off.
        let own = self.own.fetch_add(bytes, Relaxed).wrapping_add(bytes);
        let all = self.all.fetch_add(bytes, Relaxed).wrapping_add(bytes);
        own > MOST_UNREAD || (all > MOST_UNREAD_TOGETHER && own > FEW_UNREAD)
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        self.all.fetch_sub(*self.own.get_mut(), Relaxed);
    }
}

/// Bytes of memory.
fn size(said: &Said) -> usize {
    let Piece { text, words, .. } = &said.piece;
    let words = words.iter().map(|word| size_of::<Word>() + size_of_val(&word.top[..]));
    size_of::<Said>() + text.len() + words.sum::<usize>()
}

/// Where questions wait. Every answer has a place from being asked to its end; when none is left, none is taken.
#[derive(Debug)]
pub struct Queue {
    orders: Sender<Order>,
    places: Arc<Semaphore>,
    size: usize,
    unread: Arc<AtomicUsize>,
    pub counts: Arc<Counts>,
}

/// How many answers at once.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// That grow.
    pub slots: usize,
    /// That wait.
    pub queue: usize,
}

impl Size {
    /// Both together.
    pub fn places(self) -> usize {
        self.slots.saturating_add(self.queue).min(Semaphore::MAX_PERMITS)
    }
}

/// What has happened since the start, and what is happening now.
#[derive(Debug, Default)]
pub struct Counts {
    pub growing: AtomicUsize,
    pub waiting: AtomicUsize,
    pub tokens: AtomicU64,
    pub prompt_tokens: AtomicU64,
    pub answers: AtomicU64,
}

/// Everything of one request.
struct Order {
    questions: Vec<Question>,
    places: OwnedSemaphorePermit,
    reply: Reply,
}

#[derive(Debug)]
struct Reply {
    said: mpsc::UnboundedSender<Result<Said, String>>,
    unread: Arc<Unread>,
}

impl Reply {
    fn fail(&self, why: String) {
        // Who has left does not hear it.
        let _ = self.said.send(Err(why));
    }
}

/// Why a request was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// More answers than would ever fit.
    TooMany { places: usize },
    /// So many places are taken at the moment.
    Full { places: usize },
    /// The thread is gone.
    Over,
}

impl Queue {
    /// Starts the thread; it ends when the queue is dropped, or when the model fails.
    pub fn start(decoder: Decoder, scribe: Scribe, size: Size) -> io::Result<(Self, JoinHandle<anyhow::Result<()>>)> {
        let (orders, taken) = channel();
        let counts = Arc::new(Counts::default());
        let told = Arc::clone(&counts);
        let work = move || {
            let desk = Desk::new(&decoder, scribe, size.slots);
            Clerk { desk, counts: told, open: Vec::new() }.serve(&taken)
        };
        let thread = thread::Builder::new().name("decoding".into()).spawn(work)?;
        let size = size.places();
        let unread = Arc::default();
        Ok((Self { orders, places: Arc::new(Semaphore::new(size)), size, unread, counts }, thread))
    }

    /// Takes the questions of a request, or says at once that there is no room for them. What is received ends when the
    /// last answer has; dropping the receiver cancels those that have not.
    pub fn ask(&self, questions: Vec<Question>) -> Result<Answers, Refusal> {
        let answers: usize = questions.iter().map(|question| question.samples).sum();
        let wanted = u32::try_from(answers).ok().filter(|_| answers <= self.size);
        let wanted = wanted.ok_or(Refusal::TooMany { places: self.size })?;
        let places = Arc::clone(&self.places).try_acquire_many_owned(wanted);
        let places = places.map_err(|_| Refusal::Full { places: self.size })?;
        let (saying, said) = mpsc::unbounded_channel();
        let unread = Arc::new(Unread { own: AtomicUsize::new(0), all: Arc::clone(&self.unread) });
        let reply = Reply { said: saying, unread: Arc::clone(&unread) };
        self.orders.send(Order { questions, places, reply }).map_err(|_| Refusal::Over)?;
        Ok(Answers { said, unread })
    }
}

/// A request whose answers grow.
struct Open {
    /// The prompt's index by its question.
    prompts: BTreeMap<Id, usize>,
    /// Answers that have not ended.
    left: usize,
    places: OwnedSemaphorePermit,
    reply: Reply,
    /// Its client leaves too much unread.
    is_too_slow: bool,
}

/// Who stands between the desk and those who ask.
struct Clerk<'a> {
    desk: Desk<'a>,
    counts: Arc<Counts>,
    open: Vec<Open>,
}

impl Clerk<'_> {
    fn serve(mut self, orders: &Receiver<Order>) -> anyhow::Result<()> {
        loop {
            if self.open.is_empty() {
                self.tell_load();
                // Nothing to do: sleeps until something is asked, or nobody can ask any more.
                let Ok(order) = orders.recv() else { return Ok(()) };
                self.take(order);
            }
            while let Ok(order) = orders.try_recv() {
                self.take(order);
            }
            self.forget_who_left();
            if !self.open.is_empty() {
                self.step()?;
            }
        }
    }

    fn take(&mut self, Order { questions, places, reply }: Order) {
        let left = questions.iter().map(|question| question.samples).sum();
        let tokens: usize = questions.iter().map(|question| question.prompt.len()).sum();
        self.counts.prompt_tokens.fetch_add(tokens as u64, Relaxed);
        let mut prompts = BTreeMap::new();
        for (index, question) in questions.into_iter().enumerate() {
            match self.desk.ask(question) {
                Ok(id) => drop(prompts.insert(id, index)),
                Err(error) => {
                    for id in prompts.keys() {
                        self.desk.cancel(*id);
                    }
                    reply.fail(format!("{error:#}"));
                    return;
                }
            }
        }
        self.open.push(Open { prompts, left, places, reply, is_too_slow: false });
    }

    fn forget_who_left(&mut self) {
        self.open.retain(|request| {
            let is_wanted = !request.reply.said.is_closed() && !request.is_too_slow;
            if !is_wanted {
                for id in request.prompts.keys() {
                    self.desk.cancel(*id);
                }
            }
            is_wanted
        });
    }

    fn step(&mut self) -> anyhow::Result<()> {
        let pieces = self.desk.step()?;
        self.tell_load();
        for piece in pieces {
            let at = self.open.iter().position(|request| request.prompts.contains_key(&piece.id));
            let at = at.expect("the desk was told of whoever left");
            let request = &mut self.open[at];
            let prompt = request.prompts[&piece.id];
            let end = piece.end;
            if request.is_too_slow {
                continue;
            }
            let said = Said { prompt, piece };
            request.is_too_slow = request.reply.unread.add(size(&said));
            // Whoever has left is seen before the next step, and so is whoever does not read.
            let _ = request.reply.said.send(Ok(said));
            if request.is_too_slow {
                request.reply.fail("the answers are not read as they come".into());
                continue;
            }
            let Some(end) = end else { continue };
            self.counts.answers.fetch_add(1, Relaxed);
            self.counts.tokens.fetch_add(end.tokens as u64, Relaxed);
            drop(request.places.split(1));
            request.left -= 1;
            if request.left == 0 {
                self.open.swap_remove(at);
            }
        }
        Ok(())
    }

    fn tell_load(&self) {
        let (growing, waiting) = self.desk.load();
        self.counts.growing.store(growing, Relaxed);
        self.counts.waiting.store(waiting, Relaxed);
    }
}
