//! What stages say of themselves.

use engine::{Arity, ParameterInfo};
use serde_json::{Value, json};

use crate::toys::registry;

/// `name kind default range about`, with a dash for what is not there.
fn lines(parameters: &[ParameterInfo], depth: usize, out: &mut Vec<String>) {
    for parameter in parameters {
        let dash = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
        let default = parameter.default.as_ref().map_or_else(|| "-".into(), Value::to_string);
        let (range, about) = (dash(&parameter.range), dash(&parameter.about));
        let indent = "  ".repeat(depth);
        out.push(format!("{indent}{} | {} | {default} | {range} | {about}", parameter.name, parameter.kind));
        for (word, about) in &parameter.choices {
            out.push(format!("{indent}  = {word}: {about}"));
        }
        lines(&parameter.parameters, depth + 1, out);
    }
}

#[test]
fn a_stage_tells_all_its_parameters() {
    let registry = registry();
    let paint = registry.stage("paint").expect("it is registered");
    let mut told = Vec::new();
    lines(&paint.parameters, 0, &mut told);
    assert_eq!(
        told,
        [
            "strokes | integer | 100 | at least 1 | Strokes of the brush.",
            "water | number | 0.1 | from 0 to 1 | How much water, by weight.",
            "style | choice | \"thick\" | - | Which way to paint.",
            "  = thick: Much paint.",
            "  = thin: Little paint.",
            "  = free: As it comes.",
            "brush | block | {\"width\":4,\"hairs\":400} | - | The brush.",
            "  width | integer | 4 | at least 1 | -",
            "  hairs | integer | 400 | at least 0 | -",
            "drying | block | null | - | How it dries; by itself if not said.",
            "  kind: sun | block | - | - | In the sun.",
            "    hours | number | - | - | -",
            "  kind: fire | block | - | - | By a fire.",
            "    logs | integer | 0 | at least 0 | -",
            "title | text | \"untitled\" | - | Shown below the picture.",
            "varnish | true or false | false | - | -",
            "layers | integer | null | at least 0 | Filled in from the style where not given.",
            "palette | list of number | [] | - | -",
        ]
    );
    let mut settings = Vec::new();
    lines(&paint.settings, 0, &mut settings);
    assert_eq!(settings, ["hands | integer | 1 | at least 0 | Who paints."]);
}

#[test]
fn parameters_of_every_shape_are_told() {
    let registry = registry();
    let mut told = Vec::new();
    lines(&registry.stage("frame").expect("it is registered").parameters, 0, &mut told);
    assert_eq!(
        told,
        [
            "material | choice or block | \"air\" | - | -",
            "  = air: ",
            "  wood | block | - | - | From a tree.",
            "    rings | integer | - | at least 1 | -",
            "  gold | block | - | - | -",
            "sides | block of number | {} | - | Metres by side.",
            "screws | list of integer | [1,2,3,4] | - | One for each corner.",
            "finish | choice | null | - | -",
            "  = thick: Much paint.",
            "  = thin: Little paint.",
            "  = free: As it comes.",
            "labels | list of block | [{\"text\":\"here\",\"file\":null,\"size\":0.3}] | - | -",
            "  text | text | - | - | -",
            "  file | path | null | - | -",
            "  size | number | 0.0 | - | -",
        ]
    );
}

#[test]
fn a_stage_tells_what_it_reads_and_makes() {
    let registry = registry();
    let names: Vec<&str> = registry.stages().map(|stage| stage.name).collect();
    assert_eq!(names, ["frame", "hang", "paint", "press"]);
    let press = registry.stage("press").expect("it is registered");
    assert_eq!(press.about, "Makes paper from a file. There is nothing to it.");
    assert_eq!((press.version, press.output, press.inputs.len()), (3, "paper", 0));
    let [text, sheets, attachments] = &press.parameters[..] else { panic!("press has three parameters") };
    assert_eq!((text.kind.as_str(), &text.default), ("path", &None), "a parameter without default must be given");
    assert_eq!((sheets.range.as_str(), &sheets.default), ("from 1 to 1000", &Some(json!(10))));
    assert_eq!(attachments.kind, "list of path");
    let paint = registry.stage("paint").expect("it is registered");
    let inputs: Vec<(&str, Arity)> = paint.inputs.iter().map(|input| (input.name, input.arity)).collect();
    assert_eq!(inputs, [("paper", Arity::One), ("model", Arity::Optional)]);
    assert!(registry.stage("sculpt").is_none());
}
