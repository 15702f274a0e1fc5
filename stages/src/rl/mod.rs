//! The mathematics of group-relative policy optimisation: numbers and tensors in, numbers out.
//! Touches no file, clock or log.

pub mod advantage;
pub mod objective;
