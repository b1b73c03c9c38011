"""Sample completions: prompts computed once per group, a cache that is filled in place, finished rows refilled at once.

A pool of slots decodes in step. When a sequence ends, its slot takes the next one, so the pool stays full until the
queue is empty; then it shrinks. Each slot writes its keys and values at its own length and a mask hides what lies
behind, so nothing is padded on the left. The sampled token's log-probability and entropy come out of the same pass.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from prefloop.errors import InputError
from prefloop.generation.choice import Sampling, draw
from prefloop.generation.steps import Way, way_of
from prefloop.generation.twin import Adviser, Twin
from prefloop.models.device import widest
from prefloop.models.encoder_decoder import has_encoder
from prefloop.models.load import positions_of
from prefloop.models.template import Template

__all__ = ["Sample", "Sampler", "Sampling"]

REFILL_SHARE = 8
"""Free slots are refilled once an eighth of the pool is free: one larger prefill is cheaper than many small ones."""
PREFILL_TOKENS = 2048
"""Prompt tokens, padding included, that go through the model at once."""
BYTES_PER_CHARACTER = 4
"""At most; a token that is part of a character holds one byte or more."""


@dataclass
class Sample:
    """One completion as the sampler made it: its ids (EOS included when it ended), and log pi of each at the time."""

    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    entropies: list[float] = field(default_factory=list)
    """Of the distribution that each id was drawn from, in nats; empty unless it was asked for."""
    terminated: bool = False
    """Ended by EOS or a stop string; False when the length limit cut it off."""
    weight_version: int | None = None
    """Which of the policy's weights made it: the number that the sampler's `update` was last told; None before that."""


@dataclass(frozen=True)
class Request:
    """One sequence to sample."""

    prompt: int
    """The number of its prompt."""
    ids: Sequence[int]
    sample: Sample
    limit: int
    seed: int


SLOTS = 128
"""Sequences that decode at once, where nobody says otherwise."""


class Sampler:
    """Draws completions from one model; `slots` sequences decode at once. A sample's log-probabilities are the model's
    whole ones, also where an adviser or the sampling narrowed what was drawn from."""

    def __init__(
        self,
        model: PreTrainedModel,
        template: Template,
        slots: int = SLOTS,
        adviser: Adviser | None = None,
        log: Callable[[str], None] = lambda words: None,
    ) -> None:
        """An `adviser` of the model's shape and vocabulary decides which tokens may be drawn. `log` is told, once, when
        the model is sampled in a slower way than others, and why."""
        self.model = model if adviser is None else Twin(model, adviser.model)
        self.template, self.slots, self.adviser, self.log = template, slots, adviser, log
        self.stops = stops_of(model, template)
        self.positions = positions_of(model.config)
        self.weight_version: int | None = None
        if has_encoder(model) and adviser is not None:
            raise InputError(f"{type(model).__name__} has an encoder; a mask policy is for decoders alone")

    @cached_property
    def steps(self) -> Way:
        """Makes what computes the logits of a pool of slots."""
        return way_of(self.model, self.log)

    def update(self, weight_version: int) -> None:
        """The model's weights may be others now, and have this number. They are its own: nothing else is to be done."""
        self.weight_version = weight_version

    @torch.no_grad()
    def __call__(
        self,
        prompts: Sequence[Sequence[int]],
        per_prompt: int,
        sampling: Sampling,
        generator: torch.Generator,
        progress: Callable[[int], None] | None = None,
        *,
        limits: Sequence[int] | None = None,
        seeds: Sequence[int] | None = None,
        entropy: bool = False,
        told: Callable[[int, Sample], None] | None = None,
    ) -> list[list[Sample]]:
        """`per_prompt` samples for each prompt (token ids), in the order of the prompts.

        `limits` are max_new_tokens of each prompt, where they differ. `seeds` has one seed per prompt, and sample k
        of a prompt is that of seed + k; without it the seeds are drawn from `generator`. A sample is a function of
        its prompt and seed, whatever is sampled beside it (up to rounding: a matrix product may differ in its last bits
        with the number of rows). `told(i, sample)` is called after each token of a sample of prompt i.
        Raises InputError for an empty prompt or one that leaves no room for an answer.
        """
        results = [[Sample(weight_version=self.weight_version) for _ in range(per_prompt)] for _ in prompts]
        waiting = deque(requests(prompts, results, sampling, generator, self.positions, limits, seeds))
        total, done = len(waiting), 0
        self.model.eval()
        most = max((len(request.ids) for request in waiting), default=0)
        most += max((request.limit for request in waiting), default=0)
        each = total / max(1, len(set(map(tuple, prompts))))
        pool = _Pool(self, min(self.slots, total), most, each, sampling, entropy)
        while waiting or pool.busy:
            free = pool.free
            if waiting and len(free) * REFILL_SHARE >= len(pool.holds):
                pool.fill(free, [waiting.popleft() for _ in range(min(len(free), len(waiting)))])
            elif not waiting:
                pool.shrink()
            for request in pool.step():
                if told is not None:
                    told(request.prompt, request.sample)
            if progress is not None and (now := total - len(waiting) - pool.busy) > done:
                progress(now - done)
                done = now
        return results


def stops_of(model: PreTrainedModel, template: Template) -> set[int]:
    """The tokens that end a completion: the tokenizer's EOS, and those that the model declares."""
    declared = getattr(model.generation_config, "eos_token_id", None)
    return {template.eos_id, *(declared if isinstance(declared, list) else [declared])} - {None}


def requests(
    prompts: Sequence[Sequence[int]],
    results: Sequence[Sequence[Sample]],
    sampling: Sampling,
    generator: torch.Generator,
    positions: int,
    limits: Sequence[int] | None,
    seeds: Sequence[int] | None,
) -> list[Request]:
    """One for each sample of `results`, prompts of like length side by side; as `Sampler.__call__` says it.

    Raises InputError for an empty prompt, or one that leaves no room for an answer in so many `positions`.
    """
    sampling.check()
    longest = max(map(len, prompts), default=0)
    if min(map(len, prompts), default=1) == 0:
        raise InputError("a prompt has no tokens")
    if longest + 1 > positions:
        raise InputError(f"a prompt has {longest} tokens; this model takes {positions}, the answer included")
    per_prompt = len(results[0]) if results else 0
    streams = torch.randint(1 << 62, (len(prompts), per_prompt), generator=generator)
    if seeds is not None:
        streams = torch.tensor(list(seeds))[:, None] + torch.arange(per_prompt)
    room = [min(n, positions - len(p)) for n, p in zip(_limits(limits, prompts, sampling), prompts, strict=True)]
    return [
        Request(i, prompts[i], results[i][k], room[i], int(streams[i, k]))
        for i in sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        for k in range(per_prompt)
    ]


def _limits(limits: Sequence[int] | None, prompts: Sequence[Sequence[int]], sampling: Sampling) -> Sequence[int]:
    if limits is None:
        return [sampling.max_new_tokens] * len(prompts)
    if len(limits) != len(prompts) or min(limits, default=1) < 1:
        raise InputError(f"limits needs one number >= 1 for each of {len(prompts)} prompts, got {list(limits)[:8]}")
    return limits


class Ends:
    """Says of a completion whether its last token ends it: one of `stops`, or the last of a stop string."""

    def __init__(self, template: Template, stops: Container[int], words: Sequence[str]) -> None:
        self.template, self.stops, self.words = template, stops, words
        self.longest = max(map(len, words), default=0) * BYTES_PER_CHARACTER

    def __call__(self, ids: Sequence[int]) -> bool:
        """Of a completion of one token or more."""
        if ids[-1] in self.stops:
            return True
        if not self.words:
            return False
        tail = self.template.decode(ids[-self.longest :])
        return any(words in tail for words in self.words)


class _Pool:
    """The slots of one call."""

    def __init__(self, sampler: Sampler, slots: int, most: int, each: float, sampling: Sampling, entropy: bool) -> None:
        self.sampler, self.sampling, self.entropy = sampler, sampling, entropy
        self.device = sampler.model.device
        self.steps = sampler.steps(slots, most, each)
        self.holds: list[Request | None] = [None] * slots
        self.logits: Float[Tensor, "S V"] | None = None
        self.uniforms: Float[Tensor, "S N"] = torch.zeros(slots, 0, dtype=widest(self.device), device=self.device)
        """The numbers that decide the tokens of each slot's sequence, in order."""
        self.drawn: Int[Tensor, "S 1"] = torch.zeros(slots, 1, dtype=torch.long, device=self.device)
        """How many of them were used."""
        self.ends = Ends(sampler.template, sampler.stops, sampling.stop)

    @property
    def free(self) -> list[int]:
        """Slots that may be filled now."""
        if self.busy and not self.steps.refills:
            return []
        return [slot for slot, request in enumerate(self.holds) if request is None]

    @property
    def busy(self) -> int:
        return sum(request is not None for request in self.holds)

    def fill(self, free: list[int], requests: list[Request]) -> None:
        """Prefill each distinct prompt once and copy it to the slots of its samples."""
        places: dict[tuple[int, ...], list[tuple[int, Request]]] = {}
        for slot, request in zip(free, requests, strict=False):
            places.setdefault(tuple(request.ids), []).append((slot, request))
            self.holds[slot] = request
        # The longest first: the cache is made wider once, and running out of memory shows at once.
        for prompts in reversed(list(_portions(sorted(places, key=len), self.steps.padding))):
            self._prefill(prompts, [(row, *place) for row, p in enumerate(prompts) for place in places[p]])

    def _prefill(self, prompts: list[tuple[int, ...]], places: list[tuple[int, int, Request]]) -> None:
        """`places` says which row of `prompts` goes to which slot for which request."""
        rows, slots, requests = (list(column) for column in zip(*places, strict=True))
        first = self.steps.begin(prompts, rows, slots)
        if self.logits is None:
            self.logits = first.new_zeros(len(self.holds), first.shape[1])
        self.logits[slots] = first
        self.drawn[slots] = 0
        if (wider := max(r.limit for r in requests) - self.uniforms.shape[1]) > 0:
            self.uniforms = torch.nn.functional.pad(self.uniforms, (0, wider))
        for slot, request in zip(slots, requests, strict=True):
            # The streams are CPU ones, so that a seed means the same numbers whatever the device.
            numbers = torch.rand(
                request.limit, dtype=torch.float64, generator=torch.Generator().manual_seed(request.seed)
            )
            self.uniforms[slot, : request.limit] = numbers.to(self.uniforms.dtype).to(self.device)

    def shrink(self) -> None:
        """Once nothing is waiting, a pool of which a quarter is free is made smaller."""
        if self.busy * 4 > len(self.holds) * 3 or self.logits is None:
            return
        kept = [slot for slot, request in enumerate(self.holds) if request is not None]
        index = torch.tensor(kept, device=self.device)
        self.steps.keep(index)
        self.logits, self.uniforms, self.drawn = self.logits[index], self.uniforms[index], self.drawn[index]
        self.holds = [self.holds[slot] for slot in kept]

    def step(self) -> Iterator[Request]:
        """Draw one token in every slot, compute the logits of the next, and say whose sequences grew."""
        assert self.logits is not None
        uniforms = self.uniforms.gather(1, self.drawn)[:, 0]
        logits, only = self.logits, None
        if (adviser := self.sampler.adviser) is not None:
            logits, advice = self.logits.chunk(2, dim=-1)
            only = adviser.allows(advice)
        drawn = draw(logits, uniforms, self.sampling, entropy=self.entropy, only=only)
        grew, ended = [], []
        found = zip(drawn.tokens.tolist(), drawn.logprobs.tolist(), strict=True)
        entropies = drawn.entropies.tolist() if drawn.entropies is not None else None
        for slot, (token, logprob) in enumerate(found):
            request = self.holds[slot]
            if request is None:
                continue
            sample = request.sample
            sample.ids.append(token)
            sample.logprobs.append(logprob)
            if entropies is not None:
                sample.entropies.append(entropies[slot])
            sample.terminated = self.ends(sample.ids)
            if sample.terminated or len(sample.ids) >= request.limit:
                self.holds[slot] = None
                ended.append(slot)
            grew.append(request)
        if self.busy:
            busy = torch.tensor([request is not None for request in self.holds], device=self.device)
            self.logits = self.steps.advance(drawn.tokens, busy, ended)
            self.drawn = self.drawn + busy[:, None]
        return iter(grew)


def _portions(prompts: list[tuple[int, ...]], padding: int) -> Iterator[list[tuple[int, ...]]]:
    """Sorted prompts, cut so that no part has more padding, or is much more than PREFILL_TOKENS with it."""
    portion: list[tuple[int, ...]] = []
    tokens = 0
    for prompt in prompts:
        padded = (len(portion) + 1) * len(prompt)
        if portion and (padded > PREFILL_TOKENS or padded - tokens - len(prompt) > padding):
            yield portion
            portion, tokens = [], 0
        portion.append(prompt)
        tokens += len(prompt)
    if portion:
        yield portion
