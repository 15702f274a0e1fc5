//! The stage `sft` against TRL's `SFTTrainer` on the same weights, rows and order: `tests/reference/trl_sft.py`.
//! Knows nothing of how either computes.

use std::{collections::BTreeMap, path::Path};

use serde_json::{Value, json};

use crate::{
    bench::{Bench, devices, fixture, json_of},
    data::checkpoint::Checkpoint,
    device::Compute,
    nn::{precision::Precision, weights::Weights},
    sft::Sft,
};

/// How far apart, relatively, losses, gradient norms and weights may be after any of the steps.
const WITHIN: f64 = 1e-3;

fn numbers(value: &Value) -> Vec<f64> {
    serde_json::from_value(value.clone()).unwrap()
}

/// What a run of `sft` with these parameters beside TRL's records, and its weights.
fn tuned(compute: &Compute, reference: &Value, with: Value) -> (BTreeMap<String, Vec<f64>>, Weights) {
    let bench = Bench::new();
    let rows = bench.rows("rows", reference["rows"].as_array().unwrap());
    let settings = reference["settings"].as_object().unwrap().clone();
    let mut all = json!({ "learning_rate": settings["learning_rate"], "floor": 0, "optimiser": settings });
    all["optimiser"].as_object_mut().unwrap().remove("learning_rate");
    all.as_object_mut().unwrap().extend(with.as_object().unwrap().clone());
    let inputs: [(&str, &Path); 2] = [("policy", &fixture("llama")), ("rows", &rows)];
    let output = bench.run_by::<Sft>(compute, all, &inputs).unwrap();
    let text = std::fs::read_to_string(bench.path("records/metrics.jsonl")).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let mut metrics: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for line in lines.filter(|line| line["step"] != 0) {
        for (name, value) in line.as_object().unwrap() {
            metrics.entry(name.clone()).or_default().push(value.as_f64().unwrap());
        }
    }
    (metrics, Checkpoint::open(&output).unwrap().weights)
}

#[track_caller]
fn assert_follows(theirs: &Value, metrics: &BTreeMap<String, Vec<f64>>, weights: &Weights) {
    for (name, of_trl) in [("learning_rate", "learning_rates"), ("loss", "losses"), ("gradient_norm", "gradient_norms")]
    {
        let (ours, theirs) = (&metrics[name], numbers(&theirs[of_trl]));
        assert_eq!(ours.len(), theirs.len());
        for (step, (ours, theirs)) in ours.iter().zip(theirs).enumerate() {
            let error = (ours - theirs).abs() / theirs;
            assert!(error <= WITHIN, "{name} of step {}: {ours} for {theirs}, {error:e}", step + 1);
        }
    }
    for (name, expected) in theirs["weights"].as_object().unwrap() {
        let (ours, theirs) = (&weights[name].values, numbers(&expected["values"]));
        let (moved, last) = (expected["moved"].as_f64().unwrap(), theirs.len() - 1);
        for (at, theirs) in theirs.iter().enumerate() {
            let ours = f64::from(ours[at * (ours.len() - 1) / last]);
            // Relative to the way that the tensor's elements went at most.
            let error = (ours - theirs).abs() / moved;
            assert!(error <= WITHIN, "{name}: {ours} for {theirs}, {error:e}");
        }
    }
}

#[test]
fn twenty_steps_follow_trl_within_1e_3_on_every_device() {
    let reference = json_of(&fixture("training/trl_sft.json"));
    let theirs = &reference["plain"];
    for compute in devices(Precision::F32) {
        // Five epochs of sixteen rows, four a step.
        let with = json!({ "epochs": 5, "batch": theirs["batch"], "decay": theirs["decay"] });
        let (metrics, weights) = tuned(&compute, &reference, with);
        assert_follows(theirs, &metrics, &weights);
    }
}

#[test]
fn twenty_steps_of_packed_blocks_follow_trl_within_1e_3() {
    let reference = json_of(&fixture("training/trl_sft.json"));
    let theirs = &reference["packed"];
    let blocks = theirs["blocks"].as_array().unwrap().len() as f64;
    let batch = theirs["batch"].as_u64().unwrap();
    let with = json!({
        "epochs": 20.0 * batch as f64 / blocks - 0.001,
        "batch": batch,
        "decay": theirs["decay"],
        "max_tokens": theirs["block"],
        "packing": "best_fit",
    });
    let (metrics, weights) = tuned(&Compute::default(), &reference, with);
    assert_follows(theirs, &metrics, &weights);
}
