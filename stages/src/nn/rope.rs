//! Rotary positions as a `config.json` describes them: how fast each pair of channels turns.
//! Knows nothing of tensors; [`crate::kernels::Rotary`] turns by what is computed here.

use std::f32::consts::TAU;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Map, Value, json};

use super::config::{Keys, decimal};

/// How a context longer than that of the first training was reached.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub enum RopeScaling {
    /// It was not.
    #[default]
    Default,
    /// Every position counts as its `factor`-th part (Chen et al., arXiv 2306.15595).
    Linear { factor: f32 },
    /// Llama 3.1's (Grattafiori et al., arXiv 2407.21783; the formula is in Meta's code and in transformers): pairs that
    /// turn slowly are slowed by `factor`, those that turn fast are left alone, and those between are blended.
    Llama3 { factor: f32, low_freq_factor: f32, high_freq_factor: f32, original_max_position_embeddings: usize },
}

/// What `rope_scaling` and `rope_parameters` may ask for.
const KINDS: [&str; 3] = ["default", "linear", "llama3"];

impl RopeScaling {
    /// By how much each pair of channels turns from one position to the next: `[head_dim / 2]`, in radians.
    ///
    /// In f32 and in the order of transformers, so that angles far from the start come out alike.
    #[must_use]
    pub fn frequencies(self, head_dim: usize, theta: f32) -> Vec<f32> {
        let plain = (0..head_dim / 2).map(|i| 1.0 / theta.powf((2 * i) as f32 / head_dim as f32));
        match self {
            Self::Default => plain.collect(),
            Self::Linear { factor } => plain.map(|frequency| frequency / factor).collect(),
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
                let original = original_max_position_embeddings as f32;
                let scaled = |frequency: f32| {
                    let wavelength = TAU / frequency;
                    if wavelength < original / high_freq_factor {
                        frequency
                    } else if wavelength > original / low_freq_factor {
                        frequency / factor
                    } else {
                        let smooth = (original / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
                        (1.0 - smooth) * frequency / factor + smooth * frequency
                    }
                };
                plain.map(scaled).collect()
            }
        }
    }

    fn kind(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Linear { .. } => "linear",
            Self::Llama3 { .. } => "llama3",
        }
    }

    /// The keys of a block of `config.json`; none where nothing is scaled.
    fn block(self) -> Option<Map<String, Value>> {
        let value = match self {
            Self::Default => return None,
            Self::Linear { factor } => json!({ "factor": decimal(factor), "rope_type": self.kind() }),
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => json!({
                "factor": decimal(factor),
                "high_freq_factor": decimal(high_freq_factor),
                "low_freq_factor": decimal(low_freq_factor),
                "original_max_position_embeddings": original_max_position_embeddings,
                "rope_type": self.kind(),
            }),
        };
        value.as_object().cloned()
    }
}

/// `rope_theta` and the scaling, from wherever a version of transformers keeps them: at the top and in `rope_scaling` up
/// to 4, in `rope_parameters` since 5. `default_theta` is the family's.
///
/// # Errors
/// When a block asks for what is not computed here, or two places disagree.
pub(super) fn read(keys: &Keys, default_theta: f32) -> Result<(f32, RopeScaling)> {
    let mut theta: Option<(String, f32)> = None;
    let mut agree = |place: String, value: f32| -> Result<()> {
        if let Some((other, earlier)) = &theta {
            let is_same = earlier.to_bits() == value.to_bits();
            ensure!(is_same, "`{other}` is {earlier}, but `{place}` is {value}: they must be the same");
        }
        theta.get_or_insert((place, value));
        Ok(())
    };
    if keys.get("rope_theta").is_some() {
        agree("rope_theta".into(), keys.number("rope_theta")?)?;
    }
    let mut scaling: Option<(&str, RopeScaling)> = None;
    for name in ["rope_scaling", "rope_parameters"] {
        let Some(value) = keys.get(name) else { continue };
        let block = value.as_object().with_context(|| format!("`{name}` is {value}; it must be an object"))?;
        let block = Keys(block);
        let here = scaled(name, &block, keys)?;
        if block.get("rope_theta").is_some() {
            agree(format!("{name}.rope_theta"), block.number("rope_theta").with_context(|| format!("in `{name}`"))?)?;
        }
        if let Some((other, earlier)) = scaling {
            ensure!(
                earlier == here,
                "`{other}` and `{name}` describe different rotary positions: they must be the same"
            );
        }
        scaling = Some((name, here));
    }
    let scaling = scaling.map(|(_, scaling)| scaling).unwrap_or_default();
    Ok((theta.map_or(default_theta, |(_, theta)| theta), scaling))
}

fn scaled(name: &str, block: &Keys, keys: &Keys) -> Result<RopeScaling> {
    let supported = || KINDS.map(|kind| format!("`{kind}`")).join(", ");
    let mut kind = None;
    // `type` is the older spelling.
    for key in ["rope_type", "type"] {
        let Some(value) = block.get(key) else { continue };
        let Some(known) = KINDS.into_iter().find(|kind| value == kind) else {
            bail!("`{name}.{key}` is {value}, which is not supported; supported: {}", supported());
        };
        let is_same = kind.is_none_or(|earlier| earlier == known);
        ensure!(is_same, "`{name}.rope_type` and `{name}.type` differ: they must be the same");
        kind = Some(known);
    }
    block.whole_rotation().with_context(|| format!("in `{name}`"))?;
    let number = |key: &str| block.number(key).with_context(|| format!("in `{name}`"));
    match kind {
        Some("linear") => Ok(RopeScaling::Linear { factor: number("factor")? }),
        Some("llama3") => {
            let original = "original_max_position_embeddings";
            let here = block.count(original).with_context(|| format!("in `{name}`"))?;
            let above = keys.count_or(original, here)?;
            ensure!(above == here, "`{original}` is {above}, but `{name}.{original}` is {here}: they must be the same");
            let (low_freq_factor, high_freq_factor) = (number("low_freq_factor")?, number("high_freq_factor")?);
            ensure!(
                high_freq_factor > low_freq_factor,
                "`{name}.high_freq_factor` ({high_freq_factor}) must be above `{name}.low_freq_factor` ({low_freq_factor})"
            );
            Ok(RopeScaling::Llama3 {
                factor: number("factor")?,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings: here,
            })
        }
        _ => Ok(RopeScaling::Default),
    }
}

/// The keys of `config.json` that [`read`] reads. `rope_parameters` repeats the others for programs that know only
/// transformers 5, which itself finds them at the top; without a scaling, nothing is repeated.
pub(super) fn written(theta: f32, scaling: RopeScaling) -> Map<String, Value> {
    let mut keys = Map::new();
    keys.insert("rope_theta".into(), decimal(theta));
    keys.insert("rope_scaling".into(), Value::Null);
    if let Some(mut block) = scaling.block() {
        keys.insert("rope_scaling".into(), block.clone().into());
        block.insert("rope_theta".into(), decimal(theta));
        block.sort_keys();
        keys.insert("rope_parameters".into(), block.into());
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_of(config: Value) -> Result<(f32, RopeScaling)> {
        read(&Keys(config.as_object().unwrap()), 10_000.0)
    }

    fn refusal(config: Value) -> String {
        format!("{:#}", read_of(config).unwrap_err())
    }

    const LLAMA31: RopeScaling = RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 8192,
    };

    #[test]
    fn a_linear_factor_slows_every_pair() {
        // 100^(0/4) = 1 and 100^(2/4) = 10.
        assert_eq!(RopeScaling::Default.frequencies(4, 100.0), [1.0, 0.1]);
        assert_eq!(RopeScaling::Linear { factor: 4.0 }.frequencies(4, 100.0), [0.25, 0.025]);
    }

    /// With an original context of 8192, wavelengths below 2048 stay, those above 8192 are stretched eightfold, and one
    /// half-way in frequency between is blended half and half.
    #[test]
    fn llama3_leaves_fast_pairs_alone_slows_slow_ones_and_blends_between() {
        let of_wavelength = |wavelength: f32| {
            // The second of two pairs turns by theta^(-1/2).
            let theta = (wavelength / TAU).powi(2);
            let [first, second] = LLAMA31.frequencies(4, theta)[..] else { unreachable!() };
            assert!((first - 1.0).abs() < 1e-6);
            second / (TAU / wavelength)
        };
        assert!((of_wavelength(2000.0) - 1.0).abs() < 1e-5);
        assert!((of_wavelength(9000.0) - 1.0 / 8.0).abs() < 1e-5);
        // 8192 / wavelength = 2.5 is half-way between 1 and 4: (1/8 + 1) / 2.
        assert!((of_wavelength(8192.0 / 2.5) - 0.5625).abs() < 1e-5);
    }

    #[test]
    fn the_blocks_of_both_generations_of_transformers_are_read_in_both_spellings() {
        let published = json!({ "rope_theta": 500_000.0, "rope_scaling": { "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 8192, "rope_type": "llama3" } });
        assert_eq!(read_of(published).unwrap(), (500_000.0, LLAMA31));
        let newer = json!({ "rope_parameters": { "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4,
            "original_max_position_embeddings": 8192, "rope_type": "llama3", "rope_theta": 500_000 } });
        assert_eq!(read_of(newer).unwrap(), (500_000.0, LLAMA31));
        let older = json!({ "rope_scaling": { "type": "linear", "factor": 2.0 } });
        assert_eq!(read_of(older).unwrap(), (10_000.0, RopeScaling::Linear { factor: 2.0 }));
        for nothing in [json!({}), json!({ "rope_scaling": null }), json!({ "rope_parameters": {} })] {
            assert_eq!(read_of(nothing).unwrap(), (10_000.0, RopeScaling::Default));
        }
    }

    #[test]
    fn what_is_written_reads_back_by_either_generation() {
        for scaling in [RopeScaling::Default, RopeScaling::Linear { factor: 2.5 }, LLAMA31] {
            let written = written(500_000.0, scaling);
            assert_eq!(read_of(written.clone().into()).unwrap(), (500_000.0, scaling));
            let only = |keys: &[&str]| {
                let kept: Map<_, _> = written.clone().into_iter().filter(|(key, _)| keys.contains(&&**key)).collect();
                read_of(kept.into()).unwrap()
            };
            assert_eq!(only(&["rope_theta", "rope_scaling"]), (500_000.0, scaling));
            if scaling != RopeScaling::Default {
                assert_eq!(only(&["rope_parameters"]), (500_000.0, scaling));
            }
        }
    }

    #[test]
    fn scalings_that_are_not_computed_are_refused_by_the_deciding_key() {
        let supported = "which is not supported; supported: `default`, `linear`, `llama3`";
        assert_eq!(
            refusal(json!({ "rope_scaling": { "rope_type": "dynamic", "factor": 8.0 } })),
            format!("`rope_scaling.rope_type` is \"dynamic\", {supported}")
        );
        assert_eq!(
            refusal(json!({ "rope_parameters": { "rope_type": "yarn", "rope_theta": 1e6 } })),
            format!("`rope_parameters.rope_type` is \"yarn\", {supported}")
        );
        assert_eq!(
            refusal(json!({ "rope_scaling": { "type": "mrope", "rope_type": "default" } })),
            format!("`rope_scaling.type` is \"mrope\", {supported}")
        );
        assert_eq!(
            refusal(json!({ "rope_parameters": { "rope_type": "default", "partial_rotary_factor": 0.5 } })),
            "in `rope_parameters`: `partial_rotary_factor` is 0.5, which is not supported; supported: 1.0"
        );
    }

    #[test]
    fn incomplete_and_contradictory_blocks_are_refused() {
        let linear = json!({ "rope_type": "linear" });
        assert_eq!(refusal(json!({ "rope_scaling": linear })), "in `rope_scaling`: no `factor`");
        assert_eq!(refusal(json!({ "rope_scaling": "linear" })), "`rope_scaling` is \"linear\"; it must be an object");
        assert_eq!(
            refusal(json!({ "rope_theta": 10_000.0, "rope_parameters": { "rope_theta": 500_000.0 } })),
            "`rope_theta` is 10000, but `rope_parameters.rope_theta` is 500000: they must be the same"
        );
        let two =
            json!({ "rope_scaling": { "type": "linear", "factor": 2 }, "rope_parameters": { "rope_theta": 1e4 } });
        assert_eq!(
            refusal(two),
            "`rope_scaling` and `rope_parameters` describe different rotary positions: they must be the same"
        );
        let mut llama = json!({ "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192, "rope_type": "llama3" });
        assert_eq!(
            refusal(json!({ "rope_scaling": llama })),
            "`rope_scaling.high_freq_factor` (4) must be above `rope_scaling.low_freq_factor` (4)"
        );
        llama["original_max_position_embeddings"] = Value::Null;
        assert_eq!(
            refusal(json!({ "rope_scaling": llama })),
            "in `rope_scaling`: no `original_max_position_embeddings`"
        );
    }
}
