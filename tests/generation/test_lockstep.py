"""Sampling from models that slots of different lengths cannot serve: the library's numbers, whichever way they go."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from prefloop.errors import InputError
from prefloop.generation.lockstep import Lockstep
from prefloop.generation.sampler import Sampler, Sampling
from prefloop.generation.twin import Adviser
from prefloop.models.load import load_policy, load_tokenizer, save_model
from prefloop.models.template import Template
from prefloop.models.value_heads import Perturbed, ValueHeads
from tests.any_causal import AGAIN, ALONE, TOGETHER, model_of, write_causal

PROMPTS = [[1, 20, 21, 22], [1, 30, 31, 32, 33, 34, 35, 36, 37], [1, 9], [1, 5, 6, 7]]
"""Two of one length."""
SAID = "is sampled the slow way, sequences of one length at a time: "


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def greedy(model: Any, prompt: list[int], n: int, **more: Any) -> list[int]:
    """What the library's own greedy search writes."""
    ids = torch.tensor([prompt])
    whole = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=n, do_sample=False, pad_token_id=0, **more
    )
    return whole[0, len(prompt) :].tolist()


@pytest.mark.parametrize("kind", [*TOGETHER, *ALONE, *AGAIN])
def test_greedy_is_the_librarys_and_the_way_is_said_once(kind: str, template: Template) -> None:
    """With 3 slots and 8 sequences, a slot is refilled while sequences of other lengths are under way."""
    model, said = model_of(kind, 40), list[str]()
    expected = [greedy(model, prompt, 9) for prompt in PROMPTS]
    for slots in (3, 64):
        sampler = Sampler(model, template, slots, log=said.append)
        groups = sampler(PROMPTS, 2, Sampling(max_new_tokens=9, temperature=0), stream())
        assert [[sample.ids for sample in group] for group in groups] == [[ids, ids] for ids in expected]
        assert all(s.terminated == (s.ids[-1] == 2) for group in groups for s in group)
        steps = sampler.steps(1, 8, 1)
        assert isinstance(steps, Lockstep)
        assert (steps.alone, steps.keeps) == (kind in ALONE, kind not in AGAIN)
    assert len(said) == 2  # one for each sampler


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("bloom", "it takes no position ids"),
        ("llama4", "it has layers of the kind 'chunked_attention'"),
        ("gpt_neo", "it has layers of the kind 'local'"),
        ("falcon", "side by side its sequences do not have the logits that each has alone"),
    ],
)
def test_the_log_says_why(kind: str, why: str, template: Template) -> None:
    said: list[str] = []
    model = model_of(kind, 40)
    Sampler(model, template, log=said.append)(PROMPTS, 1, Sampling(max_new_tokens=1), stream())
    assert said == [f"{type(model).__name__} {SAID}{why}"]


@pytest.mark.parametrize("kind", [*TOGETHER, *ALONE, *AGAIN])
def test_log_probabilities_and_entropies_are_those_of_a_fresh_pass(kind: str, template: Template) -> None:
    """To 1e-5 in float32, of samples that end at different times, drawn from a narrowed distribution or a whole one."""
    model, lengths = model_of(kind, 40), set()
    for sampling in (Sampling(max_new_tokens=9), Sampling(max_new_tokens=9, temperature=1.4, top_k=20, min_p=0.001)):
        groups = Sampler(model, template, 5)(PROMPTS, 4, sampling, stream(4), entropy=True)
        for prompt, group in zip(PROMPTS, groups, strict=True):
            for sample in group:
                lengths.add(len(sample.ids))
                with torch.no_grad():
                    logits = model(input_ids=torch.tensor([[*prompt, *sample.ids]]), use_cache=False).logits[0]
                logp = (logits[len(prompt) - 1 : -1].double() / sampling.temperature).log_softmax(-1)
                expected = logp.gather(1, torch.tensor(sample.ids)[:, None])[:, 0].tolist()
                assert sample.logprobs == pytest.approx(expected, abs=1e-5)
                assert sample.entropies == pytest.approx((-(logp.exp() * logp).sum(-1)).tolist(), abs=1e-5)
    assert len(lengths) > 1


@pytest.mark.parametrize("slots", [1, 3, 64])
@pytest.mark.parametrize("kind", ["bloom", "mamba", "xlstm"])
def test_a_sample_is_a_function_of_its_own_seed(kind: str, slots: int, template: Template) -> None:
    """Alone, or beside others of its length and of other lengths; sample k is that of seed + k."""
    sampler, sampling = Sampler(model_of(kind, 40), template, slots), Sampling(max_new_tokens=9, top_p=0.95)
    (alone,) = sampler([PROMPTS[3]], 1, sampling, stream(), seeds=[7])
    beside = sampler(PROMPTS, 3, sampling, stream(3), seeds=[1, 2, 4, 6])
    assert beside[3][1].ids == alone[0].ids
    assert beside[3][1].logprobs == pytest.approx(alone[0].logprobs, abs=1e-5)
    assert beside[3][0].ids != alone[0].ids


@pytest.mark.parametrize("kind", ["bloom", "mamba"])
def test_stop_strings_end_a_completion_where_the_librarys_do(kind: str, template: Template) -> None:
    """And tokens are told as they come."""
    model = model_of(kind, len(template.tokenizer), seed=11)
    prompt, heard = template.prompt([{"role": "user", "content": "Say hello."}]), list[int]()
    sampling = Sampling(max_new_tokens=40, temperature=0)
    (free,) = Sampler(model, template)([prompt], 1, sampling, stream())
    text = template.decode(free[0].ids)
    # Whole characters: the library looks for a stop string in its tokens, and half of one is in none.
    pieces = (text[at : at + 3] for at in range(3, len(text)))
    stop = (next(piece for piece in pieces if piece.isascii() and piece.isprintable()), "never said")
    (found,) = Sampler(model, template)(
        [prompt], 1, replace(sampling, stop=stop), stream(), told=lambda i, sample: heard.append(len(sample.ids))
    )
    assert found[0].ids == greedy(model, prompt, 40, stop_strings=list(stop), tokenizer=template.tokenizer)
    assert len(found[0].ids) < len(free[0].ids)
    assert found[0].terminated
    assert heard == [*range(1, len(found[0].ids) + 1)]


@pytest.mark.parametrize("kind", ["bloom", "mamba"])
def test_a_mask_policy_beside_it(kind: str, template: Template) -> None:
    """Only what the adviser holds for likely is drawn; the log-probabilities are the policy's whole ones."""
    model, adviser = model_of(kind, 40), model_of(kind, 40, seed=5)

    def likely(logits: torch.Tensor) -> torch.Tensor:
        return logits >= logits.topk(5).values[:, -1:]

    groups = Sampler(model, template, 3, Adviser(adviser, likely))(PROMPTS, 3, Sampling(max_new_tokens=6), stream())
    for prompt, group in zip(PROMPTS, groups, strict=True):
        for sample in group:
            text, drawn = torch.tensor([[*prompt, *sample.ids]]), torch.tensor(sample.ids)[:, None]
            with torch.no_grad():
                advice, logits = (m(input_ids=text).logits[0, len(prompt) - 1 : -1] for m in (adviser, model))
            assert likely(advice).gather(1, drawn).all()
            expected = logits.log_softmax(-1).gather(1, drawn)[:, 0].tolist()
            assert sample.logprobs == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("kind", ["bloom", "mamba"])
def test_value_heads_move_it(kind: str, template: Template) -> None:
    """Position ids that value heads would take mean nothing to the model under them: the trial notices."""
    said: list[str] = []
    model = Perturbed(model_of(kind, 40), ValueHeads(32, 40, seed=1, beta=20.0))
    groups = Sampler(model, template, 3, log=said.append)(PROMPTS, 2, Sampling(max_new_tokens=6), stream())
    assert said[0].startswith(type(model.policy).__name__)
    for prompt, group in zip(PROMPTS, groups, strict=True):
        for sample in group:
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([[*prompt, *sample.ids]])).logits[0, len(prompt) - 1 : -1]
            expected = logits.log_softmax(-1).gather(1, torch.tensor(sample.ids)[:, None])[:, 0].tolist()
            assert sample.logprobs == pytest.approx(expected, abs=1e-5)


def test_no_position_beyond_the_last_one_of_mpt(template: Template) -> None:
    """It has 64 and calls them max_seq_len."""
    sampler = Sampler(model_of("mpt", 40), template)
    assert sampler.positions == 64
    with pytest.raises(InputError, match="a prompt has 64 tokens; this model takes 64"):
        sampler([[1] * 64], 1, Sampling(), stream())


def test_rwkv_is_saved_as_it_was_loaded(tiny_model: Path, tmp_path: Path) -> None:
    """The library's own model halves the second layer's weights at its first pass, and would be saved so."""
    folder = write_causal(tmp_path / "rwkv", tiny_model, "rwkv")
    model = load_policy(folder, torch.bfloat16, torch.device("cpu"))
    before = {name: p.clone() for name, p in model.named_parameters()}
    model(input_ids=torch.tensor([[1, 2, 3]]))
    save_model(model, load_tokenizer(folder), tmp_path / "saved")
    again = load_policy(tmp_path / "saved", torch.bfloat16, torch.device("cpu"))
    assert all(torch.equal(p, before[name]) for name, p in again.named_parameters())
