"""Temperature schedules, the curriculum, the gauge of sampler against trainer, and truncated importance weights."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from prefloop.errors import InputError, RunError
from prefloop.generation.sampler import Sample
from prefloop.training import online
from prefloop.training.curriculum import Curriculum
from prefloop.training.importance import corrected, sampler_gap
from prefloop.training.rollout import Rollout, make_rollout
from prefloop.workflows.training import train
from tests.small import build, settings_of, weights_of, write_inputs

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return write_inputs(tmp_path_factory.mktemp("inputs"))


def rollout() -> Rollout:
    """Two completions, of two tokens and one; the trainer's log-probabilities are off by log 2, -log 4 and log 8."""
    samples = [Sample([5, 6], [-1.0, -2.0]), Sample([7], [-3.0])]
    made = make_rollout([[1], [1]], samples, [0.0, 0.0], 0, 0, CPU)
    off = torch.tensor([[math.log(2), -math.log(4)], [math.log(8), 99.0]])
    return made.adding(logprobs=made.sampled_logprobs + off)


def test_the_gauge_of_sampler_and_trainer() -> None:
    found = sampler_gap(rollout())
    assert found["sampler/logprob_gap"].mean() == pytest.approx(2 * math.log(2))
    assert float(found["sampler/logprob_gap_max"]) == pytest.approx(3 * math.log(2))
    assert found["sampler/ratio"].tolist() == pytest.approx([2, 0.25, 8])


def test_importance_weights_are_truncated() -> None:
    """Per decision 2, 1/4 and 8, which is cut to 3; of whole completions 2/4 and 8, cut to 3."""
    given = rollout()
    each = corrected(given.adding(advantages=torch.tensor([[1.0, -4.0], [2.0, 0.0]])), 3.0, "made")
    torch.testing.assert_close(each.added["advantages"], torch.tensor([[2.0, -1.0], [6.0, 0.0]]))
    whole = corrected(given.adding(advantages=torch.tensor([4.0, -2.0])), 3.0, "made")
    torch.testing.assert_close(whole.added["advantages"], torch.tensor([2.0, -6.0]))
    with pytest.raises(InputError, match="made has no advantages that importance_cap could weigh"):
        corrected(given, 3.0, "made")


def test_weights_make_a_wrong_sampler_right(inputs: Path, tmp_path: Path) -> None:
    """One decision among a vocabulary that can be listed: the mean weighted gradient of samples that another
    distribution drew is that of the policy's own samples; unweighted it is another."""
    torch.manual_seed(0)
    sampler, policy = torch.randn(6).log_softmax(0), torch.randn(6).log_softmax(0)
    reward = torch.randn(6)
    every = [Sample([token], [float(sampler[token])]) for token in range(6)]
    made = make_rollout([[1]] * 6, every, reward.tolist(), 0, 0, CPU)
    made = made.adding(logprobs=policy[:, None], advantages=reward[:, None])
    weighted = corrected(made, 1e6, "made").added["advantages"][:, 0]
    torch.testing.assert_close((sampler.exp() * weighted), policy.exp() * reward)
    assert not torch.allclose(sampler.exp() * reward, policy.exp() * reward, atol=0.05)


def test_a_run_warns_once_of_a_sampler_that_is_off(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest, said = online.sample_rollout, []

    def off(*given: Any, **more: Any) -> Any:
        found, texts = honest(*given, **more)
        return replace(found, sampled_logprobs=found.sampled_logprobs - 0.25 * found.valid), texts

    algorithm, run = build("rloo", inputs, tmp_path / "quiet", steps=2)
    run.log = said.append
    online.train_online(algorithm, run)
    assert not any("differ" in words for words in said)
    assert run.metrics[-1]["sampler/logprob_gap_max"] < 1e-4
    monkeypatch.setattr(online, "sample_rollout", off)
    algorithm, run = build("rloo", inputs, tmp_path / "loud", steps=2, importance_cap=2.0, log_every=1)
    run.log = said.append
    online.train_online(algorithm, run)
    assert sum("sampler and trainer differ by 0.250 nats per token" in words for words in said) == 1
    assert run.metrics[0]["sampler/ratio"] == pytest.approx(math.exp(0.25), abs=1e-3)


def test_the_temperature_falls_in_a_straight_line(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From 1.5 to 0.5 over five rollouts; each is measured at its own, so the sampler's and the trainer's agree."""
    algorithm, run = build("grpo", inputs, tmp_path / "run", temperature=1.5, temperature_end=0.5, log_every=1)
    seen: list[float] = []
    honest = online.sample_rollout
    monkeypatch.setattr(
        online,
        "sample_rollout",
        lambda roles, *given, **more: (seen.append(roles.sampling.temperature), honest(roles, *given, **more))[1],
    )
    online.train_online(algorithm, run)
    assert seen == pytest.approx([1.5, 1.25, 1.0, 0.75, 0.5])
    assert all(row["sampler/logprob_gap_max"] < 1e-4 for row in run.metrics)


def test_without_a_curriculum_every_prompt_comes_in_turn() -> None:
    from prefloop.datasets.collate import cycled

    one = Curriculum(7, 0.0, 3)
    for step in range(6):
        chosen = one.choose(3, step)
        assert chosen == cycled(7, 3, step, 3)
        one.saw(chosen, torch.rand(3, 4))


def test_prompts_whose_answers_differ_come_more_often() -> None:
    """Of 20 prompts two have answers that differ, one four times as much (in variance 16): half of each rollout."""
    one, counts, firsts = Curriculum(20, 0.5, 0), Counter[int](), Counter[int]()
    spread = torch.zeros(20)
    spread[3], spread[11] = 4.0, 1.0
    for step in range(200):
        chosen = one.choose(4, step)
        assert len(chosen) == 4
        counts.update(chosen)
        if one.taken > 40:
            firsts[chosen[2]] += 1
        one.saw(chosen, torch.stack([-spread[chosen], spread[chosen]], 1))
    assert one.variance[3] == pytest.approx(16.0)
    others = [counts[i] for i in range(20) if i not in (3, 11)]
    assert max(others) - min(others) <= 1
    assert min(counts[3], counts[11]) > 8 * max(others)
    assert firsts[3] > 8 * firsts[11]  # of the two that are drawn without replacement the first is 3 with 16 / 17


def test_a_curriculum_needs_groups(inputs: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="group_size 2 or more, got 1"):
        build("ppo", inputs, tmp_path / "run", curriculum=0.5)


def test_schedules_and_curriculum_resume_to_the_same_bits(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes: dict[str, Any] = {"temperature_end": 0.6, "curriculum": 0.5, "importance_cap": 2.0, "steps": 6}

    def trained(out: Path, **more: Any) -> dict[str, Any]:
        return train("rloo", out=out, overrides=settings_of("rloo", inputs, **changes), log=lambda words: None, **more)

    whole = trained(tmp_path / "whole")
    asked = iter([False, False, False, True])
    monkeypatch.setattr("prefloop.training.run_lock.was_asked_to_stop", lambda folder: next(asked, False))
    with pytest.raises(RunError, match="as asked"):
        trained(tmp_path / "cut")
    assert trained(tmp_path / "cut", resume=True)["hash"] == whole["hash"]
    assert weights_of(tmp_path / "cut") == weights_of(tmp_path / "whole")
