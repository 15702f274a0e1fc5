//! Many questions answered at once, each stretch of text as soon as it is sure.
//! Knows nothing of who asks: no HTTP, no terminal, no thread.
//!
//! An answer is a function of its question and its key alone, as a completion is (`decode`): what else is asked at
//! the same time, and when, decides only how long it takes.

mod desk;
mod habits;
mod scribe;
mod stops;

pub use crate::decode::{Finish, Id, Sampler, Sampling};
pub use desk::{Desk, End, Piece, Question, Word};
pub use habits::habits;
pub use scribe::{Scribe, Spelling};
pub use stops::StopMatcher;
