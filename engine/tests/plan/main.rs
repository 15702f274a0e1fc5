//! What a user sees of spec and plan: a text in, a plan or all its mistakes out.

mod mistakes;
mod stages;
mod toys;
mod values;
