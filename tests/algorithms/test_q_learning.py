"""Q-learning on a table: value iteration solves it too, and the loss is worked out by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from prefloop.datasets.rows import RewardedRow
from prefloop.training.offline import train_offline
from tests.small import build, write_inputs
from tests.table import Table, encoded

EOS, START, LEFT, RIGHT = range(4)
EVERY_WALK = [
    (encoded(START, LEFT, LEFT, EOS), 0.2),
    (encoded(START, LEFT, LEFT, LEFT, EOS), 0.2),
    (encoded(START, LEFT, RIGHT, EOS), 1.0),
    (encoded(START, RIGHT, LEFT, EOS), 0.2),
    (encoded(START, RIGHT, RIGHT, EOS), 1.0),
    (encoded(START, RIGHT, EOS), 1.0),
    (encoded(START, EOS), 0.0),
]
"""Who ends in RIGHT gets 1, in LEFT 0.2, at once 0. START is never written, nor asked about."""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return write_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.mark.parametrize("changes", [{}, {"double": False}, {"dueling": False}])
def test_on_a_table_it_finds_what_value_iteration_finds(changes: dict[str, Any], inputs: Path, tmp_path: Path) -> None:
    """With gamma 0.9: EOS is worth 1 after RIGHT, 0.2 after LEFT, 0 after START; RIGHT 0.9, and LEFT 0.81 anywhere."""
    algorithm, run = build(
        "q_learning",
        inputs,
        tmp_path / "run",
        gamma=0.9,
        conservative=0.0,
        renew_every=10,
        temperature=1.0,
        steps=700,
        batch_size=7,
        lr=0.03,
        schedule="cosine",
        max_grad_norm=100.0,
        log_every=1000,
        **changes,
    )
    table = Table(4)
    with torch.no_grad():  # START is no token that anybody writes: its Q stays where it is, below the others
        table.head.weight[START] = -5.0
    algorithm.use(table)
    algorithm.train_rows = [RewardedRow(text, 1.0, "row", reward) for text, reward in EVERY_WALK]
    train_offline(algorithm, run)
    hidden = torch.eye(4)
    with torch.no_grad():
        q = algorithm.model.q_values(hidden, table.head(hidden))
    assert q[RIGHT, [EOS, LEFT]].tolist() == pytest.approx([1.0, 0.81], abs=0.02)
    assert q[LEFT, [EOS, LEFT, RIGHT]].tolist() == pytest.approx([0.2, 0.81, 0.9], abs=0.02)
    assert q[START, [EOS, LEFT, RIGHT]].tolist() == pytest.approx([0.0, 0.81, 0.9], abs=0.02)


@pytest.mark.parametrize("double", [True, False])
def test_the_loss_by_hand(double: bool, inputs: Path, tmp_path: Path) -> None:
    algorithm, _ = build(
        "q_learning", inputs, tmp_path / "run", double=double, temperature=0.5, gamma=0.8, conservative=0.3
    )
    rows = algorithm.train_rows[:3]
    stream = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in algorithm.target.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=stream))
        algorithm.model.value.bias.fill_(0.7)
    expected = []
    for row in rows:
        ids, first = torch.tensor(row.text.ids), row.text.prompt_length
        found = []
        for network in (algorithm.model, algorithm.target):
            with torch.no_grad():
                out = network.policy(input_ids=ids[None], output_hidden_states=True)
                a = 0.5 * out.logits[0, first - 1 : -1]
                v = network.value(out.hidden_states[-1][0, first - 1 : -1])
            found.append(v + a - a.mean(1, keepdim=True))
        live, there = found
        for t in range(len(live)):
            target = row.reward if t == len(live) - 1 else 0.0
            if t < len(live) - 1:
                target += 0.8 * float(there[t + 1, live[t + 1].argmax()] if double else there[t + 1].max())
            action = ids[first + t]
            nll = -float((live[t] / 0.5).log_softmax(-1)[action])
            expected.append((target - float(live[t, action])) ** 2 + 0.3 * nll)
    assert algorithm.loss(rows).values.tolist() == pytest.approx(expected, abs=1e-4)


def test_the_copy_is_renewed_every_so_many_steps(inputs: Path, tmp_path: Path) -> None:
    algorithm, run = build("q_learning", inputs, tmp_path / "run", renew_every=4, steps=6, batch_size=6)
    start = [p.clone() for p in algorithm.target.parameters()]
    honest, same = algorithm.follow, []

    def watched(step: int) -> None:
        honest(step)
        same.append(all(torch.equal(a, b) for a, b in zip(start, algorithm.target.parameters(), strict=True)))

    algorithm.follow = watched
    train_offline(algorithm, run)
    assert same == [True, True, True, False, False, False]
