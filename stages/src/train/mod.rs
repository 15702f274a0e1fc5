//! What every stage that trains shares: batches, learning rates, the optimiser, and saving in the middle.
//! Knows nothing of where examples or losses come from.

pub mod batch;
pub mod best;
pub mod fit;
#[cfg(test)]
mod invariance;
pub mod muon;
pub mod optimiser;
pub mod packing;
#[cfg(test)]
mod reference;
pub mod schedule;
pub mod state;
