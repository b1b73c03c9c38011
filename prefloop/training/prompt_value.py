"""The reward to expect for a prompt, before anything is written: V(x), the baseline of whole-completion methods.

As in A-LoL (Baheti et al. 2024, sect. 3.3): one attention query over the frozen policy's states of the prompt, a linear
layer, a sigmoid; fitted to rewards in [0, 1] by their squared error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from prefloop.datasets.collate import batch_indices, micro_batches, pad
from prefloop.models.encoder_decoder import has_encoder, read
from prefloop.models.load import base_of
from prefloop.training.run import generator

HEADS = 8
BATCH = 16


class PromptValue(nn.Module):
    """sigmoid(linear(attention)): states [B, L, d] of prompts of the given lengths -> values [B] in (0, 1)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(1, 1, width) / width**0.5)
        self.attention = nn.MultiheadAttention(width, math.gcd(HEADS, width), batch_first=True)
        self.output = nn.Linear(width, 1)

    def forward(self, states: Float[Tensor, "B L d"], lengths: Int[Tensor, "B"]) -> Float[Tensor, "B"]:
        behind = torch.arange(states.shape[1], device=states.device) >= lengths[:, None]
        query = self.query.expand(len(states), -1, -1)
        read, _ = self.attention(query, states, states, key_padding_mask=behind, need_weights=False)
        values: Tensor = self.output(read[:, 0]).sigmoid()[:, 0]
        return values


def fit_prompt_value(
    policy: nn.Module,
    prompts: Sequence[Sequence[int]],
    rewards: Sequence[float],
    *,
    epochs: int,
    lr: float,
    seed: int,
    pad_id: int,
    budget: int,
) -> Callable[[Sequence[Sequence[int]]], Float[Tensor, "n"]]:
    """Fit V to the rewards (each in [0, 1]) and return it as a function of prompts; `policy` is left as it is.

    Of all epochs the one of lowest mean error on these very rows is kept. A function of the seed alone, on the CPU.
    """
    base = base_of(policy)
    device = next(base.parameters()).device

    @torch.no_grad()
    def states(some: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        if has_encoder(base):
            hidden, _ = read(base, some)
        else:
            trunk: nn.Module = getattr(base, base.base_model_prefix)
            hidden = trunk(input_ids=pad(some, pad_id).to(device), use_cache=False).last_hidden_state
        return hidden.float(), torch.tensor([len(p) for p in some], device=device)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator(seed, "prompt value").initial_seed())
        value = PromptValue(base.get_output_embeddings().weight.shape[1]).to(device)
    base.eval()
    adam = torch.optim.AdamW(value.parameters(), lr=lr)
    wanted = torch.tensor(rewards, device=device)
    best, kept = math.inf, {name: t.clone() for name, t in value.state_dict().items()}
    for epoch in range(epochs):
        total = 0.0
        for step in range(epoch * (per := -(-len(prompts) // BATCH)), (epoch + 1) * per):
            rows = batch_indices(len(prompts), BATCH, step, seed)
            error = (value(*states([prompts[i] for i in rows])) - wanted[rows]).square()
            adam.zero_grad()
            error.mean().backward()
            adam.step()
            total += float(error.detach().sum())
        if total < best:
            best, kept = total, {name: t.clone() for name, t in value.state_dict().items()}
    value.load_state_dict(kept)

    @torch.no_grad()
    def of(some: Sequence[Sequence[int]]) -> Float[Tensor, "n"]:
        result = torch.zeros(len(some))
        for micro in micro_batches(range(len(some)), lambda i: len(some[i]), budget):
            result[micro] = value(*states([some[i] for i in micro])).cpu()
        return result

    return of
