//! Files, graphs, hashes and schedules: resolves a pipeline, reuses what nothing changed, runs the
//! rest, and says why. Knows nothing of what the stages compute.

pub mod code;
mod command;
mod context;
mod diagnostic;
mod digest;
mod encoding;
mod explanation;
mod facts;
mod footprint;
mod forecast;
pub mod graph;
mod listing;
mod machine;
mod manifest;
mod plan;
#[cfg(unix)]
mod process;
mod reason;
mod registry;
mod report;
mod run;
pub mod runs;
mod schema;
mod select;
mod spec;
mod stage;
mod store;
#[cfg(test)]
mod storm;
mod suggestion;
#[cfg(test)]
mod toy;

pub use command::{Command, Settings as CommandSettings};
pub use context::{Cancel, Cancelled, Context, InputArtifact, Progress};
pub use diagnostic::{Colour, Diagnostic, Label, Place, Span, Text};
pub use digest::Digest;
pub use explanation::{EXPLANATIONS, Explanation, explanation};
pub use facts::{Change, Facts, Fingerprint, InputFacts, Legend, fact_text};
pub use footprint::{Footprint, Prospect, Prospects};
pub use forecast::{FactsNow, Forecast, Reuse, Verdict, facts_now, forecast, forecast_with};
pub use listing::Records;
pub use machine::free_memory;
pub use manifest::{FileEntry, Manifest, Origin, Provenance};
pub use plan::{Inspected, Node, NodeInput, NodeSource, Plan};
pub use reason::{Cause, Reason};
pub use registry::{Expand, Registry, StageInfo};
pub use report::{Failure, NodeReport, Outcome, Report};
pub use run::{Event, Options, Watch, run};
pub use schema::{ParameterInfo, pipeline_schema};
pub use select::{Outside, Scope, SelectError};
pub use spec::{Sources, Spec, read_duration, read_text};
pub use stage::{Arity, Finding, Input, NoSettings, OtherInputs, OtherName, Problem, Source, Stage};
pub use store::{
    Artifact, Candidate, Damage, Draft, Examined, Found, Keep, Last, Lease, Lookup, PackError, PublishError, Store,
    StoreError, Sweep, Why,
};
pub use suggestion::hint;
