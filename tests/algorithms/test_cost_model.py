"""A cost model: its loss by hand, its border where people drew it, and nobody may earn by its score."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification

import prefloop
from prefloop.datasets.feedback import Compared, FeedbackRow, Judged
from prefloop.errors import InputError
from prefloop.models.load import BIAS_KEY, COST_KEY
from prefloop.models.template import Encoded
from prefloop.records import Ledger
from prefloop.rewards.composition import compose
from prefloop.rewards.learned import LearnedReward, earning
from prefloop.training.online import train_online
from prefloop.workflows.training import train
from tests.small import build, settings_of, write_inputs

CPU = torch.device("cpu")
SAFE = ["tea", "soup"]
"""`knife` is unsafe, and `bomb` is worse."""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return write_inputs(tmp_path_factory.mktemp("inputs"))


def write(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def pairs(n: int = 30) -> list[dict[str, Any]]:
    """A safe answer against one of the two unsafe ones; every third pair is of those two."""
    rows = []
    for i in range(n):
        better = f"knife {i % 4}" if i % 3 == 2 else f"{SAFE[i // 3 % 2]} {i % 4}"
        worse = f"knife {i % 4}" if i % 3 == 0 else f"bomb {i % 4}"
        signs = {"chosen_safe": i % 3 != 2, "rejected_safe": False}
        rows.append({"prompt": f"Number {i}?", "chosen": better, "rejected": worse, **signs})
    return rows


@pytest.fixture(scope="module")
def trained(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Comparisons, and flags of which only those of harm count."""
    folder = tmp_path_factory.mktemp("cost")
    flags = [
        {"prompt": f"Number {i}?", "completion": f"{SAFE[i % 2]} {i}", "flags": ["hallucination"] * (i % 2)}
        for i in range(10)
    ]
    data = write(folder / "rows.jsonl", [*pairs(60), *flags])
    settings = settings_of("cost_model", inputs, data=str(data), batch_size=8, epochs=15, lr=1e-3)
    train("cost_model", out=folder / "cost", overrides=settings, log=lambda words: None)
    return folder / "cost"


def row(said: Any, weight: float = 1.0) -> FeedbackRow:
    texts = tuple(Encoded([1, 5 + i, 2], 1) for i in range(1 if isinstance(said, Judged) else 2))
    return FeedbackRow("flags" if isinstance(said, Judged) else "comparison", texts, said, weight, "a row")


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def test_the_loss_by_hand(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Costs -1 and 2 of a safe and an unsafe answer; 1 and 3 of which nobody said; a flagged 0.5; 3 answers of 4 say
    that the first of 0 and 1 is safer."""
    algorithm, _ = build("cost_model", inputs, tmp_path / "run")
    costs = torch.tensor([-1.0, 2.0, 1.0, 3.0, 0.5, 0.0, 1.0])
    monkeypatch.setattr(type(algorithm), "costs", lambda self, texts: costs)
    loss = algorithm.loss(
        [
            row(Compared(1.0, 0.0, 0.0, 0.0, (-1.0, 1.0))),
            row(Compared(1.0, 0.0, 0.0, 0.0)),
            row(Judged(False), weight=2.0),
            row(Compared(0.75, 0.0, 0.0, 0.0, (0.0, 1.0))),
        ]
    )
    expected = [
        softplus(-3) + softplus(-2) + softplus(-1),
        softplus(-2),
        softplus(-0.5),
        0.75 * softplus(-1) + 0.25 * softplus(1) + softplus(-1),
    ]
    assert loss.values.tolist() == pytest.approx(expected, rel=1e-6)
    assert loss.weights.tolist() == [1.0, 1.0, 2.0, 1.0]
    right, weights = loss.metrics["costs/sign_accuracies"]
    assert right.tolist() == [1.0, 1.0, 1.0, 1.0]
    assert weights.tolist() == [1.0, 1.0, 2.0, 1.0]


def test_it_orders_and_its_border_is_peoples(trained: Path) -> None:
    cost = LearnedReward(trained, torch.float32, CPU)
    asked = [[{"role": "user", "content": f"Fresh {i}?"}] for i in range(3)]
    tea, soup, knife, bomb = (cost(asked, [f"{word} 2"] * 3) for word in (*SAFE, "knife", "bomb"))
    assert max(tea + soup) < 0 < min(knife)
    assert max(knife) < min(bomb)


def test_it_is_a_classifier_with_one_label_whose_score_is_the_cost(trained: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(trained, dtype=torch.float32)
    cost = LearnedReward(trained, torch.float32, CPU)
    text = cost.template.encode([{"role": "user", "content": "Fresh?"}], "knife", 64)
    with torch.no_grad():
        logit = float(model(input_ids=torch.tensor([text.ids])).logits[0, 0])
    assert float(cost.scores([text])) == pytest.approx(logit + getattr(model.config, BIAS_KEY), abs=1e-4)
    assert cost.cost
    assert getattr(model.config, COST_KEY) is True


def test_it_begins_at_the_odds_of_the_data_and_goes_on_from_its_own_border(
    inputs: Path, tmp_path: Path, trained: Path
) -> None:
    """30 pairs: 20 answers are safe and 40 are not."""
    data = str(write(tmp_path / "rows.jsonl", pairs()))
    new, _ = build("cost_model", inputs, tmp_path / "a", data=data)
    assert new.head.bias == pytest.approx(math.log(2))
    again, _ = build("cost_model", inputs, tmp_path / "b", data=data, policy=str(trained))
    assert again.head.bias == pytest.approx(LearnedReward(trained, torch.float32, CPU).head.bias)


def test_what_says_nothing_about_harm_is_counted(inputs: Path, tmp_path: Path) -> None:
    rows = [
        *pairs(6),
        {"prompt": "A?", "completion": "tea", "scores": {"overall": 5}},
        {"prompt": "B?", "completion": "tea", "label": True, "criterion": "helpful"},
        {"prompt": "C?", "completion": "tea", "label": True, "criterion": "harmless"},
        {"prompt": "D?", "completion": "bomb", "flags": ["harmful_advice"]},
    ]
    ledger = Ledger()
    data = str(write(tmp_path / "rows.jsonl", rows))
    algorithm, _ = build("cost_model", inputs, tmp_path / "run", data=data, criterion="harmless", ledger=ledger)
    assert [r.said for r in algorithm.train_rows] == [Judged(True), Judged(False)]
    assert dict(ledger.reasons) == {"other kind": 1, "filtered out": 7}


def test_without_a_border_it_is_refused(inputs: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="called safe and answers called unsafe, got 0 and 0"):
        build("cost_model", inputs, tmp_path / "run", data=str(inputs / "pairs.jsonl"))
    rows = [{**one, "chosen_safe": "yes"} for one in pairs(3)]
    ledger = Ledger()
    with pytest.raises(InputError, match="got 0 and 0"):
        build("cost_model", inputs, tmp_path / "b", data=str(write(tmp_path / "r.jsonl", rows)), ledger=ledger)
    assert ledger.reasons["chosen_safe or rejected_safe is neither true nor false"] == 3


def test_nobody_earns_by_a_cost(inputs: Path, tmp_path: Path, trained: Path) -> None:
    cost = LearnedReward(trained, torch.float32, CPU)
    with pytest.raises(InputError, match="higher for what is worse; as a reward it needs a limit"):
        earning(cost)
    with pytest.raises(InputError, match="is a cost model, whose score"):
        build("ppo", inputs, tmp_path / "run", reward_model=str(trained))
    with pytest.raises(InputError, match="reward: harm is a cost model, higher for what is worse: give it a limit"):
        compose({"harm": {"learned": "cost"}}, learned=lambda ref: cost)
    assert compose({"harm": {"learned": "cost", "weight": -1.0}}, learned=lambda ref: cost).models == [cost]


def test_a_policy_is_trained_under_it_and_the_critic_starts_as_the_reward(
    inputs: Path, tmp_path: Path, trained: Path
) -> None:
    reward = {"harm": {"learned": str(trained), "limit": 0.0}, "taste": {"learned": str(inputs / "rm")}}
    algorithm, run = build("ppo", inputs, tmp_path / "run", reward_model=None, reward=reward, steps=1)
    start = LearnedReward(inputs / "rm", torch.float32, CPU).head.model.score.weight
    assert torch.equal(algorithm.roles.critic.score.weight, start)
    train_online(algorithm, run)
    assert run.metrics[0]["rewards/harm/multiplier"] != 1.0


def test_evaluate_takes_the_safer_one_for_the_better(trained: Path, tmp_path: Path) -> None:
    test = write(tmp_path / "test.jsonl", [{**one, "prompt": f"Other {i}?"} for i, one in enumerate(pairs(12))])
    result = prefloop.evaluate(str(trained), comparisons=test, device="cpu", dtype="float32")
    assert result["accuracy"] > 0.9
    assert result["safety"]["right"]["n"] == 24
    assert result["safety"]["right"]["value"] > 0.9
