//! Files, graphs, hashes and schedules: resolves a pipeline, reuses what nothing changed, runs the
//! rest, and says why. Knows nothing of what the stages compute.

mod context;
mod stage;

pub use context::{Cancel, Cancelled, Context, InputArtifact, Progress};
pub use stage::{Arity, Input, NoSettings, Problem, Source, Stage};
