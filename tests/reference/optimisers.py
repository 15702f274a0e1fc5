"""Writes tests/fixtures/training/optimisers.json: what PyTorch's AdamW and Muon make of the same weights and gradients, the
learning rates of transformers' schedules, how long its warm-ups are, and where it stops early.

    python tests/reference/optimisers.py
"""

import json
from pathlib import Path

import torch
import torch.optim._muon as torch_muon
from transformers import EarlyStoppingCallback, TrainerControl, TrainerState, TrainingArguments, get_scheduler

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
STEPS = 6
# Wide, tall and square, and a vector, kept as one row.
SHAPES = {"wide": (3, 5), "tall": (6, 2), "square": (4, 4)}


def case(optimiser, shape, settings):
    torch.manual_seed(11)
    weight = torch.nn.Parameter(0.5 * torch.randn(shape))
    first = weight.detach().clone()
    made = optimiser([weight], **settings)
    gradients, weights = [], []
    for step in range(STEPS):
        # Far apart in size, so that the second moment and epsilon both show.
        weight.grad = torch.randn(shape) * 10.0 ** (-step)
        gradients.append(weight.grad.clone())
        made.step()
        weights.append(weight.detach().clone())
    flat = lambda tensors: [tensor.flatten().tolist() for tensor in tensors]
    return {
        "shape": list(shape),
        "settings": {key: list(value) if isinstance(value, tuple) else value for key, value in settings.items()},
        "first": first.flatten().tolist(),
        "gradients": flat(gradients),
        "weights": flat(weights),
    }


def adamw():
    settings = [
        dict(lr=0.01, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01),
        dict(lr=0.003, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.1),
        dict(lr=0.003, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.0),
    ]
    return [case(torch.optim.AdamW, SHAPES["wide"], one) for one in settings]


def in_full_precision(gradient, coefficients, steps, epsilon):
    """`torch.optim._muon._zeropower_via_newtonschulz`, line by line, without its cast to bfloat16."""
    a, b, c = coefficients
    x = gradient.clone()
    if gradient.size(0) > gradient.size(1):
        x = x.T
    x = x / x.norm().clamp(min=epsilon)
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    if gradient.size(0) > gradient.size(1):
        x = x.T
    return x


def muon():
    """Twice: as PyTorch ships it, in bfloat16, and with its own iteration in f32."""
    shipped = torch_muon._zeropower_via_newtonschulz
    settings = [
        dict(lr=0.02, momentum=0.95, nesterov=True, weight_decay=0.1, adjust_lr_fn="original"),
        dict(lr=0.003, momentum=0.9, nesterov=True, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        dict(lr=0.003, momentum=0.95, nesterov=False, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"),
    ]
    cases = []
    for shape in SHAPES.values():
        for one in settings:
            torch_muon._zeropower_via_newtonschulz = in_full_precision
            made = case(torch.optim.Muon, shape, one)
            torch_muon._zeropower_via_newtonschulz = shipped
            as_shipped = case(torch.optim.Muon, shape, one)
            assert made["gradients"] == as_shipped["gradients"]
            cases.append({**made, "as_shipped": as_shipped["weights"]})
    return cases


def schedules():
    """Mashbill's peak, warm-up, steps and floor, and the learning rates of transformers.

    Mashbill takes no step with a learning rate of zero: it begins one step into a warm-up that is one longer.
    """
    cases = []
    for decay, warmup, steps, floor in [
        ("constant", 0, 10, 0.0),
        ("constant", 3, 10, 0.0),
        ("linear", 0, 10, 0.0),
        ("linear", 4, 20, 0.0),
        ("cosine", 0, 10, 0.0),
        ("cosine", 4, 20, 0.0),
        ("cosine", 3, 20, 0.1),
    ]:
        peak = 3e-4
        optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=peak)
        name = {"constant": "constant_with_warmup", "cosine": "cosine_with_min_lr" if floor else "cosine"}.get(decay, decay)
        own = {"min_lr_rate": floor} if floor else {}
        scheduler = get_scheduler(name, optimiser, warmup + 1, steps + 1, scheduler_specific_kwargs=own)
        rates = []
        for _ in range(steps + 1):
            rates.append(optimiser.param_groups[0]["lr"])
            optimiser.step()
            scheduler.step()
        rates = rates[1:]
        cases.append({"decay": decay, "warmup": warmup, "steps": steps, "floor": floor, "peak": peak, "rates": rates})
    return cases


def warmups():
    """Steps that `warmup_steps` takes, a share where it is below one."""
    cases = []
    for warmup, steps in [(0, 10), (5, 10), (0.1, 100), (0.1, 101), (0.05, 7), (0.5, 1), (0.03, 1000)]:
        taken = TrainingArguments(output_dir="unused", warmup_steps=warmup).get_warmup_steps(steps)
        cases.append({"warmup": warmup, "steps": steps, "taken": taken})
    return cases


def stops():
    """The look after which training stops, counted from one; null: none."""
    losses = {
        "creeping": [3.0, 2.9, 2.8, 2.7, 2.6, 2.5, 2.4, 2.3],
        "one gain": [3.0, 2.95, 2.5, 2.45, 2.42, 2.41, 2.40],
        "up and down": [3.0, 3.2, 2.0, 2.5, 1.9, 2.1, 1.4, 1.6, 1.5, 1.7],
        "equal": [2.0, 2.0, 2.0, 2.0, 2.0],
    }
    cases = []
    for about, told in losses.items():
        for patience, threshold in [(1, 0.0), (2, 0.0), (2, 0.25), (3, 0.06)]:
            callback = EarlyStoppingCallback(patience, threshold)
            arguments = TrainingArguments(
                output_dir="unused", metric_for_best_model="eval_loss", greater_is_better=False, eval_strategy="steps", eval_steps=1
            )
            state, control, stopped = TrainerState(), TrainerControl(), None
            for look, loss in enumerate(told, 1):
                callback.on_evaluate(arguments, state, control, {"eval_loss": loss})
                # As the trainer does behind its callbacks.
                if state.best_metric is None or loss < state.best_metric:
                    state.best_metric = loss
                if control.should_training_stop:
                    stopped = look
                    break
            cases.append({"about": about, "losses": told, "patience": patience, "threshold": threshold, "stopped": stopped})
    return cases


def main():
    path = FIXTURES / "training" / "optimisers.json"
    path.parent.mkdir(exist_ok=True)
    result = {"made_by": "tests/reference/optimisers.py", "adamw": adamw(), "muon": muon(), "schedules": schedules()}
    result |= {"warmups": warmups(), "stops": stops()}
    text = json.dumps(result, separators=(",", ":"))
    for first in ["shape", "decay", "warmup", "about"]:
        text = text.replace(f'{{"{first}"', f'\n{{"{first}"')
    path.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
