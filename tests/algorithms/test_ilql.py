"""ILQL on graphs that can be solved by hand, its loss in closed form, and sampling that goes by its heads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import prefloop
from prefloop.datasets.rows import RewardedRow
from prefloop.errors import InputError
from prefloop.functional.temporal_difference import perturbed_logits
from prefloop.generation.policy import Policy
from prefloop.generation.sampler import Sampling
from prefloop.models.value_heads import FILE, ValueHeads, load_value_heads
from prefloop.training.offline import train_offline
from prefloop.workflows.training import train
from tests.small import build, settings_of, write_inputs
from tests.table import Table, encoded

EOS, START, OTHER, SHARED, BAD, GOOD, SAFE = range(7)
STITCHING = [
    (encoded(START, SHARED, BAD, EOS), 0.0),
    (encoded(OTHER, SHARED, GOOD, EOS), 1.0),
    (encoded(START, SAFE, EOS), 0.6),
]
"""From START nobody got more than 0.6. By way of SHARED, and on as somebody did who came from elsewhere, it is 1."""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return write_inputs(tmp_path_factory.mktemp("inputs"))


def solved(inputs: Path, folder: Path, log: list[tuple[Any, float]], **changes: Any) -> tuple[Any, Table]:
    """ILQL trained on a table until its losses stand still."""
    settings = {
        "standardise": False,
        "gamma": 0.9,
        "cql": 0.0,
        "polyak": 0.1,
        "steps": 600,
        "batch_size": len(log),
        "lr": 0.02,
        "schedule": "cosine",
        "max_grad_norm": 100.0,
        "log_every": 1000,
        "beta": 50.0,
    }
    algorithm, run = build("ilql", inputs, folder, **{**settings, **changes})
    table = Table(7)
    algorithm.use(table, ValueHeads(7, 7, seed=0, beta=algorithm.config.beta))
    algorithm.train_rows = [RewardedRow(text, 1.0, "row", reward) for text, reward in log]
    algorithm.eval_rows = []
    train_offline(algorithm, run)
    return algorithm, table


@torch.no_grad()
def written(algorithm: Any, table: Table, token: int, beta: float) -> list[int]:
    """The greedy completion after a prompt of one token."""
    hidden, result = torch.eye(7), []
    moved = perturbed_logits(table.head(hidden), algorithm.heads.target_q(hidden), algorithm.heads.values(hidden), beta)
    while token != EOS and len(result) < 6:
        token = int(moved[token].argmax())
        result.append(token)
    return result


def test_two_walks_that_cross_are_stitched_into_a_better_one(inputs: Path, tmp_path: Path) -> None:
    best, table = solved(inputs, tmp_path / "best", STITCHING, expectile=0.98)
    assert written(best, table, START, beta=50.0) == [SHARED, GOOD, EOS]
    # What was worth 1 at the end is worth 0.9 after SHARED (GOOD, EOS: two steps, one of them discounted) and so on.
    values = best.heads.values(torch.eye(7)).tolist()
    assert values[GOOD] == pytest.approx(1.0, abs=0.03)
    assert values[SHARED] == pytest.approx(0.9, abs=0.04)
    assert values[START] == pytest.approx(0.81, abs=0.05)


def test_the_average_does_not_stitch(inputs: Path, tmp_path: Path) -> None:
    """At 0.5 SHARED is worth the mean of what was done there, (0.9 + 0) / 2, and SAFE is better from START."""
    mean, table = solved(inputs, tmp_path / "mean", STITCHING, expectile=0.5)
    assert mean.heads.values(torch.eye(7))[SHARED].item() == pytest.approx(0.45, abs=0.03)
    assert written(mean, table, START, beta=50.0) == [SAFE, EOS]


def test_with_beta_0_it_is_behaviour_cloning(inputs: Path, tmp_path: Path) -> None:
    """The cloned policy has the log's frequencies, in which neither way from START is preferred."""
    _, table = solved(inputs, tmp_path / "run", STITCHING, expectile=0.98)
    policy = table.policy()
    assert policy[START, [SHARED, SAFE]].tolist() == pytest.approx([0.5, 0.5], abs=0.01)
    assert policy[SHARED, [BAD, GOOD]].tolist() == pytest.approx([0.5, 0.5], abs=0.01)
    hidden = torch.eye(7)
    moved = perturbed_logits(table.head(hidden), torch.randn(7, 7), torch.randn(7), 0.0).softmax(-1)
    torch.testing.assert_close(moved, policy)


LOG = [
    (encoded(START, SHARED, BAD, EOS), 0.2),
    (encoded(START, SHARED, BAD, EOS), 0.2),
    (encoded(START, SHARED, GOOD, EOS), 1.0),
    (encoded(START, SAFE, EOS), 0.5),
    (encoded(OTHER, SAFE, GOOD, EOS), 1.0),
    (encoded(OTHER, BAD, EOS), 0.2),
]


def value_iteration(share: float, gamma: float, sweeps: int = 50) -> tuple[list[float], dict[tuple[int, int], float]]:
    """V and Q of the log's graph, each V the expectile of the Qs of what was done there, as often as it was done."""
    v: list[float] = [0.0] * 7
    q: dict[tuple[int, int], float] = {}
    for _ in range(sweeps):
        seen: dict[int, list[float]] = {}
        for text, _ in LOG:
            for state, action in zip(text.ids[:-1], text.ids[1:], strict=True):
                q.setdefault((state, action), 0.0)
        returns: dict[tuple[int, int], list[float]] = {key: [] for key in q}
        for text, reward in LOG:
            for state, action in zip(text.ids[:-1], text.ids[1:], strict=True):
                returns[state, action].append(reward if action == EOS else gamma * v[action])
        q = {key: sum(found) / len(found) for key, found in returns.items()}
        for text, _ in LOG:
            for state, action in zip(text.ids[:-1], text.ids[1:], strict=True):
                seen.setdefault(state, []).append(q[state, action])
        for state, qs in seen.items():
            low, high = min(qs), max(qs)
            for _ in range(50):
                middle = (low + high) / 2
                pull = sum((share if x > middle else 1 - share) * (x - middle) for x in qs)
                low, high = (middle, high) if pull > 0 else (low, middle)
            v[state] = low
    return v, q


@pytest.mark.parametrize("share", [0.5, 0.8])
def test_the_fixed_point_is_that_of_value_iteration(share: float, inputs: Path, tmp_path: Path) -> None:
    v, q = value_iteration(share, 0.9)
    algorithm, _ = solved(inputs, tmp_path / "run", LOG, expectile=share)
    with torch.no_grad():
        found_v, found_q = algorithm.heads.values(torch.eye(7)), algorithm.heads.target_q(torch.eye(7))
    for state in {state for state, _ in q}:
        assert found_v[state].item() == pytest.approx(v[state], abs=0.03)
    for (state, action), expected in q.items():
        assert found_q[state, action].item() == pytest.approx(expected, abs=0.03)


def test_towards_1_value_iteration_takes_the_maximum() -> None:
    """The reference itself, by hand: from START by SHARED and GOOD, 0.9^2 = 0.81; the mean there is lower."""
    v, q = value_iteration(1 - 1e-9, 0.9)
    assert v[START] == pytest.approx(0.81, abs=1e-6)
    assert q[START, SAFE] == pytest.approx(0.9 * 0.9, abs=1e-6)
    assert value_iteration(0.5, 0.9)[0][SHARED] == pytest.approx((2 * 0.9 * 0.2 + 0.9) / 3, abs=1e-6)


def by_hand(algorithm: Any, rows: list[RewardedRow]) -> list[float]:
    """The loss of each completion token, from plain forward passes and sums."""
    c, heads, result = algorithm.config, algorithm.heads, []
    for row in rows:
        ids = torch.tensor([row.text.ids])
        out = algorithm.policy(input_ids=ids, output_hidden_states=True)
        first, last = row.text.prompt_length, row.text.length
        v = [float(heads.value(out.hidden_states[-1][0, t - 1])) for t in range(first, last)] + [0.0]
        for t in range(first, last):
            h, a, here = out.hidden_states[-1][0, t - 1], ids[0, t], t - first
            reward = (row.reward - algorithm.shift) / algorithm.scale if t == last - 1 else 0.0
            total = -float(out.logits[0, t - 1].log_softmax(-1)[a])
            for q in heads.q:
                total += (reward + c.gamma * v[here + 1] - float(q(h)[a])) ** 2
                total += -c.cql * float(q(h).log_softmax(-1)[a])
            u = min(float(q(h)[a]) for q in heads.target) - v[here]
            total += abs(c.expectile - (u < 0)) * u**2
            result.append(total)
    return result


def test_the_loss_is_the_sum_of_its_four_parts(inputs: Path, tmp_path: Path) -> None:
    algorithm, _ = build("ilql", inputs, tmp_path / "run", gamma=0.8, cql=0.3, expectile=0.9)
    rows = algorithm.train_rows[:4]
    with torch.no_grad():
        for parameter in algorithm.heads.target.parameters():
            parameter.mul_(1.3)
        assert algorithm.loss(rows).values.tolist() == pytest.approx(by_hand(algorithm, rows), abs=1e-4)
    rewards = torch.tensor([row.reward for row in algorithm.train_rows], dtype=torch.double)
    assert algorithm.shift == pytest.approx(float(rewards.mean()))
    assert algorithm.scale == pytest.approx(float(rewards.std(correction=0)))


def test_values_learn_only_from_v_and_qs_only_from_q(inputs: Path, tmp_path: Path) -> None:
    """Targets carry no gradient: the value head's is that of the expectile error alone."""
    algorithm, _ = build("ilql", inputs, tmp_path / "run", cql=0.0, cloning=0.0)
    heads, rows = algorithm.heads, algorithm.train_rows[:3]
    algorithm.loss(rows).values.sum().backward()
    assert all(p.grad is None for p in heads.target.parameters())
    found = [p.grad.clone() for p in heads.value.parameters()]
    algorithm.model.zero_grad()
    algorithm.loss(rows).metrics["loss/value"]  # a metric is detached
    tokens = [row.completion_tokens for row in rows]
    errors = []
    for row in rows:
        hidden = algorithm.policy(input_ids=torch.tensor([row.text.ids]), output_hidden_states=True).hidden_states[-1][
            0, row.text.prompt_length - 1 : -1
        ]
        target = heads.target_q(hidden).gather(1, torch.tensor(row.text.ids[row.text.prompt_length :])[:, None])[:, 0]
        u = target - heads.values(hidden)
        errors.append(torch.where(u < 0, 0.3, 0.7) * u**2)
    assert sum(tokens) == sum(len(e) for e in errors)
    torch.cat(errors).sum().backward()
    for one, other in zip(found, heads.value.parameters(), strict=True):
        torch.testing.assert_close(one, other.grad, atol=1e-5, rtol=1e-4)


def test_a_weighted_row_and_awac_weights(inputs: Path, tmp_path: Path) -> None:
    plain, _ = build("ilql", inputs, tmp_path / "plain", cql=0.0)
    preferring, _ = build("ilql", inputs, tmp_path / "awac", cql=0.0, policy_beta=2.0)
    rows = plain.train_rows[:2]
    with torch.no_grad():
        before, after = plain.loss(rows), preferring.loss(rows)
    cloning, advantage = before.metrics["loss/cloning"], before.metrics["advantage"]
    expected = before.values + ((2.0 * advantage).exp().clamp_max(20.0) - 1) * cloning
    torch.testing.assert_close(after.values, expected, atol=1e-5, rtol=1e-5)


@pytest.fixture(scope="module")
def made(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("made") / "out"
    train("ilql", out=out, overrides=settings_of("ilql", inputs, beta=3.0), log=lambda words: None)
    return out


PROMPTS = [[{"role": "user", "content": f"Which fruit, number {i}?"}] for i in range(3)]


def test_with_beta_0_the_sampler_writes_what_the_cloned_policy_writes(made: Path, tmp_path: Path) -> None:
    import shutil

    bare = Path(shutil.copytree(made, tmp_path / "bare"))
    (bare / FILE).unlink()
    sampling = Sampling(max_new_tokens=12)

    def texts(policy: Policy) -> list[list[str]]:
        return [[c.text for c in group] for group in policy.answer(PROMPTS, 2, sampling, seed=5)]

    place = {"device": "cpu", "dtype": "float32"}
    assert texts(Policy(made, beta=0.0, **place)) == texts(Policy(bare, **place))
    assert texts(Policy(made, beta=30.0, **place)) != texts(Policy(bare, **place))
    with pytest.raises(InputError, match="has no value heads"):
        Policy(bare, beta=1.0, **place)


def test_the_verb_tries_another_beta(made: Path) -> None:
    """`prefloop sample --beta` is the sampler's beta, and is kept with what was sampled."""
    settings: dict[str, Any] = {"max_new_tokens": 12, "seed": 5, "device": "cpu", "dtype": "float32"}
    texts = [message[0]["content"] for message in PROMPTS]

    def said(beta: float | None) -> list[str]:
        return [row["completion"] for row in prefloop.sample(str(made), texts, beta=beta, **settings)["completions"]]

    for beta in (0.0, 30.0):
        policy = Policy(made, beta=beta, device="cpu", dtype="float32")
        answers = policy.answer(PROMPTS, 1, Sampling(max_new_tokens=12), seed=5)
        assert said(beta) == [group[0].text for group in answers]
    assert said(None) == said(3.0) != said(0.0)
    with pytest.raises(InputError, match="has no value heads"):
        prefloop.sample("builtin", texts, beta=1.0, **settings)


def test_what_is_sampled_has_the_perturbed_probabilities(made: Path) -> None:
    """Token by token: log softmax of log pi + beta (min Q - V), from one plain forward pass over the whole text."""
    policy = Policy(made, device="cpu", dtype="float32")
    heads = load_value_heads(made, torch.device("cpu"))
    assert heads is not None
    assert policy.model.heads.beta == heads.beta == 3.0
    (group,) = policy.answer(PROMPTS[:1], 1, Sampling(max_new_tokens=6), seed=1)
    sample = group[0].sample
    prompt = policy.template.prompt(PROMPTS[0])
    with torch.no_grad():
        out = policy.model.policy(input_ids=torch.tensor([[*prompt, *sample.ids]]), output_hidden_states=True)
        hidden, logits = out.hidden_states[-1][0], out.logits[0]
        q = torch.minimum(heads.target[0](hidden), heads.target[1](hidden))
        moved: Tensor = (logits.log_softmax(-1) + 3.0 * (q - heads.value(hidden))).log_softmax(-1)
    expected = [float(moved[len(prompt) - 1 + i, token]) for i, token in enumerate(sample.ids)]
    assert sample.logprobs == pytest.approx(expected, abs=1e-4)
    assert policy.logprobs(PROMPTS[:1], [sample]).item() == pytest.approx(sum(expected), abs=1e-4)


def test_the_heads_are_saved_and_a_strange_file_is_refused(made: Path, tmp_path: Path) -> None:
    heads = load_value_heads(made, torch.device("cpu"))
    assert heads is not None
    assert sum(p.numel() for p in heads.q.parameters()) == sum(p.numel() for p in heads.target.parameters()) > 0
    assert load_value_heads(tmp_path, torch.device("cpu")) is None
    (tmp_path / FILE).write_bytes(b"not one")
    with pytest.raises(InputError, match="holds no value heads"):
        load_value_heads(tmp_path, torch.device("cpu"))


def test_rows_without_a_reward(inputs: Path, tmp_path: Path) -> None:
    data = tmp_path / "some.jsonl"
    data.write_text(json.dumps({"prompt": "a", "completion": "b"}) + "\n")
    with pytest.raises(InputError, match="needed: prompt, completion and reward"):
        train("ilql", out=tmp_path / "out", overrides=settings_of("ilql", inputs, data=str(data)), log=lambda w: None)
