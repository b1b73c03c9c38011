"""MAML: its steps and their derivatives by hand, episodes of annotators who disagree, and one of them adapted to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import prefloop
from prefloop.algorithms.maml import Episode, MAMLConfig, episodes
from prefloop.datasets.rows import PairRow
from prefloop.errors import InputError, RunError
from prefloop.functional.adaptation import adapted_head
from prefloop.models.template import Encoded
from prefloop.rewards.learned import LearnedReward
from prefloop.training.offline import train_offline
from prefloop.workflows.training import train
from tests.small import build, settings_of, write_inputs


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return write_inputs(tmp_path_factory.mktemp("inputs"))


def test_one_step_by_hand() -> None:
    """At w = 0 every probability is 1/2: a comparison with difference (2, 0), label 1, rate 0.1: w = 0.1 * 0.5 * 2."""
    label, weight = torch.ones(1), torch.ones(1)
    difference, rates = torch.tensor([[2.0, 0.0]]), torch.tensor([0.1, 0.7])
    assert adapted_head(torch.zeros(2), difference, label, weight, rates, 1).tolist() == pytest.approx([0.1, 0.0])
    head = torch.tensor([1.0, 3.0])
    assert adapted_head(head, difference, label, weight, rates, 0) is head
    # Two comparisons, the second counting three times: (0.5 * (2, 0) - 3 * 0.5 * (0, 4)) / 4 with labels 1 and 0.
    two = adapted_head(
        torch.zeros(2),
        torch.tensor([[2.0, 0.0], [0.0, 4.0]]),
        torch.tensor([1.0, 0.0]),
        torch.tensor([1.0, 3.0]),
        torch.tensor([1.0, 1.0]),
        1,
    )
    assert two.tolist() == pytest.approx([0.25, -1.5])


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def test_the_steps_are_autograds_and_so_are_their_second_derivatives() -> None:
    """Against gradient descent with create_graph, and against finite differences through two steps."""
    head, differences, label = random(3, seed=0), random(5, 3, seed=1), random(5, seed=2).sigmoid()
    weight, rates = random(5, seed=3).exp(), random(3, seed=4).exp()
    by_autograd = head.clone().requires_grad_()
    for _ in range(2):
        logits = differences @ by_autograd
        loss = (weight * torch.nn.functional.binary_cross_entropy_with_logits(logits, label, reduction="none")).sum()
        (slope,) = torch.autograd.grad(loss / weight.sum(), by_autograd, create_graph=True)
        by_autograd = by_autograd - rates * slope
    torch.testing.assert_close(adapted_head(head, differences, label, weight, rates, 2), by_autograd.detach())
    arguments = [x.clone().requires_grad_() for x in (head, differences, rates)]
    assert torch.autograd.gradcheck(lambda h, d, r: adapted_head(h, d, label, weight, r, 2), arguments)


def test_without_inner_steps_it_is_the_reward_model(inputs: Path, tmp_path: Path) -> None:
    """Values and gradients on the same comparisons."""
    maml, _ = build("maml", inputs, tmp_path / "maml", inner_steps=0)
    plain, _ = build("reward_model", inputs, tmp_path / "rm", data=str(inputs / "annotated.jsonl"))
    rows = maml.train_rows[:3]
    found = {row.texts[0].ids.__repr__(): row for row in plain.train_rows}
    same = [found[pair.chosen.ids.__repr__()] for row in rows for pair in row.query]
    mine, theirs = maml.loss(rows), plain.loss(same)
    assert mine.values.tolist() == pytest.approx(
        [v.mean().item() for v in theirs.values.split([len(r.query) for r in rows])]
    )
    (mine.values * mine.weights).sum().backward()
    (theirs.values * theirs.weights).sum().backward()
    pairs = zip(maml.model["scorer"].parameters(), plain.model["scorer"].parameters(), strict=True)
    for one, other in pairs:
        torch.testing.assert_close(one.grad, other.grad, atol=1e-5, rtol=1e-4)
    assert maml.log_rates.grad is None or not maml.log_rates.grad.any()


def pair(item: int, other: int, label: float = 1.0) -> PairRow:
    return PairRow(Encoded([1, item, 2], 1), Encoded([1, other, 2], 1), label, 1.0, 0.0, f"{item} {other}")


def test_every_comparison_is_asked_about_once_and_never_shown_with_itself() -> None:
    known = {"much": [pair(i, i + 100) for i in range(23)], "little": [pair(i, i + 200) for i in range(3)]}
    found = episodes(known, MAMLConfig(support=8, query=5), seed=3)
    for who, pairs in known.items():
        mine = [episode for episode in found if episode.annotator == who]
        assert sorted(p.identity for e in mine for p in e.query) == sorted(p.identity for p in pairs)
        for episode in mine:
            assert not set(map(id, episode.support)) & set(map(id, episode.query))
            assert len(episode.support) == min(8, len(pairs) - len(episode.query))
    assert [len(e.query) for e in found] == [5, 5, 5, 5, 3, 1, 1, 1]
    assert [e.query for e in episodes(known, MAMLConfig(support=8, query=5), seed=3)] == [e.query for e in found]


class Listed:
    """States of 60 items that nothing trains, and a head: what a ScoreHead is to MAML."""

    def __init__(self) -> None:
        self.items = random(60, 6, seed=7).float()
        self.weight = torch.nn.Parameter(torch.zeros(6))

    def states(self, texts: Any) -> Tensor:
        return self.items[[text.ids[1] for text in texts]]


def said(taste: Tensor, items: Tensor, count: int, seed: int) -> list[PairRow]:
    """Comparisons of somebody who prefers whatever is further along `taste`."""
    stream = torch.Generator().manual_seed(seed)
    found = []
    for a, b in torch.randint(60, (count, 2), generator=stream).tolist():
        if a != b:
            found.append(pair(a, b) if (items[a] - items[b]) @ taste > 0 else pair(b, a))
    return found


def test_people_with_opposite_tastes_are_told_apart_by_a_few_comparisons(inputs: Path, tmp_path: Path) -> None:
    """One model for all is right on half of what new annotators say. Adapted to 8 of theirs, on most others."""
    algorithm, run = build(
        "maml", inputs, tmp_path / "run", steps=150, batch_size=4, lr=2e-3, support=8, query=16, log_every=1000
    )
    judge = Listed()
    algorithm.head = judge
    algorithm.log_rates = torch.nn.Parameter(torch.zeros(6))
    algorithm.model = torch.nn.ModuleDict({"rates": torch.nn.ParameterList([judge.weight, algorithm.log_rates])})
    taste = torch.tensor([1.0, -1.0, 0.5, 0.0, 0.0, 0.0])
    people = {f"{n}": said(taste * (-1) ** n, judge.items, 60, n) for n in range(40)}
    new = {f"{n}": said(taste * (-1) ** n, judge.items, 60, n) for n in range(100, 120)}
    algorithm.train_rows = episodes(people, algorithm.config, 0)
    algorithm.eval_rows = episodes(new, algorithm.config, 0)

    def measured() -> tuple[float, float]:
        with torch.no_grad():
            metrics = algorithm.loss(algorithm.eval_rows).metrics
        return tuple(metrics[f"rewards/accuracies{when}"].mean().item() for when in ("_before", ""))  # type: ignore[return-value]

    train_offline(algorithm, run)
    before, after = measured()
    # honest: a share of 20 people's 16 answers (320) has a standard error of 0.03
    assert before == pytest.approx(0.5, abs=0.08)
    assert after > 0.8
    assert algorithm.rates[:2].min() > 2 * algorithm.rates[3:].max()  # it has learned along what people differ


def test_adapting_a_saved_model_takes_the_steps_that_it_was_trained_to_take(inputs: Path, tmp_path: Path) -> None:
    train("maml", out=tmp_path / "rm", overrides=settings_of("maml", inputs, inner_lr=3.0), log=lambda words: None)
    rows = [json.loads(line) for line in (inputs / "annotated.jsonl").read_text().splitlines()]
    mine = [row for row in rows if row["annotator"] == "person 1"]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in mine))
    exact = {"device": "cpu", "dtype": "float32"}
    result = prefloop.adapt(str(tmp_path / "rm"), tmp_path / "mine.jsonl", out=tmp_path / "own", **exact)
    assert result["comparisons"] == len(mine) == 4
    cpu = torch.device("cpu")
    base, own = (LearnedReward(tmp_path / name, torch.float32, cpu) for name in ("rm", "own"))
    how = base.head.model.config.prefloop_adaptation
    assert how["steps"] == 2
    asked = [[{"role": "user", "content": row["prompt"]}] for row in mine]
    differences = torch.from_numpy(
        base.states(asked, [r["chosen"] for r in mine]) - base.states(asked, [r["rejected"] for r in mine])
    )
    weight = base.head.weight.detach().double()
    for _ in range(2):
        slope = -((-(differences @ weight)).sigmoid()[:, None] * differences).mean(0)
        weight = weight - torch.tensor(how["rates"], dtype=torch.double) * slope
    # honest: weights are stored in bfloat16, eight bits
    torch.testing.assert_close(own.head.weight.detach().double(), weight, rtol=0.01, atol=1e-4)
    right = [
        torch.tensor(model(asked, [r["chosen"] for r in mine]))
        - torch.tensor(model(asked, [r["rejected"] for r in mine]))
        for model in (base, own)
    ]
    assert right[1].mean() > right[0].mean()
    with pytest.raises(InputError, match="was not made to be adapted"):
        prefloop.adapt(str(inputs / "rm"), tmp_path / "mine.jsonl", out=tmp_path / "no", device="cpu")


def test_whose_comparisons_they_are(inputs: Path, tmp_path: Path) -> None:
    """The same pair from two people is no repeat; a consensus of several, or of nobody, is no row."""
    file = tmp_path / "people.jsonl"
    texts = {"prompt": "Which?", "chosen": "apple", "rejected": "pear"}
    turned = {"prompt": "Which?", "chosen": "pear", "rejected": "apple"}
    more = {"prompt": "And?", "chosen": "plum", "rejected": "fig"}
    rows: list[dict[str, Any]] = [{**texts, "annotator": "a"}, {**turned, "annotators": ["b"]}]
    rows += [{**more, "annotator": "a"}, {**more, "annotators": ["b"]}, {**more, "annotator": "c"}]
    rows += [{**more, "annotators": ["a", "b"]}, {**more, "prompt": "Why?"}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(RunError, match="no single annotator: 2"):
        train(
            "maml",
            out=tmp_path / "out",
            overrides=settings_of("maml", inputs, data=str(file)),
            log=lambda words: None,
        )
    algorithm, _ = build("maml", inputs, tmp_path / "run", data=str(file), max_dropped=1.0)
    assert sorted((e.annotator, len(e.support), len(e.query)) for e in algorithm.train_rows) == [
        *[("a", 1, 1)] * 2,
        *[("b", 1, 1)] * 2,
    ]
    assert isinstance(algorithm.train_rows[0], Episode)
