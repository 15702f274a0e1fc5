//! What TRL, verl, open-r1, `OpenRLHF`, axolotl, PEFT, vLLM and nanochat call the parameters of the stages here, a row a
//! concept. Knows nothing of what they do.

use engine::OtherName;

const fn same(theirs: &'static [&'static str], ours: &'static [&'static str]) -> OtherName {
    OtherName { theirs, ours, note: "" }
}

const fn but(theirs: &'static [&'static str], ours: &'static [&'static str], note: &'static str) -> OtherName {
    OtherName { theirs, ours, note }
}

const BATCH: &[&str] = &[
    "per_device_train_batch_size",
    "per_device_batch_size",
    "device_batch_size",
    "train_batch_size",
    "total_batch_size",
    "global_batch_size",
    "batch_size",
    "batch",
    "ppo_mini_batch_size",
    "mini_batch_size",
    "rollout_batch_size",
    "examples_per_step",
];

const ROW_LENGTH: &[&str] =
    &["max_seq_length", "max_seq_len", "max_length", "cutoff_len", "sequence_len", "seq_length", "model_max_length"];

const EPOCHS: &[&str] = &["num_train_epochs", "num_epochs", "total_epochs", "n_epochs", "epochs"];

const STEPS: &[&str] = &[
    "max_steps",
    "num_steps",
    "total_steps",
    "total_training_steps",
    "train_steps",
    "max_iters",
    "num_iterations",
    "steps",
];

/// Of several rows with a name, the first counts of which the stage has a parameter.
pub const OTHER_NAMES: &[OtherName] = &[
    // Reinforcement learning.
    same(&["beta", "kl_beta", "kl_loss_coef", "init_kl_coef", "kl_penalty_coef"], &["kl_coef"]),
    same(
        &[
            "num_generations",
            "n",
            "n_samples_per_prompt",
            "num_samples_per_prompt",
            "samples_per_prompt",
            "num_return_sequences",
            "num_samples",
            "samples",
            "group_size",
        ],
        &["group_size", "samples", "teach.samples"],
    ),
    but(
        &["epsilon", "cliprange", "clip_range", "clip_ratio", "eps_clip", "clip_eps", "clip_epsilon"],
        &["clip_high"],
        "the other side of the ratio has its own, `clip_low`",
    ),
    same(&["epsilon_low", "clip_ratio_low", "eps_clip_low"], &["clip_low"]),
    same(&["epsilon_high", "clip_ratio_high", "eps_clip_high"], &["clip_high"]),
    but(BATCH, &["prompts_per_step"], "it counts prompts, each with `group_size` rollouts"),
    same(&["steps_per_generation"], &["steps_per_rollout"]),
    same(&["ref_model_sync_steps", "ref_update_steps"], &["reference_refresh"]),
    same(&["loss_type", "loss_agg_mode"], &["objective"]),
    same(&["scale_rewards", "norm_adv_by_std_in_grpo", "advantage_estimator", "adv_estimator"], &["advantage"]),
    but(
        &["reward_funcs", "reward_func", "reward_function", "reward_fn", "custom_reward_function", "reward_model"],
        &["reward"],
        "the path of a script whose `reward(sample)` gives the sum of all parts",
    ),
    but(
        &["max_prompt_length"],
        &["too_long"],
        "no prompt is cut: `drop` leaves out those that leave no room for a completion",
    ),
    // Schedules.
    same(
        &["lr", "max_lr", "peak_lr", "base_learning_rate", "max_learning_rate", "learning_rate"],
        &["learning_rate", "learn.learning_rate"],
    ),
    same(
        &["lr_scheduler_type", "learning_rate_schedule", "lr_scheduler", "lr_schedule", "lr_decay_style", "scheduler"],
        &["decay", "learn.decay"],
    ),
    but(
        &[
            "warmup_steps",
            "warmup_ratio",
            "lr_warmup_steps",
            "lr_warmup_steps_ratio",
            "num_warmup_steps",
            "warmup_iters",
        ],
        &["warmup", "learn.warmup"],
        "a whole number is steps, one below 1 a share of all steps",
    ),
    but(
        &["min_lr", "min_lr_ratio", "min_lr_rate", "final_lr_frac"],
        &["floor", "learn.floor"],
        "a share of `learning_rate`",
    ),
    same(EPOCHS, &["epochs", "learn.epochs"]),
    but(EPOCHS, &["steps"], "it counts optimiser steps"),
    same(STEPS, &["steps"]),
    but(STEPS, &["epochs", "learn.epochs"], "it counts passes over the rows"),
    same(BATCH, &["batch", "learn.batch"]),
    // The optimiser.
    same(&["optimizer", "optim"], &["optimiser", "learn.optimiser"]),
    same(&["adam_beta1", "beta1"], &["optimiser.beta1", "learn.optimiser.beta1"]),
    same(&["adam_beta2", "beta2"], &["optimiser.beta2", "learn.optimiser.beta2"]),
    but(&["betas", "adam_betas"], &["optimiser.beta1", "learn.optimiser.beta1"], "the second is `beta2` beside it"),
    same(&["adam_epsilon", "adam_eps", "eps", "epsilon"], &["optimiser.epsilon", "learn.optimiser.epsilon"]),
    same(&["weight_decay", "wd"], &["optimiser.weight_decay", "learn.optimiser.weight_decay"]),
    same(
        &["max_grad_norm", "grad_clip", "gradient_clipping", "clip_grad", "max_norm"],
        &["optimiser.max_norm", "learn.optimiser.max_norm"],
    ),
    // Text and its length.
    same(ROW_LENGTH, &["max_tokens", "learn.max_tokens", "block"]),
    same(
        &[
            "max_completion_length",
            "max_response_length",
            "response_length",
            "max_completion_tokens",
            "max_new_tokens",
            "max_tokens",
            "max_gen_len",
            "max_length",
        ],
        &["max_new_tokens", "sampling.max_new_tokens", "teach.sampling.max_new_tokens"],
    ),
    same(&["completion_only_loss", "assistant_only_loss", "train_on_inputs"], &["loss", "learn.loss"]),
    same(&["chat_template"], &["template", "learn.template"]),
    // Sampling.
    same(&["temperature"], &["temperature", "sampling.temperature", "teach.sampling.temperature"]),
    same(&["top_k"], &["sampling.top_k", "teach.sampling.top_k"]),
    same(&["top_p"], &["sampling.top_p", "teach.sampling.top_p"]),
    same(&["min_p"], &["sampling.min_p", "teach.sampling.min_p"]),
    same(&["repetition_penalty"], &["sampling.repetition_penalty", "teach.sampling.repetition_penalty"]),
    same(&["stop_token_ids"], &["sampling.stop_ids", "teach.sampling.stop_ids"]),
    same(&["stop_words", "stop_strings", "stop_sequences"], &["stop", "teach.stop"]),
    // Looking at held-out rows.
    same(&["eval_steps", "eval_interval", "eval_every", "test_freq", "val_freq"], &["validate_every"]),
    same(&["early_stopping_patience"], &["patience"]),
    but(&["load_best_model_at_end"], &["keep"], "`best` keeps the weights of the lowest validation loss"),
    // Adapters.
    same(&["lora_config", "peft_config", "use_peft", "use_lora"], &["lora", "learn.lora"]),
    same(&["lora_r", "lora_rank", "lora.r"], &["lora.rank", "learn.lora.rank"]),
    same(&["lora_alpha"], &["lora.alpha", "learn.lora.alpha"]),
    same(&["lora_dropout"], &["lora.dropout", "learn.lora.dropout"]),
    same(&["lora_target_modules", "target_modules"], &["lora.targets", "learn.lora.targets"]),
    same(&["use_rslora"], &["lora.rslora", "learn.lora.rslora"]),
    // How, not what: the `run:` block.
    but(
        &[
            "gradient_accumulation_steps",
            "grad_accum_steps",
            "gradient_accumulation",
            "ppo_micro_batch_size_per_gpu",
            "micro_batch_size_per_gpu",
            "micro_batch_size",
            "ppo_max_token_len_per_gpu",
        ],
        &["micro_batch_tokens"],
        "a step accumulates over as many passes of so many tokens as it needs",
    ),
    but(&["bf16", "fp16", "dtype", "torch_dtype", "mixed_precision"], &["precision"], "`bf16` or `f32`"),
    but(
        &["gradient_checkpointing", "enable_gradient_checkpointing", "activation_checkpointing"],
        &["activations"],
        "`recompute` computes them again in the backward pass",
    ),
    but(&["save_steps", "save_freq", "save_interval", "save_every"], &["save_every_s"], "it counts seconds"),
    same(&["max_num_seqs"], &["slots"]),
    but(&["gpu_memory_utilization"], &["memory_gb"], "it counts gigabytes"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry;

    #[test]
    fn names_of_other_programs_lead_to_what_the_stage_has() {
        let registry = registry();
        for (stage, theirs, ours) in [
            ("grpo", "lr", "learning_rate"),
            ("grpo", "beta", "kl_coef"),
            ("grpo", "kl_beta", "kl_coef"),
            ("grpo", "num_generations", "group_size"),
            ("grpo", "rollout.n", "group_size"),
            ("grpo", "actor_rollout_ref.rollout.n", "group_size"),
            ("grpo", "epsilon", "clip_high"),
            ("grpo", "epsilon_high", "clip_high"),
            ("grpo", "learning_rate_schedule", "decay"),
            ("grpo", "per_device_train_batch_size", "prompts_per_step"),
            ("grpo", "max_completion_length", "max_new_tokens"),
            ("grpo", "max_prompt_length", "too_long"),
            ("grpo", "num_train_epochs", "steps"),
            ("grpo", "gradient_accumulation_steps", "micro_batch_tokens"),
            ("grpo", "optimizer", "optimiser"),
            ("grpo", "adam_beta2", "optimiser.beta2"),
            ("grpo", "reward_funcs", "reward"),
            ("grpo", "actor.optim.lr", "learning_rate"),
            ("sft", "lr", "learning_rate"),
            ("sft", "num_train_epochs", "epochs"),
            ("sft", "max_steps", "epochs"),
            ("sft", "epsilon", "optimiser.epsilon"),
            ("sft", "per_device_train_batch_size", "batch"),
            ("sft", "max_seq_length", "max_tokens"),
            ("sft", "lora_r", "lora.rank"),
            ("sft", "lora.r", "lora.rank"),
            ("sft", "bf16", "precision"),
            ("distill", "learning_rate", "learn.learning_rate"),
            ("distill", "max_new_tokens", "teach.sampling.max_new_tokens"),
            ("evaluate", "temperature", "sampling.temperature"),
            ("evaluate", "n", "samples"),
            ("reject", "num_generations", "samples"),
            ("sample", "max_tokens", "sampling.max_new_tokens"),
            ("pretrain", "max_iters", "steps"),
            ("pretrain", "grad_clip", "optimiser.max_norm"),
        ] {
            let hint = registry.stage(stage).unwrap().called(theirs).unwrap_or_default();
            assert!(hint.starts_with(&format!("`{theirs}` is `{ours}` here")), "{stage}, {theirs}: {hint}");
        }
        assert_eq!(registry.stage("merge").unwrap().called("lr"), None);
    }

    #[test]
    fn every_name_leads_somewhere_and_stands_once_for_each_place() {
        let registry = registry();
        for other in OTHER_NAMES {
            for ours in other.ours {
                let is_there = registry.stages().any(|stage| stage.has_parameter(ours) || stage.has_setting(ours));
                assert!(is_there, "no stage has `{ours}`");
            }
        }
    }
}
