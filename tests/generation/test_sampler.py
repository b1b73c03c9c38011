"""The sampler: what it draws, with what log-probability, where it stops, and that none of it depends on its slots."""

from __future__ import annotations

import math
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    PreTrainedModel,
)

from prefloop.errors import InputError
from prefloop.generation.cohorts import Cohorts
from prefloop.generation.sampler import Sample, Sampler, Sampling, _portions
from prefloop.generation.slots import SlotCache, read_whole
from prefloop.generation.steps import Decoding
from prefloop.models.load import load_policy
from prefloop.models.template import Template
from tests.generation.small_models import EOS, MODELS, PROMPTS, VOCABULARY, fresh_logprobs, made, stream


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("each", [2, 7])
def test_greedy_is_the_librarys_greedy_whatever_the_slots(name: str, each: int, template: Template) -> None:
    """With few slots, finished ones are refilled while others are still decoding; 7 of each prompt go in cohorts."""
    model = made(name)
    sampling = Sampling(max_new_tokens=9, temperature=0)
    for slots in (each, each + 1, 64):
        groups = Sampler(model, template, slots)(PROMPTS, each, sampling, stream())
        for prompt, group in zip(PROMPTS, groups, strict=True):
            inputs = torch.tensor([prompt])
            whole = model.generate(
                inputs, attention_mask=torch.ones_like(inputs), max_new_tokens=9, do_sample=False, pad_token_id=0
            )
            expected = whole[0, len(prompt) :].tolist()
            assert [sample.ids for sample in group] == [expected] * each
            assert all(sample.terminated == (expected[-1] == EOS) for sample in group)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("temperature", "top_p", "each"), [(1.0, 1.0, 3), (0.7, 1.0, 3), (1.3, 0.5, 3), (1.3, 0.5, 7)])
def test_log_probabilities_are_those_of_a_fresh_pass(
    name: str, temperature: float, top_p: float, each: int, template: Template
) -> None:
    """Of the whole distribution at the sampling temperature, also where top-p narrowed the choice."""
    model = made(name)
    sampling = Sampling(max_new_tokens=9, temperature=temperature, top_p=top_p)
    groups = Sampler(model, template, slots=each)(PROMPTS, each, sampling, stream())
    lengths = set()
    for prompt, group in zip(PROMPTS, groups, strict=True):
        for sample in group:
            lengths.add(len(sample.ids))
            assert sample.logprobs == pytest.approx(fresh_logprobs(model, prompt, sample, temperature), abs=1e-4)
    assert top_p < 1 or len(lengths) > 1


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("each", [3, 7])
def test_a_cache_that_is_read_whole_hides_what_is_empty(
    name: str, each: int, template: Template, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it is in 16 bits: columns that no slot has filled, or a sequence before, are read and count for nothing."""
    for module in ("slots", "cohorts"):
        monkeypatch.setattr(f"prefloop.generation.{module}.read_whole", lambda held: True)
        monkeypatch.setattr(f"prefloop.generation.{module}.STEP", 4)
    model = made(name)
    groups = Sampler(model, template, slots=each)(PROMPTS, each, Sampling(max_new_tokens=14), stream())
    assert len({len(sample.ids) for group in groups for sample in group}) > 2
    for prompt, group in zip(PROMPTS, groups, strict=True):
        for sample in group:
            assert sample.logprobs == pytest.approx(fresh_logprobs(model, prompt, sample, 1.0), abs=1e-4)


def test_only_16_bits_on_a_processor_are_read_whole() -> None:
    assert read_whole(torch.zeros(1, dtype=torch.bfloat16))
    assert not read_whole(torch.zeros(1))
    assert not read_whole(torch.zeros(1, dtype=torch.bfloat16, device="meta"))


def test_float32_log_probabilities_are_exact_to_1e_5(template: Template) -> None:
    model = made()
    groups = Sampler(model, template, slots=3)(PROMPTS, 3, Sampling(max_new_tokens=9), stream())
    for prompt, group in zip(PROMPTS, groups, strict=True):
        for sample in group:
            assert sample.logprobs == pytest.approx(fresh_logprobs(model, prompt, sample, 1.0), abs=1e-5)


@pytest.mark.parametrize("name", ["llama", "gpt2 (absolute positions)", "llama (eager attention)"])
def test_in_cohorts_the_same_is_drawn(name: str, template: Template, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever dies when: with 5 slots a cohort's dead outnumber its living, and its slots are taken by others."""
    sampling = Sampling(max_new_tokens=30, temperature=1.3)
    prompts = [*PROMPTS, PROMPTS[0]]
    expected = Sampler(made(name), template, slots=64)(prompts, 1, sampling, stream(), seeds=range(5))
    monkeypatch.setattr("prefloop.generation.steps.MANY", 1)
    for slots in (1, 3, 5):
        sampler = Sampler(made(name), template, slots)
        assert isinstance(sampler.steps(1, 8, 1), Cohorts)
        found = sampler(prompts, 1, sampling, stream(), seeds=range(5))
        assert [[s.ids for s in group] for group in found] == [[s.ids for s in group] for group in expected]
    assert len({len(group[0].ids) for group in expected}) > 2


def test_a_window_is_nothing_for_cohorts(template: Template) -> None:
    assert not isinstance(Sampler(made("mistral (a window of 6)"), template).steps(1, 8, 99), Cohorts)


def test_padding_divides_prompts_into_portions() -> None:
    """6 and 4 tokens of padding are too much for a portion that may have 5, and 4 are not."""
    prompts = [(0,) * n for n in (2, 4, 6, 20)]
    assert [[len(p) for p in part] for part in _portions(prompts, 5)] == [[2, 4], [6], [20]]
    assert [[len(p) for p in part] for part in _portions(prompts, 6)] == [[2, 4, 6], [20]]
    assert [[len(p) for p in part] for part in _portions(prompts, 4096)] == [[2, 4, 6, 20]]


def test_the_same_seed_gives_the_same_samples(template: Template) -> None:
    sampler = Sampler(made(), template, slots=3)
    sampling = Sampling(max_new_tokens=9)
    first, again = sampler(PROMPTS, 2, sampling, stream(4)), sampler(PROMPTS, 2, sampling, stream(4))
    assert first == again
    assert sampler(PROMPTS, 2, sampling, stream(5)) != first
    assert first[0][0].ids != first[0][1].ids


def test_results_come_in_the_order_of_the_prompts(template: Template) -> None:
    """Prompts are prefilled by length; the results must not be."""
    sampler = Sampler(made(), template, slots=2)
    sampling = Sampling(max_new_tokens=5, temperature=0)
    forward = sampler(PROMPTS, 1, sampling, stream())
    backward = sampler(PROMPTS[::-1], 1, sampling, stream())
    assert forward == backward[::-1]
    assert len({tuple(group[0].ids) for group in forward}) > 1


class Fixed(torch.nn.Module):
    """An output layer that ignores what it sees."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = torch.nn.Parameter(logits, requires_grad=False)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.logits.expand(*hidden.shape[:-1], -1).clone()


def with_logits(values: dict[int, float]) -> PreTrainedModel:
    """A model whose next token always has these probabilities."""
    model = made()
    logits = torch.full((VOCABULARY,), -1e9)
    for token, p in values.items():
        logits[token] = math.log(p)
    model.set_output_embeddings(Fixed(logits))
    return model


def test_terminated_and_truncated(template: Template) -> None:
    """EOS half the time: some samples end with it, and only those count as terminated."""
    (group,) = Sampler(with_logits({EOS: 0.5, 7: 0.5}), template)([[1, 20]], 64, Sampling(max_new_tokens=3), stream())
    for sample in group:
        assert sample.terminated == (sample.ids[-1] == EOS)
        assert sample.terminated or sample.ids == [7, 7, 7]
        assert EOS not in sample.ids[:-1]
        assert len(sample.ids) <= 3
    assert {sample.terminated for sample in group} == {True, False}


def test_every_eos_of_the_generation_config_stops(template: Template) -> None:
    model = with_logits({9: 1.0})
    model.generation_config.eos_token_id = [EOS, 9]
    (group,) = Sampler(model, template)([[1, 20]], 1, Sampling(max_new_tokens=5), stream())
    assert (group[0].ids, group[0].terminated) == ([9], True)


def test_one_token_only(template: Template) -> None:
    groups = Sampler(made(), template, slots=2)(PROMPTS, 2, Sampling(max_new_tokens=1), stream())
    assert all(len(sample.ids) == len(sample.logprobs) == 1 for group in groups for sample in group)


def test_frequencies_are_the_models_probabilities(template: Template) -> None:
    """4,000 first tokens of 1/2, 1/4, 1/8, 1/8: the chi-square statistic with 3 degrees of freedom is below 16.27 in
    999 of 1,000 samplers that are right, and in hardly any that is wrong by 5 %."""
    odds = {5: 0.5, 6: 0.25, 7: 0.125, EOS: 0.125}
    (group,) = Sampler(with_logits(odds), template, slots=500)([[1, 20]], 4000, Sampling(max_new_tokens=1), stream(1))
    drawn = [sample.ids[0] for sample in group]
    assert set(drawn) == set(odds)
    assert sum((drawn.count(t) - 4000 * p) ** 2 / (4000 * p) for t, p in odds.items()) < 16.27
    assert {round(sample.logprobs[0], 4) for sample in group} == {-0.6931, -1.3863, -2.0794}


@pytest.mark.parametrize("name", ["llama", "gpt2 (absolute positions)"])
def test_no_position_beyond_the_models_last_one(name: str, template: Template) -> None:
    """48 positions: a prompt of 40 leaves 8 tokens, one of 47 leaves 1, one of 48 none."""
    model = made(name)
    model.set_output_embeddings(Fixed(torch.eye(VOCABULARY)[7] * 100))
    prompts = [[1] * 40, [1] * 47, [1, 2]]
    groups = Sampler(model, template, slots=2)(prompts, 1, Sampling(max_new_tokens=20), stream())
    assert [len(group[0].ids) for group in groups] == [8, 1, 20]
    assert not any(group[0].terminated for group in groups)
    with pytest.raises(InputError, match="a prompt has 48 tokens; this model takes 48"):
        Sampler(model, template)([[1] * 48], 1, Sampling(), stream())


def test_nothing_to_do(template: Template) -> None:
    assert Sampler(made(), template)([], 2, Sampling(), stream()) == []


def test_an_empty_prompt(template: Template) -> None:
    with pytest.raises(InputError, match="a prompt has no tokens"):
        Sampler(made(), template)([[1], []], 1, Sampling(), stream())


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -1.0},
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"max_new_tokens": 0},
        {"top_k": -1},
        {"min_p": 1.5},
        {"stop": ("",)},
    ],
)
def test_sampling_settings_that_mean_nothing(wrong: dict[str, Any], template: Template) -> None:
    with pytest.raises(InputError, match=r"sampling needs|a stop string is empty"):
        Sampler(made(), template)([[1]], 1, Sampling(**wrong), stream())


def test_progress_counts_every_sequence_once(template: Template) -> None:
    counted: list[int] = []
    Sampler(made(), template, slots=3)(PROMPTS, 3, Sampling(max_new_tokens=6), stream(), counted.append)
    assert sum(counted) == 12
    assert min(counted) > 0


@pytest.mark.parametrize("name", ["mistral (a window of 6)", "gemma2 (a window of 6 in every other layer)"])
def test_a_sliding_window_hides_what_lies_before_it(name: str, template: Template) -> None:
    """Prompts of up to 9 tokens and 9 more: most of what was written lies outside the window."""
    model = made(name)
    groups = Sampler(model, template, slots=3)(PROMPTS, 2, Sampling(max_new_tokens=9), stream())
    for prompt, group in zip(PROMPTS, groups, strict=True):
        for sample in group:
            assert sample.logprobs == pytest.approx(fresh_logprobs(model, prompt, sample, 1.0), abs=1e-4)


@pytest.mark.parametrize("slots", [1, 3, 64])
def test_a_sample_is_a_function_of_its_own_seed(slots: int, template: Template) -> None:
    """Alone, or beside others in another order: prompt 2 with seed 7 gives the same; sample k is that of seed + k."""
    sampler, sampling = Sampler(made(), template, slots), Sampling(max_new_tokens=9)
    (alone,) = sampler([PROMPTS[2]], 1, sampling, stream(), seeds=[7])
    beside = sampler(PROMPTS, 3, sampling, stream(3), seeds=[1, 2, 6, 4])
    assert beside[2][1].ids == alone[0].ids
    assert beside[2][1].logprobs == pytest.approx(alone[0].logprobs, abs=1e-5)
    assert beside[2][0].ids != alone[0].ids


def test_the_slots_change_nothing(template: Template) -> None:
    model, sampling = made(), Sampling(max_new_tokens=9)
    few, many = (Sampler(model, template, slots)(PROMPTS, 3, sampling, stream(8)) for slots in (2, 64))
    assert [[s.ids for s in group] for group in few] == [[s.ids for s in group] for group in many]


def test_each_prompt_may_have_its_own_limit(template: Template) -> None:
    model = with_logits({7: 1.0})
    groups = Sampler(model, template, slots=2)(PROMPTS, 2, Sampling(), stream(), limits=[1, 9, 3, 5])
    assert [[len(s.ids) for s in group] for group in groups] == [[1, 1], [9, 9], [3, 3], [5, 5]]
    assert not any(s.terminated for group in groups for s in group)
    for wrong in ([1, 2], [1, 9, 3, 0]):
        with pytest.raises(InputError, match="limits needs one number >= 1 for each of 4 prompts"):
            Sampler(model, template)(PROMPTS, 1, Sampling(), stream(), limits=wrong)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_entropies_are_those_of_the_distribution_at_the_temperature(temperature: float, template: Template) -> None:
    """Odds 1/2, 1/4, 1/4 have 1.5 bits; at temperature 1/2 they are 2/3, 1/6, 1/6."""
    model = with_logits({5: 0.5, 6: 0.25, 7: 0.25})
    sampling = Sampling(max_new_tokens=3, temperature=temperature, top_k=1)
    (group,) = Sampler(model, template)([[1, 20]], 2, sampling, stream(), entropy=True)
    odds = [0.5, 0.25, 0.25] if temperature == 1 else [2 / 3, 1 / 6, 1 / 6]
    expected = -sum(p * math.log(p) for p in odds)
    for sample in group:
        assert sample.ids == [5, 5, 5]
        assert sample.entropies == pytest.approx([expected] * 3, abs=1e-5)
    (plain,) = Sampler(model, template)([[1, 20]], 1, sampling, stream())
    assert plain[0].entropies == []


def test_stop_strings_end_a_completion_where_the_librarys_do(tiny_model: Path, template: Template) -> None:
    """The tiny model's own tokenizer: a stop string may begin inside one token and end inside another."""
    model = load_policy(tiny_model, torch.float32, torch.device("cpu"))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4.0)
    prompt = template.prompt([{"role": "user", "content": "Say hello."}])
    sampling = Sampling(max_new_tokens=40, temperature=0)
    (free,) = Sampler(model, template)([prompt], 1, sampling, stream())
    text = template.decode(free[0].ids)
    stop = (text[5:8], "never said")
    (found,) = Sampler(model, template)([prompt], 1, replace(sampling, stop=stop), stream())
    inputs = torch.tensor([prompt])
    whole = model.generate(
        inputs,
        attention_mask=torch.ones_like(inputs),
        max_new_tokens=40,
        do_sample=False,
        stop_strings=list(stop),
        tokenizer=template.tokenizer,
    )
    assert found[0].ids == whole[0, len(prompt) :].tolist()
    assert len(found[0].ids) < len(free[0].ids)
    assert found[0].terminated


def test_tokens_are_told_as_they_come(template: Template) -> None:
    heard: dict[int, list[list[int]]] = {}

    def told(prompt: int, sample: Sample) -> None:
        heard.setdefault(prompt, []).append(list(sample.ids))

    groups = Sampler(made(), template, slots=2)(PROMPTS, 1, Sampling(max_new_tokens=6), stream(), told=told)
    for i, (sample,) in enumerate(groups):
        assert heard[i] == [sample.ids[: n + 1] for n in range(len(sample.ids))]


@pytest.mark.parametrize(
    ("name", "packed"),
    [
        ("llama", False),  # its attention is the library's fused one
        ("llama (eager attention)", True),
        ("gemma2 (eager attention, capped logits)", True),
        ("mistral (a window of 6, eager attention)", True),
        ("gpt2 (eager attention)", False),  # each head has keys of its own
    ],
)
def test_keys_that_several_heads_read_are_not_copied(
    name: str, packed: bool, template: Template, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decoding gives the library's own greedy search, and never calls what copies them."""
    model = made(name)
    steps = Sampler(model, template).steps(1, 8, 1)
    assert isinstance(steps, Decoding)
    assert (steps.attention is not nullcontext) == packed
    if not packed:
        return
    module, copies = sys.modules[type(model).__module__], []
    honest = module.repeat_kv
    monkeypatch.setattr(module, "repeat_kv", lambda x, n: (copies.append(x.shape[2]), honest(x, n))[1])
    sampling = Sampling(max_new_tokens=9, temperature=0)
    groups = Sampler(model, template, slots=3)(PROMPTS, 2, sampling, stream())
    assert set(copies) <= {*map(len, PROMPTS)} | {*range(3, 8)}  # prompts, and the few tokens that it was tried on
    for prompt, group in zip(PROMPTS, groups, strict=True):
        inputs = torch.tensor([prompt])
        whole = model.generate(
            inputs, attention_mask=torch.ones_like(inputs), max_new_tokens=9, do_sample=False, pad_token_id=0
        )
        assert [sample.ids for sample in group] == [whole[0, len(prompt) :].tolist()] * 2
        for sample in group:
            assert sample.logprobs == pytest.approx(fresh_logprobs(model, prompt, sample, 1.0), abs=1e-4)


def test_attention_that_asks_for_more_is_left_as_it_is(template: Template, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model whose own attention does something that ours does not know of: the trial notices."""
    model = made("llama (eager attention)")
    module = sys.modules[type(model).__module__]
    honest = module.eager_attention_forward

    def with_sinks(*given: Any, **more: Any) -> Any:
        out, weights = honest(*given, **more)
        return 0.5 * out, weights

    monkeypatch.setattr(module, "eager_attention_forward", with_sinks)
    sampler = Sampler(model, template)
    steps = sampler.steps(1, 8, 1)
    assert isinstance(steps, Decoding)
    assert steps.attention is nullcontext
    many = sampler.steps(64, 8, 1)
    assert isinstance(many, Decoding)
    assert isinstance(many.cache, SlotCache)
