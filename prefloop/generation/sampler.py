"""Sample completions: prompts computed once per group, a preallocated cache, finished rows refilled at once.

A pool of slots decodes in step. When a sequence ends, its slot takes the next one, so the pool stays full until the
queue is empty; then it shrinks. Each slot writes its keys and values at its own length and a mask hides what lies
behind, so nothing is padded on the left. The sampled token's log-probability comes out of the same pass.
"""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import Cache, PreTrainedModel

from prefloop.errors import InputError
from prefloop.models.load import positions_of
from prefloop.models.template import Template

REFILL_SHARE = 8
"""Free slots are refilled once an eighth of the pool is free: one larger prefill is cheaper than many small ones."""


@dataclass
class Sample:
    """One completion as the sampler made it: its ids (EOS included when it ended), and log pi of each at the time."""

    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    terminated: bool = False
    """Ended by EOS; False when the length limit cut it off."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How completions are drawn; the defaults are the policy itself, unaltered."""

    max_new_tokens: int = 128
    """Completions are cut off after so many tokens."""
    temperature: float = 1.0
    """Logits are divided by it; 0 takes the likeliest token."""
    top_p: float = 1.0
    """Only the likeliest tokens that together hold this probability are drawn; 1 draws from all."""

    def check(self) -> None:
        """Raises InputError for values that mean nothing."""
        if self.temperature < 0 or not 0 < self.top_p <= 1 or self.max_new_tokens < 1:
            raise InputError(
                "sampling needs temperature >= 0, 0 < top_p <= 1 and max_new_tokens >= 1, got "
                f"{self.temperature}, {self.top_p} and {self.max_new_tokens}"
            )


class SlotCache(Cache):  # type: ignore[misc]
    """Keys and values of a pool of slots, each filled to its own length."""

    def __init__(self, slots: int, width: int) -> None:
        super().__init__(layers=[])
        self.slots, self.width = slots, width
        self.keys: list[Float[Tensor, "S H W D"]] = []
        self.values: list[Float[Tensor, "S H W D"]] = []
        self.at: Int[Tensor, "S"] = torch.zeros(0, dtype=torch.long)
        """Where each slot writes next."""
        self.reach = 0
        """Columns that any slot has filled, this step's included."""

    def place(self, prompts: Any, rows: Sequence[int], slots: Sequence[int], lengths: Int[Tensor, "n"]) -> None:
        """Copy row `rows[i]` of a prefilled cache into slot `slots[i]`."""
        for layer, filled in enumerate(prompts.layers):
            if filled.is_sliding and filled.sliding_window < self.width:
                raise InputError(
                    f"this model attends to the last {filled.sliding_window} tokens only, and prompt plus answer may "
                    f"have {self.width}; the sampler has no sliding window: give fewer new tokens or shorter prompts"
                )
            if len(self.keys) == layer:
                _, heads, _, size = filled.keys.shape
                for store in (self.keys, self.values):
                    store.append(filled.keys.new_zeros(self.slots, heads, self.width, size))
            span = filled.keys.shape[2]
            self.keys[layer][slots, :, :span] = filled.keys[rows]
            self.values[layer][slots, :, :span] = filled.values[rows]
        if self.at.numel() == 0:
            self.at = lengths.new_zeros(self.slots)
        self.at[torch.tensor(slots, device=self.at.device)] = lengths

    def keep(self, slots: Int[Tensor, "n"]) -> None:
        """Forget all other slots."""
        self.keys = [k[slots] for k in self.keys]
        self.values = [v[slots] for v in self.values]
        self.at = self.at[slots]
        self.slots = len(slots)

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        row = torch.arange(self.slots, device=key_states.device)
        self.keys[layer_idx][row, :, self.at] = key_states[:, :, 0]
        self.values[layer_idx][row, :, self.at] = value_states[:, :, 0]
        return self.keys[layer_idx][:, :, : self.reach], self.values[layer_idx][:, :, : self.reach]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.reach - 1


class Sampler:
    """Draws completions from one model; `slots` sequences decode at once."""

    def __init__(self, model: PreTrainedModel, template: Template, slots: int = 128) -> None:
        self.model, self.slots = model, slots
        declared = getattr(model.generation_config, "eos_token_id", None)
        self.stops = {template.eos_id, *(declared if isinstance(declared, list) else [declared])} - {None}
        self.positions = positions_of(model.config)
        if "position_ids" not in inspect.signature(model.forward).parameters:
            raise InputError(
                f"{type(model).__name__} takes no position ids, so sequences of different lengths cannot be sampled "
                "together; use an architecture such as Llama, Qwen, Mistral, Gemma or GPT-2"
            )

    @torch.no_grad()
    def __call__(
        self,
        prompts: Sequence[Sequence[int]],
        per_prompt: int,
        sampling: Sampling,
        generator: torch.Generator,
        progress: Callable[[int], None] | None = None,
    ) -> list[list[Sample]]:
        """`per_prompt` samples for each prompt (token ids), in the order of the prompts.

        The same generator state and arguments give the same samples. Raises InputError for an empty prompt or one that
        leaves no room for an answer.
        """
        sampling.check()
        longest = max(map(len, prompts), default=0)
        if min(map(len, prompts), default=1) == 0:
            raise InputError("a prompt has no tokens")
        if longest + 1 > self.positions:
            raise InputError(f"a prompt has {longest} tokens; this model takes {self.positions}, the answer included")
        results = [[Sample() for _ in range(per_prompt)] for _ in prompts]
        # Prompts of like length are prefilled together; the order of the results is not touched.
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        waiting = deque((i, k) for i in order for k in range(per_prompt))
        total, done = len(waiting), 0
        width = min(longest + sampling.max_new_tokens, self.positions)
        pool = _Pool(self, min(self.slots, total), width, sampling, generator)
        self.model.eval()
        while waiting or pool.busy:
            free = pool.free
            if waiting and len(free) * REFILL_SHARE >= pool.cache.slots:
                take = [waiting.popleft() for _ in range(min(len(free), len(waiting)))]
                pool.fill(free[: len(take)], [prompts[i] for i, _ in take], [results[i][k] for i, k in take])
            elif not waiting:
                pool.shrink()
            pool.step()
            if progress is not None and (now := total - len(waiting) - pool.busy) > done:
                progress(now - done)
                done = now
        return results


class _Pool:
    """The slots of one call."""

    def __init__(
        self, sampler: Sampler, slots: int, width: int, sampling: Sampling, generator: torch.Generator
    ) -> None:
        self.sampler, self.sampling, self.generator = sampler, sampling, generator
        self.device = sampler.model.device
        self.cache = SlotCache(slots, width)
        self.holds: list[Sample | None] = [None] * slots
        self.logits: Float[Tensor, "S V"] | None = None

    @property
    def free(self) -> list[int]:
        return [slot for slot, sample in enumerate(self.holds) if sample is None]

    @property
    def busy(self) -> int:
        return sum(sample is not None for sample in self.holds)

    def fill(self, slots: list[int], prompts: list[Sequence[int]], samples: list[Sample]) -> None:
        """Prefill each distinct prompt once and copy it to the slots of its samples."""
        distinct = list(dict.fromkeys(map(tuple, prompts)))
        row_of = {prompt: row for row, prompt in enumerate(distinct)}
        lengths = torch.tensor([len(p) for p in distinct], device=self.device)
        width = int(lengths.max())
        ids = torch.tensor([[*p, *[0] * (width - len(p))] for p in distinct], device=self.device)
        # Only the last real position's logits are wanted; the trunk alone would not serve every architecture.
        out = self.sampler.model(input_ids=ids, use_cache=True)
        rows = [row_of[tuple(p)] for p in prompts]
        self.cache.place(out.past_key_values, rows, slots, lengths[rows])
        first = out.logits[rows, lengths[rows] - 1]
        if self.logits is None:
            self.logits = first.new_zeros(self.cache.slots, first.shape[1])
        self.logits[slots] = first
        for slot, sample in zip(slots, samples, strict=True):
            self.holds[slot] = sample

    def shrink(self) -> None:
        """Once nothing is waiting, a pool that is half empty is made smaller."""
        if self.busy * 2 > self.cache.slots or self.logits is None:
            return
        kept = [slot for slot, sample in enumerate(self.holds) if sample is not None]
        index = torch.tensor(kept, device=self.device)
        self.cache.keep(index)
        self.logits = self.logits[index]
        self.holds = [self.holds[slot] for slot in kept]

    def step(self) -> None:
        """Draw one token in every slot, and compute the logits of the next."""
        assert self.logits is not None
        tokens, logprobs = draw(self.logits, self.sampling, self.generator)
        for slot, (token, logprob) in enumerate(zip(tokens.tolist(), logprobs.tolist(), strict=True)):
            sample = self.holds[slot]
            if sample is None:
                continue
            sample.ids.append(token)
            sample.logprobs.append(logprob)
            sample.terminated = token in self.sampler.stops
            full = (
                len(sample.ids) >= self.sampling.max_new_tokens
                or int(self.cache.at[slot]) + 1 >= self.sampler.positions
            )
            if sample.terminated or full:
                self.holds[slot] = None
        if not self.busy:
            return
        # A free slot decodes along at its last place; what it writes there is overwritten when it is filled.
        at = self.cache.at.clamp_max(self.cache.width - 1)
        self.cache.at, self.cache.reach = at, int(at.max()) + 1
        # Added to the attention scores: architectures with attention code of their own would add True as 1.
        hidden = torch.arange(self.cache.reach, device=self.device) > at[:, None]
        mask = torch.zeros(hidden.shape, dtype=self.cache.keys[0].dtype, device=self.device)
        mask = mask.masked_fill(hidden, torch.finfo(mask.dtype).min)
        out = self.sampler.model(
            input_ids=tokens[:, None],
            position_ids=at[:, None],
            attention_mask=mask[:, None, None],
            past_key_values=self.cache,
            use_cache=True,
        )
        self.logits = out.logits[:, -1]
        busy = torch.tensor([sample is not None for sample in self.holds], device=self.device)
        self.cache.at = at + busy


def draw(
    logits: Float[Tensor, "S V"], sampling: Sampling, generator: torch.Generator
) -> tuple[Int[Tensor, "S"], Float[Tensor, "S"]]:
    """One token per row and log softmax(logits / temperature) of it.

    The log-probability is that of the whole distribution, also when top-p narrowed what was drawn from.
    """
    logp = (logits.float() / (sampling.temperature or 1.0)).log_softmax(-1)
    if sampling.temperature == 0:
        tokens = logp.argmax(-1)
    else:
        p = logp.exp()
        if sampling.top_p < 1:
            p = p * nucleus(p, sampling.top_p)
        # The stream is a CPU one, so that a seed means the same numbers whatever the device.
        noise = torch.empty(p.shape).exponential_(generator=generator).to(p.device)
        tokens = (p / noise).argmax(-1)
    return tokens, logp.gather(1, tokens[:, None])[:, 0]


def nucleus(p: Float[Tensor, "S V"], top_p: float) -> Bool[Tensor, "S V"]:
    """True for the likeliest tokens of each row that together reach `top_p`; at least one."""
    sorted_p, index = p.sort(-1, descending=True)
    kept = sorted_p.cumsum(-1) - sorted_p < top_p
    return torch.zeros_like(kept).scatter(1, index, kept)
