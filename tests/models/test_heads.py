"""Log-probabilities, scores and values, against a plain forward pass of one sequence at a time."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import (
    AutoModelForSequenceClassification,
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedModel,
)

from prefloop.models.adapters import add_lora, save_trained
from prefloop.models.heads import CompletionLogprobs, ScoreHead, trainable
from prefloop.models.load import BIAS_KEY, base_of, load_policy, load_reward_model, load_tokenizer
from prefloop.models.trees import Forest, texts_of
from tests.shapes import SMALL, SPECIAL

VOCABULARY = 50
SHAPE = {**SMALL, **SPECIAL, "vocab_size": VOCABULARY, "max_position_embeddings": 64}
GPT2_SHAPE = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64}
CPU = torch.device("cpu")

# What a batch looks like: three completions of different lengths after prompts of different lengths.
STARTS, LENGTHS = [4, 9, 2], [5, 3, 7]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def gemma2() -> PreTrainedModel:
    config = Gemma2Config(**SHAPE, head_dim=16, final_logit_softcapping=2.0)
    return Gemma2ForCausalLM(config)


def gpt2() -> PreTrainedModel:
    return GPT2LMHeadModel(GPT2Config(**GPT2_SHAPE))


POLICIES: dict[str, tuple[Callable[[], PreTrainedModel], bool]] = {
    "llama": (lambda: LlamaForCausalLM(LlamaConfig(**SHAPE)), True),
    "gpt2 (absolute positions)": (gpt2, True),
    "gemma2 (capped logits)": (gemma2, False),
    "cohere (scaled logits)": (lambda: CohereForCausalLM(CohereConfig(**SHAPE, logit_scale=0.25)), False),
}


def seeded(make: Callable[[], PreTrainedModel]) -> PreTrainedModel:
    torch.manual_seed(3)
    model = make().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def batch(fill: int = 0) -> tuple[Int[Tensor, "B L"], Int[Tensor, "B"], Bool[Tensor, "B C"]]:
    """(ids, starts, valid); `fill` stands in the padding."""
    ends = [s + n for s, n in zip(STARTS, LENGTHS, strict=True)]
    ids = torch.randint(3, VOCABULARY, (3, max(ends)), generator=torch.Generator().manual_seed(5))
    for row, end in enumerate(ends):
        ids[row, end:] = fill
    return ids, torch.tensor(STARTS), torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probabilities_are_those_of_one_sequence_at_a_time(name: str, temperature: float) -> None:
    make, plain = POLICIES[name]
    model = seeded(make)
    measure = CompletionLogprobs(model)
    assert measure.head_is_plain is plain
    ids, starts, valid = batch()
    with torch.no_grad():
        logprobs, entropies = measure(ids, starts, valid, temperature, entropy=True)
        assert entropies is not None
        for row, (start, count) in enumerate(zip(STARTS, LENGTHS, strict=True)):
            alone = ids[row, : start + count]
            logp = (model(input_ids=alone[None]).logits[0] / temperature).log_softmax(-1)
            for j in range(count):
                before = logp[start + j - 1]
                assert logprobs[row, j].item() == pytest.approx(before[alone[start + j]].item(), abs=1e-5)
                assert entropies[row, j].item() == pytest.approx(-(before.exp() * before).sum().item(), abs=1e-5)
            assert logprobs[row, count:].tolist() == [0.0] * (7 - count)
            assert entropies[row, count:].tolist() == [0.0] * (7 - count)


def test_what_stands_in_the_padding_does_not_matter() -> None:
    measure = CompletionLogprobs(seeded(POLICIES["llama"][0]))
    with torch.no_grad():
        zeros, _ = measure(*batch(0))
        eos, _ = measure(*batch(2))
    assert torch.equal(zeros, eos)


def test_only_valid_tokens_have_a_gradient() -> None:
    """A change to the log-probabilities behind the mask reaches no weight."""
    model = seeded(POLICIES["llama"][0])
    logprobs, _ = CompletionLogprobs(model)(*batch())
    (logprobs * ~batch()[2]).sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def test_no_entropy_where_none_was_asked_for() -> None:
    assert CompletionLogprobs(seeded(POLICIES["llama"][0]))(*batch())[1] is None


def test_bfloat16_logits_are_divided_in_float32() -> None:
    """The sampler divides in float32; done in bfloat16 the two would differ by up to 2^-8 of a logit."""
    model = seeded(POLICIES["llama"][0]).to(torch.bfloat16)
    ids, starts, valid = batch()
    measure = CompletionLogprobs(model)
    with torch.no_grad():
        logprobs, _ = measure(ids, starts, valid, 0.7)
        logits = measure._logits(Forest.plant(texts_of(ids, starts, valid))).float()
    expected = (logits[0] / 0.7).log_softmax(-1)[ids[0, 4]]
    assert logprobs[0, 0].item() == pytest.approx(expected.item(), abs=1e-5)


def classifier() -> PreTrainedModel:
    return LlamaForSequenceClassification(LlamaConfig(**SHAPE, num_labels=1))


def rows() -> tuple[Int[Tensor, "B L"], Int[Tensor, "B"]]:
    ids, starts, valid = batch()
    return ids, starts + valid.sum(1)


def test_scores_are_the_librarys_own() -> None:
    """Transformers finds the last token by the pad id; ours is told the lengths. They must agree."""
    model = seeded(classifier)
    ids, lengths = rows()
    with torch.no_grad():
        ours = ScoreHead(model).last(ids, lengths)
        theirs = model(input_ids=ids).logits[:, 0]
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


def test_saved_scores_are_the_librarys_logits_plus_the_bias(tiny_model: Path, tmp_path: Path) -> None:
    """Gain folded into the head, bias in the config: after saving, both ways of reading the folder agree."""
    model = load_reward_model(tiny_model, torch.float32, CPU, new_head=True)
    head = ScoreHead(model)
    head.initialise(seed=1)
    ids, lengths = rows()
    with torch.no_grad():
        gain, bias = head.normalise(head.last(ids, lengths))
    assert gain > 1
    save_trained(model, load_tokenizer(tiny_model), tmp_path / "rm")
    again = ScoreHead(load_reward_model(tmp_path / "rm", torch.float32, CPU))
    library = AutoModelForSequenceClassification.from_pretrained(tmp_path / "rm", dtype=torch.float32).eval()
    assert again.bias == pytest.approx(bias)
    assert getattr(library.config, BIAS_KEY) == again.bias
    with torch.no_grad():
        ours = again.last(ids, lengths)
        theirs = library(input_ids=ids).logits[:, 0] + getattr(library.config, BIAS_KEY)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    # honest: the folder holds bfloat16, whose eight bits move a score of size 1 by a few hundredths
    assert ours.mean().item() == pytest.approx(0.0, abs=0.1)


def test_normalised_scores_have_mean_0_and_deviation_1() -> None:
    head = ScoreHead(seeded(classifier))
    setattr(head.model.config, BIAS_KEY, 0.5)
    ids, lengths = rows()
    with torch.no_grad():
        before = head.last(ids, lengths)
        head.normalise(before)
        after = head.last(ids, lengths)
    assert abs(before.mean().item()) > 0.1
    assert after.mean().item() == pytest.approx(0.0, abs=1e-5)
    assert after.std(correction=0).item() == pytest.approx(1.0, abs=1e-5)
    assert before.argsort().tolist() == after.argsort().tolist()


def test_equal_scores_are_only_shifted() -> None:
    head = ScoreHead(seeded(classifier))
    assert head.normalise(torch.full((4,), 3.0)) == (1.0, -3.0)


def test_a_new_head_is_drawn_from_ziegler_et_als_distribution() -> None:
    """N(0, 1/sqrt(d+1)), bias 0. Of 4,096 weights the deviation is within 5 % of 1/sqrt(4097), by four sigmas."""
    shape = {**SHAPE, "vocab_size": 4, "hidden_size": 4096, "num_hidden_layers": 0, "num_labels": 1}
    model = LlamaForSequenceClassification(LlamaConfig(**shape))
    head = ScoreHead(model)
    head.initialise(seed=7)
    weight = model.score.weight.detach().clone()
    assert weight.std().item() * 4097**0.5 == pytest.approx(1.0, abs=0.05)
    # honest: the mean of 4,096 such weights has a deviation of 1/64
    assert weight.mean().item() * 4097**0.5 == pytest.approx(0.0, abs=0.08)
    assert head.bias == 0.0
    head.initialise(seed=7)
    assert torch.equal(model.score.weight, weight)
    head.initialise(seed=8)
    assert not torch.equal(model.score.weight, weight)


def test_values_are_those_of_the_state_before_each_token() -> None:
    """The value of a state is the score that the sequence would have if it ended there."""
    head = ScoreHead(seeded(classifier))
    setattr(head.model.config, BIAS_KEY, 0.25)
    ids, starts, valid = batch()
    with torch.no_grad():
        values = head.each(ids, starts, valid)
        for row, (start, count) in enumerate(zip(STARTS, LENGTHS, strict=True)):
            for j in range(count):
                state = ids[row : row + 1, : start + j]
                assert values[row, j].item() == pytest.approx(
                    head.last(state, torch.tensor([start + j])).item(), abs=1e-5
                )
            assert values[row, count:].tolist() == [0.0] * (7 - count)


def test_the_head_works_in_float32_in_a_bfloat16_model() -> None:
    model = seeded(classifier).to(torch.bfloat16)
    ids, lengths = rows()
    with torch.no_grad():
        assert ScoreHead(model).last(ids, lengths).dtype == torch.float32


def test_gpt2_scores_too() -> None:
    model = seeded(lambda: GPT2ForSequenceClassification(GPT2Config(**GPT2_SHAPE, num_labels=1, pad_token_id=0)))
    ids, lengths = rows()
    with torch.no_grad():
        ours, theirs = ScoreHead(model).last(ids, lengths), model(input_ids=ids).logits[:, 0]
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


def lora(model: PreTrainedModel, task: str) -> torch.nn.Module:
    return add_lora(
        model,
        rank=2,
        alpha=4,
        dropout=0.0,
        targets="all-linear",
        seed=0,
        task="policy" if task == "policy" else "reward_model",
    )


def test_a_fresh_adapter_changes_nothing_and_a_trained_one_is_seen(tiny_model: Path, tmp_path: Path) -> None:
    model = load_policy(tiny_model, torch.float32, CPU)
    with torch.no_grad():
        plain, _ = CompletionLogprobs(model)(*batch())
        adapted = lora(model, "policy")
        measure = CompletionLogprobs(adapted)
        assert torch.equal(measure(*batch())[0], plain)
        assert base_of(adapted) is model
        assert 0 < len(trainable([adapted])) < len(list(adapted.parameters()))
        for parameter in trainable([adapted]):
            parameter.add_(0.3)
        moved = measure(*batch())[0]
    assert (moved - plain).abs().max().item() > 0.01
    save_trained(adapted, load_tokenizer(tiny_model), tmp_path / "merged")
    with torch.no_grad():
        merged, _ = CompletionLogprobs(load_policy(tmp_path / "merged", torch.float32, CPU))(*batch())
    # honest: the merged weights are stored in bfloat16
    torch.testing.assert_close(merged, moved, atol=0.1, rtol=0)
    assert (tmp_path / "merged" / "adapter" / "adapter_model.safetensors").is_file()
    # A set's order is another in each process, and the artifact's hash would be with it.
    targets = json.loads((tmp_path / "merged" / "adapter" / "adapter_config.json").read_text())["target_modules"]
    assert len(targets) >= 6
    assert targets == sorted(targets)


def test_an_adapted_reward_model_trains_normalises_and_saves_its_head(tiny_model: Path, tmp_path: Path) -> None:
    """PEFT wraps the head; what is trained, normalised and saved must be the same copy of it."""
    model = load_reward_model(tiny_model, torch.float32, CPU, new_head=True)
    model.config.pad_token_id = 0
    ScoreHead(model).initialise(0)
    adapted = lora(model, "reward_model")
    head = ScoreHead(adapted)
    ids, lengths = rows()
    scores = head.last(ids, lengths)
    scores.sum().backward()
    trained = {name for name, p in adapted.named_parameters() if p.grad is not None and p.grad.any()}
    assert any("score" in name for name in trained)
    with torch.no_grad():
        head.normalise(scores.detach())
        normal = head.last(ids, lengths)
    assert normal.mean().item() == pytest.approx(0.0, abs=1e-4)
    assert normal.std(correction=0).item() == pytest.approx(1.0, abs=1e-4)
    save_trained(adapted, load_tokenizer(tiny_model), tmp_path / "rm")
    with torch.no_grad():
        again = ScoreHead(load_reward_model(tmp_path / "rm", torch.float32, CPU)).last(ids, lengths)
    # honest: stored in bfloat16
    torch.testing.assert_close(again, normal, atol=0.2, rtol=0)
