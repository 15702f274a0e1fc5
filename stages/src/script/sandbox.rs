//! The engine that runs plugins: no files, no clock, no unseeded chance, and an end to everything.
//! Knows nothing of rewards, filters or rows.

use std::{
    cell::{Cell, RefCell},
    sync::LazyLock,
    time::{Duration, Instant},
};

use engine::Cancel;
use rhai::{
    Dynamic, Engine, EvalAltResult, LexError, Module, Shared, Token,
    packages::{
        BasicArrayPackage, BasicMapPackage, BasicMathPackage, BitFieldPackage, CorePackage, LogicPackage,
        MoreStringPackage, Package,
    },
};

use super::{host, imports::Library};
use crate::bounded::{Bounds, memory};

/// An array may nest as deep as it may be long, and is dropped and measured by recursion: that takes more than the
/// usual two megabytes.
const STACK_BYTES: usize = 256 << 20;

/// Where a call of a plugin ends, whatever it does. What its closures do counts as its own.
#[derive(Debug, Clone)]
pub(super) struct Limits {
    pub operations: u64,
    /// Wall time, for native work that counts as one operation. Far above what the operations take,
    /// so that a busy machine does not stop a plugin that an idle one lets through.
    pub wall: Duration,
    /// What the call holds beside its arguments.
    pub memory_bytes: usize,
    pub call_levels: usize,
    pub string_bytes: usize,
    pub array_items: usize,
    pub map_fields: usize,
    /// Bytes of a file of a plugin.
    pub file_bytes: usize,
    /// `let` and `const` in a plugin and what it imports: looking names up takes the square of their number.
    pub declarations: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            operations: 5_000_000,
            wall: Duration::from_secs(10),
            memory_bytes: 256 << 20,
            call_levels: 32,
            string_bytes: 1 << 20,
            array_items: 100_000,
            map_fields: 10_000,
            file_bytes: 1 << 20,
            declarations: 5_000,
        }
    }
}

impl Limits {
    /// Memory and the clock are looked at between operations. One operation of its own may take as much memory again, and
    /// half of the time.
    pub fn bounds(&self) -> Bounds {
        Bounds { memory_bytes: 2 * self.memory_bytes, time: self.wall * 3 / 2, stack_bytes: STACK_BYTES }
    }
}

/// An engine with the language, the host functions, and nothing that reaches outside.
pub(super) fn engine(limits: &Limits, params: Dynamic, library: Library, cancel: Cancel) -> Engine {
    let mut engine = Engine::new_raw();
    for module in LANGUAGE.iter().chain([&*host::MODULE]) {
        engine.register_global_module(module.clone());
    }
    let mut constants = Module::new();
    constants.set_var("params", params.into_read_only());
    engine.register_global_module(constants.into());
    engine.set_module_resolver(library);

    engine.set_strict_variables(true).set_fail_on_invalid_map_property(true).disable_symbol("eval");
    engine
        // Rhai counts the operations of every closure from zero: `watch` counts those of the whole call.
        .set_max_operations(0)
        .set_max_call_levels(limits.call_levels)
        .set_max_expr_depths(64, 32)
        .set_max_string_size(limits.string_bytes)
        .set_max_array_size(limits.array_items)
        .set_max_map_size(limits.map_fields)
        .set_max_variables(256)
        .set_max_functions(256)
        .set_max_modules(32);
    // Interning takes a lock that all threads would share.
    engine.set_max_strings_interned(0);
    let watched = limits.clone();
    engine.on_progress(move |_| watch(&watched, &cancel).map(Dynamic::from));
    engine.on_print(|text| memory::uncounted(|| tracing::info!(target: "plugin", "{text}")));
    engine.on_debug(|text, source, position| {
        memory::uncounted(|| tracing::debug!(target: "plugin", ?source, ?position, "{text}"));
    });
    let read = limits.clone();
    #[expect(deprecated, reason = "not deprecated, says its documentation, but not yet settled")]
    engine.on_parse_token(move |token, _, _| match watch_reading(&token, &read) {
        None => token,
        Some(why) => Token::LexError(LexError::Runtime(why).into()),
    });
    forbid(&mut engine);
    engine
}

thread_local! {
    static CALL: Call = const {
        Call {
            operations: Cell::new(0),
            tokens: Cell::new(0),
            declarations: Cell::new(0),
            deadline: Cell::new(None),
            refusal: RefCell::new(None),
        }
    };
}

/// What is known of the call that a thread is in.
struct Call {
    operations: Cell<u64>,
    /// Tokens read so far, and how many of them are `let` or `const`.
    tokens: Cell<u64>,
    declarations: Cell<u32>,
    deadline: Cell<Option<Instant>>,
    /// Why a function of the language could not make its result, where it has no way to say so itself.
    refusal: RefCell<Option<String>>,
}

/// Runs a call of a plugin, or the reading of one, that has to end in time.
pub(super) fn timed<R>(limits: &Limits, call: impl FnOnce() -> R) -> R {
    CALL.with(|state| {
        state.operations.set(0);
        state.tokens.set(0);
        state.declarations.set(0);
        state.deadline.set(Some(Instant::now() + limits.wall));
        state.refusal.take();
    });
    call()
}

/// Ends the call as soon as the function that says so has returned.
pub(super) fn refuse(why: String) {
    CALL.with(|state| *state.refusal.borrow_mut() = Some(why));
}

/// Why the call's result, if it has one, is not to be used.
pub(super) fn refusal() -> Option<String> {
    CALL.with(|state| state.refusal.take())
}

/// What the engine's own limits don't see: why the call has to end now, if it has to.
fn watch(limits: &Limits, cancel: &Cancel) -> Option<String> {
    CALL.with(|state| {
        let operations = state.operations.get() + 1;
        state.operations.set(operations);
        if operations > limits.operations {
            return Some(format!("stopped after {} operations", limits.operations));
        }
        if memory::held() > limits.memory_bytes {
            return Some(format!("stopped after taking {} MiB of memory", limits.memory_bytes >> 20));
        }
        // Asking the clock costs as much as an operation; every 64th of them may each copy a megabyte.
        if operations.is_multiple_of(64) {
            if state.refusal.borrow().is_some() {
                return state.refusal.take();
            }
            if cancel.is_cancelled() {
                return Some("cancelled".into());
            }
            return out_of_time(state, limits);
        }
        None
    })
}

fn out_of_time(state: &Call, limits: &Limits) -> Option<String> {
    let is_over = state.deadline.get().is_some_and(|deadline| Instant::now() >= deadline);
    is_over.then(|| format!("stopped after {} seconds", limits.wall.as_secs_f64()))
}

/// Why a plugin's text is not read on, token by token.
fn watch_reading(token: &Token, limits: &Limits) -> Option<String> {
    CALL.with(|state| {
        if memory::held() > limits.memory_bytes {
            return Some(format!("reading it takes more than {} MiB of memory", limits.memory_bytes >> 20));
        }
        if matches!(token, Token::Let | Token::Const) {
            let declarations = state.declarations.get() + 1;
            state.declarations.set(declarations);
            if declarations > limits.declarations {
                return Some(format!("a plugin declares more than {} variables", limits.declarations));
            }
        }
        let tokens = state.tokens.get() + 1;
        state.tokens.set(tokens);
        if tokens.is_multiple_of(64) { out_of_time(state, limits) } else { None }
    })
}

/// The language without its clock.
static LANGUAGE: LazyLock<Vec<Shared<Module>>> = LazyLock::new(|| {
    vec![
        CorePackage::new().as_shared_module(),
        LogicPackage::new().as_shared_module(),
        BasicMathPackage::new().as_shared_module(),
        BitFieldPackage::new().as_shared_module(),
        BasicArrayPackage::new().as_shared_module(),
        BasicMapPackage::new().as_shared_module(),
        MoreStringPackage::new().as_shared_module(),
    ]
});

/// Gives what a plugin may not do a message that says so.
fn forbid(engine: &mut Engine) {
    type Refusal = Result<(), Box<EvalAltResult>>;
    // `sleep` comes with the core package, and neither limit sees it.
    let sleep = || -> Refusal { Err("`sleep` is switched off: a plugin can't wait".into()) };
    engine.register_fn("sleep", move |_: i64| sleep());
    engine.register_fn("sleep", move |_: f64| sleep());
    engine.register_fn("timestamp", || -> Refusal { Err("`timestamp` is switched off: a plugin has no clock".into()) });
    for name in ["rand", "rand_float", "rand_bool"] {
        let refuse =
            move || -> Refusal { Err(format!("no `{name}`: chance comes from `rng`, which has a seed").into()) };
        engine.register_fn(name, refuse);
    }
}
