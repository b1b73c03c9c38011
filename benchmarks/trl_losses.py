"""What TRL's own code makes of random batches: losses and gradients, for tests/golden/trl_losses.json.

Runs in an environment of its own, which has TRL 1.16 and not prefloop:

    python3 -m venv trl && trl/bin/pip install trl==1.16.0 && trl/bin/python benchmarks/trl_losses.py OUT.json

TRL's trainers are asked for the loss of a batch as they compute it while they train (`_compute_loss`, `cpo_loss`,
`odds_ratio_loss`); only the model and the parts of the trainer that hold its settings are ours. The model gives
log-probabilities of tokens that are drawn at random, so each gradient is that of the loss by a completion's
log-probability.
"""

from __future__ import annotations

import json
import math
import sys
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

SEED, PAIRS, LONGEST = 16, 6, 9


def batch(pairs: int, seed: int) -> dict[str, Any]:
    """Chosen and rejected of `pairs` prompts: log-probabilities of their tokens under policy and reference, and for
    WPO log sum_v p_v^2 at each of them."""
    stream = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2, LONGEST + 1, (2 * pairs,), generator=stream)
    valid = torch.arange(LONGEST) < lengths[:, None]
    logps = -torch.empty(2 * pairs, LONGEST).exponential_(1.0, generator=stream) * valid
    reference = (logps + 0.6 * torch.randn(logps.shape, generator=stream)).clamp(max=-1e-3) * valid
    collision = -torch.empty(2 * pairs, LONGEST).exponential_(1.5, generator=stream) * valid
    return {"logps": logps, "reference": reference, "valid": valid, "collision": collision}


class Accelerator:
    """One process on the CPU."""

    device = torch.device("cpu")

    @staticmethod
    def gather(x: torch.Tensor) -> torch.Tensor:
        return x

    gather_for_metrics = gather


def model_of(logps: torch.Tensor, collision: torch.Tensor) -> Any:
    """A model whose fused head says what we drew."""
    zeros = torch.zeros_like(logps)
    said = SimpleNamespace(
        log_probs=logps, entropy=zeros, mean_logits=zeros, is_top1=zeros.bool(), log_sum_sq_probs=collision
    )
    model = lambda **inputs: said  # noqa: E731
    return model


def inputs_of(valid: torch.Tensor) -> dict[str, torch.Tensor]:
    """A prompt of one token before each completion."""
    mask = torch.cat([torch.zeros(len(valid), 1, dtype=torch.long), valid.long()], dim=1)
    return {"input_ids": torch.zeros_like(mask), "attention_mask": torch.ones_like(mask), "completion_mask": mask}


def dpo(data: dict[str, Any], **settings: Any) -> tuple[float, list[float]]:
    """Loss and its gradient by each completion's log-probability, [chosen..., rejected...]."""
    from trl import DPOTrainer

    values = {
        "beta": 0.1,
        "label_smoothing": 0.0,
        "f_divergence_type": "reverse_kl",
        "f_alpha_divergence_coef": 0.5,
        "use_weighting": False,
        "loss_types": ["sigmoid"],
        "loss_weights": None,
        **settings,
    }
    values["loss_weights"] = values["loss_weights"] or [1.0] * len(values["loss_types"])
    trainer = SimpleNamespace(
        model=SimpleNamespace(training=True),
        accelerator=Accelerator(),
        aux_loss_enabled=False,
        ld_alpha=None,
        precompute_ref_logps=True,
        args=SimpleNamespace(discopop_tau=0.05),
        _metrics=defaultdict(lambda: defaultdict(list)),
        _total_train_tokens=0,
        _tp_size=1,
        **values,
    )
    logps = data["logps"].clone().requires_grad_()
    chosen, rejected = data["reference"].sum(1).chunk(2)
    inputs = {**inputs_of(data["valid"]), "ref_chosen_logps": chosen, "ref_rejected_logps": rejected}
    loss = DPOTrainer._compute_loss(trainer, model_of(logps, data["collision"]), inputs, False)
    loss.backward()
    return loss.item(), logps.grad[:, 0].tolist()


def kto(data: dict[str, Any], beta: float, desirable: float, undesirable: float) -> tuple[float, list[float]]:
    """The first half is approved; the KL is measured on the same texts one place further, as TRL pairs them."""
    from trl import KTOTrainer

    logps = data["logps"].clone().requires_grad_()
    n = len(logps)
    turned = [n - 1, *range(n - 1)]
    both = [data["logps"][turned], logps]  # TRL asks for the mismatched completions first
    trainer = SimpleNamespace(
        model=SimpleNamespace(training=True),
        accelerator=Accelerator(),
        aux_loss_enabled=False,
        precompute_ref_logps=True,
        calculate_KL=True,
        loss_type="kto",
        beta=beta,
        desirable_weight=desirable,
        undesirable_weight=undesirable,
        _metrics=defaultdict(lambda: defaultdict(list)),
        _total_train_tokens=0,
        _tp_size=1,
    )
    trainer._compute_kl_logps = lambda model, given: KTOTrainer._compute_kl_logps(trainer, model, given)
    model = lambda **inputs: model_of(both.pop(0), data["collision"])()  # noqa: E731
    inputs = inputs_of(data["valid"])
    inputs |= {f"KL_{name}": value[turned] for name, value in inputs.items()}
    reference = data["reference"].sum(1)
    inputs |= {"label": torch.arange(n) < n // 2, "ref_logps": reference, "ref_KL_logps": reference[turned]}
    loss = KTOTrainer._compute_loss(trainer, model, inputs, False)
    loss.backward()
    return loss.item(), logps.grad[:, 0].tolist()


def cpo(data: dict[str, Any], **settings: Any) -> tuple[float, list[float]]:
    """SimPO is a loss of TRL's CPO trainer; its scores are means per token."""
    from trl.experimental.cpo import CPOTrainer

    trainer = SimpleNamespace(alpha=0.0, accelerator=Accelerator(), label_smoothing=0.0, **settings)
    return _of_means(data, lambda chosen, rejected: CPOTrainer.cpo_loss(trainer, chosen, rejected)[0])


def orpo(data: dict[str, Any], beta: float) -> tuple[float, list[float]]:
    """The odds-ratio part alone; TRL subtracts it from the likelihood of prompt and completion."""
    from trl.experimental.orpo import ORPOTrainer

    trainer = SimpleNamespace(beta=beta, accelerator=Accelerator())
    return _of_means(data, lambda chosen, rejected: -ORPOTrainer.odds_ratio_loss(trainer, chosen, rejected)[0])


def _of_means(data: dict[str, Any], losses: Any) -> tuple[float, list[float]]:
    sums = data["logps"].sum(1).requires_grad_()
    chosen, rejected = (sums / data["valid"].sum(1)).chunk(2)
    loss = losses(chosen, rejected).mean()
    loss.backward()
    return loss.item(), sums.grad.tolist()


def margins_of(data: dict[str, Any]) -> torch.Tensor:
    """A margin for each pair, from 0.2 to 0.9."""
    valid: torch.Tensor = data["valid"]
    return valid.sum(1).chunk(2)[0] / 10


def reward(data: dict[str, Any], margin: bool, center: float | None) -> tuple[float, list[float]]:
    """The reward trainer's loss; the sums of the drawn log-probabilities serve as scores."""
    from trl import RewardTrainer

    scores = data["logps"].sum(1).requires_grad_()
    trainer = SimpleNamespace(
        model=SimpleNamespace(training=True),
        accelerator=Accelerator(),
        args=SimpleNamespace(center_rewards_coefficient=center),
        _metrics=defaultdict(lambda: defaultdict(list)),
        _total_train_tokens=0,
        _tp_size=1,
    )
    inputs = {"attention_mask": data["valid"].long(), **({"margin": margins_of(data)} if margin else {})}
    model = lambda **given: SimpleNamespace(logits=scores[:, None])  # noqa: E731
    loss = RewardTrainer.compute_loss(trainer, model, inputs)
    loss.backward()
    return loss.item(), scores.grad.tolist()


DPO_CASES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("dpo", {"beta": 0.1}, {}),
    ("dpo", {"beta": 0.5}, {"beta": 0.5}),
    ("dpo", {"loss": "hinge"}, {"loss_types": ["hinge"]}),
    ("dpo", {"loss": "discopop"}, {"loss_types": ["discopop"]}),
    ("dpo", {"loss": "exo", "label_smoothing": 0.1}, {"loss_types": ["exo_pair"], "label_smoothing": 0.1}),
    ("dpo", {"robust": True, "label_smoothing": 0.1}, {"loss_types": ["robust"], "label_smoothing": 0.1}),
    ("dpo", {"per_token": True, "beta": 2.0}, {"loss_types": ["sigmoid_norm"], "beta": 2.0}),
    ("dpo", {"divergence": 1.0}, {"f_divergence_type": "forward_kl"}),
    ("dpo", {"divergence": "js"}, {"f_divergence_type": "js_divergence"}),
    ("dpo", {"divergence": 0.3}, {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.7}),
    ("dpo", {"on_policy_weights": True}, {"use_weighting": True}),
    ("ipo", {"tau": 0.1}, {"loss_types": ["ipo"]}),
    ("apo", {"variant": "zero"}, {"loss_types": ["apo_zero"]}),
    ("apo", {"variant": "down"}, {"loss_types": ["apo_down"]}),
    ("apo", {"variant": "nca"}, {"loss_types": ["nca_pair"]}),
    ("apo", {"variant": "bco"}, {"loss_types": ["bco_pair"]}),
    ("apo", {"variant": "sppo"}, {"loss_types": ["sppo_hard"]}),
]
"""(our method, our settings, TRL's)."""


def main(out: Path) -> None:
    import transformers
    import trl

    data, single = batch(PAIRS, SEED), batch(1, SEED + 1)
    cases = [(method, ours, "pairs", dpo(data, **theirs)) for method, ours, theirs in DPO_CASES]
    # TRL takes the likelihood of a batch per token, we take it per pair: the same where there is one pair.
    mixture = {"loss_types": ["sigmoid", "sft"], "loss_weights": [1.0, 0.7]}
    cases.append(("dpo", {"nll": 0.7}, "single", dpo(single, **mixture)))
    simpo = {"loss_type": "simpo", "beta": 2.0, "simpo_gamma": 0.5}
    cases.append(("simpo", {"beta": 2.0, "gamma": 0.5}, "pairs", cpo(data, **simpo)))
    cases.append(("orpo", {"odds_weight": 0.1}, "pairs", orpo(data, 0.1)))
    weights = {"beta": 0.1, "desirable_weight": 1.0, "undesirable_weight": 1.3}
    cases.append(("kto", weights, "pairs", kto(data, 0.1, 1.0, 1.3)))
    for ours, center in (({}, None), ({"margin": True}, None), ({"margin": True, "center": 0.01}, 0.01)):
        cases.append(("reward_model", ours, "pairs", reward(data, "margin" in ours, center)))
    shown = {
        "made_by": "benchmarks/trl_losses.py",
        "trl": trl.__version__,
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "batches": {
            name: {
                "logprobs": given["logps"].sum(1).tolist(),
                "reference": given["reference"].sum(1).tolist(),
                "tokens": given["valid"].sum(1).tolist(),
                "margins": margins_of(given).tolist(),
                "alignment": ((given["logps"] - given["collision"]).sum(1) / given["valid"].sum(1)).tolist(),
            }
            for name, given in (("pairs", data), ("single", single))
        },
        "cases": [
            {"method": method, "settings": ours, "batch": which, "loss": loss, "gradient": gradient}
            for method, ours, which, (loss, gradient) in cases
        ],
    }
    assert all(math.isfinite(case["loss"]) for case in shown["cases"])
    out.write_text(json.dumps(shown, indent=1) + "\n", encoding="utf-8")
    print(f"{out}: {len(cases)} cases of TRL {trl.__version__}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
