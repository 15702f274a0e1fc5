//! The command line: every verb and flag with the sentence that explains it.
//! Knows nothing of what the verbs do.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Runs a whole post-training recipe from one YAML file: reuses what nothing changed, runs the rest, says why.
#[derive(Debug, Parser)]
#[command(name = "mashbill", version, max_term_width = 100, after_help = EXAMPLES, subcommand_required = true)]
pub struct Command {
    #[command(subcommand)]
    pub verb: Verb,
    #[command(flatten)]
    pub global: Global,
}

const EXAMPLES: &str = "\
Examples:
  mashbill run pipelines/r1_tiny.yaml             everything, from nothing to the report card
  mashbill run pipelines/r1_tiny.yaml             again: nothing changed, all of it is reused
  mashbill plan pipelines/r1_tiny.yaml            what a run would do, and why
  mashbill run FILE --until cold_start --seed 2   a part of it, with another seed
  mashbill explain FILE reasoning_rl              which fact changed, old and new
  mashbill show FILE reasoning_rl                 its folder, origin, facts, metrics and a few rows
  mashbill runs; mashbill diff last~1 last        what was run, and what differed
  mashbill graph FILE --format svg > graph.svg    the pipeline as a picture
  mashbill stages grpo                            every parameter, with its default
  mashbill test plugins/                          the plugins' own tests
  mashbill chat FILE final_rl                     talk with what was trained
  mashbill serve models/my-llama                  OpenAI's API, for programs

Exit codes:
  0 done   1 a node or a test failed   2 a mistake in the command line or the pipeline
  3 the disk or the store failed   10 `plan --exit-code`: something would run
  130 stopped by Ctrl-C   143 by SIGTERM   138 by SIGUSR1";

#[derive(Debug, Args)]
#[command(next_help_heading = "Everywhere")]
pub struct Global {
    /// Folder that relative paths in a pipeline start from
    ///
    /// Without it: the nearest folder above the pipeline that holds `.mashbill` or `.git`, else the current one.
    #[arg(long, global = true, value_name = "FOLDER")]
    pub root: Option<PathBuf>,

    /// Folder that keeps the results [default: `.mashbill` in the root]
    #[arg(long, global = true, value_name = "FOLDER", env = "MASHBILL_STORE")]
    pub store: Option<PathBuf>,

    /// Lay a profile of the pipeline over it; of several, the last one wins
    #[arg(long, global = true, value_name = "NAME", value_delimiter = ',')]
    pub profile: Vec<String>,

    /// Replace a value of the pipeline: `--set vars.group=4 --set grpo.steps=20`
    ///
    /// `grpo.steps` is short for `nodes.grpo.with.steps`. The value is read as YAML: `[1, 2]`, `null`, `"5"`. Items of
    /// lists go by their number: `report.inputs.policies.0=base`. `+path=value` adds a key, or an item to a list;
    /// `~path` removes.
    #[arg(long, global = true, value_name = "PATH=VALUE")]
    pub set: Vec<String>,

    /// Short for `--set seed=N`
    #[arg(long, global = true, value_name = "N")]
    pub seed: Option<u64>,

    /// How mistakes are told: for people on stderr, or as one JSON object a line on stdout
    #[arg(long, global = true, value_name = "FORMAT", default_value = "human", hide_possible_values = true)]
    pub message_format: MessageFormat,

    /// When to colour; `auto` heeds `NO_COLOR` and whether a person is looking
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub color: Color,
}

/// How mistakes are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum MessageFormat {
    /// With the lines they are about, on stderr
    Human,
    /// One JSON object a line, on stdout
    Json,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Color {
    Auto,
    Always,
    Never,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Picture {
    Mermaid,
    Dot,
    Svg,
}

/// Which nodes a verb is about.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Which nodes")]
pub struct Pick {
    /// These nodes and all that they need; short for `--until NODE`
    #[arg(value_name = "NODE", conflicts_with = "only")]
    pub nodes: Vec<String>,

    /// These nodes; what they need besides must be there already
    #[arg(long, short, value_name = "SELECTOR")]
    pub select: Vec<String>,

    /// Not these nodes
    #[arg(long, value_name = "SELECTOR")]
    pub exclude: Vec<String>,

    /// These nodes and all that needs them; as `--select NODE+`
    #[arg(long, value_name = "SELECTOR")]
    pub from: Vec<String>,

    /// These nodes and all that they need; as `--select +NODE`
    #[arg(long, value_name = "SELECTOR")]
    pub until: Vec<String>,

    /// Exactly these nodes, on the last results of what they need, out of date or not
    #[arg(long, value_name = "SELECTOR", conflicts_with_all = ["select", "from", "until"])]
    pub only: Vec<String>,

    /// Make these nodes anew although their results are there
    #[arg(long, value_name = "SELECTOR")]
    pub force: Vec<String>,
}

/// How much at once, and what a failure ends.
#[derive(Debug, Default, Args)]
pub struct Pace {
    /// How many cores to share out among nodes [default: all]
    ///
    /// A `command` takes one, or what its `run: { cores: N }` says. Every other stage uses all cores of the machine
    /// and so runs alone, unless its device is not the CPU. Two nodes never share such a device.
    #[arg(long, short, value_name = "N", default_value = "0", hide_default_value = true)]
    pub jobs: usize,

    /// After a failure, go on with whatever does not need the node that failed
    #[arg(long, short)]
    pub keep_going: bool,
}

/// Which model is spoken with.
#[derive(Debug, Args)]
pub struct Asked {
    /// A Hugging Face model folder, or a pipeline's YAML file
    pub model: PathBuf,

    /// Of a pipeline: the node whose model is meant, as `mashbill show` finds it
    pub node: Option<String>,
}

/// How answers are drawn. What is not given is as the model's `generation_config.json` has it, else neutral.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Sampling")]
pub struct Draw {
    /// Divides the logits; 0 takes the likeliest token every time [default: the model's, else 1]
    #[arg(long, short, value_name = "T", value_parser = temperature)]
    pub temperature: Option<f32>,

    /// Keep the likeliest tokens that together reach this probability [default: the model's, else 1]
    #[arg(long, value_name = "P", value_parser = share)]
    pub top_p: Option<f32>,

    /// Keep only the k likeliest tokens; 0 keeps all [default: the model's, else 0]
    #[arg(long, value_name = "K")]
    pub top_k: Option<usize>,

    /// Keep tokens at least this likely, as a share of the likeliest one's probability [default: the model's, else 0]
    #[arg(long, value_name = "P", value_parser = share)]
    pub min_p: Option<f32>,
}

const SELECTORS: &str = "\
Selectors, as dbt's:
  grpo            the node; of a matrix, every instance      grpo[seed=1]    one instance
  +grpo  grpo+    with all it needs; with all that needs it  2+grpo+1        so many steps up and down
  eval_*          every name that fits                       kind:sft        every node of a stage
  state:changed   what runs for a reason of its own          state:run       also state:waits, state:reuse
  \"a b\"           what either picks                          a+,kind:sft     what both pick";

const CHAT: &str = "\
Examples:
  mashbill chat models/my-llama --temperature 0.7 --system 'Be brief.'
  mashbill chat pipelines/r1_tiny.yaml final_rl --plain
  echo 'What is 12 + 7?' | mashbill chat models/my-llama --temperature 0";

const SERVE: &str = "\
Examples:
  mashbill serve models/my-llama
  mashbill serve pipelines/stories.yaml tuned --port 0
  curl http://127.0.0.1:8000/v1/completions -H 'Content-Type: application/json' \\
       -d '{\"model\": \"my-llama\", \"prompt\": \"Once upon\", \"max_tokens\": 20}'";

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Read a pipeline and tell every mistake in it at once
    Check {
        /// The pipeline's YAML file
        file: PathBuf,
    },
    /// Say what a run would do with each node, and why, without doing it
    ///
    /// Three words: `reuse`, the result is there; `run`, with every fact that changed, old and new; `waits`, a node
    /// upstream runs first, and if it gives the same content again this one is reused after all.
    #[command(after_help = SELECTORS)]
    Plan {
        /// The pipeline's YAML file
        file: PathBuf,
        #[command(flatten)]
        pick: Pick,
        /// Print one JSON document instead
        #[arg(long)]
        json: bool,
        /// End with 10 when something would run
        #[arg(long)]
        exit_code: bool,
    },
    /// Make what is not there yet
    ///
    /// Stop it at any time: Ctrl-C once saves what a stage has and ends, twice ends at once. The same command
    /// continues where it was.
    #[command(after_help = SELECTORS)]
    Run {
        /// The pipeline's YAML file
        file: PathBuf,
        #[command(flatten)]
        pick: Pick,
        #[command(flatten)]
        pace: Pace,
        /// Only say what would be done: as `mashbill plan`
        #[arg(long, short = 'n')]
        dry_run: bool,
        /// Only errors, and no table at the end
        #[arg(long, short)]
        quiet: bool,
        /// Write a trace of the run there, for Perfetto (ui.perfetto.dev): run, nodes, steps
        #[arg(long, value_name = "FILE")]
        trace: Option<PathBuf>,
        /// Print what each node's program wrote, whether it ran now or its result is reused
        #[arg(long, conflicts_with = "quiet")]
        logs: bool,
        /// Run again whenever the pipeline or a file that it reads changes
        #[arg(long, conflicts_with = "dry_run")]
        watch: bool,
    },
    /// Say why a node runs or is reused: which fact changed, old and new, down to the cause; or what `E0104` means
    ///
    /// Then every fact of its last result beside today's: that document is what is hashed, so that nothing can decide a
    /// result and not be shown. The code of a mistake, alone, is explained with an example; so is what the template check
    /// finds, such as `think_twice`.
    Explain {
        /// The pipeline's YAML file; or the code of a mistake or a finding, alone
        file: PathBuf,
        #[arg(value_name = "NODE")]
        node: Option<String>,
        /// Compare the facts of two runs instead: numbers, `last` or `last~1`
        #[arg(long, num_args = 2, value_names = ["RUN", "RUN"])]
        runs: Option<Vec<String>>,
        /// Print one JSON document instead: both facts and their fingerprints
        #[arg(long)]
        json: bool,
    },
    /// Talk with a model in the terminal
    ///
    /// The conversation goes through the model's chat template. Lines that begin with `/` are for the program: `/help`
    /// tells them. Ctrl-C stops an answer; on an empty line twice, or Ctrl-D, leaves. From a pipe, every line is one
    /// turn, and only the answers are on stdout.
    #[command(after_help = CHAT)]
    Chat {
        #[command(flatten)]
        asked: Asked,
        #[command(flatten)]
        draw: Draw,
        /// What the model is told before the first turn
        #[arg(long, short, value_name = "TEXT")]
        system: Option<String>,
        /// Tokens after which an answer is cut off; the context may end it sooner
        #[arg(long, short, value_name = "N", default_value_t = 1024, value_parser = at_least_one)]
        max_tokens: usize,
        /// Draw the same answers again; of every turn on its own [default: other ones every time]
        #[arg(long, value_name = "N")]
        sample_seed: Option<u64>,
        /// No conversation: continue each line as it stands, without a template
        #[arg(long, conflicts_with = "system")]
        plain: bool,
    },
    /// Serve a model over HTTP, as OpenAI's API has it
    ///
    /// `/v1/models`, `/v1/completions` and `/v1/chat/completions`, with streaming; `/health` and `/metrics`. Requests are
    /// answered together, and none of the answers depends on the others. Log-probabilities are those at the temperature
    /// asked for, as in training; greedily, at 1. A parameter that cannot be heeded is refused by its name. The address is
    /// on stdout.
    #[command(after_help = SERVE)]
    Serve {
        #[command(flatten)]
        asked: Asked,
        #[command(flatten)]
        draw: Draw,
        /// Address to listen on; other than the loopback's it can be reached from outside
        #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
        host: IpAddr,
        /// Port to listen on; 0 takes a free one
        #[arg(long, short, value_name = "PORT", default_value_t = 8000)]
        port: u16,
        /// Name of the model in requests [default: the folder's or the node's]
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
        /// Answers that grow at once
        #[arg(long, value_name = "N", default_value_t = 16, value_parser = at_least_one)]
        slots: usize,
        /// Answers that may wait for a slot; one more is refused with 429
        #[arg(long, value_name = "N", default_value_t = 256)]
        queue: usize,
        /// Refuse requests without this key; better given by the environment, where other users cannot read it
        #[arg(long, value_name = "KEY", env = "MASHBILL_API_KEY", hide_env_values = true)]
        api_key: Option<String>,
        /// Seconds that a client may take to send a request, to read what is sent, or to ask again before it is cut off
        #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = at_least_one)]
        client_timeout: usize,
        /// No line for every request
        #[arg(long, short)]
        quiet: bool,
    },
    /// Draw the pipeline, on stdout: for Markdown, for Graphviz, or as an SVG
    #[command(after_help = SELECTORS)]
    Graph {
        /// The pipeline's YAML file
        file: PathBuf,
        #[arg(long, short, default_value = "mermaid")]
        format: Picture,
        /// Colour nodes by what a run would do with them
        #[arg(long)]
        state: bool,
        #[command(flatten)]
        pick: Pick,
    },
    /// Print a node's log and metrics, and why it failed: as it runs or when it failed, else of its last result
    Log {
        /// The pipeline's YAML file
        file: PathBuf,
        node: String,
        /// Last lines of each; 0 for all
        #[arg(long, short, value_name = "N", default_value_t = 40)]
        lines: usize,
    },
    /// List the results in the store: size, kind, age and node
    Ls {
        /// Print JSON instead
        #[arg(long)]
        json: bool,
    },
    /// List the runs, or show one
    Runs {
        /// Its number, `last` or `last~1`
        run: Option<String>,
        /// Print JSON instead
        #[arg(long)]
        json: bool,
    },
    /// Compare two runs: parameters and last metrics side by side
    Diff {
        /// Its number, `last` or `last~1`
        before: String,
        after: String,
        /// Also what is equal
        #[arg(long)]
        all: bool,
        /// Print JSON instead
        #[arg(long)]
        json: bool,
    },
    /// Show a node's result: folder, where it came from, facts, metrics and a few rows
    Show {
        /// The pipeline's YAML file
        file: PathBuf,
        node: String,
    },
    /// Say what of the store nobody needs any more, and remove it with `--apply`
    ///
    /// Needed is what the given pipelines have now; without any, what every node that was ever run here had last; and what
    /// the last run had. Pinned results and those that a run uses at the moment stay in any case.
    Gc {
        /// Pipelines whose results are needed
        files: Vec<PathBuf>,
        /// Keep also what nobody needs, what was used last first, as far as the store stays below this: `50G`
        #[arg(long, value_name = "SIZE", value_parser = bytes)]
        keep_size: Option<u64>,
        /// Keep what was used so recently: `90m`, `12h`, `7d`; what a run left unfinished stays a week at least
        #[arg(long, value_name = "TIME", value_parser = engine::read_duration, default_value = "1d")]
        older_than: Duration,
        /// Keep what the last runs made or reused, whichever pipeline they were of
        #[arg(long, value_name = "RUNS", default_value_t = 1)]
        keep_runs: usize,
        /// Remove it
        #[arg(long)]
        apply: bool,
    },
    /// Keep a node's result whatever `gc` is asked for
    Pin {
        /// The pipeline's YAML file
        file: PathBuf,
        node: String,
    },
    /// Keep a node's result only while it is needed
    Unpin {
        /// The pipeline's YAML file
        file: PathBuf,
        node: String,
    },
    /// Read every byte of the store, and set aside what is not what was published
    Verify,
    /// Write a node's result as one file, to carry elsewhere
    Pack {
        /// The pipeline's YAML file
        file: PathBuf,
        node: String,
        /// The archive: `model.tar`, or `model.tar.zst` for a compressed one
        to: PathBuf,
    },
    /// Take a packed result into the store, after every byte of it was found right
    ///
    /// A digest tells that nothing was altered on the way, not that the result was made as it says: unpack what comes
    /// from people whom you would let run the pipeline for you.
    Unpack {
        /// The archive
        from: PathBuf,
        /// Take a result of at most so many bytes unpacked: `50G` [default: 100 times the archive, 256 MB at least]
        #[arg(long, value_name = "SIZE", value_parser = bytes)]
        max_size: Option<u64>,
    },
    /// Print what a shell needs to complete verbs and flags
    ///
    /// bash: `mashbill completions bash > ~/.local/share/bash-completion/completions/mashbill`
    /// zsh: `mashbill completions zsh > ~/.zfunc/_mashbill`, with `~/.zfunc` in `fpath`
    /// fish: `mashbill completions fish > ~/.config/fish/completions/mashbill.fish`
    #[command(verbatim_doc_comment)]
    Completions { shell: clap_complete::Shell },
    /// Print the pipeline as it is meant, each value with the place that gave it
    ///
    /// Variables, includes, profiles, matrices, defaults and `--set` are in place. What it prints is a pipeline too,
    /// and means the same.
    Render {
        /// The pipeline's YAML file
        file: PathBuf,
        /// As one JSON document, the places under `origins`
        #[arg(long)]
        json: bool,
    },
    /// Print the JSON Schema of pipelines, by which editors complete and explain
    ///
    /// `mashbill schema > pipeline.schema.json`, and as first line of a pipeline beside it:
    /// `# yaml-language-server: $schema=pipeline.schema.json`
    Schema,
    /// List the stages, or the parameters of one
    Stages { name: Option<String> },
    /// Run the `test_` functions of plugins
    Test {
        /// Plugins, or folders of them
        #[arg(required = true)]
        paths: Vec<PathBuf>,
    },
}

/// `50G`, `200MB`, `1.5 TB`: as disks are sold, in powers of a thousand.
fn bytes(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(text.len());
    let power = match text[digits..].trim().trim_end_matches(['B', 'b']) {
        "" => 0,
        "k" | "K" => 1,
        "M" => 2,
        "G" => 3,
        "T" => 4,
        _ => return Err("write it as `500M`, `50G` or `2T`".into()),
    };
    let number: f64 = text[..digits].parse().map_err(|_| "write it as `500M`, `50G` or `2T`".to_owned())?;
    Ok((number * 1000_f64.powi(power)) as u64)
}

fn temperature(text: &str) -> Result<f32, String> {
    text.parse().ok().filter(|value| (0.0..=10.0).contains(value)).ok_or_else(|| "a number from 0 to 10".into())
}

fn share(text: &str) -> Result<f32, String> {
    text.parse().ok().filter(|value| (0.0..=1.0).contains(value)).ok_or_else(|| "a number from 0 to 1".into())
}

fn at_least_one(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|value| *value > 0).ok_or_else(|| "a number, 1 or more".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_disks_are_sold() {
        let cases = [
            ("50G", Some(50_000_000_000)),
            ("1.5 TB", Some(1_500_000_000_000)),
            ("200MB", Some(200_000_000)),
            ("7", Some(7)),
            ("G", None),
            ("5x", None),
        ];
        for (text, size) in cases {
            assert_eq!(bytes(text).ok(), size, "{text}");
        }
    }

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory as _;
        Command::command().debug_assert();
    }
}
