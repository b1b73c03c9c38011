"""NLPO: which tokens may be drawn, that the mask policy really follows, and that without a mask it is PPO."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.generation.logits_process import TopPLogitsWarper

from prefloop.algorithms.nlpo import packed, unpacked
from prefloop.generation.sampler import Sampler, Sampling
from prefloop.generation.twin import Adviser
from prefloop.models.load import load_policy, load_tokenizer
from prefloop.models.template import Template
from prefloop.training import online
from prefloop.training.rollout import Rollout
from tests.small import build, write_inputs

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return write_inputs(tmp_path_factory.mktemp("inputs"))


def moved(model: torch.nn.Module, by: float, seed: int) -> None:
    stream = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(by * torch.randn(parameter.shape, generator=stream))


def apart(inputs: Path, folder: Path, **changes: Any) -> tuple[Any, Rollout]:
    """NLPO whose policy has left its mask policy, and a prepared rollout of it."""
    algorithm, run = build("nlpo", inputs, folder, **changes)
    moved(algorithm.roles.policy, 0.1, 1)
    roles = algorithm.roles
    rollout, _ = online.sample_rollout(roles, roles.sampler(), roles.prompts[:6], run, 0)
    return algorithm, algorithm.prepare(roles.measured(replace(rollout, beta=0.1), 60))


@torch.no_grad()
def alone(model: Any, rollout: Rollout) -> Tensor:
    """The logits behind each decision, row by row, from plain forward passes."""
    rows = zip(rollout.ids, rollout.starts.tolist(), rollout.lengths.tolist(), strict=True)
    return torch.cat([model(input_ids=ids[None, :end]).logits[0, start - 1 : end - 1] for ids, start, end in rows])


def test_what_may_be_drawn_is_the_mask_policys_nucleus(inputs: Path, tmp_path: Path) -> None:
    """The library's own top-p filter on plain forward passes gives the same sets; nothing outside them was drawn."""
    algorithm, rollout = apart(inputs, tmp_path / "run", top_p=0.6, min_tokens=3)
    found = unpacked(rollout.added["sets"][rollout.valid], 300)
    logits = alone(algorithm.mask, rollout)
    warped = TopPLogitsWarper(top_p=0.6, min_tokens_to_keep=3)(None, logits)
    expected = warped > -torch.inf
    expected[:, algorithm.roles.template.eos_id] = True
    assert torch.equal(found[:, : expected.shape[1]], expected)
    assert 3 < expected.sum(1).float().mean() < 290
    drawn = torch.tensor([token for row in rollout.completions() for token in row])
    assert found.gather(1, drawn[:, None]).all()
    assert rollout.added["outside"].sum() == 0


def test_the_ratio_is_between_masked_distributions_and_the_kl_between_whole_ones(inputs: Path, tmp_path: Path) -> None:
    algorithm, rollout = apart(inputs, tmp_path / "run", top_p=0.6, min_tokens=3)
    logits = alone(algorithm.roles.policy, rollout).double()
    drawn = torch.tensor([token for row in rollout.completions() for token in row])[:, None]
    sets = unpacked(rollout.added["sets"][rollout.valid], logits.shape[1])
    masked = logits.masked_fill(~sets, -torch.inf).log_softmax(-1).gather(1, drawn)[:, 0]
    whole = logits.log_softmax(-1).gather(1, drawn)[:, 0]
    torch.testing.assert_close(rollout.added["masked"][rollout.valid].double(), masked, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(rollout.added["logprobs"][rollout.valid].double(), whole, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(rollout.sampled_logprobs[rollout.valid].double(), whole, atol=1e-5, rtol=1e-5)
    assert (masked - whole).min() > 0.01
    loss = algorithm.loss(rollout)
    torch.testing.assert_close(loss.metrics["val/ratio"], torch.ones(len(drawn)), atol=1e-5, rtol=0)
    assert torch.equal(loss.metrics["mask/allowed"], sets.sum(1).float())


def test_the_mask_policy_is_renewed(inputs: Path, tmp_path: Path) -> None:
    """After rollouts 2 and 4 it is the policy of that time; between them it stays, while the policy moves on."""
    algorithm, run = build("nlpo", inputs, tmp_path / "run", mask_every=2)
    seen: list[tuple[bool, bool]] = []
    honest, before = algorithm.follow, [p.clone() for p in algorithm.mask.parameters()]

    def follow(step: int) -> None:
        honest(step)
        mask, policy = (list(model.parameters()) for model in (algorithm.mask, algorithm.roles.policy))
        stayed = all(torch.equal(a, b) for a, b in zip(mask, before, strict=True))
        seen.append((stayed, all(torch.equal(a, b) for a, b in zip(mask, policy, strict=True))))
        before[:] = [p.clone() for p in mask]

    algorithm.follow = follow
    online.train_online(algorithm, run)
    assert seen == [(True, False), (False, True), (True, False), (False, True), (True, False)]


def test_without_a_mask_it_is_ppo_token_for_token(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five rollouts of two passes each: the same tokens, and the same weights but for rounding; with top_p 0.5 not."""
    honest, sampled = online.sample_rollout, []
    monkeypatch.setattr(online, "sample_rollout", lambda *a, **k: (sampled.append(found := honest(*a, **k)), found)[1])

    def trained(method: str, **changes: Any) -> tuple[list[Tensor], Tensor]:
        sampled.clear()
        algorithm, run = build(
            method, inputs, tmp_path / f"{method}{changes}", rollout_epochs=2, minibatches=2, kl_target=None, **changes
        )
        online.train_online(algorithm, run)
        weights = torch.cat([p.detach().flatten() for model in algorithm.roles.trained for p in model.parameters()])
        return [rollout.ids for rollout, _ in sampled], weights

    shared = {"beta": 0.05, "missing_eos_score": None, "entropy_coef": 0.01}
    ppo, weights = trained("ppo", **shared)
    nlpo, same = trained("nlpo", top_p=1.0, **shared)
    other, _ = trained("nlpo", top_p=0.5, min_tokens=1, **shared)
    assert len(ppo) == 5
    assert all(torch.equal(a, b) for a, b in zip(ppo, nlpo, strict=True))
    torch.testing.assert_close(same, weights, atol=2e-5, rtol=0)
    assert not all(a.shape == b.shape and torch.equal(a, b) for a, b in zip(ppo, other, strict=True))


def test_sets_are_packed_eight_to_a_byte() -> None:
    mask = torch.zeros(2, 10, dtype=torch.bool)
    mask[0, [0, 8, 9]], mask[1, [1, 7]] = True, True
    assert packed(mask).tolist() == [[1, 3], [130, 0]]
    assert torch.equal(unpacked(packed(mask), 10), mask)


def test_an_adviser_reads_what_the_policy_writes(inputs: Path) -> None:
    """Prompts of several lengths, slots that are refilled: the logits it is asked about are its own for those texts."""
    policy, adviser = (load_policy(inputs / "policy", torch.float32, CPU) for _ in range(2))
    moved(adviser, 0.1, 2)
    template = Template(load_tokenizer(inputs / "policy"))
    prompts = [[3, 4, 70], [3, 4, 71, 72, 73, 74, 75, 76], [3, 80]]
    seen: list[Tensor] = []

    def everything(logits: Tensor) -> Tensor:
        seen.append(logits.clone())
        return torch.ones_like(logits, dtype=torch.bool)

    def drawn(**given: Any) -> Any:
        sampler = Sampler(policy, template, 3, **given)
        return sampler(prompts, 3, Sampling(max_new_tokens=7), torch.Generator().manual_seed(5))

    plain, advised = drawn(), drawn(adviser=Adviser(adviser, everything))
    assert [s.ids for group in plain for s in group] == [s.ids for group in advised for s in group]
    rows = torch.cat(seen)
    for prompt, group in zip(prompts, advised, strict=True):
        for sample in group:
            with torch.no_grad():
                expected = adviser(input_ids=torch.tensor([[*prompt, *sample.ids]])).logits[0, len(prompt) - 1 : -1]
            for row in expected:
                assert (rows - row).abs().amax(1).min() < 1e-4

    def one(logits: Tensor) -> Tensor:
        mask = torch.zeros_like(logits, dtype=torch.bool)
        mask[:, [90, 91]] = True
        return mask

    narrow = [s.ids for group in drawn(adviser=Adviser(adviser, one)) for s in group]
    assert {token for ids in narrow for token in ids} == {90, 91}
    greedy = Sampler(policy, template, adviser=Adviser(adviser, one))
    sampling = Sampling(max_new_tokens=4, temperature=0.0)
    ids = greedy(prompts[:1], 1, sampling, torch.Generator().manual_seed(0))[0][0].ids
    assert set(ids) <= {90, 91}
