"""One contract for all methods: seeds, resume, masks, and batches that are taken in pieces."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from prefloop.algorithms import METHODS
from prefloop.errors import RunError
from prefloop.generation.sampler import Sampler
from prefloop.training import offline, online
from prefloop.training.metrics import Means
from prefloop.training.optimizer import Optimizer, Schedule
from prefloop.training.run import Run
from prefloop.workflows.training import train
from tests.small import build, settings_of, weights_of, write_inputs

MASKED = [method for method in METHODS if method != "pretrain"]
"""Windows of plain text have no padding and no prompt: every token but the first is a decision."""
WHOLE = {"rloo": 1, "online_dpo": 2}
"""Online methods with one loss for so many whole completions."""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return write_inputs(tmp_path_factory.mktemp("inputs"))


def trained(method: str, inputs: Path, out: Path, *, resume: bool = False, **changes: Any) -> dict[str, Any]:
    return train(
        method,
        out=out,
        overrides=settings_of(method, inputs, **changes),
        resume=resume,
        log=lambda words: None,
    )


@pytest.fixture(scope="module")
def whole(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, dict[str, Any]]]:
    """(folder, result) of an uninterrupted run with seed 0; made once for each method."""
    done: dict[str, tuple[Path, dict[str, Any]]] = {}

    def of(method: str) -> tuple[Path, dict[str, Any]]:
        if method not in done:
            out = tmp_path_factory.mktemp("whole") / "out"
            done[method] = (out, trained(method, inputs, out))
        return done[method]

    return of


Whole = Callable[[str], tuple[Path, dict[str, Any]]]


@pytest.mark.parametrize("method", METHODS)
def test_the_seed_decides_everything(method: str, inputs: Path, tmp_path: Path, whole: Whole) -> None:
    """The same seed gives the same artifact, metrics included, whatever else drew random numbers before."""
    a, first = whole(method)
    torch.rand(7)
    again = trained(method, inputs, tmp_path / "b")
    other = trained(method, inputs, tmp_path / "c", seed=1)
    assert weights_of(a)["model.safetensors"]
    assert weights_of(a) == weights_of(tmp_path / "b")
    assert first["hash"] == again["hash"]
    assert first["metrics"] == again["metrics"]
    assert weights_of(a) != weights_of(tmp_path / "c")
    assert other["steps"] == first["steps"] > 2


@pytest.mark.parametrize("method", METHODS)
def test_a_run_that_was_stopped_resumes_to_the_same_bits(
    method: str, inputs: Path, tmp_path: Path, whole: Whole, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked to stop after its second and after its third step, a run saves itself; weights and metrics end alike."""
    folder, result = whole(method)
    asked = iter([False, True, True])
    monkeypatch.setattr("prefloop.training.run_lock.was_asked_to_stop", lambda folder: next(asked, False))
    for resume in (False, True):
        with pytest.raises(RunError, match="as asked; go on with --resume"):
            trained(method, inputs, tmp_path / "paused", resume=resume)
    paused = trained(method, inputs, tmp_path / "paused", resume=True)
    assert next(asked, None) is None
    assert weights_of(tmp_path / "paused") == weights_of(folder)
    assert paused["hash"] == result["hash"]
    assert {p.name for p in tmp_path.iterdir()} == {"paused"}


def parts_of(method: str, inputs: Path, folder: Path, **changes: Any) -> tuple[Any, Any, list[Any]]:
    """(algorithm, rows of one batch, something to take them from): a batch ready for `loss`."""
    algorithm, run = build(method, inputs, folder, **changes)
    if METHODS[method].loop == "offline":
        return algorithm, run, list(algorithm.train_rows[:6])
    roles = algorithm.roles
    sampler = Sampler(roles.policy, roles.template)
    count = 6 // roles.settings.group_size
    rollout, _ = online.sample_rollout(roles, sampler, roles.prompts[-1 - count : -1], run, 0)  # of two lengths
    return algorithm, run, [algorithm.prepare(roles.measured(replace(rollout, beta=roles.settings.beta), 10**6))]


def gradients(method: str, algorithm: Any, rows: Sequence[Any], budget: int, monkeypatch: Any) -> list[Tensor]:
    """The gradient of one optimizer step, clipped or not, as the loop puts it together."""
    found: list[Tensor] = []
    models = algorithm.roles.trained if METHODS[method].loop == "online" else [algorithm.model]
    parameters = [p for model in models for p in model.parameters() if p.requires_grad]
    optimizer = Optimizer(parameters, Schedule(0.0, 1, 0, "constant"))

    def keep(what: str) -> dict[str, float]:
        found.extend((m.grad if m.grad is not None else torch.zeros_like(m)).clone() for m in optimizer.masters)
        optimizer.adam.zero_grad()
        return {}

    monkeypatch.setattr(optimizer, "step", keep)
    if METHODS[method].loop == "online":
        (rollout,) = rows
        online._update(algorithm, optimizer, rollout, range(len(rollout)), Means(), budget)
    else:
        algorithm.model.eval()
        offline._one_batch(algorithm, optimizer, rows, budget, Means())
        optimizer.step("")
    return found


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_in_pieces_is_the_whole_batch(
    method: str, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of different lengths, one micro-batch each or all in one: the same gradient, weighted as a whole."""
    algorithm, _, rows = parts_of(method, inputs, tmp_path / "run")
    whole = gradients(method, algorithm, rows, 10**6, monkeypatch)
    pieces = gradients(method, algorithm, rows, 1, monkeypatch)
    assert max(g.abs().max().item() for g in whole) > 1e-3
    for one, many in zip(whole, pieces, strict=True):
        torch.testing.assert_close(many, one, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("method", MASKED)
def test_masked_decisions_get_no_gradient(
    method: str, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever id stands in the padding, EOS for one, loss and gradient are the same to the bit."""
    algorithm, _, rows = parts_of(method, inputs, tmp_path / "run")
    before = gradients(method, algorithm, rows, 10**6, monkeypatch)
    if METHODS[method].loop == "online":
        (rollout,) = rows
        padding = torch.arange(rollout.ids.shape[1]) >= rollout.lengths[:, None]
        assert padding.any()
        rollout.ids[padding] = algorithm.roles.template.eos_id
        for column in rollout.added.values():
            if column.ndim == 2:
                column[~rollout.valid] = 99.0
    else:
        assert algorithm.template.pad_id != algorithm.template.eos_id
        algorithm.template.pad_id = algorithm.template.eos_id
    after = gradients(method, algorithm, rows, 10**6, monkeypatch)
    assert max(g.abs().max().item() for g in before) > 1e-3
    for one, other in zip(before, after, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("method", MASKED)
def test_the_prompt_is_no_decision(method: str, inputs: Path, tmp_path: Path) -> None:
    """A language model's losses have one value per completion token; a reward model's one per pair."""
    algorithm, _, rows = parts_of(method, inputs, tmp_path / "run")
    batch = rows[0] if METHODS[method].loop == "online" else rows
    count = len(algorithm.loss(batch).values)
    if method in ("sft", "ilql", "awr", "iqlearn", "q_learning"):
        assert count == sum(row.completion_tokens for row in rows)
    elif METHODS[method].loop == "online":
        assert count == (len(batch) // WHOLE[method] if method in WHOLE else int(batch.valid.sum()))
    else:
        assert count == len(rows)


@pytest.mark.parametrize("method", METHODS)
def test_numbers_that_are_not_finite_stop_the_run_and_name_the_rows(
    method: str, inputs: Path, tmp_path: Path, whole: Whole, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A NaN in the second batch: the run ends within that step, and what it saved before is still good."""
    cls = type(build(method, inputs, tmp_path / "probe")[0])
    honest, calls = cls.loss, [0]

    def poisoned(self: Any, rows: Any) -> Any:
        loss = honest(self, rows)
        calls[0] += 1
        if calls[0] == 3:
            loss.values = loss.values * float("nan")
        return loss

    monkeypatch.setattr(cls, "loss", poisoned)
    with pytest.raises(RunError, match=r"the loss became nan in the (mini)?batch with ['\"]"):
        trained(method, inputs, tmp_path / "out", checkpoint_seconds=0)
    assert calls[0] == 3
    assert not (tmp_path / "out").exists()
    monkeypatch.undo()
    trained(method, inputs, tmp_path / "out", checkpoint_seconds=0, resume=True)
    assert weights_of(tmp_path / "out") == weights_of(whole(method)[0])


@pytest.mark.parametrize("method", [m for m in METHODS if METHODS[m].makes == "policy" and m != "pretrain"])
def test_dropout_is_the_seeds_too(method: str, inputs: Path, tmp_path: Path) -> None:
    """A model with dropout: the same seed draws the same masks; PPO has none at all."""
    import json
    import shutil

    from transformers import GPT2Config, GPT2LMHeadModel

    from prefloop.models.load import load_tokenizer

    folder = tmp_path / "inputs"
    shutil.copytree(inputs, folder)
    tokenizer = load_tokenizer(inputs / "policy")
    shutil.rmtree(folder / "policy")
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2, n_positions=64, eos_token_id=tokenizer.eos_token_id
    )
    GPT2LMHeadModel(config).save_pretrained(folder / "policy")
    tokenizer.save_pretrained(folder / "policy")
    assert json.loads((folder / "policy" / "config.json").read_text())["resid_pdrop"] > 0
    trained(method, folder, tmp_path / "a")
    torch.rand(3)
    trained(method, folder, tmp_path / "b")
    assert weights_of(tmp_path / "a") == weights_of(tmp_path / "b")


def test_ppo_has_no_dropout(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every forward pass of PPO is one in eval mode: otherwise the ratio would compare two different networks."""
    algorithm, run = build("ppo", inputs, tmp_path / "run", steps=1)
    modes: list[bool] = []
    honest = type(algorithm).loss
    monkeypatch.setattr(
        type(algorithm), "loss", lambda self, rows: (modes.append(self.roles.policy.training), honest(self, rows))[1]
    )
    algorithm.roles.policy.train()
    algorithm.roles.critic.train()
    online.train_online(algorithm, run)
    assert modes == [False] * 4
    assert not algorithm.roles.critic.training
    assert isinstance(run, Run)
