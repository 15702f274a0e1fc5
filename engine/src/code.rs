//! The codes of all mistakes in a pipeline. A code never changes its meaning.
//! Knows nothing of how they are found.

/// The file is not YAML.
pub const SYNTAX: &str = "E0100";
/// A key at the top that a pipeline does not have.
pub const UNKNOWN_KEY: &str = "E0101";
/// A key of a node that nodes do not have.
pub const UNKNOWN_NODE_KEY: &str = "E0102";
/// A stage that does not exist.
pub const UNKNOWN_STAGE: &str = "E0103";
/// A parameter or setting that the stage does not have.
pub const UNKNOWN_PARAMETER: &str = "E0104";
/// A parameter without default that is not given.
pub const MISSING_PARAMETER: &str = "E0105";
/// A value of another kind than wanted: text for a number, a list for a block.
pub const WRONG_TYPE: &str = "E0106";
/// A number, text or list outside its bounds.
pub const OUT_OF_RANGE: &str = "E0107";
/// A word that is not among the choices.
pub const UNKNOWN_CHOICE: &str = "E0108";
/// Parameters or settings that the stage itself refuses, or a file that it cannot work with.
pub const REFUSED: &str = "E0109";
/// An input that the stage does not have.
pub const UNKNOWN_INPUT: &str = "E0110";
/// An input that the stage needs is not given.
pub const MISSING_INPUT: &str = "E0111";
/// An input names a node that does not exist.
pub const UNKNOWN_NODE: &str = "E0112";
/// A node makes another kind of artifact than the input takes.
pub const WRONG_KIND: &str = "E0113";
/// More or fewer nodes than the input takes.
pub const WRONG_ARITY: &str = "E0114";
/// Nodes read each other in a circle.
pub const CYCLE: &str = "E0115";
/// A key is written twice, a node for example.
pub const DUPLICATE: &str = "E0116";
/// A source file or folder does not exist.
pub const MISSING_SOURCE: &str = "E0117";
/// A source file that cannot be understood.
pub const BAD_SOURCE: &str = "E0118";
/// A name that a node cannot have.
pub const BAD_NAME: &str = "E0119";
/// A variable that does not exist.
pub const UNKNOWN_VARIABLE: &str = "E0120";
/// An expression that cannot be understood, or variables that refer to themselves.
pub const BAD_EXPRESSION: &str = "E0121";
/// A `--set` whose path leads nowhere.
pub const BAD_OVERRIDE: &str = "E0122";
/// A key that must be there is missing.
pub const MISSING_KEY: &str = "E0123";
/// A variable that nothing asks for.
pub const UNUSED_VARIABLE: &str = "E0124";
/// A file that cannot be included.
pub const BAD_INCLUDE: &str = "E0125";
/// A matrix without values, or with values that cannot be in a name.
pub const BAD_MATRIX: &str = "E0126";
/// A node is needed that its `when` leaves out.
pub const LEFT_OUT: &str = "E0127";
/// A profile that the pipeline does not have.
pub const UNKNOWN_PROFILE: &str = "E0128";
/// An axis of a matrix that decides nothing.
pub const UNUSED_AXIS: &str = "E0129";
