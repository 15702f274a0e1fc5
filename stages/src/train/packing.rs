//! Which sequences lie together in a block of a fixed size. Nothing is cut and nothing padded: the block is a budget.
//! Knows lengths, no tokens.

use std::collections::{BTreeMap, VecDeque};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which rows share a step. Rows never see each other: attention and positions begin anew with each, and nothing is
/// padded, so packing changes which rows a step takes and nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Packing {
    /// As many as `batch` says, however long they are.
    #[default]
    None,
    /// Blocks of a fixed size (`max_tokens` in `sft`, `block` in `pretrain`) at most, filled by best-fit decreasing: the
    /// longest row first, each into the fullest block that still holds it. Blocks are the same in every epoch, their
    /// order is not. Recorded as `blocks` and `block_fill`.
    BestFit,
}

impl Packing {
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::None
    }

    /// Which sequences of these lengths go together: `batch` of such blocks make a step. And what is recorded of it.
    ///
    /// # Panics
    /// As [`best_fit`].
    #[must_use]
    pub fn blocks(self, lengths: &[usize], block: usize) -> (Vec<Vec<usize>>, Vec<(&'static str, f64)>) {
        match self {
            Self::None => ((0..lengths.len()).map(|i| vec![i]).collect(), Vec::new()),
            Self::BestFit => {
                let blocks = best_fit(lengths, block);
                let fill = lengths.iter().sum::<usize>() as f64 / (blocks.len() * block) as f64;
                let about = vec![("blocks", blocks.len() as f64), ("block_fill", fill)];
                (blocks, about)
            }
        }
    }
}

/// Best-fit decreasing, the blocks that TRL's `packing_strategy="bfd"` makes: the longest first, each into the block
/// with the least room that still holds it, a new block where none does. Equal lengths keep their order, and of blocks
/// with equal room the one that came to it first is taken. Indices into `lengths`, by block.
///
/// # Panics
/// When a length is more than `block`: what to do with it is the caller's rule.
#[must_use]
pub fn best_fit(lengths: &[usize], block: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|i| std::cmp::Reverse(lengths[*i]));
    let mut blocks: Vec<Vec<usize>> = Vec::new();
    // Blocks by the room that is left in them.
    let mut open: BTreeMap<usize, VecDeque<usize>> = BTreeMap::new();
    for i in order {
        let length = lengths[i];
        assert!(length <= block, "a sequence of {length} in a block of {block}");
        let room = open.range(length..).next().map_or(block, |(room, _)| *room);
        let waiting = open.get_mut(&room).and_then(VecDeque::pop_front);
        let at = waiting.unwrap_or_else(|| {
            blocks.push(Vec::new());
            blocks.len() - 1
        });
        if open.get(&room).is_some_and(VecDeque::is_empty) {
            open.remove(&room);
        }
        blocks[at].push(i);
        // A full block is no place even for a sequence of no tokens.
        if room > length {
            open.entry(room - length).or_default().push_back(at);
        }
    }
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        bench::{fixture, json_of},
        random::Stream,
    };

    #[test]
    fn the_longest_come_first_and_go_where_the_least_room_is() {
        // TRL's own example, where row 0 was cut from five tokens to four.
        assert_eq!(best_fit(&[4, 2, 3, 1], 4), [vec![0], vec![2, 3], vec![1]]);
        // 7 leaves 3, 6 leaves 4: the 3 goes to the former, not to the first that holds it.
        assert_eq!(best_fit(&[6, 3, 7], 10), [vec![2, 1], vec![0]]);
        assert_eq!(best_fit(&[], 4), Vec::<Vec<usize>>::new());
    }

    #[test]
    fn blocks_are_those_of_trl() {
        let packed = &json_of(&fixture("training/trl_sft.json"))["packed"];
        let lengths: Vec<usize> = serde_json::from_value(packed["row_lengths"].clone()).unwrap();
        let theirs: Vec<Vec<usize>> = serde_json::from_value(packed["blocks"].clone()).unwrap();
        let ours = best_fit(&lengths, packed["block"].as_u64().unwrap() as usize);
        let lengths_of = |block: Vec<usize>| block.into_iter().map(|i| lengths[i]).collect::<Vec<_>>();
        assert_eq!(ours.into_iter().map(lengths_of).collect::<Vec<_>>(), theirs);
    }

    #[test]
    fn every_sequence_is_in_one_block_and_no_block_is_over_full() {
        for case in 0..200 {
            let mut stream = Stream::new(&[case]);
            let lengths: Vec<usize> = (0..stream.below(80)).map(|_| 1 + stream.below(50)).collect();
            let blocks = best_fit(&lengths, 50);
            let mut seen: Vec<usize> = blocks.iter().flatten().copied().collect();
            seen.sort_unstable();
            assert_eq!(seen, (0..lengths.len()).collect::<Vec<_>>());
            let fill = |block: &Vec<usize>| block.iter().map(|i| lengths[*i]).sum::<usize>();
            assert!(blocks.iter().all(|block| fill(block) <= 50));
            // Two that would go into one are never left apart.
            assert!(blocks.iter().filter(|block| fill(block) <= 25).count() <= 1);
        }
    }
}
