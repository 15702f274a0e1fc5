//! `mashbill explain E0104`: what a code means, at length, with a pipeline that has the mistake; and `mashbill explain
//! think_twice`: what the template check means by a finding.

use std::path::Path;

use ::stages::text::check::Finding;
use engine::{EXPLANATIONS, Explanation, explanation};

use crate::{
    outcome::{Code, Trouble},
    screen::{BOLD, DIM, RESET, say},
};

/// Widest line of the text.
const WIDTH: usize = 90;

/// `explain` with one word: the code of a mistake or of a finding, else a file without the node that was meant.
pub fn asked(word: &Path) -> Result<Code, Trouble> {
    if let Some(finding) = Finding::ALL.into_iter().find(|finding| word == Path::new(finding.code())) {
        tell(finding);
        return Ok(Code::Done);
    }
    match word.to_str().filter(|word| is_code(word)) {
        Some(code) => explain(code),
        None => Err(Trouble::Usage {
            message: "which node shall be explained?".into(),
            hint: Some(format!("mashbill explain {} NODE; or the code of a mistake: E0104", word.display())),
        }),
    }
}

fn is_code(word: &str) -> bool {
    word.strip_prefix(['E', 'e']).is_some_and(|rest| rest.len() == 4 && rest.bytes().all(|byte| byte.is_ascii_digit()))
}

fn explain(code: &str) -> Result<Code, Trouble> {
    let Some(Explanation { code, text, example, words }) = explanation(code) else {
        let known = EXPLANATIONS.iter().map(|explanation| explanation.code);
        let hint = engine::hint(code, known, "the codes are");
        return Err(Trouble::Usage { message: format!("no code `{code}`"), hint });
    };
    say!("{BOLD}{code}{RESET}");
    for line in wrapped(text) {
        say!("{line}");
    }
    let words = if words.is_empty() { String::new() } else { format!(" (with `{words}`)") };
    say!("\n{DIM}a pipeline with this mistake{words}:{RESET}\n");
    for line in example.lines() {
        say!("    {line}");
    }
    Ok(Code::Done)
}

fn tell(finding: Finding) {
    let (code, about, mend) = (finding.code(), finding.about(), finding.mend());
    say!("{BOLD}{code}{RESET}");
    for line in wrapped(&about) {
        say!("{line}");
    }
    say!("\n{DIM}the mend:{RESET}\n");
    for line in wrapped(mend) {
        say!("    {line}");
    }
    say!("\n{DIM}or accept it:{RESET}\n\n    template: {{ accept: [{code}] }}");
}

fn wrapped(text: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last_mut().expect("there is always a line");
        if line.is_empty() {
            line.push_str(word);
        } else if line.chars().count() + 1 + word.chars().count() <= WIDTH {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}
