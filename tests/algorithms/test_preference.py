"""Direct preference methods: against TRL's numbers, by hand, and on a model small enough to follow."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from prefloop.algorithms import METHODS
from prefloop.algorithms import preference as methods
from prefloop.algorithms.preference import (
    APOConfig,
    DPOConfig,
    IPOConfig,
    KTOConfig,
    Measured,
    Objective,
    ORPOConfig,
    SimPOConfig,
    apo,
    dpo,
    ipo,
    orpo,
    simpo,
)
from prefloop.errors import InputError, RunError
from prefloop.functional import preference as losses
from prefloop.models.template import Encoded
from prefloop.settings import build as build_settings
from prefloop.training.offline import evaluate_offline, train_offline
from tests.small import FRUITS, build, write_inputs

GOLDEN = json.loads((Path(__file__).parent.parent / "golden" / "trl_losses.json").read_text(encoding="utf-8"))
"""What TRL 1.16's own code made of random batches: benchmarks/trl_losses.py."""
ON_PAIRS = ["dpo", "ipo", "apo", "simpo", "orpo"]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return write_inputs(tmp_path_factory.mktemp("inputs"))


def in_pairs(values: torch.Tensor) -> torch.Tensor:
    """TRL's order, all chosen and then all rejected, as ours: pair by pair."""
    return torch.stack(values.chunk(2), dim=1).flatten()


def named(case: dict[str, Any]) -> str:
    return " ".join([case["method"], *(f"{k}={v}" for k, v in case["settings"].items())])


@pytest.mark.parametrize("case", [c for c in GOLDEN["cases"] if c["method"] in ON_PAIRS], ids=named)
def test_trl_computes_the_same(case: dict[str, Any]) -> None:
    """Loss and gradient of a batch, to 1e-5 of their size."""
    given = {k: in_pairs(torch.tensor(v, dtype=torch.double)) for k, v in GOLDEN["batches"][case["batch"]].items()}
    logprobs = given["logprobs"].requires_grad_()
    config = build_settings(METHODS[case["method"]].config, case["settings"])
    objective: Objective = getattr(methods, case["method"])(config)
    if case["method"] == "orpo":  # TRL's likelihood is of the prompt too; this is the odds-ratio term alone
        objective = replace(objective, nll=0.0)
    values, _ = objective.of_pairs(
        Measured(logprobs, given["reference"], given["tokens"], given["alignment"]),
        torch.ones(len(logprobs) // 2, dtype=torch.double),
    )
    loss = values.mean()
    loss.backward()
    assert logprobs.grad is not None
    assert loss.item() == pytest.approx(case["loss"], rel=1e-5)
    expected = in_pairs(torch.tensor(case["gradient"], dtype=torch.double))
    torch.testing.assert_close(logprobs.grad, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())


def of(objective: Objective, logprobs: list[float], reference: list[float], tokens: list[float], label: float = 1.0):  # type: ignore[no-untyped-def]
    measured = Measured(torch.tensor(logprobs), torch.tensor(reference), torch.tensor(tokens))
    values, metrics = objective.of_pairs(measured, torch.full((len(logprobs) // 2,), label))
    return values, metrics


def test_dpo_by_hand() -> None:
    """z = (-10 + 12) - (-9 + 6) = 5, beta 0.1: -log sigmoid(0.5)."""
    values, metrics = of(dpo(DPOConfig(beta=0.1)), [-10.0, -9.0], [-12.0, -6.0], [4.0, 5.0])
    assert values.item() == pytest.approx(math.log(1 + math.exp(-0.5)), rel=1e-6)
    assert metrics["rewards/chosen"].item() == pytest.approx(0.2, rel=1e-5)
    assert metrics["rewards/rejected"].item() == pytest.approx(-0.3, rel=1e-5)
    assert metrics["rewards/accuracies"].item() == 1.0
    assert (metrics["logps/chosen"].item(), metrics["logps/rejected"].item()) == (-10.0, -9.0)


def test_the_gradient_of_dpo() -> None:
    """-beta sigmoid(-beta z) (grad log pi(chosen) - grad log pi(rejected)), z = 5."""
    logprobs = torch.tensor([-10.0, -9.0], requires_grad=True)
    measured = Measured(logprobs, torch.tensor([-12.0, -6.0]), torch.tensor([4.0, 5.0]))
    dpo(DPOConfig(beta=0.1)).of_pairs(measured, torch.ones(1))[0].sum().backward()
    slope = 0.1 / (1 + math.exp(0.5))
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == pytest.approx([-slope, slope], rel=1e-5)


def test_smoothing_mixes_the_labels() -> None:
    """e = 0.1 on a label of 0.8: 0.9 * 0.8 + 0.1 * 0.2 = 0.74; robust: (0.8 - 0.1) / 0.8 = 0.875."""
    for config, label in (
        (DPOConfig(beta=1.0, label_smoothing=0.1), 0.74),
        (DPOConfig(beta=1.0, label_smoothing=0.1, robust=True), 0.875),
    ):
        values, _ = of(dpo(config), [math.log(3), 0.0], [0.0, 0.0], [1.0, 1.0], label=0.8)
        assert values.item() == pytest.approx(-label * math.log(0.75) - (1 - label) * math.log(0.25), rel=1e-5)


def test_ipo_says_its_unit() -> None:
    """Sums: z = 5 against 1 / (2 tau) = 5: 0. Per token: 2/4 - (-3/5) = 1.1 against 5."""
    sums = ipo(IPOConfig(tau=0.1, per_token=False))
    means = ipo(IPOConfig(tau=0.1))
    given = ([-10.0, -9.0], [-12.0, -6.0], [4.0, 5.0])
    assert of(sums, *given)[0].item() == pytest.approx(0.0, abs=1e-5)
    assert of(means, *given)[0].item() == pytest.approx((1.1 - 5) ** 2, rel=1e-5)
    assert sums.said == "ipo: margins in nats per sequence; a clear preference is followed up to 5"
    assert "per token" in means.said


def test_ipo_and_dpo_at_the_reference() -> None:
    """log 2, and 1 / (4 tau^2) = 25."""
    same = ([-3.0, -4.0], [-3.0, -4.0], [2.0, 3.0])
    assert of(dpo(DPOConfig()), *same)[0].item() == pytest.approx(math.log(2), rel=1e-6)
    for per_token in (True, False):
        assert of(ipo(IPOConfig(tau=0.1, per_token=per_token)), *same)[0].item() == pytest.approx(25.0, rel=1e-6)


def test_simpo_by_hand() -> None:
    """Means -2 and -3: 2 (1) - 1 = 1. A soft label turns the pair round, its margin with it: -2 - 1 = -3."""
    objective = simpo(SimPOConfig(beta=2.0, gamma=1.0))
    given = ([-8.0, -15.0], [9.0, 9.0], [4.0, 5.0])
    ahead, behind = math.log(1 + math.exp(-1)), math.log(1 + math.exp(3))
    assert of(objective, *given)[0].item() == pytest.approx(ahead, rel=1e-5)
    assert of(objective, *given, label=0.7)[0].item() == pytest.approx(0.7 * ahead + 0.3 * behind, rel=1e-5)


def test_orpo_by_hand() -> None:
    """P = 1/2 and 1/4 per token: odds 1 and 1/3; log 2 of likelihood and 0.1 log(4/3) of odds."""
    given = ([4 * math.log(0.5), 2 * math.log(0.25)], [9.0, 9.0], [4.0, 2.0])
    values, metrics = of(orpo(ORPOConfig(odds_weight=0.1)), *given)
    assert values.item() == pytest.approx(math.log(2) + 0.1 * math.log(4 / 3), rel=1e-5)
    assert metrics["nll_loss"].item() == pytest.approx(math.log(2), rel=1e-5)
    assert metrics["rewards/margins"].item() == pytest.approx(math.log(3), rel=1e-5)


def test_the_likelihood_of_the_chosen_side_can_be_added() -> None:
    """-10 over 4 tokens, times 0.5; with a label of 0.6 the other side's -9 over 5 counts too."""
    plain, _ = of(dpo(DPOConfig()), [-10.0, -9.0], [-12.0, -6.0], [4.0, 5.0])
    added, _ = of(dpo(DPOConfig(nll=0.5)), [-10.0, -9.0], [-12.0, -6.0], [4.0, 5.0])
    assert (added - plain).item() == pytest.approx(1.25, rel=1e-5)
    plain, _ = of(dpo(DPOConfig()), [-10.0, -9.0], [-12.0, -6.0], [4.0, 5.0], label=0.6)
    added, _ = of(dpo(DPOConfig(nll=0.5)), [-10.0, -9.0], [-12.0, -6.0], [4.0, 5.0], label=0.6)
    assert (added - plain).item() == pytest.approx(0.5 * (0.6 * 2.5 + 0.4 * 1.8), rel=1e-4)


@pytest.mark.parametrize(("variant", "signs"), [("zero", [-1.0, 1.0]), ("down", [1.0, 1.0])])
def test_apo_tells_up_from_down(variant: Any, signs: list[float]) -> None:
    """The slopes where the chosen side is at the reference and the rejected one 20 nats below: rewards 0 and -2.

    zero: -1/4 (up) and sigmoid'(2) (down); down: 1/4 - sigmoid'(2) and sigmoid'(2), both down.
    """
    logprobs = torch.tensor([-3.0, -24.0], requires_grad=True)
    measured = Measured(logprobs, torch.tensor([-3.0, -4.0]), torch.tensor([2.0, 3.0]))
    apo(APOConfig(variant=variant)).of_pairs(measured, torch.ones(1))[0].sum().backward()
    far = math.exp(-2) / (1 + math.exp(-2)) ** 2
    sizes = [0.25, far] if variant == "zero" else [0.25 - far, far]
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == pytest.approx([0.1 * s * size for s, size in zip(signs, sizes, strict=True)])


def test_settings_that_contradict_each_other() -> None:
    with pytest.raises(InputError, match="exo needs label_smoothing above 0"):
        dpo(DPOConfig(loss="exo"))
    with pytest.raises(InputError, match="and no robust"):
        dpo(DPOConfig(loss="exo", label_smoothing=0.1, robust=True))
    assert build_settings(DPOConfig, {"divergence": "js"}).divergence == "js"
    assert build_settings(DPOConfig, {"divergence": 0.5}).divergence == 0.5
    with pytest.raises(InputError, match="divergence"):
        build_settings(DPOConfig, {"divergence": "kl"})


def test_what_is_measured_is_the_completion(inputs: Path, tmp_path: Path) -> None:
    """Sums of the completion's log-probabilities, against plain forward passes, EOS included; at the start h is 0."""
    algorithm, _ = build("dpo", inputs, tmp_path / "run", on_policy_weights=True)
    algorithm.model.eval()
    texts = [text for row in algorithm.train_rows[:3] for text in methods.sides(row)]
    with torch.no_grad():
        found = algorithm.scorer.measure(texts, aligned=True)
        for i, text in enumerate(texts):
            logp = algorithm.model(input_ids=torch.tensor([text.ids])).logits[0].log_softmax(-1)
            at = range(text.prompt_length, text.length)
            assert found.logprobs[i].item() == pytest.approx(sum(logp[t - 1, text.ids[t]].item() for t in at), abs=1e-4)
            aligned = [(logp[t - 1, text.ids[t]] - logp[t - 1].exp().square().sum().log()).item() for t in at]
            assert found.alignment[i].item() == pytest.approx(sum(aligned) / len(at), abs=1e-4)
            assert found.tokens[i].item() == len(at)
    assert found.ratios.abs().max().item() < 1e-5
    loss = algorithm.loss(algorithm.train_rows[:3])
    weights = found.alignment.unflatten(0, (-1, 2)).sum(1).exp()
    assert loss.values.tolist() == pytest.approx((math.log(2) * weights).tolist(), rel=1e-4)


@pytest.mark.parametrize("method", ON_PAIRS)
def test_training_prefers_what_people_preferred(method: str, inputs: Path, tmp_path: Path) -> None:
    algorithm, run = build(method, inputs, tmp_path / "run", epochs=20, lr=3e-3, test_share=0.3)
    assert len(algorithm.eval_rows) > 0
    before = evaluate_offline(algorithm, 4096)
    train_offline(algorithm, run)
    held_out = evaluate_offline(algorithm, 4096)
    assert run.metrics[-2]["rewards/accuracies"] == 1.0
    assert held_out["eval_rewards/accuracies"] == 1.0
    assert held_out["eval_loss"] < before["eval_loss"]


@pytest.mark.parametrize("mix", [1.0, 0.6])
def test_the_reference_follows_the_policy_when_it_is_renewed(inputs: Path, tmp_path: Path, mix: float) -> None:
    """Every second step: mix * policy + (1 - mix) * reference, from the policy's weights at that step."""
    settings: Any = {"renewal": {"every": 2, "mix": mix}, "steps": 3, "lr": 1e-2}
    algorithm, run = build("dpo", inputs, tmp_path / "run", **settings)
    start = {name: p.detach().clone() for name, p in algorithm.model.named_parameters()}
    seen: dict[int, dict[str, torch.Tensor]] = {}
    honest = algorithm.scorer.follow

    def follow(step: int) -> None:
        honest(step)
        seen[step] = {name: p.detach().clone() for name, p in algorithm.model.named_parameters()}

    algorithm.follow = follow
    train_offline(algorithm, run)
    assert sorted(seen) == [1, 2, 3]
    for name, reference in algorithm.followers().items():
        torch.testing.assert_close(reference, mix * seen[2][name] + (1 - mix) * start[name])
        assert not reference.requires_grad
    loss = algorithm.loss(algorithm.train_rows)
    assert loss.metrics["rewards/margins"].abs().max().item() > 0


def test_a_renewed_reference_survives_a_stop(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings: Any = {"renewal": {"every": 1, "mix": 0.5}, "steps": 4}
    whole, run = build("dpo", inputs, tmp_path / "whole", **settings)
    train_offline(whole, run)
    asked = iter([False, True])
    monkeypatch.setattr("prefloop.training.run_lock.was_asked_to_stop", lambda folder: next(asked, False))
    cut, run = build("dpo", inputs, tmp_path / "cut", **settings)
    with pytest.raises(RunError, match="as asked"):
        train_offline(cut, run)
    run.close()
    again, run = build("dpo", inputs, tmp_path / "again", **settings)
    shutil.copytree(tmp_path / "cut" / "checkpoints", tmp_path / "again" / "checkpoints")
    train_offline(again, run)
    for name, reference in whole.followers().items():
        assert torch.equal(again.followers()[name], reference)
    for ours, theirs in zip(again.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


# Single completions: KTO


def write_approvals(path: Path, n: int = 12) -> Path:
    """Thumbs: fruits that come first are approved, the others not; some answers are longer than others."""
    rows = [
        {
            "prompt": f"Which fruit, number {i // 2}?",
            "completion": (FRUITS[i % 4] + " please" * (i % 3)) if i % 2 == 0 else FRUITS[4 + i % 4],
            "label": i % 2 == 0,
        }
        for i in range(n)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_kto_is_what_trl_computes() -> None:
    """The loss of a batch and its gradient, z0 included, which TRL measures on the completions turned by one."""
    (case,) = (c for c in GOLDEN["cases"] if c["method"] == "kto")
    given = {k: torch.tensor(v, dtype=torch.double) for k, v in GOLDEN["batches"]["pairs"].items()}
    logprobs = given["logprobs"].requires_grad_()
    ratios = logprobs - given["reference"]
    s = case["settings"]
    zero = ratios.detach().mean().clamp(min=0)  # turned by one they have the same mean
    label = (torch.arange(len(ratios)) < len(ratios) // 2).double()
    loss = losses.kto(
        s["beta"] * ratios, s["beta"] * zero, label, s["desirable_weight"], s["undesirable_weight"]
    ).mean()
    loss.backward()
    assert loss.item() == pytest.approx(case["loss"], rel=1e-5)
    assert logprobs.grad is not None
    expected = torch.tensor(case["gradient"], dtype=torch.double)
    torch.testing.assert_close(logprobs.grad, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())


def test_kto_starts_at_half_its_weights(inputs: Path, tmp_path: Path) -> None:
    """At the reference every completion costs half its weight, and z0 is 0."""
    data = str(write_approvals(tmp_path / "thumbs.jsonl"))
    algorithm, _ = build("kto", inputs, tmp_path / "run", data=data, undesirable_weight=1.2)
    algorithm.model.eval()
    with torch.no_grad():
        algorithm.prepare(algorithm.train_rows)
        loss = algorithm.loss(algorithm.train_rows)
    assert algorithm.zero.item() == pytest.approx(0.0, abs=1e-4)
    assert loss.values.tolist() == pytest.approx([0.5, 0.6] * 6, abs=1e-4)


@pytest.mark.parametrize("step", [0.02, -0.02])
def test_the_zero_of_kto_is_that_of_the_whole_batch(inputs: Path, tmp_path: Path, step: float) -> None:
    """Measured on other prompts' completions, with plain forward passes of a policy that was moved; never below 0."""
    data = str(write_approvals(tmp_path / "thumbs.jsonl"))
    algorithm, _ = build("kto", inputs, tmp_path / "run", data=data, micro_batch_tokens=1)
    algorithm.model.eval()
    rows = algorithm.train_rows
    for row in rows:
        assert row.other.ids[: row.other.prompt_length] == row.text.ids[: row.text.prompt_length]
    # The first row's answer to another prompt is that of the third, the next one with another prompt.
    assert rows[0].other.ids[rows[0].other.prompt_length :] == rows[2].text.ids[rows[2].text.prompt_length :]

    def plain(text: Any) -> float:
        logp = algorithm.model(input_ids=torch.tensor([text.ids])).logits[0].log_softmax(-1)
        return sum(logp[t - 1, text.ids[t]].item() for t in range(text.prompt_length, text.length))

    with torch.no_grad():
        before = [plain(row.other) for row in rows]
        for parameter in algorithm.model.parameters():
            parameter.add_(step)
        after = [plain(row.other) for row in rows]
        algorithm.prepare(rows)
    moved = sum(a - b for a, b in zip(after, before, strict=True)) / len(rows)
    assert abs(moved) > 0.01
    assert algorithm.zero.item() == pytest.approx(max(0.0, moved), abs=1e-3)


def test_pairs_are_two_approvals_each(inputs: Path, tmp_path: Path) -> None:
    rows = [
        {"prompt": "A?", "chosen": "yes", "rejected": "no", "label": 0.8, "weight": 0.5},
        {"prompt": "B?", "completions": ["one", "two"], "ranks": [1, 2]},
        {"prompt": "C?", "completion": "maybe", "label": False},
    ]
    (tmp_path / "mixed.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    algorithm, _ = build("kto", inputs, tmp_path / "run", data=str(tmp_path / "mixed.jsonl"))
    found = [(row.label, row.weight, row.identity) for row in algorithm.train_rows]
    assert found == [(0.8, 0.5, "'A?'"), (pytest.approx(0.2), 0.5, "'A?'"), (0.0, 1.0, "'C?'")]


def test_kto_says_how_the_two_sides_weigh() -> None:
    row = methods.ApprovalRow(Encoded([1, 2], 1), Encoded([1, 2], 1), 1.0, 1.0, "x")
    rows = [row, replace(row, label=0.0), replace(row, label=0.0)]
    assert "count 0.50 to 1; from 1 to 1.33 is advised" in methods._balance(rows, KTOConfig())
    assert methods._balance(rows, KTOConfig(desirable_weight=2.0)).endswith("which count 1.00 to 1")
    assert "one side has nothing to say" in methods._balance(rows[:1], KTOConfig())


# Rankings


def write_rankings(path: Path, n: int = 8) -> Path:
    """The first fruits are better than the last; every other ranking ends with a tie."""
    rows = [
        {
            "prompt": f"Which fruit, number {i}?",
            "completions": [FRUITS[6 + i % 2], FRUITS[3 + i % 3], FRUITS[i % 3] + " please" * (i % 2)],
            "ranks": [3 if i % 2 else 2, 2, 1],
        }
        for i in range(n)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_a_ranking_at_the_reference_costs_log_k_factorial(inputs: Path, tmp_path: Path) -> None:
    """Four in order: log 24 = 3.178; two: log 2, as DPO; one best of three: log 3."""
    rows = [
        {"prompt": "A?", "completions": ["w", "x", "y", "z"]},
        {"prompt": "B?", "chosen": "w", "rejected": "x"},
        {"prompt": "C?", "completions": ["w", "x", "y"], "ranks": [2, 1, 2]},
    ]
    (tmp_path / "rankings.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    algorithm, _ = build("ranked_dpo", inputs, tmp_path / "run", data=str(tmp_path / "rankings.jsonl"))
    algorithm.model.eval()
    values = algorithm.loss(algorithm.train_rows).values.tolist()
    assert values == pytest.approx([math.log(24), math.log(2), math.log(3)], abs=1e-4)


def test_a_ranking_of_two_is_dpo(inputs: Path, tmp_path: Path) -> None:
    ranked, _ = build("ranked_dpo", inputs, tmp_path / "a", beta=0.3)
    paired, _ = build("dpo", inputs, tmp_path / "b", beta=0.3)
    with torch.no_grad():
        for algorithm in (ranked, paired):
            algorithm.model.eval()
            for parameter in algorithm.model.parameters():
                parameter.add_(0.02)
        found, expected = ranked.loss(ranked.train_rows), paired.loss(paired.train_rows)
    assert found.values.tolist() == pytest.approx(expected.values.tolist(), abs=1e-5)
    assert found.metrics["rewards/accuracies"].tolist() == expected.metrics["rewards/accuracies"].tolist()


def test_training_on_rankings_orders_them(inputs: Path, tmp_path: Path) -> None:
    data = str(write_rankings(tmp_path / "rankings.jsonl"))
    algorithm, run = build("ranked_dpo", inputs, tmp_path / "run", data=data, epochs=20, lr=3e-3)
    train_offline(algorithm, run)
    assert run.metrics[-1]["rewards/accuracies"] == 1.0


def test_training_on_thumbs_raises_what_was_approved(inputs: Path, tmp_path: Path) -> None:
    data = str(write_approvals(tmp_path / "thumbs.jsonl"))
    algorithm, run = build("kto", inputs, tmp_path / "run", data=data, epochs=20, lr=3e-3, batch_size=6)
    train_offline(algorithm, run)
    assert run.metrics[-1]["rewards/chosen"] > 0 > run.metrics[-1]["rewards/rejected"]
