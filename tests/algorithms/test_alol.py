"""A-LoL: its weights by hand, what it never draws, and a log of which one half is worthless."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from prefloop.models.load import load_policy
from prefloop.records import Ledger
from prefloop.rewards.learned import LearnedReward
from prefloop.training.offline import _batch, train_offline
from prefloop.training.prompt_value import fit_prompt_value
from tests.small import FRUITS, build, write_inputs


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return write_inputs(tmp_path_factory.mktemp("inputs"))


def write_log(path: Path, rows: list[tuple[str, str, float]]) -> str:
    words = [{"prompt": p, "completion": c, "reward": r} for p, c, r in rows]
    path.write_text("".join(json.dumps(row) + "\n" for row in words))
    return str(path)


def token_logprobs(algorithm: Any, row: Any) -> Tensor:
    ids, first = torch.tensor(row.text.ids), row.text.prompt_length
    logp = algorithm.model(input_ids=ids[None]).logits[0].log_softmax(-1)
    return logp[torch.arange(first - 1, len(ids) - 1), ids[first:]]


@pytest.mark.parametrize("ratio", ["sequence", "token", "none"])
def test_at_the_reference_a_constant_advantage_scales_the_likelihoods_gradient(
    ratio: str, inputs: Path, tmp_path: Path
) -> None:
    rows = [(f"Which fruit, number {i}?", FRUITS[i] + " please" * (i % 3), 0.25) for i in range(6)]
    data = write_log(tmp_path / "log.jsonl", rows)
    algorithm, _ = build("alol", inputs, tmp_path / "run", data=data, baseline=False, ratio=ratio)
    assert [row.advantage for row in algorithm.train_rows] == [0.25] * 6
    algorithm.loss(algorithm.train_rows).values.sum().backward()
    found = [p.grad.clone() for p in algorithm.model.parameters()]
    algorithm.model.zero_grad()
    (-0.25 * torch.cat([token_logprobs(algorithm, row) for row in algorithm.train_rows]).sum()).backward()
    for one, other in zip(found, algorithm.model.parameters(), strict=True):
        torch.testing.assert_close(one, other.grad, atol=1e-5, rtol=1e-4)


def moved(inputs: Path, folder: Path, **changes: Any) -> tuple[Any, list[Tensor], list[Tensor]]:
    """(algorithm, log-probabilities now, under the reference), the policy moved away from where it was."""
    algorithm, _ = build("alol", inputs, folder, baseline=False, **changes)
    rows = algorithm.train_rows[:3]
    with torch.no_grad():
        before = [token_logprobs(algorithm, row) for row in rows]
        stream = torch.Generator().manual_seed(1)
        for parameter in algorithm.model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=stream))
        now = [token_logprobs(algorithm, row) for row in rows]
    return algorithm, now, before


def test_the_variants_by_hand(inputs: Path, tmp_path: Path) -> None:
    """Whole-completion ratio, ratio per token, none, KL, and R-GOLD; A is the reward here (R-LoL)."""
    settings: dict[str, dict[str, Any]] = {
        "sequence": {"ratio": "sequence", "clip": 0.1},
        "token": {"ratio": "token", "clip": 0.05},
        "ref_free": {"ratio": "none"},
        "kl": {"ratio": "none", "beta": 0.3},
        "gold": {"ratio": "gold"},
    }
    clipped = 0
    for name, changes in settings.items():
        algorithm, now, before = moved(inputs, tmp_path / name, **changes)
        rows = algorithm.train_rows[:3]
        expected = []
        for row, logp, ref in zip(rows, now, before, strict=True):
            if name == "sequence":
                whole = float((logp.sum() - ref.sum()).exp())
                weights = torch.full_like(logp, min(max(whole, 0.9), 1.1))
                clipped += not 0.9 <= whole <= 1.1
            elif name == "token":
                weights = (logp - ref).exp().clamp(0.95, 1.05)
            else:
                weights = logp.exp().clamp_min(0.1) if name == "gold" else torch.ones_like(logp)
            kl = 0.3 * float((logp - ref).sum()) if name == "kl" else 0.0
            expected.append(-row.advantage * float((weights * logp).sum()) + kl)
        assert algorithm.loss(rows).values.tolist() == pytest.approx(expected, rel=1e-5), name
    assert clipped > 0


def test_the_ratio_carries_no_gradient(inputs: Path, tmp_path: Path) -> None:
    algorithm, now, before = moved(inputs, tmp_path / "run", ratio="sequence", clip=0.9)
    row = algorithm.train_rows[0]
    weight = float((now[0].sum() - before[0].sum()).exp().clamp(0.1, 1.9))
    algorithm.loss([row]).values.sum().backward()
    found = [p.grad.clone() for p in algorithm.model.parameters()]
    algorithm.model.zero_grad()
    (-row.advantage * weight * token_logprobs(algorithm, row).sum()).backward()
    for one, other in zip(found, algorithm.model.parameters(), strict=True):
        torch.testing.assert_close(one, other.grad, atol=1e-5, rtol=1e-4)


def test_what_has_no_advantage_is_never_drawn_and_the_rest_in_proportion(inputs: Path, tmp_path: Path) -> None:
    ledger = Ledger()
    algorithm, run = build("alol", inputs, tmp_path / "run", ledger=ledger, value_epochs=40)
    assert 0 < len(algorithm.train_rows) < 12
    assert all(row.advantage > 0 for row in algorithm.train_rows)
    assert ledger.reasons["no advantage"] == 12 - len(algorithm.train_rows)
    assert ledger.defective == 0
    drawn = Counter(i for step in range(2000) for i in _batch(algorithm, 8, step, run.settings.seed))
    total = sum(row.advantage for row in algorithm.train_rows)
    for i, row in enumerate(algorithm.train_rows):
        assert drawn[i] / 16_000 == pytest.approx(row.advantage / total, abs=0.02)


def test_the_value_of_a_prompt_is_learned(inputs: Path) -> None:
    """Two prompts, one worth 0.9 and one 0.1; the policy that reads them stays as it was."""
    policy = load_policy(inputs / "policy", torch.float32, torch.device("cpu"))
    before = [p.clone() for p in policy.parameters()]
    prompts, rewards = [[5, 6, 7], [8, 9, 10, 11, 12]] * 8, [0.9, 0.1] * 8
    settings: dict[str, Any] = {"epochs": 200, "lr": 5e-3, "pad_id": 0, "budget": 10}
    value = fit_prompt_value(policy, prompts, rewards, seed=0, **settings)
    assert value(prompts[:2]).tolist() == pytest.approx([0.9, 0.1], abs=0.05)
    again = fit_prompt_value(policy, prompts, rewards, seed=0, **settings)
    assert torch.equal(value(prompts[:2]), again(prompts[:2]))
    assert all(torch.equal(a, b) for a, b in zip(before, policy.parameters(), strict=True))
    few = fit_prompt_value(policy, prompts, rewards, seed=0, **{**settings, "epochs": 1})
    assert not torch.equal(few(prompts[:2]), value(prompts[:2]))


def test_a_reward_model_scores_the_log_and_the_references_own_answers(inputs: Path, tmp_path: Path) -> None:
    rm = str(inputs / "rm")
    algorithm, _ = build("alol", inputs, tmp_path / "a", reward_model=rm, baseline=False, max_new_tokens=8)
    log = [json.loads(line) for line in (inputs / "log.jsonl").read_text().splitlines()]
    reward = LearnedReward(rm, torch.float32, torch.device("cpu"), max_length=64)
    prompts = [[{"role": "user", "content": row["prompt"]}] for row in log]
    scores = reward(prompts, [row["completion"] for row in log])
    expected = [1 / (1 + math.exp(-score)) for score in scores]
    assert [row.reward for row in algorithm.train_rows] == pytest.approx(expected, abs=1e-5)
    valued, _ = build("alol", inputs, tmp_path / "b", reward_model=rm, max_new_tokens=8, value_epochs=3)
    assert {row.reward - row.advantage for row in valued.train_rows} != {0.0}


def test_the_worthless_half_of_a_log_is_hardly_used(inputs: Path, tmp_path: Path) -> None:
    """Every prompt with its answer (reward 1) and a wrong one (0.1): cloning learns both, A-LoL the first."""
    rows = []
    for i in range(8):
        rows += [
            (f"Which fruit, number {i}?", FRUITS[i % 4], 1.0),
            (f"Which fruit, number {i}?", FRUITS[4 + i % 4], 0.1),
        ]
    data = write_log(tmp_path / "log.jsonl", rows)
    settings: dict[str, Any] = {"data": data, "steps": 80, "batch_size": 8, "lr": 3e-3, "max_grad_norm": 1.0}
    cloned, run = build("awr", inputs, tmp_path / "bc", temperature=1e6, **settings)
    train_offline(cloned, run)
    ours, run = build("alol", inputs, tmp_path / "alol", value_epochs=30, **settings)
    assert {row.reward for row in ours.train_rows} == {1.0}
    train_offline(ours, run)
    good, bad = cloned.train_rows[0::2], cloned.train_rows[1::2]

    @torch.no_grad()
    def preference(algorithm: Any) -> float:
        """Mean probability of the answer, of the two that were logged."""
        pairs = [
            torch.stack([token_logprobs(algorithm, row).sum() for row in pair]) for pair in zip(good, bad, strict=True)
        ]
        return float(torch.stack(pairs).softmax(1)[:, 0].mean())

    assert preference(cloned) < 0.8
    assert preference(ours) > 0.95
