//! A real checkpoint, made by others, through import, sampling, scoring, fine-tuning and export.

use std::{collections::BTreeSet, fs, path::Path};

use serde_json::Value;

use crate::project::{Project, shared};

#[test]
fn the_stories_model_says_what_was_published_and_learns_to_answer() {
    let Some(reference) = shared("models/stories260K/reference.json") else { return };
    let reference: Value = serde_json::from_slice(&fs::read(reference).unwrap()).unwrap();
    let mut project = Project::of_pipeline("stories.yaml");
    // An eighth of the training shows that it learns.
    project.overrides.push("nodes.tuned.with.epochs=0.25".into());
    let said = project.mashbill("run p.yaml");
    assert_eq!(said.code, Some(0), "{said:#?}");

    says_the_published_texts(&rows(&project.data("continued")), &reference);
    scores_as_published(&project, &reference);
    learns_to_answer(&project);
    is_exported_for_transformers(&project.data("exported"));
}

fn rows(folder: &Path) -> Vec<Value> {
    let text = fs::read_to_string(folder.join("rows.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Greedy ids and text, byte for byte. A row here goes on for 200 tokens, of which those published are the first.
fn says_the_published_texts(rows: &[Value], reference: &Value) {
    let published = reference["greedy"].as_array().unwrap();
    assert_eq!((rows.len(), published.len()), (6, 6));
    for (row, published) in rows.iter().zip(published) {
        let [ids, prompt] = ["ids", "prompt_ids"].map(|name| published[name].as_array().unwrap());
        let count = published["max_total_tokens"].as_u64().unwrap() as usize - prompt.len();
        assert_eq!(row["completion_ids"].as_array().unwrap()[..count], ids[prompt.len()..]);
        let text = format!("{}{}", row["prompt"].as_str().unwrap(), row["completion"].as_str().unwrap());
        let published = published["text"].as_str().unwrap();
        assert!(text.starts_with(published), "{text:?}\nis not {published:?}");
        // The first is published as far as it goes here.
        assert!(count < 200 || text == published, "{text:?}\nis not {published:?}");
    }
}

fn scores_as_published(project: &Project, reference: &Value) {
    let scored = rows(&project.data("scores"));
    let published = reference["scored"].as_array().unwrap();
    assert_eq!((scored.len(), published.len()), (5, 5));
    for (row, published) in scored.iter().zip(published) {
        let first = published["token_logprobs_first16"].as_array().unwrap();
        for (ours, theirs) in row["logprobs"].as_array().unwrap().iter().zip(first) {
            assert!((number(ours) - number(theirs)).abs() < 1e-4, "{ours} is not {theirs}");
        }
    }
    let [told] = &project.metrics("scores")[..] else { panic!("one line of metrics") };
    let expected = &reference["mean_nll_over_sample"];
    assert_eq!(number(&told["tokens"]), number(&expected["n_pred"]));
    let difference = (number(&told["mean_nll"]) - number(&expected["mean_nll"])).abs();
    assert!(difference < 1e-4, "the mean differs by {difference:e}");
    eprintln!("mean negative log-likelihood: {difference:.1e} from what was published");
}

fn learns_to_answer(project: &Project) {
    let metrics = project.metrics("tuned");
    let losses: Vec<f64> = metrics.iter().filter_map(|line| line.get("loss")).map(number).collect();
    let held_out: Vec<f64> = metrics.iter().filter_map(|line| line.get("validation_loss")).map(number).collect();
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
    let (first, last) = (mean(&losses[..2]), mean(&losses[losses.len() - 2..]));
    eprintln!("loss {first:.3} -> {last:.3}, held out {held_out:.3?}, {} steps", losses.len());
    assert!(last < first - 0.2, "the loss went from {first} to {last}");
    let [before, after] = held_out[..] else { panic!("looked at before and after: {held_out:?}") };
    assert!(after < before - 0.2, "the validation loss went from {before} to {after}");
}

fn is_exported_for_transformers(folder: &Path) {
    let names: BTreeSet<String> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    for name in
        ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    {
        assert!(names.contains(name), "no {name} among {names:?}");
    }
    let config: Value = serde_json::from_slice(&fs::read(folder.join("config.json")).unwrap()).unwrap();
    assert_eq!((&config["architectures"][0], &config["model_type"]), (&"LlamaForCausalLM".into(), &"llama".into()));
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap()
}
