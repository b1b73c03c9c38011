"""Small models of several architectures, what they are asked, and what a plain forward pass says of an answer."""

from __future__ import annotations

from collections.abc import Callable

import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
)

from prefloop.generation.sampler import Sample
from tests.shapes import SMALL, SPECIAL

VOCABULARY, EOS = 40, SPECIAL["eos_token_id"]
SHAPE = {**SMALL, **SPECIAL, "vocab_size": VOCABULARY, "max_position_embeddings": 48}
PROMPTS = [[1, 20, 21, 22], [1, 30, 31, 32, 33, 34, 35, 36, 37], [1, 9], [1, 5, 6, 7, 8]]

MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE)),
    "gpt2 (absolute positions)": lambda: GPT2LMHeadModel(
        GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=2, n_positions=48, eos_token_id=EOS)
    ),
    "gpt2 (eager attention)": lambda: GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCABULARY,
            n_embd=32,
            n_layer=2,
            n_head=2,
            n_positions=48,
            eos_token_id=EOS,
            attn_implementation="eager",
        )
    ),
    "gemma2 (eager attention, capped logits)": lambda: Gemma2ForCausalLM(
        Gemma2Config(**SHAPE, head_dim=16, final_logit_softcapping=30.0, sliding_window=48)
    ),
    "llama (eager attention)": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE, attn_implementation="eager")),
    "mistral (a window of 6, eager attention)": lambda: MistralForCausalLM(
        MistralConfig(**SHAPE, sliding_window=6, attn_implementation="eager")
    ),
    "mistral (window as long as the sequence)": lambda: MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=48)),
    "mistral (a window of 6)": lambda: MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=6)),
    "gemma2 (a window of 6 in every other layer)": lambda: Gemma2ForCausalLM(
        Gemma2Config(**SHAPE, head_dim=16, sliding_window=6)
    ),
}


def made(name: str = "llama") -> PreTrainedModel:
    """A model with opinions: random weights large enough that its next token is not a coin toss."""
    torch.manual_seed(11)
    model = MODELS[name]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4.0)
    return model


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def fresh_logprobs(model: PreTrainedModel, prompt: list[int], sample: Sample, temperature: float) -> list[float]:
    """log pi of a sample's tokens from one plain forward pass."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[*prompt, *sample.ids]])).logits[0].float() / temperature
    before = logits.log_softmax(-1)[len(prompt) - 1 : -1]
    return before.gather(1, torch.tensor(sample.ids)[:, None])[:, 0].tolist()
