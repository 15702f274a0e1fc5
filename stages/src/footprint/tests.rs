//! The counts by hand, and against what the kernels hold.

use std::collections::BTreeMap;

use serde_json::json;

use super::{lengths::*, moments::*, *};
use crate::{
    bench::{Bench, fixture, toy_checkpoint},
    data::checkpoint::Checkpoint,
    nn::{config::Family, lora::Target, shape::Shape, weights},
    train::{muon::Muon, optimiser::Trainer},
};

const ADAMW: Optimiser =
    Optimiser { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.0, max_norm: 1.0, muon: None };

fn learning(adapter: Option<&Lora>, reference: Reference) -> Learning<'_> {
    Learning { adapter, optimiser: &ADAMW, reference }
}

fn learner(batch: usize) -> Learner<'static> {
    Learner { policy: "policy", lora: None, optimiser: &ADAMW, batch }
}

fn rows() -> Examples {
    Examples { rows: "rows", loss: LossOn::All, most: None, too_long: TooLong::Cut, packing: Packing::None }
}

/// One layer of 4 channels, two heads of two, one of keys, 8 inside; 50 entries, tied.
fn tiny() -> Config {
    let shape = Shape { layers: 1, hidden: 4, heads: 2, kv_heads: Some(1), ffn: Some(8), ..Shape::default() };
    shape.config(50).unwrap()
}

#[test]
fn a_layer_keeps_what_its_gradients_read() {
    let kept = |family| {
        let config = Config { family, qk_norm: family == Family::Qwen3, ..tiny() };
        Model::new(&config, None).kept_by_a_layer(None)
    };
    // x, normed, x, normed: 16. Queries and what they mix: 8; keys and values: 4. Gate, up and their product: 24.
    assert_eq!(kept(Family::Llama), 52);
    // Queries and keys before their norms.
    assert_eq!(kept(Family::Qwen3), 58);
    // No gate: 16 inside.
    assert_eq!(kept(Family::Gpt2), 44);
}

#[test]
fn the_peak_of_a_step_lies_where_most_is_held() {
    let config = tiny();
    let model = Model::new(&config, None);
    // Embedding 200; q and o 16 each, k and v 8 each; 3 * 32 inside; three norms of 4.
    assert_eq!(model.weights, 356);
    let of = |tokens, targets, is_one_of_many| {
        let pass = Pass { tokens, targets, is_one_of_many, ..Pass::default() };
        let parts = training(&model, pass, learning(None, Reference::None));
        ["weights", "optimiser", "gradients", "activations", "logits"].map(|name| parts[name])
    };
    // Few tokens: all gradients, with that of the embedding beside that of the head; of the activations one token's x.
    assert_eq!(of(1, 1, false), [356, 712, 556, 4, 0]);
    // Many targets: what is kept (52 + 4 a token, 4 a target), the gradient of the chosen rows, logits and their gradient.
    assert_eq!(of(100, 100, false), [356, 712, 200, 6400, 10_000]);
    // Many tokens, few targets: inside the last layer, 2 * 8 + 3 * 4 a token more.
    assert_eq!(of(100, 1, false), [356, 712, 200, 56 * 100 + 4 + 28 * 100, 0]);
    // Computed anew: x of the layer, of the last and of the target; one layer whole.
    let activations = Activations::Recompute;
    let anew = Pass { tokens: 100, targets: 1, activations, ..Pass::default() };
    assert_eq!(
        training(&model, anew, learning(None, Reference::None))["activations"],
        4 * 100 + 4 * 100 + 4 + (52 + 28) * 100
    );
    // The gradients of the passes before.
    assert_eq!(of(100, 1, true)[2], 356 + 200);
}

#[test]
fn an_adapter_has_gradients_and_moments_of_its_own_and_keeps_what_its_matrices_read() {
    let config = tiny();
    let model = Model::new(&config, None);
    let lora = Lora { rank: 3, targets: [Target::QProj, Target::DownProj].into(), ..Lora::default() };
    // Both x 8, what the first norm makes of it 4; attention 4 + 4; gate and up 16, their product 8; 3 for each product.
    assert_eq!(model.kept_by_a_layer(Some(&lora)), 50);
    assert_eq!(model.kept_by_a_layer(Some(&Lora { dropout: 0.1, ..lora.clone() })), 50);
    let pass = Pass { tokens: 1, targets: 1, is_one_of_many: false, ..Pass::default() };
    let parts = training(&model, pass, learning(Some(&lora), Reference::Kept));
    // 3 x (4 + 4) of q, 3 x (8 + 4) of down.
    assert_eq!((parts["weights"], parts["optimiser"], parts["reference"]), (356 + 60, 120, 0));
    assert_eq!(training(&model, pass, learning(None, Reference::Kept))["reference"], 356);
    // The policy brought it: the reference has a copy that does not learn.
    let model = Model::new(&config, Some(lora.clone()));
    assert_eq!(training(&model, pass, learning(Some(&lora), Reference::Kept))["reference"], 60);
}

#[test]
fn muon_keeps_one_moment_of_the_matrices_inside_the_layers() {
    let config = tiny();
    let muon = Optimiser { muon: Some(Muon::default()), ..ADAMW };
    // q, o, k, v and the three inside: 144 once. The embedding and three norms: 212 twice.
    assert_eq!(remembered(&muon, &weights::expected(&config)), 144 + 424);
    assert_eq!(held_by_an_update(&muon, &weights::expected(&config)), 5 * 32);
    assert_eq!(held_by_an_update(&ADAMW, &weights::expected(&config)), 0);
}

#[test]
fn what_an_optimiser_remembers_is_what_a_trainer_holds() {
    let adapters = [None, Some(Lora { rank: 1, ..Lora::default() }), Some(Lora { rank: 3, ..Lora::default() })];
    for family in ["llama", "qwen2", "qwen3", "gpt2"] {
        // A model of GPT-2's takes no adapter.
        for lora in adapters.iter().filter(|adapter| family != "gpt2" || adapter.is_none()) {
            let mut checkpoint = Checkpoint::open(&fixture(family)).unwrap();
            checkpoint.adopt(lora.as_ref(), 1).unwrap();
            let shapes = match lora {
                Some(lora) => lora.expected(&checkpoint.config).unwrap(),
                None => weights::expected(&checkpoint.config),
            };
            let decoder = checkpoint.to_device(&crate::device::Place::cpu()).unwrap();
            for optimiser in [ADAMW, Optimiser { muon: Some(Muon::default()), ..ADAMW }] {
                let mut held = 0;
                for memory in &mut Trainer::new(decoder.clone(), optimiser).memory {
                    memory.each(&mut |_, tensor| held += tensor.dims().iter().product::<usize>());
                }
                assert_eq!(remembered(&optimiser, &shapes), held, "{family} {lora:?} {optimiser:?}");
            }
        }
    }
}

#[test]
fn blocks_hold_as_many_tokens_as_rows_fill() {
    // Two rows of 50 in a block of 129; three would be 150.
    let fifty = Lengths::exactly(50, 1000);
    assert_eq!(fifty.packed(129), Spread { mean: 100.0, deviation: 0.0 });
    // Seven rows of 50 make three blocks of two and one of one.
    assert_eq!(Lengths::exactly(50, 7).packed(129).mean, 350.0 / 4.0);
    // A quarter of 100: 29 more have no room for 50, and two of 50 fill blocks of their own.
    let mixed = [Length { tokens: 100, targets: 0, weight: 25.0 }, Length { tokens: 50, targets: 0, weight: 75.0 }];
    let mixed = Lengths(mixed.into()).packed(129);
    assert!((mixed.mean - (25.0 * 100.0 + 75.0 * 50.0) / 63.0).abs() < 1e-9, "{mixed:?}");
}

#[test]
fn rows_are_counted_as_long_as_they_are_learned() {
    let long = Lengths::exactly(101, 4);
    assert_eq!(long.clone().fitted(11, TooLong::Cut), Lengths::exactly(11, 4));
    // The first piece has 11 tokens, each other ten new ones.
    assert_eq!(long.clone().fitted(11, TooLong::Split), Lengths::exactly(11, 40));
    assert_eq!(long.clone().fitted(101, TooLong::Split), long);
}

#[test]
fn completions_of_a_prompt_share_its_full_pages_while_they_grow() {
    let config = tiny();
    let foreseen = |length: usize, samples, slots, max_new_tokens| {
        let bench = Bench::new();
        let prompts = bench.rows("prompts", &vec![json!({ "prompt": "1".repeat(length) }); 64]);
        toy_checkpoint(&bench.path("policy"));
        let inputs = Prospects::standalone(".".into()).with_input("prompts", "p", Prospect::There(prompts));
        let compute = Compute { slots, ..Compute::default() };
        let questions = Questions { policy: "policy", prompts: "prompts", samples, most: usize::MAX, max_new_tokens };
        let tokenizer = Tokenizer::open(&bench.path("policy")).unwrap();
        let work = Work { inputs: &inputs, compute: &compute };
        work.asking(&Model::new(&config, None), Some(&tokenizer), questions, &mut Vec::new())
    };
    // Two groups of eight: two full pages each; eight tokens of the third, with nine more, are two pages for each.
    // There are then 16, 32 and 48 pages, and a token has 2 * 2 numbers; 48 * 16 * 2 move.
    let parts = foreseen(40, 8, 16, 9);
    assert_eq!(parts["KV cache"], 48 * 16 * 4 + 48 * 16 * 2);
    // Both prompts in one pass, with a token of each completion: 2 * 4 and three times 8 of each.
    assert_eq!(parts["activations"], (80 + 16) * (8 + 24));
    // Alone, each has four, 64 in all; half of 48 are added then.
    assert_eq!(foreseen(40, 1, 16, 9)["KV cache"], 72 * 16 * 4 + 72 * 16 * 2);
}

#[test]
fn a_look_at_many_held_out_rows_may_take_more_than_a_step() {
    let bench = Bench::new();
    let rows_of = |name, count| bench.rows(name, &vec![json!({ "ids": vec![3; 101] }); count]);
    let (few, many) = (rows_of("few", 2), rows_of("many", 40));
    let foreseen = |validation: Option<&Path>| {
        let mut inputs = Prospects::standalone(".".into())
            .with_input("policy", "base", Prospect::There(fixture("llama")))
            .with_input("rows", "cold", Prospect::There(few.clone()));
        if let Some(validation) = validation {
            inputs = inputs.with_input("validation", "held", Prospect::There(validation.into()));
        }
        let work = Work { inputs: &inputs, compute: &Compute::default() };
        work.training(learner(1), Learned::Rows(rows())).unwrap().parts.into_iter().collect::<BTreeMap<_, _>>()
    };
    let without = foreseen(None);
    assert_eq!(foreseen(Some(&few))["activations"], without["activations"], "a step keeps more than two rows take");
    let looked = foreseen(Some(&many));
    assert!(looked["activations"] > 2 * without["activations"], "{looked:?} {without:?}");
    assert_eq!((looked["optimiser"], looked.get("gradients")), (without["optimiser"], None));
}

#[test]
fn rows_that_are_not_there_count_as_long_as_the_context_and_are_named() {
    let policy = Prospect::There(fixture("llama"));
    let compute = Compute::default();
    let inputs = Prospects::standalone(".".into()).with_input("policy", "base", policy);
    let inputs = inputs.with_input("rows", "cold", Prospect::Unknown);
    let work = Work { inputs: &inputs, compute: &compute };
    let foreseen = work.training(learner(2), Learned::Rows(rows())).unwrap();
    assert_eq!(foreseen.after, ["cold"]);
    let exactly = work.training(learner(2), Learned::Blocks(None)).unwrap();
    assert_eq!((foreseen.parts, exactly.after.len()), (exactly.parts, 0));
}

#[test]
fn a_model_that_nobody_has_outlined_leaves_everything_open() {
    let inputs = Prospects::standalone(".".into()).with_input("policy", "base", Prospect::Unknown);
    let compute = Compute::default();
    let foreseen = Work { inputs: &inputs, compute: &compute }.training(learner(2), Learned::Blocks(Some(8))).unwrap();
    assert_eq!((foreseen.parts, foreseen.after), (Vec::new(), vec!["base".to_owned()]));
}

#[test]
fn short_rows_make_a_small_step_and_long_ones_are_cut_by_the_micro_batch() {
    let (bench, examples) = (Bench::new(), rows());
    let rows = |name, length: usize| bench.rows(name, &vec![json!({ "ids": vec![3; length] }); 40]);
    let foreseen = |folder: &Path, micro_batch_tokens| {
        let inputs = Prospects::standalone(".".into())
            .with_input("policy", "base", Prospect::There(fixture("llama")))
            .with_input("rows", "cold", Prospect::There(folder.into()));
        let compute = Compute { micro_batch_tokens, ..Compute::default() };
        let work = Work { inputs: &inputs, compute: &compute };
        let footprint = work.training(learner(32), Learned::Rows(examples)).unwrap();
        assert_eq!(footprint.after, Vec::<String>::new());
        footprint.parts.into_iter().collect::<BTreeMap<_, _>>()
    };
    let (short, long) = (rows("short", 5), rows("long", 50));
    let activations = |folder, most| foreseen(folder, most)["activations"] as f64;
    // Of five tokens four are targets, of fifty all but one.
    let ratio = activations(&long, 4096) / activations(&short, 4096);
    assert!((10.0..10.1).contains(&ratio), "{ratio}");
    let ratio = activations(&long, 160) / activations(&short, 4096);
    assert!((1.0..1.01).contains(&ratio), "{ratio}");
    assert!(foreseen(&long, 160)["gradients"] > foreseen(&long, 4096)["gradients"]);
}
