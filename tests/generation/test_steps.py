"""Sampling from policies with an encoder: the library's greedy search, its log-probabilities, and the same seeds."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from prefloop.errors import InputError
from prefloop.generation.sampler import Sampler, Sampling
from prefloop.generation.twin import Adviser
from prefloop.models.template import Template
from tests.encoders_decoders import KINDS, model_of

PROMPTS = [[20, 21, 22], [30, 31, 32, 33, 34, 35, 36, 37], [9, 2], [5, 6, 7, 8, 2]]


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("slots", [1, 3, 64])
def test_greedy_is_the_librarys_greedy_whatever_the_slots(kind: str, slots: int, template: Template) -> None:
    """With few slots, sequences wait until all of a wave have ended."""
    model: Any = model_of(kind, 40)
    groups = Sampler(model, template, slots)(PROMPTS, 2, Sampling(max_new_tokens=9, temperature=0), stream())
    for prompt, group in zip(PROMPTS, groups, strict=True):
        inputs = torch.tensor([prompt])
        whole = model.generate(
            inputs, attention_mask=torch.ones_like(inputs), max_new_tokens=9, do_sample=False, num_beams=1
        )
        expected = whole[0, 1:].tolist()
        assert [sample.ids for sample in group] == [expected, expected]
        assert all(sample.terminated == (expected[-1] == 2) for sample in group)


@pytest.mark.parametrize("kind", KINDS)
def test_log_probabilities_are_those_of_a_fresh_pass_and_seeds_decide(kind: str, template: Template) -> None:
    """Of samples that end at different times, some of them with their first token, in waves and all at once."""
    model: Any = model_of(kind, 40)
    sampling = Sampling(max_new_tokens=9, temperature=1.3)
    few, many = (Sampler(model, template, slots)(PROMPTS, 6, sampling, stream(4), entropy=True) for slots in (5, 64))
    assert [[s.ids for s in group] for group in few] == [[s.ids for s in group] for group in many]
    lengths = set()
    for prompt, group in zip(PROMPTS, few, strict=True):
        for sample in group:
            lengths.add(len(sample.ids))
            with torch.no_grad():
                logits = model(
                    input_ids=torch.tensor([prompt]), decoder_input_ids=torch.tensor([[0, *sample.ids[:-1]]])
                ).logits[0]
            logp = (logits / 1.3).log_softmax(-1)
            expected = logp[torch.arange(len(logp)), sample.ids].tolist()
            assert sample.logprobs == pytest.approx(expected, abs=1e-4)
            assert sample.entropies == pytest.approx((-(logp.exp() * logp).sum(-1)).tolist(), abs=1e-4)
    assert len(lengths) > 2
    other = Sampler(model, template, 5)(PROMPTS, 6, sampling, stream(5))
    assert [[s.ids for s in group] for group in other] != [[s.ids for s in group] for group in few]


def test_prompts_that_are_read_in_several_portions(template: Template, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("t5", 40)
    sampling = Sampling(max_new_tokens=6)
    whole = Sampler(model, template)(PROMPTS, 3, sampling, stream())
    monkeypatch.setattr("prefloop.generation.sampler.PREFILL_TOKENS", 4)
    parts = Sampler(model, template)(PROMPTS, 3, sampling, stream())
    assert [[s.ids for s in group] for group in parts] == [[s.ids for s in group] for group in whole]


def test_a_mask_policy_is_refused(template: Template) -> None:
    model = model_of("t5", 40)
    with pytest.raises(InputError, match="has an encoder; a mask policy is for decoders alone"):
        Sampler(model, template, adviser=Adviser(model, lambda logits: logits > 0))
