"""Layers that are computed again in the backward pass: the same gradients, and less that is kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

from prefloop.models.heads import CompletionLogprobs
from prefloop.models.recompute import recompute_layers
from prefloop.models.template import Encoded


def llama() -> PreTrainedModel:
    config = LlamaConfig(
        vocab_size=60,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    return LlamaForCausalLM(config)


def gpt2() -> PreTrainedModel:
    return GPT2LMHeadModel(GPT2Config(vocab_size=60, n_embd=16, n_layer=3, n_head=4, n_positions=64))


def bloom() -> PreTrainedModel:
    """Cannot share a prompt: it goes the other way through the trunk."""
    return BloomForCausalLM(BloomConfig(vocab_size=60, hidden_size=16, n_layer=3, n_head=4))


TEXTS = [Encoded([1, 5, 9, 7, 20, 21], 4), Encoded([1, 5, 9, 7, 30, 31, 32], 4), Encoded([1, 8, 40], 2)]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("make", [llama, gpt2, bloom])
def test_the_gradient_is_the_same(make: Callable[[], PreTrainedModel], training: bool) -> None:
    """With dropout on as well: the second pass draws the first one's numbers. Each layer runs twice."""
    torch.manual_seed(0)
    model = make().train(training)
    runs = [0]
    layers = model.model.layers if hasattr(model, "model") else model.transformer.h
    inner = [getattr(layer, "mlp") for layer in layers]  # noqa: B009
    for module in inner:
        # Before, not behind it: the second pass ends as soon as it has the last tensor that was wanted.
        module.register_forward_pre_hook(lambda *given: runs.__setitem__(0, runs[0] + 1))
    measure = CompletionLogprobs(model)

    def gradient() -> tuple[Tensor, Tensor, int]:
        model.zero_grad()
        runs[0] = 0
        torch.manual_seed(3)
        logprobs, valid = measure.of(TEXTS)
        assert model.config._attn_implementation != "prefloop_trees"
        loss = logprobs[valid].sum()
        loss.backward()
        found = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        return loss.detach(), found, runs[0]

    before, expected, once = gradient()
    recompute_layers(model)
    after, found, twice = gradient()
    assert twice == 2 * once
    torch.testing.assert_close(after, before, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    assert [layer.training for layer in layers] == [training] * 3
    with torch.no_grad():
        runs[0] = 0
        measure.of(TEXTS)
    assert runs[0] == once


def test_less_is_kept_for_the_backward_pass() -> None:
    torch.manual_seed(0)
    model = llama()
    measure = CompletionLogprobs(model)

    def kept() -> int:
        sizes = [0]

        def pack(tensor: Tensor) -> Tensor:
            sizes[0] += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            measure.of(TEXTS)
        return sizes[0]

    before = kept()
    recompute_layers(model)
    assert kept() < before / 2


def test_an_architecture_without_such_layers_is_refused() -> None:
    from prefloop.errors import InputError

    model: Any = torch.nn.Linear(2, 2)
    with pytest.raises(InputError, match="Linear has no layers to recompute"):
        recompute_layers(model)
