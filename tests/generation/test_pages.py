"""Keys and values in pages: the same is drawn, nothing that was never written is read, and no page is held in vain."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from prefloop.generation.pages import Bank, Pages
from prefloop.generation.sampler import Sampler, Sampling
from prefloop.generation.slots import SlotCache
from prefloop.generation.steps import Decoding
from prefloop.generation.twin import Adviser
from prefloop.models.template import Template
from tests.generation.small_models import MODELS, PROMPTS, fresh_logprobs, made, stream


@pytest.fixture(params=[64, 4])
def paged(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pools of any size have pages, of 64 tokens or of so few that each sequence has several and leaves some."""
    monkeypatch.setattr("prefloop.generation.steps.WIDE", 1)
    monkeypatch.setattr("prefloop.generation.pages.PAGE", request.param)
    monkeypatch.setattr("prefloop.generation.pages.STEP", 3)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("slots", [1, 2, 5, 64])
def test_in_pages_greedy_is_the_librarys_and_logprobs_a_fresh_passs(
    name: str, slots: int, template: Template, paged: None
) -> None:
    model = made(name)
    sampler = Sampler(model, template, slots)
    steps = sampler.steps(1, 8, 1)
    assert isinstance(steps, Decoding)
    assert isinstance(steps.cache, Pages)
    lengths = set()
    for temperature in (0.0, 1.3):
        groups = sampler(PROMPTS, 2, Sampling(max_new_tokens=14, temperature=temperature), stream())
        for prompt, group in zip(PROMPTS, groups, strict=True):
            inputs = torch.tensor([prompt])
            whole = model.generate(
                inputs, attention_mask=torch.ones_like(inputs), max_new_tokens=14, do_sample=False, pad_token_id=0
            )
            for sample in group:
                lengths.add(len(sample.ids))
                if not temperature:
                    assert sample.ids == whole[0, len(prompt) :].tolist()
                expected = fresh_logprobs(model, prompt, sample, temperature or 1.0)
                assert sample.logprobs == pytest.approx(expected, abs=1e-4)
    assert len(lengths) > 1


def test_float32_log_probabilities_in_pages_are_exact_to_1e_5(template: Template, paged: None) -> None:
    model = made()
    groups = Sampler(model, template, slots=3)(PROMPTS, 3, Sampling(max_new_tokens=20), stream())
    for prompt, group in zip(PROMPTS, groups, strict=True):
        for sample in group:
            assert sample.logprobs == pytest.approx(fresh_logprobs(model, prompt, sample, 1.0), abs=1e-5)


def test_an_adviser_has_pages_too(template: Template, paged: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its layers' keys stand behind the policy's; what it thinks likelier than most is not drawn."""
    adviser = Adviser(made("llama (eager attention)"), lambda logits: logits <= logits.mean(-1, keepdim=True))
    sampling = Sampling(max_new_tokens=14, temperature=1.3)
    sampler = Sampler(made(), template, slots=3, adviser=adviser)
    steps = sampler.steps(1, 8, 1)
    assert isinstance(steps, Decoding)
    assert isinstance(steps.cache, Pages)
    found = sampler(PROMPTS, 3, sampling, stream())
    free = Sampler(made(), template, slots=3)(PROMPTS, 3, sampling, stream())
    monkeypatch.setattr("prefloop.generation.steps.WIDE", 99)
    expected = Sampler(made(), template, slots=3, adviser=adviser)(PROMPTS, 3, sampling, stream())
    ids = [[[s.ids for s in group] for group in groups] for groups in (found, expected, free)]
    assert ids[0] == ids[1]
    assert ids[0] != ids[2]


def test_memory_that_was_never_written_is_in_no_sample(
    template: Template, paged: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """New pages are full of what is no number, and so are those that a sequence left."""
    sampling = Sampling(max_new_tokens=14, temperature=1.3)
    expected = Sampler(made(), template, slots=3)(PROMPTS, 3, sampling, stream())
    honest_like, honest_free = Bank.like, Pages.free

    def like(numbers: range, layers: Any) -> Bank:
        bank = honest_like(numbers, layers)
        for held in bank.held:
            held.fill_(math.nan)
        return bank

    def free(pages: Pages, slots: Any) -> None:
        for number in [number for slot in slots for number in pages.pages[slot]]:
            for bank in pages.banks:
                for held in bank.held if number in bank.numbers else []:
                    held[number - bank.numbers.start] = math.nan
        honest_free(pages, slots)

    monkeypatch.setattr(Bank, "like", like)
    monkeypatch.setattr(Pages, "free", free)
    assert Sampler(made(), template, slots=3)(PROMPTS, 3, sampling, stream()) == expected


def test_a_pool_holds_no_more_pages_than_its_sequences_need(
    template: Template, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages of 4: three prompts of 9 and 2 tokens with 4 of their own need 4 and 2 each, and never 4 each."""
    monkeypatch.setattr("prefloop.generation.pages.PAGE", 4)
    pages = Pages(3, 13, torch.device("cpu"))
    layer = SimpleNamespace(keys=torch.ones(2, 1, 9, 5), values=torch.ones(2, 1, 9, 3))
    pages.place(SimpleNamespace(layers=[layer]), [0, 1, 1], [2, 0, 1], torch.tensor([9, 2, 2]))
    assert [len(own) for own in pages.pages] == [1, 1, 3]
    for _ in range(4):
        pages.begin_step()
        pages.at += 1
    assert [len(own) for own in pages.pages] == [2, 2, 4]
    assert len({number for own in pages.pages for number in own}) == 8
    assert [held.shape[1:] for held in pages.banks[0].held] == [(1, 4, 5), (1, 4, 3)]
    pages.keep(torch.tensor([1, 2]))
    assert sorted(number for own in pages.pages for number in own) == [*range(6)]
    assert [bank.numbers.start for bank in pages.banks if bank.numbers.start >= 6] == []
    last = [held[5 - bank.numbers.start] for bank in pages.banks if 5 in bank.numbers for held in bank.held]
    assert all(held.isfinite().all() for held in last)
    pages.free([0, 1])
    assert len(pages.vacant) == pages.banks[-1].numbers.stop


def test_few_slots_have_no_pages(template: Template) -> None:
    way = Sampler(made(), template).steps
    caches = [way(slots, 8, 1).cache for slots in (31, 32)]  # type: ignore[attr-defined]
    assert [type(cache) for cache in caches] == [SlotCache, Pages]
