"""A shared prompt computed once, against every text computed alone: values and gradients, for every position scheme."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from prefloop.models import attention
from prefloop.models.heads import CompletionLogprobs, ScoreHead
from prefloop.models.template import Encoded
from prefloop.models.trees import Forest, Tree, Trunk, tokens_of

SHAPE = {
    "vocab_size": 60,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
WINDOW = 4
"""Shorter than the prompts, so that a completion's first tokens see some of the prompt and its last ones none."""
SLIDING = ["sliding_attention", "full_attention"]


def opt() -> PreTrainedModel:
    shape = {"vocab_size": 60, "hidden_size": 16, "ffn_dim": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
    return OPTForCausalLM(OPTConfig(**shape, word_embed_proj_dim=16, max_position_embeddings=64, dropout=0.0))


def gpt2() -> PreTrainedModel:
    config = GPT2Config(vocab_size=60, n_embd=16, n_layer=2, n_head=4, n_positions=64, resid_pdrop=0.0, embd_pdrop=0.0)
    return GPT2LMHeadModel(config)


MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SHAPE)),
    "qwen2 with a window": lambda: Qwen2ForCausalLM(
        Qwen2Config(**SHAPE, use_sliding_window=True, sliding_window=WINDOW, layer_types=SLIDING)
    ),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SHAPE, head_dim=4)),
    "gpt2": gpt2,
    "opt": opt,
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=WINDOW)),
    "gemma2": lambda: Gemma2ForCausalLM(
        Gemma2Config(**SHAPE, head_dim=4, sliding_window=WINDOW, attn_logit_softcapping=2.0, layer_types=SLIDING)
    ),
    "gemma3": lambda: Gemma3ForCausalLM(
        Gemma3TextConfig(**SHAPE, head_dim=4, sliding_window=WINDOW, layer_types=SLIDING)
    ),
}
STRANGERS: dict[str, Callable[[], PreTrainedModel]] = {
    "bloom (ALiBi)": lambda: BloomForCausalLM(BloomConfig(vocab_size=60, hidden_size=16, n_layer=2, n_head=4)),
    "mamba (a recurrent state)": lambda: MambaForCausalLM(
        MambaConfig(vocab_size=60, hidden_size=16, num_hidden_layers=2, state_size=4)
    ),
}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def seeded(make: Callable[[], PreTrainedModel]) -> PreTrainedModel:
    torch.manual_seed(3)
    model = make().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def text(prompt: Sequence[int], completion: Sequence[int]) -> Encoded:
    return Encoded([*prompt, *completion], len(prompt))


A, B = [1, 9, 8, 7, 6, 5, 9, 8], [1, 30, 31]
TEXTS = [
    text(A, [11, 12, 13, 14, 15, 2]),
    text(B, [11, 2]),
    text(A, [11, 21, 2]),  # begins as the first does
    text([1, 9, 8], [7, 6, 2]),  # another prompt that begins as A does
    text(A, [11]),  # all of it is the beginning of others
    text(B, [41, 42, 43, 44, 45, 46, 47, 2]),
    text(A, [11, 21, 2]),  # twice the same
]


def alone(model: nn.Module, texts: Sequence[Encoded]) -> list[Tensor]:
    """Log-probabilities of each completion, one text at a time, by the model's own forward pass."""
    found = []
    for one in texts:
        ids = torch.tensor([one.ids])
        logp = model(input_ids=ids, use_cache=False).logits[0].float().log_softmax(-1)
        found.append(logp[:-1].gather(1, ids[0, 1:, None])[one.prompt_length - 1 :, 0])
    return found


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_the_row_of_a_forest() -> None:
    """Two prompts; the completions of the first go on alike for one token, which is shared too."""
    forest = Forest.plant([text([5, 6], [7, 8]), text([9], [3]), text([5, 6], [7, 4, 2])])
    assert forest.ids.tolist() == [5, 6, 7, 8, 4, 2, 9, 3]
    assert forest.positions.tolist() == [0, 1, 2, 3, 3, 4, 0, 1]
    assert forest.trees == [Tree(3, (1, 2)), Tree(2, (0,))]
    assert [forest.place(2, 0, 5), forest.place(0, 0, 4), forest.place(1, 0, 2)] == [
        [0, 1, 2, 4, 5],
        [0, 1, 2, 3],
        [6, 7],
    ]
    assert forest.before().tolist() == [1, 2, 6, 1, 2, 4]
    assert forest.completions() == [7, 8, 3, 7, 4, 2]
    assert forest.last().tolist() == [3, 7, 5]
    assert tokens_of(forest.texts) == 8


@pytest.mark.parametrize("name", MODELS)
def test_losses_and_gradients_are_those_of_texts_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        attention, "WHOLE", attention.Packing(3, 1, 1.3)
    )  # every text is longer, as long texts are longer than 128
    model = seeded(MODELS[name])
    model.set_attn_implementation("eager")
    weights = torch.randn(sum(one.completion_length for one in TEXTS), generator=torch.Generator().manual_seed(1))
    expected = torch.cat(alone(model, TEXTS))
    (expected * weights).sum().backward()
    before = gradients(model)
    model.zero_grad()

    said: list[str] = []
    measure = CompletionLogprobs(model, said.append)
    assert measure.trunk.shares
    assert said == []
    logprobs, valid = measure.of(TEXTS)
    (logprobs[valid] * weights).sum().backward()
    after = gradients(model)
    torch.testing.assert_close(logprobs[valid], expected, atol=1e-5, rtol=0)
    assert after.keys() == before.keys()
    largest = max(float(g.abs().max()) for g in before.values())
    for parameter, gradient in before.items():
        torch.testing.assert_close(after[parameter], gradient, atol=1e-5 * max(1.0, largest), rtol=0, msg=parameter)
    assert logprobs[~valid].abs().sum() == 0
    assert model.config._attn_implementation == "eager"


@pytest.mark.parametrize("name", STRANGERS)
def test_a_model_that_cannot_share_says_so_and_computes_each_text_alone(name: str) -> None:
    model = seeded(STRANGERS[name])
    said: list[str] = []
    measure = CompletionLogprobs(model, said.append)
    assert not measure.trunk.shares
    assert len(said) == 1
    assert "cannot share" in said[0]
    expected = torch.cat(alone(model, TEXTS))
    expected.sum().backward()
    before = gradients(model)
    model.zero_grad()
    logprobs, valid = measure.of(TEXTS)
    logprobs.sum().backward()
    torch.testing.assert_close(logprobs[valid], expected, atol=2e-5, rtol=0)
    for parameter, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, before[parameter], atol=1e-4, rtol=1e-4, msg=parameter)


def test_a_window_that_the_attention_is_not_told_of_is_not_trusted() -> None:
    """Eighteen tokens cannot show a window of 4,096; what the layers pass on must."""
    model = seeded(MODELS["llama"])
    assert Trunk(model).shares
    model.config.sliding_window = 4096
    assert not Trunk(model).shares


def test_scores_and_their_gradients_are_those_of_texts_alone() -> None:
    model = seeded(lambda: LlamaForSequenceClassification(LlamaConfig(**SHAPE, num_labels=1)))
    slopes = torch.randn(len(TEXTS), generator=torch.Generator().manual_seed(2))
    expected = torch.cat([model(input_ids=torch.tensor([one.ids])).logits[:, 0] for one in TEXTS])
    (expected * slopes).sum().backward()
    before = gradients(model)
    model.zero_grad()
    scores = ScoreHead(model).of(TEXTS)
    (scores * slopes).sum().backward()
    torch.testing.assert_close(scores, expected, atol=1e-5, rtol=0)
    for parameter, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, before[parameter], atol=1e-5, rtol=1e-5, msg=parameter)


def test_a_branch_does_not_see_its_neighbours() -> None:
    model = seeded(MODELS["llama"])
    measure = CompletionLogprobs(model)
    with torch.no_grad():
        one, _ = measure.of([text(A, [11, 12]), text(A, [21, 22, 23])])
        other, _ = measure.of([text(A, [11, 12]), text(A, [33, 34, 35])])
    torch.testing.assert_close(one[0], other[0], atol=1e-6, rtol=0)
    assert (one[1] - other[1]).abs().max() > 0.01


def test_attention_dropout_falls_on_the_weights() -> None:
    model = seeded(gpt2).train()
    measure = CompletionLogprobs(model)
    torch.manual_seed(0)
    one, _ = measure.of(TEXTS)
    torch.manual_seed(0)
    again, _ = measure.of(TEXTS)
    other, _ = measure.of(TEXTS)
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
