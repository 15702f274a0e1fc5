//! The engine that runs plugins: no files, no clock, no unseeded chance, and an end to everything.
//! Knows nothing of rewards, filters or rows.

use std::{
    cell::Cell,
    sync::LazyLock,
    time::{Duration, Instant},
};

use rayon::{ThreadPool, ThreadPoolBuilder};
use rhai::{
    Dynamic, Engine, EvalAltResult, Module, Shared,
    packages::{
        BasicArrayPackage, BasicMapPackage, BasicMathPackage, BitFieldPackage, CorePackage, LogicPackage,
        MoreStringPackage, Package,
    },
};

use super::{host, imports::Library};

/// Where a call of a plugin ends, whatever it does.
#[derive(Debug, Clone)]
pub(super) struct Limits {
    pub operations: u64,
    /// Wall time, for native work that counts as one operation. Far above what the operations take,
    /// so that a busy machine does not stop a plugin that an idle one lets through.
    pub wall: Duration,
    pub call_levels: usize,
    pub string_bytes: usize,
    pub array_items: usize,
    pub map_fields: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            operations: 5_000_000,
            wall: Duration::from_secs(10),
            call_levels: 32,
            string_bytes: 1 << 20,
            array_items: 100_000,
            map_fields: 10_000,
        }
    }
}

/// An engine with the language, the host functions, and nothing that reaches outside.
pub(super) fn engine(limits: &Limits, params: Dynamic, library: Library) -> Engine {
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
        .set_max_operations(limits.operations)
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
    let wall = limits.wall;
    engine.on_progress(move |operations| watch(operations, wall).map(Dynamic::from));
    engine.on_print(|text| tracing::info!(target: "plugin", "{text}"));
    engine.on_debug(|text, source, position| tracing::debug!(target: "plugin", ?source, ?position, "{text}"));
    forbid(&mut engine);
    engine
}

/// Runs a call of a plugin that has to end in time.
pub(super) fn timed<R>(wall: Duration, call: impl FnOnce() -> R) -> R {
    let before = (DEADLINE.replace(Some(Instant::now() + wall)), RESIDENT.replace(None));
    let result = call();
    DEADLINE.set(before.0);
    RESIDENT.set(before.1);
    result
}

/// What the engine's own limits don't see: why the call has to end now, if it has to.
fn watch(operations: u64, wall: Duration) -> Option<String> {
    // Asking the clock costs as much as an operation; every 64th of them may each copy a megabyte.
    if operations.is_multiple_of(64) && DEADLINE.get().is_some_and(|deadline| Instant::now() >= deadline) {
        return Some(format!("stopped after {} seconds", wall.as_secs_f64()));
    }
    // Rhai measures what an assignment to `map[key]` puts in, but not the map that it makes large.
    if operations.is_multiple_of(1024)
        && let Some(now) = resident_bytes()
    {
        const MOST: u64 = 1 << 30;
        let start = RESIDENT.get().unwrap_or(now);
        RESIDENT.set(Some(start));
        if now > start + MOST {
            return Some(format!("stopped after taking {} GiB of memory", MOST >> 30));
        }
    }
    None
}

/// Memory of the whole process. A plugin's call is short beside all else that could make it grow.
fn resident_bytes() -> Option<u64> {
    #[cfg(target_os = "linux")]
    {
        let pages = std::fs::read_to_string("/proc/self/statm").ok()?;
        // Pages of at least 4 KiB; where they are larger, the limit is too.
        Some(pages.split(' ').nth(1)?.parse::<u64>().ok()? * 4096)
    }
    #[cfg(not(target_os = "linux"))]
    None
}

/// The threads that plugins run on.
pub(super) fn pool() -> &'static ThreadPool {
    // An array may nest as deep as it may be long, and is dropped and measured by recursion: that takes
    // more than the usual two megabytes of stack. Only what is touched is ever real memory.
    const STACK: usize = 256 << 20;
    static POOL: LazyLock<ThreadPool> = LazyLock::new(|| {
        ThreadPoolBuilder::new()
            .num_threads(rayon::current_num_threads())
            .thread_name(|index| format!("plugin-{index}"))
            .stack_size(STACK)
            .build()
            .expect("threads can be started")
    });
    &POOL
}

thread_local! {
    static DEADLINE: Cell<Option<Instant>> = const { Cell::new(None) };
    /// Memory of the process when the running call was first looked at.
    static RESIDENT: Cell<Option<u64>> = const { Cell::new(None) };
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
