//! The functions that plugins call: rules for text, numbers and languages, each bounded in time.
//! Knows nothing of what is rewarded.

mod language;
mod number;
mod similarity;
mod sized;
mod text;

use std::sync::LazyLock;

use rhai::{Dynamic, Module, Shared};

pub(super) use self::sized::Bounded;

pub(super) static MODULE: LazyLock<Shared<Module>> = LazyLock::new(|| {
    let mut all = super::rng::module();
    all.combine(text::module()).combine(number::module()).combine(language::module()).combine(similarity::module());
    all.combine(sized::module());
    all.build_index();
    all.into()
});

/// The value, or `()` where there is none.
fn or_nothing<T: Into<Dynamic>>(value: Option<T>) -> Dynamic {
    value.map_or(Dynamic::UNIT, Into::into)
}
