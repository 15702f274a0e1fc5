//! The one decoder-only transformer, in reading order: embedding, layers, head.
//! Fields are named like the Hugging Face weights. Knows nothing of files or of sampling.

use std::{cell::RefCell, collections::BTreeMap, sync::Arc};

use anyhow::{Context as _, Result, ensure};
use burn::tensor::{Device, FloatDType, Tensor, TensorData};

use super::{
    cache::Cache,
    config::{Config, Family},
    dropout::{Drawn, Dropout},
    lora::{self, Adapter, Lora},
    precision::Precision,
    recompute::{Activations, Tape},
    weights::{self, Weight, Weights},
};
use crate::kernels::{self, Rotary, Seen, Sequences};

/// A model of any [`Family`] on one device.
#[derive(Debug, Clone)]
pub struct Decoder {
    pub config: Config,
    precision: Precision,
    embed_tokens: Tensor<2>,
    positions: Positions,
    layers: Vec<Layer>,
    norm: Norm,
    /// `None` where the head is tied to the embedding.
    lm_head: Option<Tensor<2>>,
    /// What its projections carry, where they carry an adapter: then it learns and nothing else does.
    lora: Option<Lora>,
    /// Of the adapter's inputs, while it trains.
    dropout: Option<Dropout>,
    /// Where a forward pass leaves what its backward pass computes layers anew from; `None` where all is kept.
    pub(super) tape: Option<Arc<Tape>>,
}

/// How a token learns its place.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "a model has one")]
enum Positions {
    /// Queries and keys are turned by it, in every layer but those that carry no position.
    Rotary(Arc<Rotary>),
    /// GPT-2's embedding, added to that of the token: `[context, hidden]`.
    Learned(Tensor<2>),
}

#[derive(Debug, Clone)]
struct Layer {
    input_layernorm: Norm,
    self_attn: Attention,
    post_attention_layernorm: Norm,
    mlp: Mlp,
}

#[derive(Debug, Clone)]
struct Attention {
    q_proj: Projection,
    k_proj: Projection,
    v_proj: Projection,
    o_proj: Projection,
    q_norm: Option<Tensor<2>>,
    k_norm: Option<Tensor<2>>,
}

#[derive(Debug, Clone)]
#[expect(clippy::struct_field_names, reason = "the names of the Hugging Face weights")]
struct Mlp {
    /// `None` where the activation has no gate.
    gate_proj: Option<Projection>,
    up_proj: Projection,
    down_proj: Projection,
}

impl Mlp {
    fn forward(&self, x: Tensor<2>, dropped: Option<&Drawn>) -> Tensor<2> {
        let inner = match &self.gate_proj {
            Some(gate) => kernels::swiglu(gate.forward(x.clone(), dropped), self.up_proj.forward(x, dropped)),
            None => kernels::gelu(self.up_proj.forward(x, dropped)),
        };
        self.down_proj.forward(inner, dropped)
    }
}

/// `weight` and `bias` `[1, hidden]`: a layer norm with the bias, a root-mean-square norm without.
#[derive(Debug, Clone)]
struct Norm {
    weight: Tensor<2>,
    bias: Option<Tensor<2>>,
}

impl Norm {
    fn forward(&self, x: Tensor<2>, epsilon: f32) -> Tensor<2> {
        match &self.bias {
            Some(bias) => kernels::layer_norm(x, self.weight.clone(), bias.clone(), epsilon),
            None => kernels::rms_norm(x, self.weight.clone(), epsilon),
        }
    }

    fn each(&mut self, name: &str, visit: &mut dyn FnMut(&str, &mut Tensor<2>)) {
        visit(&format!("{name}.weight"), &mut self.weight);
        if let Some(bias) = &mut self.bias {
            visit(&format!("{name}.bias"), bias);
        }
    }
}

/// `weight` `[out, in]`, `bias` `[1, out]`.
#[derive(Debug, Clone)]
struct Projection {
    weight: Tensor<2>,
    bias: Option<Tensor<2>>,
    low_rank: Option<LowRank>,
}

impl Projection {
    fn forward(&self, x: Tensor<2>, dropped: Option<&Drawn>) -> Tensor<2> {
        let output = kernels::linear(x.clone(), self.weight.clone());
        let output = match &self.bias {
            Some(bias) => {
                let bias = bias.clone().cast(output.dtype());
                output + bias
            }
            None => output,
        };
        match &self.low_rank {
            Some(low_rank) => output + low_rank.forward(x, dropped),
            None => output,
        }
    }
}

/// What an adapter adds to a projection: `scale B A x`, with `a` `[rank, in]` and `b` `[out, rank]`.
#[derive(Debug, Clone)]
struct LowRank {
    a: Tensor<2>,
    b: Tensor<2>,
    scale: f32,
    /// Its own word in the key of dropout.
    place: u64,
}

impl LowRank {
    fn forward(&self, x: Tensor<2>, dropped: Option<&Drawn>) -> Tensor<2> {
        let narrow = match dropped {
            Some(drawn) => kernels::linear_with_dropout(x, self.a.clone(), &drawn.omission(self.place)),
            None => kernels::linear(x, self.a.clone()),
        };
        // The narrow side is scaled: it is `rank` wide.
        kernels::linear(narrow * self.scale, self.b.clone())
    }
}

/// What the tokens of a forward pass attend to.
pub enum Attend<'a> {
    /// Whole sequences at once, each inside itself.
    Within(&'a Arc<Sequences>),
    /// As sampling goes on.
    Onward(Onward<'a>),
}

/// A step of sampling: first the tokens of whole new prompts, then the newest token of every growing sequence.
pub struct Onward<'a> {
    pub cache: &'a mut Cache,
    pub prompts: Arc<Sequences>,
    /// `[tokens]`: where in the cache the key and the value of each token are kept.
    pub places: Arc<Vec<usize>>,
    /// What each newest token attends to.
    pub seen: Arc<Seen>,
}

impl Decoder {
    /// Puts a copy of a checkpoint's weights on a device.
    ///
    /// # Errors
    /// As [`Decoder::taking`].
    pub fn new(config: &Config, weights: &Weights, device: &Device) -> Result<Self> {
        Self::taking(config, weights.clone(), device)
    }

    /// Puts a checkpoint's weights on a device; on the CPU they stay where they are, and no second copy is made.
    ///
    /// # Errors
    /// When a weight is missing; reading a checkpoint has checked names and shapes already.
    pub fn taking(config: &Config, weights: Weights, device: &Device) -> Result<Self> {
        Self::holding(config, weights, device, Precision::F32)
    }

    /// As [`Decoder::taking`], for a policy that learns no more: what [`Decoder::settled`] would make of it, each weight
    /// rounded as it arrives.
    ///
    /// # Errors
    /// As [`Decoder::taking`].
    pub fn settling(config: &Config, weights: Weights, device: &Device, precision: Precision) -> Result<Self> {
        Ok(Self::holding(config, weights, device, precision)?.computing_in(precision))
    }

    fn holding(config: &Config, weights: Weights, device: &Device, held: Precision) -> Result<Self> {
        let weights = RefCell::new(weights);
        let take = |name: String| -> Result<Tensor<2>> {
            let weight = weights.borrow_mut().remove(&name);
            let Weight { shape, values } = weight.with_context(|| format!("no weight `{name}`"))?;
            let shape = match shape[..] {
                [width] => [1, width],
                [out, width] => [out, width],
                _ => anyhow::bail!("weight `{name}` has {} dimensions", shape.len()),
            };
            let weight: Tensor<2> = Tensor::from_data(TensorData::new(values, shape), device);
            Ok(weight.cast(held.dtype()))
        };
        let projection = |name: String, biased: bool| -> Result<Projection> {
            let bias = if biased { Some(take(format!("{name}.bias"))?) } else { None };
            Ok(Projection { weight: take(format!("{name}.weight"))?, bias, low_rank: None })
        };
        let is_gpt2 = config.family == Family::Gpt2;
        let norm = |name: String| -> Result<Norm> {
            let bias = if is_gpt2 { Some(take(format!("{name}.bias"))?) } else { None };
            Ok(Norm { weight: take(format!("{name}.weight"))?, bias })
        };
        let layer = |i: usize| -> Result<Layer> {
            let of = |name: &str| format!("model.layers.{i}.{name}");
            let biased = config.attention_bias;
            let head_norm = |name: &str| if config.qk_norm { take(of(name)).map(Some) } else { Ok(None) };
            Ok(Layer {
                input_layernorm: norm(of("input_layernorm"))?,
                self_attn: Attention {
                    q_proj: projection(of("self_attn.q_proj"), biased)?,
                    k_proj: projection(of("self_attn.k_proj"), biased)?,
                    v_proj: projection(of("self_attn.v_proj"), biased)?,
                    o_proj: projection(of("self_attn.o_proj"), config.output_bias)?,
                    q_norm: head_norm("self_attn.q_norm.weight")?,
                    k_norm: head_norm("self_attn.k_norm.weight")?,
                },
                post_attention_layernorm: norm(of("post_attention_layernorm"))?,
                mlp: Mlp {
                    gate_proj: if is_gpt2 { None } else { Some(projection(of("mlp.gate_proj"), config.mlp_bias)?) },
                    up_proj: projection(of("mlp.up_proj"), config.mlp_bias)?,
                    down_proj: projection(of("mlp.down_proj"), config.mlp_bias)?,
                },
            })
        };
        Ok(Self {
            config: config.clone(),
            precision: Precision::F32,
            embed_tokens: take("model.embed_tokens.weight".into())?,
            positions: if is_gpt2 {
                Positions::Learned(take("model.embed_positions.weight".into())?)
            } else {
                Positions::Rotary(Rotary::new(&config.rope_frequencies(), config.context()))
            },
            layers: (0..config.num_hidden_layers).map(layer).collect::<Result<_>>()?,
            norm: norm("model.norm".into())?,
            lm_head: if config.tie_word_embeddings { None } else { Some(take("lm_head.weight".into())?) },
            lora: None,
            dropout: None,
            tape: None,
        })
    }

    /// Puts an adapter beside the weights, in the place of any other. They stay where they are.
    ///
    /// # Errors
    /// When the adapter belongs to a model of other sizes.
    pub fn adapt(&mut self, adapter: &Adapter) -> Result<()> {
        let (device, scale) = (self.device(), adapter.lora.scale());
        let mut expected: BTreeMap<_, _> = adapter.lora.expected(&self.config)?.into_iter().collect();
        let mut take = |name: String| -> Result<Option<Tensor<2>>> {
            let Some(shape) = expected.remove(&name) else { return Ok(None) };
            let weight = adapter.weights.get(&name).with_context(|| format!("the adapter has no `{name}`"))?;
            ensure!(weight.shape == shape, "`{name}` is of shape {:?}, not {shape:?}", weight.shape);
            let data = TensorData::new(weight.values.clone(), weight.shape.clone());
            Ok(Some(Tensor::from_data(data, &device)))
        };
        let mut failure = None;
        self.each_projection(&mut |name, projection| {
            let mut low_rank = || -> Result<Option<LowRank>> {
                let (a, b) = (take(format!("{name}.{}", lora::A))?, take(format!("{name}.{}", lora::B))?);
                Ok(a.zip(b).map(|(a, b)| LowRank { a, b, scale, place: weights::name_key(name) }))
            };
            match low_rank() {
                Ok(low_rank) => projection.low_rank = low_rank,
                Err(error) => failure = Some(error),
            }
        });
        self.lora = Some(adapter.lora.clone());
        if self.precision != Precision::F32 {
            // What is frozen and loses nothing is held as it is computed.
            let precision = self.precision;
            self.each(&mut |_, weight| {
                if precision.holds(weight) {
                    *weight = weight.clone().cast(precision.dtype());
                }
            });
        }
        failure.map_or(Ok(()), Err)
    }

    /// Computes in these numbers from here on. The weights stay as they are: a pass rounds them as it reads them.
    #[must_use]
    pub fn computing_in(mut self, precision: Precision) -> Self {
        self.precision = precision;
        self
    }

    #[must_use]
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// The same policy with its weights in the numbers that it is computed in: what is sampled from and scored is the
    /// same, and it learns no more.
    #[must_use]
    pub fn settled(mut self) -> Self {
        let dtype = self.precision.dtype();
        let mut settle = |_: &str, weight: &mut Tensor<2>| *weight = weight.clone().cast(dtype);
        self.each(&mut settle);
        self.each_trained(&mut settle);
        self
    }

    /// The same buffers without the adapter: the policy that it was put beside.
    #[must_use]
    pub fn base(&self) -> Self {
        let mut base = self.clone();
        base.each_projection(&mut |_, projection| projection.low_rank = None);
        (base.lora, base.dropout) = (None, None);
        base
    }

    /// What the adapter is like, if there is one.
    #[must_use]
    pub fn lora(&self) -> Option<&Lora> {
        self.lora.as_ref()
    }

    /// Leaves out what the adapter's dropout says, drawn by this key: one of its own for every step.
    #[must_use]
    pub fn dropping(mut self, key: [u64; 2]) -> Self {
        self.dropout = self.lora.as_ref().and_then(|lora| Dropout::new(lora.dropout, key));
        self
    }

    #[must_use]
    pub fn device(&self) -> Device {
        self.embed_tokens.device()
    }

    /// The last hidden states, normed: `tokens` `[tokens]` to `[tokens, hidden]`.
    #[must_use]
    pub fn hidden(&self, tokens: &[u32], mut attend: Attend) -> Tensor<2> {
        let epsilon = self.config.rms_norm_eps;
        let positions = Arc::new(match &attend {
            Attend::Within(sequences) => sequences.positions.clone(),
            Attend::Onward(onward) => {
                let newest = onward.seen.lengths.iter().map(|length| length - 1);
                onward.prompts.positions.iter().copied().chain(newest).collect()
            }
        });
        let dropped = match (&self.dropout, &attend) {
            (Some(dropout), Attend::Within(sequences)) => Some(dropout.draw(tokens, sequences)),
            _ => None,
        };
        if let (Some(tape), Attend::Within(sequences)) = (&self.tape, &attend) {
            return self.norm.forward(tape.forward(tokens, positions, sequences, dropped), epsilon);
        }
        let mut x = self.embed(tokens, &positions);
        for i in 0..self.layers.len() {
            x = self.layer(i, x, &positions, dropped.as_ref(), &mut attend);
        }
        self.norm.forward(x, epsilon)
    }

    /// What enters the first layer: `tokens` and their `positions` `[tokens]` to `[tokens, hidden]`.
    pub(super) fn embed(&self, tokens: &[u32], positions: &Arc<Vec<usize>>) -> Tensor<2> {
        let ids = Arc::new(tokens.iter().map(|id| *id as usize).collect());
        let rows = |table: &Tensor<2>, index| kernels::rows(table.clone(), index).cast(self.precision.dtype());
        let x = rows(&self.embed_tokens, &ids);
        match &self.positions {
            Positions::Rotary(_) => x,
            Positions::Learned(embedding) => x + rows(embedding, positions),
        }
    }

    /// One layer: `x` `[tokens, hidden]` to the same.
    pub(super) fn layer(
        &self,
        i: usize,
        x: Tensor<2>,
        positions: &Arc<Vec<usize>>,
        dropped: Option<&Drawn>,
        attend: &mut Attend,
    ) -> Tensor<2> {
        let (layer, epsilon) = (&self.layers[i], self.config.rms_norm_eps);
        let normed = layer.input_layernorm.forward(x.clone(), epsilon);
        let x = x + self.attend(i, &layer.self_attn, normed, positions, dropped, attend);
        let normed = layer.post_attention_layernorm.forward(x.clone(), epsilon);
        x + layer.mlp.forward(normed, dropped)
    }

    /// `hidden` `[rows, hidden]` to `[rows, vocab]`, in f32.
    #[must_use]
    pub fn logits(&self, hidden: Tensor<2>) -> Tensor<2> {
        kernels::linear(hidden, self.head()).cast(FloatDType::F32)
    }

    /// `[vocab, hidden]`
    fn head(&self) -> Tensor<2> {
        self.lm_head.as_ref().unwrap_or(&self.embed_tokens).clone()
    }

    /// Log-probability `[rows]` of each target after `hidden` `[rows, hidden]`.
    #[must_use]
    pub fn logprobs(&self, hidden: Tensor<2>, targets: &Arc<Vec<usize>>, temperature: f32) -> Tensor<1> {
        if self.config.vocab_size >= kernels::LARGE_VOCABULARY {
            return kernels::head(hidden, self.head(), targets, temperature).0;
        }
        kernels::logprobs(self.logits(hidden), targets, temperature)
    }

    /// As [`Decoder::logprobs`], with the entropy `[rows]` of the distributions that they come from.
    #[must_use]
    pub fn logprobs_and_entropy(
        &self,
        hidden: Tensor<2>,
        targets: &Arc<Vec<usize>>,
        temperature: f32,
    ) -> (Tensor<1>, Tensor<1>) {
        if self.config.vocab_size >= kernels::LARGE_VOCABULARY {
            return kernels::head(hidden, self.head(), targets, temperature);
        }
        let logits = self.logits(hidden);
        let entropy = kernels::entropy(logits.clone(), temperature);
        (kernels::logprobs(logits, targets, temperature), entropy)
    }

    fn attend(
        &self,
        layer: usize,
        attention: &Attention,
        x: Tensor<2>,
        positions: &Arc<Vec<usize>>,
        dropped: Option<&Drawn>,
        attend: &mut Attend,
    ) -> Tensor<2> {
        let (head_dim, epsilon) = (self.config.head_dim, self.config.rms_norm_eps);
        let place = |projected: Tensor<2>, norm: &Option<Tensor<2>>| {
            let normed = match norm {
                Some(weight) => kernels::rms_norm(projected, weight.clone(), epsilon),
                None => projected,
            };
            match &self.positions {
                Positions::Rotary(rotary) if self.config.rotates(layer) => kernels::rotate(normed, rotary, positions),
                Positions::Rotary(_) | Positions::Learned(_) => normed,
            }
        };
        let queries = place(attention.q_proj.forward(x.clone(), dropped), &attention.q_norm);
        let keys = place(attention.k_proj.forward(x.clone(), dropped), &attention.k_norm);
        let values = attention.v_proj.forward(x, dropped);
        let mixed = match attend {
            Attend::Within(sequences) => kernels::attention(queries, keys, values, sequences, head_dim),
            Attend::Onward(onward) => onward.attend(layer, queries, keys, values, head_dim),
        };
        attention.o_proj.forward(mixed, dropped)
    }

    /// Calls `visit` with every weight that learns and its name, always in the same order: those of the adapter where
    /// there is one, all of them where there is none.
    pub fn each_trained(&mut self, visit: &mut dyn FnMut(&str, &mut Tensor<2>)) {
        if self.lora.is_none() {
            return self.each(visit);
        }
        self.each_projection(&mut |name, projection| {
            if let Some(low_rank) = &mut projection.low_rank {
                visit(&format!("{name}.{}", lora::A), &mut low_rank.a);
                visit(&format!("{name}.{}", lora::B), &mut low_rank.b);
            }
        });
    }

    fn each_projection(&mut self, visit: &mut dyn FnMut(&str, &mut Projection)) {
        for (i, Layer { self_attn, mlp, .. }) in self.layers.iter_mut().enumerate() {
            let mut named =
                |name: &str, projection: &mut Projection| visit(&format!("model.layers.{i}.{name}"), projection);
            named("self_attn.q_proj", &mut self_attn.q_proj);
            named("self_attn.k_proj", &mut self_attn.k_proj);
            named("self_attn.v_proj", &mut self_attn.v_proj);
            named("self_attn.o_proj", &mut self_attn.o_proj);
            if let Some(gate) = &mut mlp.gate_proj {
                named("mlp.gate_proj", gate);
            }
            named("mlp.up_proj", &mut mlp.up_proj);
            named("mlp.down_proj", &mut mlp.down_proj);
        }
    }

    /// Calls `visit` with every weight but the adapter's and its Hugging Face name, always in the same order.
    pub fn each(&mut self, visit: &mut dyn FnMut(&str, &mut Tensor<2>)) {
        visit("model.embed_tokens.weight", &mut self.embed_tokens);
        if let Positions::Learned(embedding) = &mut self.positions {
            visit("model.embed_positions.weight", embedding);
        }
        for (i, layer) in self.layers.iter_mut().enumerate() {
            let mut named = |name: &str, tensor: &mut Tensor<2>| visit(&format!("model.layers.{i}.{name}"), tensor);
            layer.input_layernorm.each("input_layernorm", &mut named);
            let attention = &mut layer.self_attn;
            let mut projection = |name: &str, projection: &mut Projection| {
                named(&format!("{name}.weight"), &mut projection.weight);
                if let Some(bias) = &mut projection.bias {
                    named(&format!("{name}.bias"), bias);
                }
            };
            projection("self_attn.q_proj", &mut attention.q_proj);
            projection("self_attn.k_proj", &mut attention.k_proj);
            projection("self_attn.v_proj", &mut attention.v_proj);
            projection("self_attn.o_proj", &mut attention.o_proj);
            if let Some(gate) = &mut layer.mlp.gate_proj {
                projection("mlp.gate_proj", gate);
            }
            projection("mlp.up_proj", &mut layer.mlp.up_proj);
            projection("mlp.down_proj", &mut layer.mlp.down_proj);
            if let Some(norm) = &mut attention.q_norm {
                named("self_attn.q_norm.weight", norm);
            }
            if let Some(norm) = &mut attention.k_norm {
                named("self_attn.k_norm.weight", norm);
            }
            layer.post_attention_layernorm.each("post_attention_layernorm", &mut named);
        }
        self.norm.each("model.norm", visit);
        if let Some(lm_head) = &mut self.lm_head {
            visit("lm_head.weight", lm_head);
        }
    }

    /// The same buffers; autodiff records what is done with those that learn. Gradients come from [`Decoder::backward`].
    #[must_use]
    pub fn tracked(&self, activations: Activations) -> Self {
        let mut tracked = self.clone();
        tracked.tape = match activations {
            Activations::Keep => None,
            Activations::Recompute => Some(Tape::new(self.clone())),
        };
        tracked.each(&mut |_, weight| *weight = weight.clone().autodiff());
        tracked.each_trained(&mut |_, weight| *weight = weight.clone().autodiff().require_grad());
        tracked
    }

    /// The adapter on the host, if there is one.
    ///
    /// # Errors
    /// When the device fails to hand a weight over.
    pub fn adapter(&self) -> Result<Option<Adapter>> {
        let Some(lora) = self.lora.clone() else { return Ok(None) };
        let mut weights = Weights::new();
        let mut failure = None;
        self.clone().each_trained(&mut |name, tensor| match on_host(name, tensor.clone(), tensor.dims().to_vec()) {
            Ok(weight) => drop(weights.insert(name.to_owned(), weight)),
            Err(error) => failure = Some(error),
        });
        failure.map_or(Ok(Some(Adapter { lora, weights })), Err)
    }

    /// A copy of the weights, on the host, without those of the adapter.
    ///
    /// # Errors
    /// When the device fails to hand one over.
    pub fn weights(&self) -> Result<Weights> {
        self.clone().into_weights()
    }

    /// The weights on the host, each let go by the device as it is handed over.
    ///
    /// # Errors
    /// As [`Decoder::weights`].
    pub fn into_weights(mut self) -> Result<Weights> {
        let mut weights = Weights::new();
        let mut failure = None;
        self.each(&mut |name, tensor| {
            let [out, width] = tensor.dims();
            // Norms and biases are vectors outside.
            let is_vector = name.ends_with("norm.weight") || name.rsplit('.').next() == Some("bias");
            let shape = if is_vector { vec![width] } else { vec![out, width] };
            let nothing = Tensor::zeros([1, 1], &tensor.device());
            match on_host(name, std::mem::replace(tensor, nothing), shape) {
                Ok(weight) => drop(weights.insert(name.to_owned(), weight)),
                Err(error) => failure = Some(error),
            }
        });
        failure.map_or(Ok(weights), Err)
    }
}

fn on_host(name: &str, tensor: Tensor<2>, shape: Vec<usize>) -> Result<Weight> {
    match tensor.cast(FloatDType::F32).into_data().try_into_vec::<f32>() {
        Ok(values) => Ok(Weight { shape, values }),
        Err(error) => Err(anyhow::anyhow!("reading weight `{name}` back: {error:?}")),
    }
}

impl Onward<'_> {
    fn attend(
        &mut self,
        layer: usize,
        queries: Tensor<2>,
        keys: Tensor<2>,
        values: Tensor<2>,
        head_dim: usize,
    ) -> Tensor<2> {
        self.cache.write(layer, keys.clone(), values.clone(), &self.places);
        let pages = self.cache.layer(layer);
        let (fresh, newest) = (self.prompts.tokens(), self.seen.count());
        if fresh == 0 {
            return kernels::paged_attention(queries, pages, &self.seen, head_dim);
        }
        let first = |x: Tensor<2>| x.narrow(0, 0, fresh);
        let within = kernels::attention(first(queries.clone()), first(keys), first(values), &self.prompts, head_dim);
        if newest == 0 {
            return within;
        }
        let onward = kernels::paged_attention(queries.narrow(0, fresh, newest), pages, &self.seen, head_dim);
        Tensor::cat(vec![within, onward], 0)
    }
}
