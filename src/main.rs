//! The command line: the only place that prints and exits.

mod age;
mod args;
mod chat;
mod check;
mod codes;
mod completions;
mod diff;
mod explain;
mod facts_table;
mod gc;
mod graph;
mod log;
mod ls;
mod model;
mod outcome;
mod pack;
mod pages;
mod pick;
mod pipeline;
mod plan;
mod progress;
mod render;
mod run;
mod runs;
mod schema;
mod screen;
mod serve;
mod show;
mod signals;
mod stages;
mod test;
mod verify;
mod watch;

use std::{net::SocketAddr, process::ExitCode, time::Duration};

use ::stages::bounded::memory::Counted;
use clap::Parser as _;

use crate::args::{Command, Verb};

/// Rows and scripts are many small allocations from many threads; what a script holds is counted.
#[global_allocator]
static ALLOCATOR: Counted<mimalloc::MiMalloc> = Counted(mimalloc::MiMalloc);

fn main() -> ExitCode {
    pages::small();
    let Command { verb, global } = Command::parse();
    screen::set_up(global.color);
    let outcome = match verb {
        Verb::Check { file } => check::check(&file, &global),
        Verb::Plan { file, pick, json, exit_code } => plan::plan(&file, &pick, plan::Form { json, exit_code }, &global),
        Verb::Run { file, pick, dry_run: true, .. } => plan::plan(&file, &pick, plan::Form::default(), &global),
        Verb::Run { file, pick, pace, quiet, trace, logs, watch, .. } => {
            run::run(&file, &pick, &run::Form { quiet, trace, pace, logs, is_watching: watch }, &global)
        }
        Verb::Chat { asked, draw, system, max_tokens, sample_seed, plain } => {
            chat::chat(&asked, &chat::Form { draw, system, max_tokens, sample_seed, plain }, &global)
        }
        Verb::Serve { asked, draw, host, port, name, slots, queue, api_key, client_timeout, quiet } => {
            let address = SocketAddr::new(host, port);
            let patience = Duration::from_secs(client_timeout as u64);
            let form = serve::Form { draw, address, name, slots, queue, api_key, patience, quiet };
            serve::serve(&asked, form, &global)
        }
        Verb::Explain { file, node: None, .. } => codes::asked(&file),
        Verb::Explain { file, node: Some(node), runs, json } => {
            explain::explain(&file, &node, &explain::Form { runs, json }, &global)
        }
        Verb::Graph { file, format, state, pick } => {
            graph::graph(&file, &pick, graph::Form { picture: format, state }, &global)
        }
        Verb::Completions { shell } => Ok(completions::completions(shell)),
        Verb::Log { file, node, lines } => log::log(&file, &node, lines, &global),
        Verb::Ls { json } => ls::ls(json, &global),
        Verb::Runs { run, json } => runs::runs(run.as_deref(), json, &global),
        Verb::Diff { before, after, all, json } => diff::diff([&before, &after], diff::Form { all, json }, &global),
        Verb::Show { file, node } => show::show(&file, &node, &global),
        Verb::Gc { files, keep_size, older_than, keep_runs, apply } => {
            gc::gc(&gc::Wanted { files, keep_size, grace: older_than, keep_runs, is_applied: apply }, &global)
        }
        Verb::Pin { file, node } => gc::pin(&file, &node, true, &global),
        Verb::Unpin { file, node } => gc::pin(&file, &node, false, &global),
        Verb::Verify => verify::verify(&global),
        Verb::Pack { file, node, to } => pack::pack(&file, &node, &to, &global),
        Verb::Unpack { from, max_size } => pack::unpack(&from, max_size, &global),
        Verb::Render { file, json } => render::render(&file, json, &global),
        Verb::Schema => Ok(schema::schema()),
        Verb::Stages { name } => stages::stages(name.as_deref()),
        Verb::Test { paths } => test::test(&paths, &global),
    };
    match outcome {
        Ok(code) => code.into(),
        Err(trouble) => trouble.tell(global.message_format).into(),
    }
}
