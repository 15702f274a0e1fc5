//! `mashbill stages`: what a pipeline can name, and the parameters of each.

use engine::{Arity, OtherInputs, ParameterInfo, StageInfo};

use crate::{
    outcome::{Code, Trouble},
    screen::{BOLD, DIM, RESET, brief, say, table},
};

pub fn stages(name: Option<&str>) -> Result<Code, Trouble> {
    let registry = ::stages::registry();
    let Some(name) = name else {
        let row = |stage: &StageInfo| {
            let sentence = stage.about.split_inclusive(". ").next().unwrap_or_default();
            vec![format!("{BOLD}{}{RESET}", stage.name), stage.output.to_owned(), brief(sentence.trim(), 120)]
        };
        table(&registry.stages().map(row).collect::<Vec<_>>());
        say!("\n{DIM}mashbill stages NAME shows the parameters of one{RESET}");
        return Ok(Code::Done);
    };
    let Some(stage) = registry.stage(name) else {
        let hint = engine::hint(name, registry.stages().map(|stage| stage.name), "the stages are");
        return Err(Trouble::Usage { message: format!("no stage `{name}`"), hint });
    };
    tell(stage);
    Ok(Code::Done)
}

fn tell(stage: &StageInfo) {
    say!("{BOLD}{}{RESET}, version {}, makes {}\n\n{}", stage.name, stage.version, stage.output, stage.about);
    if !stage.inputs.is_empty() {
        say!("\n{BOLD}inputs{RESET}");
        let row = |input: &engine::Input| {
            let many = match input.arity {
                Arity::One => "one",
                Arity::Optional => "one or none",
                Arity::Many | Arity::Named => "one or more",
            };
            vec![format!("  {}", input.name), format!("{many} of {}", input.kinds.join(" or ")), input.about.to_owned()]
        };
        table(&stage.inputs.iter().map(row).collect::<Vec<_>>());
    }
    if stage.other_inputs == OtherInputs::Taken {
        say!("\n{BOLD}inputs{RESET}\n  any names  one or more of any kind");
    }
    for (title, parameters) in [("with", &stage.parameters), ("run", &stage.settings)] {
        if !parameters.is_empty() {
            say!("\n{BOLD}{title}{RESET}");
            tell_parameters(parameters, 1);
        }
    }
}

fn tell_parameters(parameters: &[ParameterInfo], depth: usize) {
    let indent = "  ".repeat(depth);
    for parameter in parameters {
        let ParameterInfo { name, kind, default, range, about, choices, parameters } = parameter;
        let default = match default {
            None => "must be given".to_owned(),
            Some(value) => format!("default {}", engine::fact_text(value)),
        };
        let notes: Vec<&str> =
            [kind, range, &default].into_iter().map(String::as_str).filter(|s| !s.is_empty()).collect();
        say!("{indent}{BOLD}{name}{RESET}: {}", notes.join(", "));
        for line in about.lines() {
            say!("{indent}    {line}");
        }
        for (choice, about) in choices {
            say!("{indent}    {choice}: {about}");
        }
        tell_parameters(parameters, depth + 2);
    }
}
