//! What a user sees of spec and plan: a text in, a plan or all its mistakes out.

mod expressions;
mod layers;
mod matrix;
mod mistakes_in_nodes;
mod mistakes_in_parameters;
mod mistakes_in_text;
mod overrides;
mod properties;
mod stages;
mod toys;
mod values;
mod yaml;
