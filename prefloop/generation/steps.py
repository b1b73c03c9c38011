"""What computes the next logits of a pool of slots, and which way serves a model: the fastest that it agrees with.

A decoder has slots of different lengths side by side, or (`lockstep`) sequences of one length at a time; the decoder
of an encoder-decoder begins all its sequences together.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from prefloop.generation.attention import attend, attention_by, groups_heads
from prefloop.generation.cohorts import Cohorts
from prefloop.generation.lockstep import Lockstep
from prefloop.generation.pages import Pages
from prefloop.generation.prefill import prefill
from prefloop.generation.slots import SlotCache, windows
from prefloop.generation.twin import Twin, each_of
from prefloop.models.encoder_decoder import has_encoder, read, start_token

Prompts = Sequence[Sequence[int]]


class Steps(Protocol):
    """A model and what it remembers of each slot."""

    refills: bool
    """A slot can take a new sequence while others are still decoding."""
    padding: int
    """The most padding with which it should read prompts together, in tokens."""

    def begin(self, prompts: Prompts, rows: Sequence[int], slots: Sequence[int]) -> Float[Tensor, "n V"]:
        """Read prompts, sorted by length; slot `slots[i]` goes on with `prompts[rows[i]]`. Returns its first logits."""
        ...

    def advance(self, tokens: Int[Tensor, "S"], busy: Bool[Tensor, "S"], ended: Sequence[int]) -> Float[Tensor, "S V"]:
        """One more token in every slot, and the logits behind it; the sequences in `ended` are not gone on with."""
        ...

    def keep(self, slots: Int[Tensor, "n"]) -> None:
        """Forget all other slots."""
        ...


Way = Callable[[int, int, float], Steps]
"""Makes the steps of so many slots, for sequences of so many tokens, prompt included, and so many of each prompt."""
MANY = 6
"""Sequences of each prompt from which on they decode in cohorts. Measured on 2 cores with 12.5 million parameters in
float32: 8 of each take 0.65 of the time that they take side by side, single ones 1.1 to 1.3."""

WIDE = 32
"""Slots from which on each has pages of its own. With 64, lengths as in HH and bfloat16 that is about as fast as rows
that are all as long as the longest, and the process needs three quarters of the memory. Few spend more on calls."""


class Decoding:
    """A decoder alone: a cache that each slot fills to its own length, and a mask that hides what lies behind."""

    refills, padding = True, sys.maxsize

    def __init__(
        self,
        model: Any,
        cache: SlotCache | Pages,
        windows: Mapping[str, int | None],
        keeps_some_logits: bool,
        attend: Callable[..., tuple[Tensor, None]] | None = None,
    ) -> None:
        """`attend` takes the place of the model's own attention."""
        self.model, self.cache, self.windows, self.keeps_some_logits = model, cache, windows, keeps_some_logits
        self.attention: Callable[[], AbstractContextManager[None]] = nullcontext
        if attend is not None:
            self.attention = partial(attention_by, each_of(model), attend)

    def begin(self, prompts: Prompts, rows: Sequence[int], slots: Sequence[int]) -> Float[Tensor, "n V"]:
        read, logits = prefill(self.model, prompts, self.keeps_some_logits)
        lengths = torch.tensor([len(p) for p in prompts], device=self.model.device)
        self.cache.place(read, rows, slots, lengths[rows])
        return logits[rows]

    def advance(self, tokens: Int[Tensor, "S"], busy: Bool[Tensor, "S"], ended: Sequence[int]) -> Float[Tensor, "S V"]:
        cache = self.cache
        if ended:
            cache.free(ended)
        cache.begin_step()
        masks = {kind: self._mask(window) for kind, window in self.windows.items()}
        with self.attention():
            out = self.model(
                input_ids=tokens[:, None],
                position_ids=cache.at[:, None],
                attention_mask=masks if len(masks) > 1 else next(iter(masks.values())),
                past_key_values=cache,
                use_cache=True,
            )
        cache.at = cache.at + busy
        logits: Tensor = out.logits[:, -1].float()
        return logits

    def keep(self, slots: Int[Tensor, "n"]) -> None:
        self.cache.keep(slots)

    def _mask(self, window: int | None) -> Float[Tensor, "S 1 1 R"]:
        # Added to the attention scores: architectures with attention code of their own would add True as 1.
        hidden = self.cache.hidden(window)
        mask = torch.zeros(hidden.shape, dtype=self.cache.dtype, device=hidden.device)
        return mask.masked_fill(hidden, torch.finfo(mask.dtype).min)[:, None, None]


class Writing:
    """An encoder-decoder: prompts are read once, and all sequences of a pool begin together.

    Such decoders count positions from one number for the whole batch, so no slot can begin while others are under way.
    """

    refills, padding = False, sys.maxsize

    def __init__(self, model: Any) -> None:
        self.model, self.start = model, start_token(model)
        self.cache: EncoderDecoderCache | None = None
        self.waiting: dict[int, Float[Tensor, "w d"]] = {}
        """By slot, what the encoder made of its prompt; the first step makes one batch of all."""
        self.encoded: Float[Tensor, "S W d"] = torch.empty(0, 0, 0)
        self.real: Bool[Tensor, "S W"] = torch.empty(0, 0, dtype=torch.bool)

    def begin(self, prompts: Prompts, rows: Sequence[int], slots: Sequence[int]) -> Float[Tensor, "n V"]:
        self.cache = None
        encoded, real = (part[list(rows)] for part in read(self.model, prompts))
        self.waiting |= {slot: one[there] for slot, one, there in zip(slots, encoded, real, strict=True)}
        start = torch.full((len(slots), 1), self.start, device=self.model.device)
        logits: Tensor = self._decode(encoded, real, start, None).logits[:, -1].float()
        return logits

    def advance(self, tokens: Int[Tensor, "S"], busy: Bool[Tensor, "S"], ended: Sequence[int]) -> Float[Tensor, "S V"]:
        ids = tokens[:, None]
        if self.cache is None:
            self._gather(len(tokens))
            self.cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
            ids = torch.cat([torch.full_like(ids, self.start), ids], 1)
        logits: Tensor = self._decode(self.encoded, self.real, ids, self.cache).logits[:, -1].float()
        return logits

    def keep(self, slots: Int[Tensor, "n"]) -> None:
        assert self.cache is not None
        self.cache.batch_select_indices(slots)
        self.encoded, self.real = self.encoded[slots], self.real[slots]

    def _gather(self, slots: int) -> None:
        """One batch of what was read, padded on the right; a slot without a prompt reads a zero."""
        some = next(iter(self.waiting.values()))
        nothing = some.new_zeros(1, some.shape[1])
        each = [self.waiting.get(slot, nothing) for slot in range(slots)]
        self.encoded = pad_sequence(each, batch_first=True)
        lengths = torch.tensor([len(one) for one in each], device=some.device)
        self.real = torch.arange(self.encoded.shape[1], device=some.device) < lengths[:, None]
        self.waiting = {}

    def _decode(self, encoded: Tensor, real: Tensor, ids: Tensor, cache: EncoderDecoderCache | None) -> Any:
        return self.model(
            encoder_outputs=BaseModelOutput(last_hidden_state=encoded),
            attention_mask=real.long(),
            decoder_input_ids=ids,
            past_key_values=cache,
            use_cache=cache is not None,
        )


def way_of(model: Any, log: Callable[[str], None]) -> Way:
    """The fastest way whose logits are those of the model's own forward pass: the model decides, not its name.

    `log` is told why where that is not a fast one. The model is in eval mode.
    """
    if has_encoder(model):
        return lambda slots, most, each: Writing(model)
    models = each_of(model)
    plain = Lockstep(models, keeps=False)
    try:
        fast, why = _fast(model), "side by side its sequences do not have the logits that each has alone"
    except LookupError as reason:
        fast, why = [], str(reason.args[0])
    for way in fast:
        if _agree(way(3, 8, 1), plain):
            return _in_cohorts(model, _in_pages(model, way, plain), plain)
    slow = {
        "sequences of one length at a time": partial(Lockstep, models),
        "one sequence at a time": partial(Lockstep, models, alone=True),
        "and every token reads its whole text again": partial(Lockstep, models, keeps=False),
    }
    how = next(how for how, steps in slow.items() if not steps().keeps or _agree(steps(), plain))
    log(f"{type(getattr(model, 'policy', model)).__name__} is sampled the slow way, {how}: {why}")
    return lambda slots, most, each: slow[how]()


def _fast(model: Any) -> list[Way]:
    """Ways with slots of different lengths side by side. Raises LookupError with the reason where there is none."""
    takes = inspect.signature(model.forward).parameters
    if "position_ids" not in takes:
        raise LookupError("it takes no position ids")
    seen, some = windows(model.config), "logits_to_keep" in takes
    ours = [attend, None] if groups_heads(model) else [None]

    def side_by_side(attend: Callable[..., tuple[Tensor, None]] | None) -> Way:
        return lambda slots, most, each: Decoding(model, SlotCache(slots, most, model.device), seen, some, attend)

    return [side_by_side(attend) for attend in ours]


def _in_pages(model: Any, way: Way, plain: Lockstep) -> Way:
    """`way`, but with pages for many slots, on a processor and where that gives the same."""
    if model.device.type != "cpu":
        return way
    seen, some = windows(model.config), "logits_to_keep" in inspect.signature(model.forward).parameters

    def paged(slots: int, most: int, each: float) -> Steps:
        pages = Pages(slots, most, model.device)
        return Decoding(model, pages, seen, some, pages.attend)

    if not _agree(paged(3, 8, 1), plain):
        return way
    return lambda slots, most, each: (paged if slots >= WIDE else way)(slots, most, each)


def _in_cohorts(model: Any, way: Way, plain: Lockstep) -> Way:
    """`way`, but for many sequences of each prompt in cohorts, on a processor and where that gives the same."""
    if model.device.type != "cpu" or isinstance(model, Twin) or set(windows(model.config).values()) != {None}:
        return way
    some = "logits_to_keep" in inspect.signature(model.forward).parameters
    if not _agree(Cohorts(model, 3, some), plain):
        return way
    return lambda slots, most, each: Cohorts(model, slots, some) if each >= MANY else way(slots, most, each)


@torch.no_grad()
def _agree(steps: Steps, plain: Lockstep) -> bool:
    """Whether three sequences of two lengths, one of which ends, have the logits that `plain` gives."""
    try:
        expected, found = _tried(plain, plain.models[0]), _tried(steps, plain.models[0])
    except (TypeError, ValueError, RuntimeError, LookupError, AttributeError):
        return False  # it has no such cache, or its attention asks for something that ours does not know
    return bool((found - expected).norm() <= torch.finfo(plain.models[0].dtype).eps ** 0.5 * expected.norm())


def _tried(steps: Steps, model: Any) -> Float[Tensor, "n V"]:
    vocabulary, device = model.config.get_text_config().vocab_size, model.device
    ids = torch.arange(8) % vocabulary
    found = [steps.begin([ids[:3].tolist(), ids[:5].tolist()], [1, 0, 1], [2, 0, 1])]
    busy = torch.ones(3, dtype=torch.bool, device=device)
    found.append(steps.advance(ids[5:].to(device), busy, []))
    busy[2] = False
    found.append(steps.advance(ids[2:5].to(device), busy, [2])[:2])
    # A token that cannot follow may have no finite logit.
    return torch.cat(found).nan_to_num(neginf=0.0)
