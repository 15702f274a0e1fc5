//! What every stage that trains shares: batches, learning rates, the optimiser, and saving in the middle.
//! Knows nothing of where examples or losses come from.

pub mod batch;
pub mod fit;
pub mod optimiser;
pub mod schedule;
pub mod state;
