"""CPL: its loss by hand, DPO as its limit, and what its bias does."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from prefloop.algorithms.cpl import regret_loss
from prefloop.records import Ledger
from tests.small import build, write_inputs


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return write_inputs(tmp_path_factory.mktemp("inputs"))


def test_the_loss_by_hand() -> None:
    chosen, rejected = torch.tensor([-1.0, -2.0]), torch.tensor([-3.0, -0.5])
    expected = [-math.log(math.exp(s) / (math.exp(s) + math.exp(0.5 * t))) for s, t in [(-1.0, -3.0), (-2.0, -0.5)]]
    assert regret_loss(chosen, rejected, 0.5).tolist() == pytest.approx(expected)
    assert regret_loss(torch.tensor([-2000.0]), torch.tensor([0.0]), 0.5).tolist() == [2000.0]
    assert regret_loss(torch.tensor([0.0]), torch.tensor([-2000.0]), 0.5).tolist() == [0.0]


def test_adding_to_both_sums_is_nothing_at_bias_1_and_something_below() -> None:
    """At 1 only the difference counts; below 1 making both less likely costs, and making both likelier pays."""
    chosen, rejected = torch.tensor([-1.0]), torch.tensor([-3.0])
    assert regret_loss(chosen - 5, rejected - 5, 1.0).item() == pytest.approx(regret_loss(chosen, rejected, 1.0).item())
    assert regret_loss(chosen - 5, rejected - 5, 0.5) > regret_loss(chosen, rejected, 0.5) + 1
    assert regret_loss(chosen + 5, rejected + 5, 0.5) < regret_loss(chosen, rejected, 0.5)


def test_with_bias_1_and_a_reference_it_is_dpo(inputs: Path, tmp_path: Path) -> None:
    """Values and gradients, after the policy has moved away from its reference."""
    cpl, _ = build("cpl", inputs, tmp_path / "cpl", bias=1.0, reference=True, alpha=0.3)
    dpo, _ = build("dpo", inputs, tmp_path / "dpo", beta=0.3)
    stream = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for one, other in zip(cpl.model.parameters(), dpo.model.parameters(), strict=True):
            noise = 0.05 * torch.randn(one.shape, generator=stream)
            one.add_(noise)
            other.add_(noise)
    mine, theirs = cpl.loss(cpl.train_rows[:5]), dpo.loss(dpo.train_rows[:5])
    assert (theirs.values - math.log(2)).abs().max() > 0.01
    torch.testing.assert_close(mine.values, theirs.values, atol=1e-5, rtol=1e-5)
    mine.values.sum().backward()
    theirs.values.sum().backward()
    for one, other in zip(cpl.model.parameters(), dpo.model.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, atol=1e-5, rtol=1e-4)


def test_the_sums_are_discounted_log_probabilities(inputs: Path, tmp_path: Path) -> None:
    algorithm, _ = build("cpl", inputs, tmp_path / "run", alpha=0.2, bias=0.5, gamma=0.8)
    rows = algorithm.train_rows[:3]
    expected = []
    for row in rows:
        sums = []
        for text in row.texts:
            ids, first = torch.tensor(text.ids), text.prompt_length
            with torch.no_grad():
                logp = algorithm.model(input_ids=ids[None]).logits[0].log_softmax(-1)
            sums.append(sum(0.8 ** (t - first) * float(logp[t - 1, ids[t]]) for t in range(first, text.length)))
        expected.append(math.log(1 + math.exp(0.2 * (0.5 * sums[1] - sums[0]))))
    assert algorithm.loss(rows).values.tolist() == pytest.approx(expected, abs=1e-5)


def test_a_ranking_is_the_mean_of_its_pairs(inputs: Path, tmp_path: Path) -> None:
    """Of apple > pear = plum > fig five pairs are ordered; a ranking of two is the comparison."""
    file = tmp_path / "ranked.jsonl"
    rows = [
        {"prompt": "Which?", "completions": ["fig", "apple", "pear", "plum"], "ranks": [3, 1, 2, 2]},
        {"prompt": "Or?", "completions": ["nut", "kiwi"], "ranks": [2, 1], "weight": 2.0},
        {"prompt": "Or?", "chosen": "kiwi", "rejected": "nut", "label": 0.8},
        {"prompt": "Good?", "completion": "lime", "label": True},
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    ledger = Ledger()
    algorithm, _ = build("cpl", inputs, tmp_path / "run", data=str(file), alpha=0.3, bias=0.6, ledger=ledger)
    assert ledger.reasons == {"no ranking": 1}
    four, two, pair = algorithm.train_rows

    def s(text: Any) -> float:
        with torch.no_grad():
            logp = algorithm.model(input_ids=torch.tensor([text.ids])).logits[0].log_softmax(-1)
        return 0.3 * sum(float(logp[t - 1, text.ids[t]]) for t in range(text.prompt_length, text.length))

    def cost(better: float, worse: float) -> float:
        return math.log(1 + math.exp(0.6 * worse - better))

    fig, apple, pear, plum = (s(text) for text in four.texts)
    ordered = [(apple, pear), (apple, plum), (apple, fig), (pear, fig), (plum, fig)]
    nut, kiwi = (s(text) for text in two.texts)
    expected = [
        sum(cost(*sides) for sides in ordered) / 5,
        cost(kiwi, nut),
        0.8 * cost(kiwi, nut) + 0.2 * cost(nut, kiwi),
    ]
    found = algorithm.loss([four, two, pair])
    assert found.values.tolist() == pytest.approx(expected, abs=1e-5)
    assert found.weights.tolist() == [1.0, 2.0, 1.0]
    counts = found.metrics["rewards/margins"][1]
    assert counts.tolist() == pytest.approx([0.2] * 5 + [2.0, 1.0])
