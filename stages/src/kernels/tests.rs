//! Every fused operation against the same one made of plain tensor operations: values and gradients.

use std::sync::Arc;

use burn::tensor::{Device, Tensor, TensorData};

use super::*;
use crate::random::Stream;

/// Numbers that exercise every branch and no pattern: standard normal, by name.
fn normal(name: u64, shape: [usize; 2]) -> Tensor<2> {
    let mut stream = Stream::new(&[name]);
    let values: Vec<f32> = (0..shape[0] * shape[1]).map(|_| stream.normal()).collect();
    Tensor::from_data(TensorData::new(values, shape), &Device::flex())
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_to_vec().expect("these are f32")
}

fn assert_close(left: &[f32], right: &[f32], what: &str) {
    assert_eq!(left.len(), right.len(), "{what}");
    let scale = right.iter().fold(1e-3_f32, |most, value| most.max(value.abs()));
    for (i, (left, right)) in left.iter().zip(right).enumerate() {
        assert!((left - right).abs() <= 2e-5 * scale, "{what}[{i}]: fused {left}, plain {right}");
    }
}

/// Value and gradients of a function for the inputs, weighted so that no symmetry hides a mistake.
fn run(inputs: &[Tensor<2>], function: &dyn Fn(&[Tensor<2>]) -> Tensor<2>) -> (Vec<f32>, Vec<Vec<f32>>) {
    let tracked: Vec<Tensor<2>> = inputs.iter().map(|input| input.clone().autodiff().require_grad()).collect();
    let output = function(&tracked);
    let weights = normal(99, output.dims()).autodiff();
    let gradients = (output.clone() * weights).sum().backward();
    let gradients =
        tracked.iter().map(|input| values(input.grad(&gradients).expect("every input is tracked"))).collect();
    (values(output.without_autodiff()), gradients)
}

fn assert_equal(
    name: &str,
    inputs: &[Tensor<2>],
    fused: &dyn Fn(&[Tensor<2>]) -> Tensor<2>,
    plain: &dyn Fn(&[Tensor<2>]) -> Tensor<2>,
) {
    let (fused_value, fused_gradients) = run(inputs, fused);
    let (plain_value, plain_gradients) = run(inputs, plain);
    assert_close(&fused_value, &plain_value, name);
    for (i, (fused, plain)) in fused_gradients.iter().zip(&plain_gradients).enumerate() {
        assert_close(fused, plain, &format!("gradient {i} of {name}"));
    }
    assert_eq!(run(inputs, fused), (fused_value, fused_gradients), "{name} is not deterministic");
}

#[test]
fn linear_equals_its_plain_form() {
    for tokens in [1, 3, 70] {
        let inputs = [normal(1, [tokens, 24]), normal(2, [40, 24])];
        assert_equal("linear", &inputs, &|x| linear(x[0].clone(), x[1].clone()), &|x| {
            plain::linear(x[0].clone(), x[1].clone())
        });
    }
}

#[test]
fn linear_with_dropout_equals_its_plain_form() {
    for tokens in [1, 3, 70] {
        let inputs = [normal(1, [tokens, 25]), normal(2, [40, 25])];
        let keys = Arc::new((0..tokens as u64).map(|row| 7 * row + 1).collect());
        let omission = Arc::new(Omission { share: 0.3, keys, place: 5 });
        assert_equal(
            "linear with dropout",
            &inputs,
            &|x| linear_with_dropout(x[0].clone(), x[1].clone(), &omission),
            &|x| plain::linear_with_dropout(x[0].clone(), x[1].clone(), &omission),
        );
    }
}

#[test]
fn a_token_of_linear_does_not_depend_on_the_batch() {
    let (x, weight) = (normal(1, [300, 172]), normal(2, [64, 172]));
    let all = values(linear(x.clone(), weight.clone()));
    for tokens in [1, 2, 5, 64, 65, 200] {
        let some = values(linear(x.clone().narrow(0, 0, tokens), weight.clone()));
        assert_eq!(some, all[..tokens * 64], "{tokens} tokens");
    }
}

#[test]
fn rows_equal_their_plain_form() {
    let index = Arc::new(vec![3, 0, 3, 6, 1]);
    assert_equal("rows", &[normal(1, [7, 9])], &|x| rows(x[0].clone(), &index), &|x| plain::rows(x[0].clone(), &index));
}

#[test]
fn rms_norm_equals_its_plain_form() {
    for (width, channels) in [(48, 48), (48, 16)] {
        let inputs = [normal(1, [300, width]), normal(2, [1, channels])];
        assert_equal("rms_norm", &inputs, &|x| rms_norm(x[0].clone(), x[1].clone(), 1e-5), &|x| {
            plain::rms_norm(x[0].clone(), x[1].clone(), 1e-5)
        });
    }
}

#[test]
fn layer_norm_equals_its_plain_form() {
    // The rows lie off zero, as those of a residual stream do.
    let inputs = [normal(1, [300, 48]) + 0.5, normal(2, [1, 48]), normal(3, [1, 48])];
    assert_equal("layer_norm", &inputs, &|x| layer_norm(x[0].clone(), x[1].clone(), x[2].clone(), 1e-5), &|x| {
        plain::layer_norm(x[0].clone(), x[1].clone(), x[2].clone(), 1e-5)
    });
}

#[test]
fn layer_norm_of_two_channels_is_what_paper_and_pencil_give() {
    // Mean 4, deviation 3: the normed row is (-1, 1).
    let row = |values: [f32; 2]| Tensor::from_data([values], &Device::flex());
    let output = layer_norm(row([1.0, 7.0]), row([2.0, 3.0]), row([0.5, -1.0]), 0.0);
    assert_close(&values(output), &[-1.5, 2.0], "layer_norm");
}

#[test]
fn gelu_equals_its_plain_form() {
    let inputs = [normal(1, [40, 600]) * 2.0];
    assert_equal("gelu", &inputs, &|x| gelu(x[0].clone()), &|x| plain::gelu(x[0].clone()));
}

#[test]
fn rotate_equals_its_plain_form() {
    let rotary = Rotary::new(&[1.0, 0.1, 0.01, 0.001], 32);
    let positions = Arc::new((0..150).map(|i| i * 7 % 32).collect::<Vec<_>>());
    let inputs = [normal(1, [150, 24])];
    assert_equal("rotate", &inputs, &|x| rotate(x[0].clone(), &rotary, &positions), &|x| {
        plain::rotate(x[0].clone(), &rotary, &positions)
    });
}

#[test]
fn attention_equals_its_plain_form() {
    let sequences = Sequences::of_lengths(&[5, 1, 130, 64]);
    let inputs = [normal(1, [200, 32]), normal(2, [200, 16]), normal(3, [200, 16])];
    let each = |x: &[Tensor<2>]| (x[0].clone(), x[1].clone(), x[2].clone());
    assert_equal(
        "attention",
        &inputs,
        &|x| {
            let (queries, keys, values) = each(x);
            attention(queries, keys, values, &sequences, 8)
        },
        &|x| {
            let (queries, keys, values) = each(x);
            plain::attention(queries, keys, values, &sequences, 8)
        },
    );
}

#[test]
fn attention_of_two_tokens_is_what_paper_and_pencil_give() {
    // One head of one channel: scores q2*k1 = 0 and q2*k2 = ln 3, so the weights are 1/4 and 3/4.
    let column = |values: [f32; 2]| Tensor::from_data([[values[0]], [values[1]]], &Device::flex());
    let output =
        attention(column([1.0, 1.0]), column([0.0, 3.0_f32.ln()]), column([4.0, 8.0]), &Sequences::of_lengths(&[2]), 1);
    assert_close(&values(output), &[4.0, 7.0], "attention");
}

#[test]
fn paged_attention_equals_its_plain_form_and_fills_its_pages() {
    // One page, a whole one, and three that lie in disorder; heads of 8 and of 80 channels.
    for head_dim in [8, 80] {
        let (width, key_width) = (4 * head_dim, 2 * head_dim);
        let mut seen = Seen::default();
        seen.push(&[3], 5);
        seen.push(&[0], PAGE);
        seen.push(&[5, 1, 2], 2 * PAGE + 3);
        let seen = Arc::new(seen);
        let places = Arc::new(vec![3 * PAGE + 4, PAGE - 1, 2 * PAGE + 2]);
        let cache = || KeyValue { keys: normal(4, [6, PAGE * key_width]), values: normal(5, [6, PAGE * key_width]) };
        let new = || (normal(2, [3, key_width]), normal(3, [3, key_width]));
        let queries = || normal(1, [3, width]);
        let fused = paged_write(new().0, new().1, cache(), &places);
        let plain = plain::paged_write(new().0, new().1, cache(), &places);
        assert_close(
            &values(paged_attention(queries(), &fused, &seen, head_dim)),
            &values(plain::paged_attention(queries(), &plain, &seen, head_dim)),
            "paged_attention",
        );
        let (from, to) = (Arc::new(vec![3, 2]), Arc::new(vec![4, 0]));
        let fused = paged_copy(fused, &from, &to);
        assert_eq!(values(fused.keys), values(plain::paged_copy(plain.keys, &from, &to)));
        assert_eq!(values(fused.values), values(plain::paged_copy(plain.values, &from, &to)));
    }
}

#[test]
fn paged_attention_is_attention() {
    // The last of 37 tokens sees the same, whether its sequence lies in rows or in pages.
    let sequences = Sequences::of_lengths(&[37]);
    let [queries, keys, values_] = [normal(1, [37, 32]), normal(2, [37, 16]), normal(3, [37, 16])];
    let pages = [2, 0, 1];
    let places = (0..37).map(|at| pages[at / PAGE] * PAGE + at % PAGE).collect::<Vec<_>>().into();
    let nothing = || Tensor::zeros([3, PAGE * 16], &Device::flex());
    let cache = KeyValue { keys: nothing(), values: nothing() };
    let cache = paged_write(keys.clone(), values_.clone(), cache, &places);
    let mut seen = Seen::default();
    seen.push(&pages, 37);
    let newest = queries.clone().slice([36..37, 0..32]);
    let paged = paged_attention(newest, &cache, &seen.into(), 8);
    let flat = attention(queries, keys, values_, &sequences, 8).slice([36..37, 0..32]);
    assert_close(&values(paged), &values(flat), "the last token");
}

#[test]
fn swiglu_equals_its_plain_form() {
    let inputs = [normal(1, [40, 600]), normal(2, [40, 600])];
    assert_equal("swiglu", &inputs, &|x| swiglu(x[0].clone(), x[1].clone()), &|x| {
        plain::swiglu(x[0].clone(), x[1].clone())
    });
}

#[test]
fn logprobs_equal_their_plain_form() {
    let targets = Arc::new((0..200).map(|i| i * 13 % 67).collect::<Vec<_>>());
    let as_column = |x: Tensor<1>| {
        let [length] = x.dims();
        x.reshape([length, 1])
    };
    assert_equal(
        "logprobs",
        &[normal(1, [200, 67]) * 3.0],
        &|x| as_column(logprobs(x[0].clone(), &targets, 0.7)),
        &|x| as_column(plain::logprobs(x[0].clone(), &targets, 0.7)),
    );
}

#[test]
fn entropy_equals_its_plain_form_and_is_ln_2_for_a_fair_coin() {
    let logits = normal(1, [50, 67]) * 3.0;
    assert_close(&values(entropy(logits.clone(), 0.7)), &values(plain::entropy(logits, 0.7)), "entropy");
    let coin = Tensor::from_data([[1.5, 1.5]], &Device::flex());
    assert_close(&values(entropy(coin, 1.0)), &[2.0_f32.ln()], "a coin");
}

#[test]
fn adamw_equals_its_plain_form_and_its_first_step_is_the_learning_rate() {
    let settings = AdamStep {
        learning_rate: 0.1,
        beta1: 0.9,
        beta2: 0.99,
        epsilon: 1e-8,
        weight_decay: 0.01,
        gradient_scale: 0.5,
        step: 1,
    };
    let state = || Moments { weight: normal(1, [5, 9]), first: normal(2, [5, 9]), second: normal(3, [5, 9]).abs() };
    let (fused, plain) =
        (adamw(state(), normal(4, [5, 9]), settings), plain::adamw(state(), normal(4, [5, 9]), settings));
    assert_close(&values(fused.weight), &values(plain.weight), "weight");
    assert_close(&values(fused.first), &values(plain.first), "first moment");
    assert_close(&values(fused.second), &values(plain.second), "second moment");

    // From zero moments the corrected ratio is the gradient's sign: w = 2 * (1 - 0.1 * 0.01) - 0.1.
    let one = |value: f32| Tensor::from_data([[value]], &Device::flex());
    let state = Moments { weight: one(2.0), first: one(0.0), second: one(0.0) };
    assert_close(&values(adamw(state, one(3.0), settings).weight), &[1.898], "one step by hand");
}

/// Four pieces of the vocabulary, the last one short, and more than one block of rows.
fn head_inputs() -> ([Tensor<2>; 2], Arc<Vec<usize>>) {
    let (rows, vocab) = (1030, 6500);
    let targets = Arc::new((0..rows).map(|row| row * 7919 % vocab).collect());
    ([normal(1, [rows, 16]), normal(2, [vocab, 16])], targets)
}

#[test]
fn head_equals_its_plain_form() {
    let (inputs, targets) = head_inputs();
    for temperature in [1.0, 0.7] {
        let as_column = |(logprobs, _): (Tensor<1>, Tensor<1>)| logprobs.reshape([targets.len(), 1]);
        assert_equal("head", &inputs, &|x| as_column(head(x[0].clone(), x[1].clone(), &targets, temperature)), &|x| {
            as_column(plain::head(&x[0], &x[1], &targets, temperature))
        });
        let [hidden, weight] = inputs.clone();
        let fused = values(head(hidden.clone(), weight.clone(), &targets, temperature).1);
        assert_close(&fused, &values(plain::head(&hidden, &weight, &targets, temperature).1), "entropy of head");
        let whole = linear(hidden, weight);
        assert_close(&fused, &values(entropy(whole, temperature)), "entropy of head");
    }
}

#[test]
fn head_of_two_entries_is_what_paper_and_pencil_give() {
    // Logits 0 and ln 3 in the first row, ln 3 and 0 in the second: the softmax is (1/4, 3/4) and (3/4, 1/4).
    let device = Device::flex();
    let hidden = Tensor::<2>::from_data([[0.0, 3.0_f32.ln()], [3.0_f32.ln(), 0.0]], &device);
    let weight = Tensor::<2>::from_data([[1.0, 0.0], [0.0, 1.0]], &device);
    let (logprobs, entropies) = head(hidden, weight, &Arc::new(vec![1, 1]), 1.0);
    assert_close(&values(logprobs), &[0.75_f32.ln(), 0.25_f32.ln()], "logprobs");
    let both = -(0.75 * 0.75_f32.ln() + 0.25 * 0.25_f32.ln());
    assert_close(&values(entropies), &[both, both], "entropies");
}

#[test]
fn a_row_of_head_does_not_depend_on_the_batch() {
    let ([hidden, weight], targets) = head_inputs();
    let (all, entropies) = head(hidden.clone(), weight.clone(), &targets, 1.0);
    let (all, entropies) = (values(all), values(entropies));
    for rows in [1, 2, 5, 64, 1025] {
        let some = Arc::new(targets[..rows].to_vec());
        let (logprobs, some_entropies) = head(hidden.clone().narrow(0, 0, rows), weight.clone(), &some, 1.0);
        assert_eq!(values(logprobs), all[..rows], "{rows} rows");
        assert_eq!(values(some_entropies), entropies[..rows], "{rows} rows");
    }
}

#[test]
fn head_gives_the_same_bits_on_any_number_of_threads() {
    let (inputs, targets) = head_inputs();
    let on = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let both = |x: &[Tensor<2>]| head(x[0].clone(), x[1].clone(), &targets, 1.0).0.reshape([targets.len(), 1]);
        pool.install(|| run(&inputs, &both))
    };
    let one = on(1);
    for threads in [2, 3] {
        assert_eq!(on(threads), one, "{threads} threads");
    }
}

#[test]
fn a_head_that_is_not_trained_hands_the_same_gradient_down() {
    let ([hidden, weight], targets) = head_inputs();
    let down = |weight: Tensor<2>| {
        let hidden = hidden.clone().autodiff().require_grad();
        let gradients = head(hidden.clone(), weight, &targets, 1.0).0.sum().backward();
        values(hidden.grad(&gradients).unwrap())
    };
    assert_eq!(down(weight.clone().autodiff()), down(weight.autodiff().require_grad()));
}

#[test]
fn a_sum_of_squares_is_exact_where_numbers_are_whole() {
    // 1 + 4 + 9 + .. + 300^2 = 300 * 301 * 601 / 6, which an f32 holds.
    let row: Vec<f32> = (1..=300_u16).map(f32::from).collect();
    let row = Tensor::<2>::from_data(TensorData::new(row, [10, 30]), &Device::flex());
    assert_eq!(values(sum_of_squares(row)), [9_045_050.0]);
    let ones = Tensor::<2>::ones([500, 100], &Device::flex());
    assert_eq!(values(sum_of_squares(ones)), [50_000.0]);
}

/// What a kernel says of arguments that do not fit together, in a release build too.
fn refusal(call: impl FnOnce() + std::panic::UnwindSafe) -> String {
    let panic = std::panic::catch_unwind(call).expect_err("the sizes do not fit together");
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}

#[test]
#[should_panic(expected = "rows of `x` and of `weight` are of one width")]
fn a_weight_wider_than_its_input_is_refused() {
    let _ = linear(normal(1, [3, 8]), normal(2, [4, 24]));
}

#[test]
#[should_panic(expected = "sequences lie one behind another")]
fn sequences_that_end_behind_the_tokens_are_refused() {
    let _ = attention(normal(1, [4, 16]), normal(2, [4, 16]), normal(3, [4, 16]), &Sequences::of_lengths(&[3, 90]), 8);
}

#[test]
fn what_kernels_reach_by_pointers_lies_inside_their_tensors() {
    use burn::backend::Flex;
    use flex::Fused;
    let of = |name, shape| normal(name, shape).try_into_primitive::<Flex>().expect("on the CPU");
    let sequences = |offsets: &[usize]| Arc::new(Sequences { offsets: offsets.to_vec(), positions: vec![0; 4] });
    let attend = |queries, keys, values, offsets: &[usize], head_dim| {
        let sequences = sequences(offsets);
        refusal(move || {
            let _ = Flex::causal_attention(of(1, queries), of(2, keys), of(3, values), sequences, head_dim);
        })
    };
    let square = [4, 16];
    assert!(attend(square, square, square, &[0, 3, 2, 4], 8).contains("one behind another"));
    assert!(attend(square, square, square, &[0, 5], 8).contains("one behind another"));
    assert!(attend(square, square, [3, 16], &[0, 4], 8).contains("keys and values are of one size"));
    assert!(attend(square, [3, 16], [3, 16], &[0, 3], 8).contains("a key for each query"));
    assert!(attend([4, 24], square, square, &[0, 4], 8).contains("whole times as wide"));
    assert!(attend(square, square, square, &[0, 4], 5).contains("whole heads of 5"));
    let back = refusal(move || {
        let gradient = of(4, [3, 16]);
        let _ = Flex::attention_back(of(1, square), of(2, square), of(3, square), gradient, sequences(&[0, 4]), 8);
    });
    assert!(back.contains("`gradient` is of the size of `queries`"), "{back}");
    for (gradient, weight) in [([3, 5], [4, 8]), ([3, 3], [4, 8])] {
        let said = refusal(move || drop(Flex::linear_back_x(of(1, gradient), of(2, weight))));
        assert!(said.contains("a column for each row of `weight`"), "{said}");
    }
    let said = refusal(move || drop(Flex::linear_back_weight(of(1, [9, 4]), of(2, [3, 8]))));
    assert!(said.contains("a row for each row of `x`"), "{said}");
    let targets = |count: usize| Arc::new(vec![0_usize; count]);
    let said = refusal(move || drop(Flex::head(of(1, [3, 8]), of(2, [4, 24]), targets(3), 1.0)));
    assert!(said.contains("`hidden` and of `weight` are of one width"), "{said}");
    let said = refusal(move || drop(Flex::head(of(1, [3, 8]), of(2, [4, 8]), targets(2), 1.0)));
    assert!(said.contains("a target for each row"), "{said}");
    let said = refusal(move || {
        let (told, gradient) = (of(3, [3, 2]), of(4, [3, 3]));
        let _ = Flex::head_back(of(1, [3, 8]), of(2, [4, 8]), told, gradient, targets(3), 1.0, Wanted::Both);
    });
    assert!(said.contains("`[3, rows]`"), "{said}");
}
