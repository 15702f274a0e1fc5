//! Keys and values of growing sequences, in pages that a sequence takes as it grows and gives back when it ends.
//! Knows nothing of how they are computed, or of which token comes next.
//!
//! Memory follows what is held: a sequence of `n` tokens holds `ceil(n / PAGE)` pages, and sequences that begin alike
//! share the pages that are full. Coming and going moves nobody else.

use std::sync::Arc;

use burn::tensor::{DType, Device, Tensor};

use super::{config::Config, precision::Precision};
use crate::kernels::{self, KeyValue, PAGE, Seen};

/// The pages of all sequences, in every layer.
#[derive(Debug)]
pub struct Cache {
    /// Empty before the first page is asked for.
    layers: Vec<KeyValue>,
    count: usize,
    /// Channels of a key, and of a value.
    width: usize,
    device: Device,
    precision: Precision,
    /// By page: how many sequences hold it.
    holders: Vec<u32>,
    free: Vec<usize>,
}

/// What one sequence holds of a cache. [`Cache::release`] gives it back.
#[derive(Debug, Default)]
pub struct Held {
    pages: Vec<usize>,
    length: usize,
}

impl Held {
    /// Tokens whose keys and values are held.
    #[must_use]
    pub fn length(&self) -> usize {
        self.length
    }
}

impl Cache {
    #[must_use]
    pub fn new(config: &Config, device: Device, precision: Precision) -> Self {
        Self {
            layers: Vec::new(),
            count: config.num_hidden_layers,
            width: config.num_key_value_heads * config.head_dim,
            device,
            precision,
            holders: Vec::new(),
            free: Vec::new(),
        }
    }

    /// Pages that are held, and pages there are.
    #[must_use]
    pub fn pages(&self) -> [usize; 2] {
        [self.holders.len() - self.free.len(), self.holders.len()]
    }

    /// Makes room for `tokens` more of a sequence, and adds their places to `places`.
    pub fn extend(&mut self, held: &mut Held, tokens: usize, places: &mut Vec<usize>) {
        let length = held.length + tokens;
        while held.pages.len() * PAGE < length {
            held.pages.push(self.take());
        }
        places.extend((held.length..length).map(|at| held.pages[at / PAGE] * PAGE + at % PAGE));
        held.length = length;
    }

    /// Adds what the newest token of a sequence attends to.
    pub fn see(&self, held: &Held, seen: &mut Seen) {
        seen.push(&held.pages, held.length);
    }

    /// `count` sequences that begin as this one: its full pages are shared, a page begun is copied.
    pub fn fork(&mut self, held: &Held, count: usize) -> Vec<Held> {
        let full = held.length / PAGE;
        let (mut from, mut to) = (Vec::new(), Vec::new());
        let forks = (0..count)
            .map(|_| {
                let mut pages = held.pages[..full].to_vec();
                for page in &pages {
                    self.holders[*page] += 1;
                }
                for begun in &held.pages[full..] {
                    let page = self.take();
                    from.push(*begun);
                    to.push(page);
                    pages.push(page);
                }
                Held { pages, length: held.length }
            })
            .collect();
        if !from.is_empty() {
            let (from, to) = (Arc::new(from), Arc::new(to));
            for layer in 0..self.layers.len() {
                let pages = self.lift(layer);
                self.layers[layer] = kernels::paged_copy(pages, &from, &to);
            }
        }
        forks
    }

    pub fn release(&mut self, held: Held) {
        for page in held.pages {
            self.holders[page] -= 1;
            if self.holders[page] == 0 {
                self.free.push(page);
            }
        }
        if self.free.len() == self.holders.len() {
            // Nothing is held: the memory goes back.
            self.layers.clear();
            self.holders.clear();
            self.free.clear();
        }
    }

    /// Writes keys and values `[tokens, kv_width]` of one layer at their places.
    pub(super) fn write(&mut self, layer: usize, keys: Tensor<2>, values: Tensor<2>, places: &Arc<Vec<usize>>) {
        let pages = self.lift(layer);
        self.layers[layer] = kernels::paged_write(keys, values, pages, places);
    }

    pub(super) fn layer(&self, layer: usize) -> &KeyValue {
        &self.layers[layer]
    }

    /// A layer's pages, taken out while they are written: a second holder would turn the write into a copy of them all.
    fn lift(&mut self, layer: usize) -> KeyValue {
        let nothing = || Tensor::zeros([1, 1], &self.device);
        let nothing = KeyValue { keys: nothing(), values: nothing() };
        std::mem::replace(&mut self.layers[layer], nothing)
    }

    /// A page that nobody holds.
    fn take(&mut self) -> usize {
        if self.free.is_empty() {
            self.grow();
        }
        let page = self.free.pop().expect("it has just grown");
        self.holders[page] = 1;
        page
    }

    /// Layer by layer, so that only one is held twice.
    fn grow(&mut self) {
        let before = self.holders.len();
        let more = more(before);
        let dtype = DType::from(self.precision.dtype());
        let blank = || Tensor::zeros([more, PAGE * self.width], (&self.device, dtype));
        if self.layers.is_empty() {
            self.layers = (0..self.count).map(|_| KeyValue { keys: blank(), values: blank() }).collect();
        } else {
            for layer in &mut self.layers {
                layer.keys = Tensor::cat(vec![layer.keys.clone(), blank()], 0);
                layer.values = Tensor::cat(vec![layer.values.clone(), blank()], 0);
            }
        }
        self.holders.resize(before + more, 0);
        self.free.extend((before..before + more).rev());
    }
}

/// Pages that are added to so many: half of them, so that a page is moved thrice at most on average. Fewer would come more
/// often, several times between two tokens of sequences that grow together, and what each move leaves goes back late.
fn more(pages: usize) -> usize {
    (pages / 2).max(16)
}

/// The pages there are once so many are held at a time.
#[must_use]
pub(crate) fn grown(held: usize) -> usize {
    let mut pages = 0;
    while pages < held {
        pages += more(pages);
    }
    pages
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::shape::Shape;

    fn cache() -> Cache {
        let mut shape = Shape { layers: 2, hidden: 16, heads: 2, context: 64, ..Shape::default() };
        shape.resolve();
        Cache::new(&shape.config(9).unwrap(), Device::flex(), Precision::F32)
    }

    fn held(cache: &mut Cache, tokens: usize) -> Held {
        let mut held = Held::default();
        cache.extend(&mut held, tokens, &mut Vec::new());
        held
    }

    #[test]
    fn a_sequence_holds_the_pages_it_needs_and_gives_them_back() {
        let mut cache = cache();
        let (short, long) = (held(&mut cache, 1), held(&mut cache, PAGE * 3 + 1));
        assert_eq!(cache.pages()[0], 1 + 4);
        cache.release(long);
        assert_eq!(cache.pages()[0], 1);
        cache.release(short);
        assert_eq!(cache.pages(), [0, 0], "and the memory with them");
    }

    #[test]
    fn there_are_as_many_pages_as_foreseen() {
        for tokens in [1, PAGE * 16, PAGE * 16 + 1, PAGE * 1000] {
            let mut cache = cache();
            let held = held(&mut cache, tokens);
            let [taken, there] = cache.pages();
            assert_eq!(there, grown(taken));
            assert!(there <= taken + (taken / 2).max(16), "{there} for {taken}");
            cache.release(held);
        }
    }

    #[test]
    fn sequences_that_begin_alike_share_what_is_full() {
        let mut cache = cache();
        let prompt = held(&mut cache, PAGE * 4 + 3);
        let mut forks = cache.fork(&prompt, 8);
        assert_eq!(cache.pages()[0], 5 + 8, "the page begun is each one's own");
        let mut places = Vec::new();
        for fork in &mut forks {
            cache.extend(fork, 1, &mut places);
        }
        places.sort_unstable();
        places.dedup();
        assert_eq!(places.len(), 8, "none writes where another does");
        cache.release(prompt);
        for fork in forks {
            assert!(cache.pages()[0] >= 5);
            cache.release(fork);
        }
        assert_eq!(cache.pages()[0], 0);
    }

    #[test]
    fn a_page_is_never_in_two_hands() {
        let mut cache = cache();
        let mut places = Vec::new();
        let mut all: Vec<Held> = (0..5).map(|_| Held::default()).collect();
        for round in 0..300 {
            let at = round * 7 % 5;
            if round % 11 == 0 {
                cache.release(std::mem::take(&mut all[at]));
            }
            cache.extend(&mut all[at], round % 4, &mut places);
            let mut pages: Vec<usize> = all.iter().flat_map(|held| held.pages.clone()).collect();
            let count = pages.len();
            pages.sort_unstable();
            pages.dedup();
            assert_eq!((pages.len(), cache.pages()[0]), (count, count));
        }
    }
}
