//! A low-rank adapter as the folder that PEFT reads and writes: `adapter_config.json`, `adapter_model.safetensors`.
//! Knows nothing of the model beyond its sizes.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Map, Value, json};

use crate::{
    data::regular,
    nn::{
        config::Config,
        lora::{A, Adapter, B, Lora, Target},
        weights::{self, Dtype, Weights},
    },
};

pub const CONFIG: &str = "adapter_config.json";
pub const WEIGHTS: &str = "adapter_model.safetensors";

/// Before every name in PEFT's file: the adapter's model, and the model in it.
const PREFIX: &str = "base_model.model.";

/// As in the `lora` block of a stage.
const HIGHEST_RANK: u64 = 65_536;
/// Above a thousand times what is usual a factor is a mistake, or somebody's attempt at a number that has no end.
const LARGEST_ALPHA: f64 = 1e6;

/// Keys that say nothing of what the adapter computes, or that are read apart.
const KNOWN: [&str; 19] = [
    "auto_mapping",
    "base_model_name_or_path",
    "ensure_weight_tying",
    "exclude_modules",
    "inference_mode",
    // How `A` and `B` began.
    "init_lora_weights",
    "layers_pattern",
    "lora_alpha",
    "lora_dropout",
    "megatron_core",
    "peft_type",
    "peft_version",
    "qalora_group_size",
    "r",
    "revision",
    "runtime_config",
    "target_modules",
    "task_type",
    "use_rslora",
];

/// Reads an adapter for a model of these sizes.
///
/// # Errors
/// Names the file, the key or the tensor that is missing, wrong or not supported.
pub fn read(folder: &Path, config: &Config) -> Result<Adapter> {
    let path = folder.join(CONFIG);
    let text = regular::text(&path, regular::CONFIG_BYTES).with_context(|| format!("reading {}", path.display()))?;
    let keys: Map<String, Value> =
        serde_json::from_str(&text).with_context(|| format!("reading {}", path.display()))?;
    let mut lora = described(&keys).with_context(|| format!("reading {}", path.display()))?;

    let path = folder.join(WEIGHTS);
    ensure!(
        path.exists() || !folder.join("adapter_model.bin").exists(),
        "{}: `adapter_model.bin` is not read; PEFT writes `{WEIGHTS}` with `save_pretrained`",
        folder.display()
    );
    let mut weights = Weights::new();
    for (name, weight) in weights::read_file(&path)? {
        let plain = name.strip_prefix(PREFIX).unwrap_or(&name);
        let target = module(plain).and_then(|module| Target::ALL.into_iter().find(|one| one.module() == module));
        let Some(target) = target else {
            let supported = Target::ALL.map(Target::name).join("`, `");
            bail!("{}: tensor `{name}` is not one of an adapter of `{supported}`", path.display());
        };
        lora.targets.insert(target);
        weights.insert(plain.to_owned(), weight);
    }
    ensure!(!weights.is_empty(), "{}: it holds no tensor", path.display());
    if let Some(Value::Array(listed)) = keys.get("target_modules") {
        let found: BTreeSet<&str> = lora.targets.iter().map(|target| target.name()).collect();
        let absent = listed.iter().filter_map(Value::as_str).find(|name| {
            let last = name.rsplit('.').next().unwrap_or(name);
            !found.contains(last)
        });
        if let Some(name) = absent {
            bail!("{}: no tensor of `{name}`, which `target_modules` lists", path.display());
        }
    }
    let mut wanted: BTreeMap<_, _> = lora.expected(config)?.into_iter().collect();
    for (name, weight) in &weights {
        let Some(shape) = wanted.remove(name) else {
            bail!("{}: tensor `{name}` is not part of the model that `config.json` describes", path.display());
        };
        ensure!(
            weight.shape == shape,
            "{}: tensor `{name}` is of shape {:?}; for rank {} and the model's sizes it is {shape:?}",
            path.display(),
            weight.shape,
            lora.rank
        );
    }
    if let Some((name, shape)) = wanted.first_key_value() {
        bail!("{}: no tensor `{PREFIX}{name}` of shape {shape:?}", path.display());
    }
    Ok(Adapter { lora, weights })
}

/// `self_attn.q_proj`, of `model.layers.0.self_attn.q_proj.lora_A.weight`.
fn module(name: &str) -> Option<&str> {
    let inner = name.strip_suffix(A).or_else(|| name.strip_suffix(B))?.strip_suffix('.')?;
    let (layer, module) = inner.strip_prefix("model.layers.")?.split_once('.')?;
    layer.parse::<usize>().is_ok().then_some(module)
}

/// What `adapter_config.json` says, but for the targets: the tensors show those.
fn described(keys: &Map<String, Value>) -> Result<Lora> {
    let of = |key: &str| keys.get(key).unwrap_or(&Value::Null);
    ensure!(
        of("peft_type") == "LORA",
        "`peft_type` is {}, which is not supported; supported: \"LORA\"",
        of("peft_type")
    );
    for (key, value) in keys {
        // Whatever else changes what is computed is off when it says nothing.
        let is_off = match value {
            Value::Null | Value::Bool(false) => true,
            Value::Array(items) => items.is_empty(),
            Value::Object(items) => items.is_empty(),
            Value::String(word) => key == "bias" && word == "none",
            Value::Bool(true) | Value::Number(_) => false,
        };
        ensure!(is_off || KNOWN.contains(&key.as_str()), "`{key}` is {value}, which is not supported; leave it unset");
    }
    let number = |key: &str| of(key).as_f64().with_context(|| format!("`{key}` is {}; it must be a number", of(key)));
    let rank = of("r").as_u64().filter(|rank| *rank > 0);
    let rank = rank.with_context(|| format!("`r` is {}; it must be a whole number above zero", of("r")))?;
    ensure!(rank <= HIGHEST_RANK, "`r` is {rank}; at most {HIGHEST_RANK} is supported");
    let dropout = if of("lora_dropout").is_null() { 0.0 } else { number("lora_dropout")? };
    ensure!((0.0..1.0).contains(&(dropout as f32)), "`lora_dropout` is {dropout}; it must be from 0 to below 1");
    let alpha = number("lora_alpha")?;
    ensure!(
        (0.0..=LARGEST_ALPHA).contains(&alpha.abs()),
        "`lora_alpha` is {}; it must be between -{LARGEST_ALPHA} and {LARGEST_ALPHA}",
        of("lora_alpha")
    );
    Ok(Lora {
        rank: usize::try_from(rank)?,
        alpha: Some(alpha as f32),
        dropout: dropout as f32,
        targets: BTreeSet::new(),
        rslora: of("use_rslora") == true,
    })
}

/// Writes an adapter into a folder, which then is one that PEFT loads.
///
/// # Errors
/// When a file cannot be written.
pub fn write(folder: &Path, adapter: &Adapter) -> Result<()> {
    let Lora { rank, dropout, targets, rslora, .. } = &adapter.lora;
    let targets: Vec<&str> = targets.iter().map(|target| target.name()).collect();
    let alpha = adapter.lora.alpha();
    let config = json!({
        "alpha_pattern": {},
        "auto_mapping": null,
        // Whoever loads the folder has the base before them: it is in there too.
        "base_model_name_or_path": null,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "layers_pattern": null,
        "layers_to_transform": null,
        // PEFT's own are whole.
        "lora_alpha": if alpha.fract() == 0.0 { json!(alpha as i64) } else { plain(alpha) },
        "lora_dropout": plain(*dropout),
        "modules_to_save": null,
        "peft_type": "LORA",
        "r": rank,
        "rank_pattern": {},
        "revision": null,
        "target_modules": targets,
        "task_type": "CAUSAL_LM",
        "use_dora": false,
        "use_rslora": rslora,
    });
    let path = folder.join(CONFIG);
    std::fs::write(&path, format!("{config:#}\n")).with_context(|| format!("writing {}", path.display()))?;
    let named = |(name, weight): (&String, &weights::Weight)| (format!("{PREFIX}{name}"), weight.clone());
    weights::write_file(&folder.join(WEIGHTS), &adapter.weights.iter().map(named).collect(), Dtype::F32)
}

/// A number with the digits it was given with: 0.1, not 0.10000000149.
fn plain(value: f32) -> Value {
    serde_json::from_str(&format!("{value:?}")).unwrap_or_else(|_| json!(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        bench::{Bench, json_of},
        nn::shape::Shape,
    };

    fn config() -> Config {
        Shape { layers: 2, hidden: 8, heads: 2, ffn: Some(12), ..Shape::default() }.config(10).unwrap()
    }

    fn written(bench: &Bench) -> Adapter {
        let targets = [Target::QProj, Target::DownProj].into();
        let lora = Lora { rank: 2, alpha: Some(3.5), dropout: 0.1, targets, rslora: true };
        let adapter = Adapter::init(&config(), &lora, 3).unwrap();
        bench.file("a/.keep", "");
        write(&bench.path("a"), &adapter).unwrap();
        adapter
    }

    #[test]
    fn an_adapter_survives_writing() {
        let bench = Bench::new();
        let adapter = written(&bench);
        assert_eq!(read(&bench.path("a"), &config()).unwrap(), adapter);
        let keys = json_of(&bench.path("a/adapter_config.json"));
        assert_eq!((&keys["lora_alpha"], &keys["lora_dropout"], &keys["r"]), (&json!(3.5), &json!(0.1), &json!(2)));
        assert_eq!(keys["target_modules"], json!(["q_proj", "down_proj"]));
    }

    #[test]
    fn what_is_not_computed_is_refused_by_the_deciding_key() {
        let bench = Bench::new();
        written(&bench);
        let written = json_of(&bench.path("a/adapter_config.json"));
        let complaint = |key: &str, value: Value| {
            let mut keys = written.clone();
            keys[key] = value;
            bench.file("a/adapter_config.json", keys.to_string());
            bench.message(&read(&bench.path("a"), &config()).unwrap_err())
        };
        for (key, value, expected) in [
            ("peft_type", json!("VERA"), "`peft_type` is \"VERA\", which is not supported; supported: \"LORA\""),
            ("use_dora", json!(true), "`use_dora` is true, which is not supported; leave it unset"),
            (
                "rank_pattern",
                json!({ "q_proj": 4 }),
                "`rank_pattern` is {\"q_proj\":4}, which is not supported; leave it unset",
            ),
            ("layers_to_transform", json!([0]), "`layers_to_transform` is [0], which is not supported; leave it unset"),
            ("bias", json!("all"), "`bias` is \"all\", which is not supported; leave it unset"),
            ("from_tomorrow", json!(0.5), "`from_tomorrow` is 0.5, which is not supported; leave it unset"),
            ("r", json!(0), "`r` is 0; it must be a whole number above zero"),
            ("lora_dropout", json!(1), "`lora_dropout` is 1; it must be from 0 to below 1"),
            ("lora_alpha", Value::Null, "`lora_alpha` is null; it must be a number"),
            ("lora_alpha", json!(1e308), "`lora_alpha` is 1e+308; it must be between -1000000 and 1000000"),
            ("lora_alpha", json!(-1e7), "`lora_alpha` is -10000000.0; it must be between -1000000 and 1000000"),
            ("lora_dropout", json!(0.999_999_999), "`lora_dropout` is 0.999999999; it must be from 0 to below 1"),
            ("r", json!(u64::MAX), "`r` is 18446744073709551615; at most 65536 is supported"),
        ] {
            assert_eq!(complaint(key, value), format!("reading a/adapter_config.json: {expected}"));
        }
        assert_eq!(
            complaint("target_modules", json!(["q_proj", "down_proj", "up_proj"])),
            "a/adapter_model.safetensors: no tensor of `up_proj`, which `target_modules` lists"
        );
        assert_eq!(
            complaint("r", json!(4)),
            "a/adapter_model.safetensors: tensor `model.layers.0.mlp.down_proj.lora_A.weight` is of shape [2, 12]; \
             for rank 4 and the model's sizes it is [4, 12]"
        );
        // A pattern in the place of a list: the tensors show what it meant.
        bench.file("a/adapter_config.json", {
            let mut keys = written.clone();
            keys["target_modules"] = json!(".*(q_proj|down_proj)");
            keys.to_string()
        });
        assert_eq!(read(&bench.path("a"), &config()).unwrap().lora.targets.len(), 2);
    }

    #[test]
    fn missing_and_foreign_tensors_are_named() {
        let bench = Bench::new();
        let adapter = written(&bench);
        let complaint = |spoil: &dyn Fn(&mut Weights)| {
            let mut weights =
                adapter.weights.iter().map(|(name, weight)| (format!("{PREFIX}{name}"), weight.clone())).collect();
            spoil(&mut weights);
            weights::write_file(&bench.path("a").join(WEIGHTS), &weights, Dtype::F32).unwrap();
            bench.message(&read(&bench.path("a"), &config()).unwrap_err())
        };
        let one = format!("{PREFIX}model.layers.1.self_attn.q_proj.lora_B.weight");
        let expected = format!("a/adapter_model.safetensors: no tensor `{one}` of shape [8, 2]");
        assert_eq!(complaint(&|weights| drop(weights.remove(&one))), expected);
        let rename = |to: &'static str| {
            let one = one.clone();
            move |weights: &mut Weights| {
                let weight = weights.remove(&one).unwrap();
                weights.insert(to.to_owned(), weight);
            }
        };
        assert_eq!(
            complaint(&rename("base_model.model.lm_head.lora_B.weight")),
            "a/adapter_model.safetensors: tensor `base_model.model.lm_head.lora_B.weight` is not one of an adapter of \
             `q_proj`, `k_proj`, `v_proj`, `o_proj`, `gate_proj`, `up_proj`, `down_proj`"
        );
        assert_eq!(
            complaint(&rename("base_model.model.model.layers.2.self_attn.q_proj.lora_B.weight")),
            "a/adapter_model.safetensors: tensor `model.layers.2.self_attn.q_proj.lora_B.weight` is not part of the \
             model that `config.json` describes"
        );
    }
}
