//! `mashbill test`: runs the `test_` functions of plugins.

use std::path::PathBuf;

use crate::{
    args::Global,
    outcome::{Code, Trouble},
    pipeline,
    screen::{BOLD, GREEN, RED, RESET, say},
};

pub fn test(paths: &[PathBuf], global: &Global) -> Result<Code, Trouble> {
    let (mut passed, mut failed) = (0, 0);
    for path in paths {
        let root = pipeline::root(path, global)?;
        let outcomes =
            ::stages::script::run_tests(path, &root).map_err(|error| Trouble::usage(format!("{error:#}")))?;
        for outcome in outcomes {
            let name = [outcome.file.as_str(), outcome.name.as_str()].join(" ");
            if let Some(error) = &outcome.error {
                failed += 1;
                say!("{RED}failed{RESET} {}\n  {}", name.trim_end(), error.replace('\n', "\n  "));
            } else {
                passed += 1;
                say!("{GREEN}passed{RESET} {name}");
            }
        }
    }
    say!("{BOLD}{passed} passed, {failed} failed{RESET}");
    if passed + failed == 0 {
        return Err(Trouble::usage("found no `test_` function in any plugin there"));
    }
    Ok(if failed == 0 { Code::Done } else { Code::Failed })
}
