//! Ties each fused operation to its gradient in Burn's graph. Knows no arithmetic.

use std::sync::Arc;

use burn::backend::{
    Autodiff,
    autodiff::{
        checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
        grads::Gradients,
        ops::{Backward, Ops, OpsKind},
    },
    tensor::FloatTensor,
};

use super::{AdamStep, Omission, Rotary, Seen, Sequences, Wanted, flex::Fused};

/// Records an operation: its tracked inputs, what its gradient needs, the forward value, and the gradient.
///
/// The gradient is an array of one value an input; what nobody tracks is dropped.
macro_rules! differentiable {
    (
        $name:ident<$count:literal>($($input:ident),+),
        keep $state:ident: $state_type:ty = $kept:expr,
        forward $forward:expr,
        back |$gradient:ident| $back:expr
    ) => {{
        #[derive(Debug)]
        struct $name;
        impl<B: Fused> Backward<B, $count> for $name {
            type State = $state_type;
            fn backward(self, ops: Ops<Self::State, $count>, gradients: &mut Gradients, _: &mut Checkpointer) {
                let $gradient = gradients.consume::<B>(&ops.node);
                let $state = ops.state;
                let values: [FloatTensor<B>; $count] = $back;
                for (parent, value) in ops.parents.into_iter().zip(values) {
                    if let Some(parent) = parent {
                        gradients.register::<B>(parent.id, value);
                    }
                }
            }
        }
        let nodes = [$($input.node()),+];
        $(let $input = $input.into_primitive();)+
        match $name.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => {
                let kept = $kept;
                prepared.finish(kept, $forward)
            }
            OpsKind::UnTracked(prepared) => prepared.finish($forward),
        }
    }};
}

const NO_SECOND_ORDER: &str = "only first-order gradients are recorded";
const OUTSIDE: &str = "sampling runs outside autodiff";

impl<B: Fused, C: CheckpointStrategy> Fused for Autodiff<B, C> {
    fn linear(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        if !weight.is_tracked() {
            // Beside an adapter the weight is frozen: neither its gradient is computed nor `x` kept for it.
            let weight = weight.into_primitive();
            return differentiable!(
                FrozenLinear<1>(x),
                keep weight: FloatTensor<B> = weight.clone(),
                forward <B as Fused>::linear(x, weight),
                back |gradient| [B::linear_back_x(gradient, weight)]
            );
        }
        differentiable!(
            Linear<2>(x, weight),
            keep state: (FloatTensor<B>, FloatTensor<B>) = (x.clone(), weight.clone()),
            forward <B as Fused>::linear(x, weight),
            back |gradient| {
                let (x, weight) = state;
                [B::linear_back_x(gradient.clone(), weight), B::linear_back_weight(gradient, x)]
            }
        )
    }

    fn linear_with_dropout(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        omission: Arc<Omission>,
    ) -> FloatTensor<Self> {
        // `x` is kept as it came, which others keep too: what is left of it is found again.
        differentiable!(
            LinearWithDropout<2>(x, weight),
            keep state: (FloatTensor<B>, FloatTensor<B>, Arc<Omission>) = (x.clone(), weight.clone(), omission.clone()),
            forward B::linear_with_dropout(x, weight, omission),
            back |gradient| {
                let (x, weight, omission) = state;
                let of_x = B::omit(B::linear_back_x(gradient.clone(), weight), omission.clone());
                [of_x, B::linear_back_weight(gradient, B::omit(x, omission))]
            }
        )
    }

    fn rows(table: FloatTensor<Self>, index: Arc<Vec<usize>>) -> FloatTensor<Self> {
        use burn::backend::TensorMetadata;
        differentiable!(
            Rows<1>(table),
            keep state: (Arc<Vec<usize>>, usize) = (index.clone(), table.shape()[0]),
            forward B::rows(table, index),
            back |gradient| {
                let (index, count) = state;
                [B::rows_back(gradient, index, count)]
            }
        )
    }

    fn rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, epsilon: f32) -> FloatTensor<Self> {
        differentiable!(
            RmsNorm<2>(x, weight),
            keep state: (FloatTensor<B>, FloatTensor<B>, f32) = (x.clone(), weight.clone(), epsilon),
            forward B::rms_norm(x, weight, epsilon),
            back |gradient| {
                let (x, weight, epsilon) = state;
                B::rms_norm_back(x, weight, gradient, epsilon).into()
            }
        )
    }

    fn layer_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        epsilon: f32,
    ) -> FloatTensor<Self> {
        differentiable!(
            LayerNorm<3>(x, weight, bias),
            keep state: (FloatTensor<B>, FloatTensor<B>, f32) = (x.clone(), weight.clone(), epsilon),
            forward <B as Fused>::layer_norm(x, weight, bias, epsilon),
            back |gradient| {
                let (x, weight, epsilon) = state;
                B::layer_norm_back(x, weight, gradient, epsilon).into()
            }
        )
    }

    fn rotate(
        x: FloatTensor<Self>,
        rotary: Arc<Rotary>,
        positions: Arc<Vec<usize>>,
        backwards: bool,
    ) -> FloatTensor<Self> {
        differentiable!(
            Rotate<1>(x),
            keep state: (Arc<Rotary>, Arc<Vec<usize>>, bool) = (rotary.clone(), positions.clone(), backwards),
            forward B::rotate(x, rotary, positions, backwards),
            back |gradient| {
                let (rotary, positions, backwards) = state;
                [B::rotate(gradient, rotary, positions, !backwards)]
            }
        )
    }

    fn causal_attention(
        queries: FloatTensor<Self>,
        keys: FloatTensor<Self>,
        values: FloatTensor<Self>,
        sequences: Arc<Sequences>,
        head_dim: usize,
    ) -> FloatTensor<Self> {
        differentiable!(
            Attention<3>(queries, keys, values),
            keep state: ([FloatTensor<B>; 3], Arc<Sequences>, usize) =
                ([queries.clone(), keys.clone(), values.clone()], sequences.clone(), head_dim),
            forward B::causal_attention(queries, keys, values, sequences, head_dim),
            back |gradient| {
                let ([queries, keys, values], sequences, head_dim) = state;
                B::attention_back(queries, keys, values, gradient, sequences, head_dim).into()
            }
        )
    }

    fn swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        differentiable!(
            Swiglu<2>(gate, up),
            keep state: (FloatTensor<B>, FloatTensor<B>) = (gate.clone(), up.clone()),
            forward B::swiglu(gate, up),
            back |gradient| {
                let (gate, up) = state;
                B::swiglu_back(gate, up, gradient).into()
            }
        )
    }

    fn gelu(x: FloatTensor<Self>) -> FloatTensor<Self> {
        differentiable!(
            Gelu<1>(x),
            keep state: FloatTensor<B> = x.clone(),
            forward <B as Fused>::gelu(x),
            back |gradient| [B::gelu_back(state, gradient)]
        )
    }

    fn logprobs(logits: FloatTensor<Self>, targets: Arc<Vec<usize>>, temperature: f32) -> FloatTensor<Self> {
        differentiable!(
            Logprobs<1>(logits),
            keep state: (FloatTensor<B>, Arc<Vec<usize>>, f32) = (logits.clone(), targets.clone(), temperature),
            forward B::logprobs(logits, targets, temperature),
            back |gradient| {
                let (logits, targets, temperature) = state;
                [B::logprobs_back(logits, gradient, targets, temperature)]
            }
        )
    }

    /// By hand: its gradient needs what the forward pass found, and leaves out that of a head that nobody trains.
    fn head(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        targets: Arc<Vec<usize>>,
        temperature: f32,
    ) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Head;
        impl<B: Fused> Backward<B, 2> for Head {
            type State = ([FloatTensor<B>; 3], Arc<Vec<usize>>, f32);
            fn backward(self, ops: Ops<Self::State, 2>, gradients: &mut Gradients, _: &mut Checkpointer) {
                let gradient = gradients.consume::<B>(&ops.node);
                let ([hidden, weight, told], targets, temperature) = ops.state;
                let [hidden_parent, weight_parent] = ops.parents;
                let wanted = if weight_parent.is_some() { Wanted::Both } else { Wanted::Hidden };
                let (to_hidden, to_weight) = B::head_back(hidden, weight, told, gradient, targets, temperature, wanted);
                if let Some(parent) = hidden_parent {
                    gradients.register::<B>(parent.id, to_hidden);
                }
                if let Some(parent) = weight_parent {
                    gradients.register::<B>(parent.id, to_weight);
                }
            }
        }
        let nodes = [hidden.node(), weight.node()];
        let (hidden, weight) = (hidden.into_primitive(), weight.into_primitive());
        let told = B::head(hidden.clone(), weight.clone(), targets.clone(), temperature);
        match Head.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => prepared.finish(([hidden, weight, told.clone()], targets, temperature), told),
            OpsKind::UnTracked(prepared) => prepared.finish(told),
        }
    }

    fn linear_back_x(_: FloatTensor<Self>, _: FloatTensor<Self>) -> FloatTensor<Self> {
        unreachable!("{NO_SECOND_ORDER}")
    }

    fn linear_back_weight(_: FloatTensor<Self>, _: FloatTensor<Self>) -> FloatTensor<Self> {
        unreachable!("{NO_SECOND_ORDER}")
    }

    fn omit(_: FloatTensor<Self>, _: Arc<Omission>) -> FloatTensor<Self> {
        unreachable!("{NO_SECOND_ORDER}")
    }

    fn rows_back(_: FloatTensor<Self>, _: Arc<Vec<usize>>, _: usize) -> FloatTensor<Self> {
        unreachable!("{NO_SECOND_ORDER}")
    }

    fn rms_norm_back(
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: f32,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        unreachable!("{NO_SECOND_ORDER}")
    }

    fn layer_norm_back(
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: f32,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        unreachable!("{NO_SECOND_ORDER}")
    }

    fn attention_back(
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: Arc<Sequences>,
        _: usize,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        unreachable!("{NO_SECOND_ORDER}")
    }

    fn paged_write(
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: Arc<Vec<usize>>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        unreachable!("{OUTSIDE}")
    }

    fn paged_copy(_: FloatTensor<Self>, _: Arc<Vec<usize>>, _: Arc<Vec<usize>>) -> FloatTensor<Self> {
        unreachable!("{OUTSIDE}")
    }

    fn paged_attention(
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: Arc<Seen>,
        _: usize,
    ) -> FloatTensor<Self> {
        unreachable!("{OUTSIDE}")
    }

    fn swiglu_back(
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        unreachable!("{NO_SECOND_ORDER}")
    }

    fn gelu_back(_: FloatTensor<Self>, _: FloatTensor<Self>) -> FloatTensor<Self> {
        unreachable!("{NO_SECOND_ORDER}")
    }

    fn logprobs_back(_: FloatTensor<Self>, _: FloatTensor<Self>, _: Arc<Vec<usize>>, _: f32) -> FloatTensor<Self> {
        unreachable!("{NO_SECOND_ORDER}")
    }

    fn head_back(
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: Arc<Vec<usize>>,
        _: f32,
        _: Wanted,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        unreachable!("{NO_SECOND_ORDER}")
    }

    fn sum_of_squares(_: FloatTensor<Self>) -> FloatTensor<Self> {
        unreachable!("gradients are measured outside autodiff")
    }

    fn entropy(_: FloatTensor<Self>, _: f32) -> FloatTensor<Self> {
        unreachable!("entropy is measured outside autodiff")
    }

    fn adamw(
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: AdamStep,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        unreachable!("weights are updated outside autodiff")
    }
}
