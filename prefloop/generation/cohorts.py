"""Slots that decode in cohorts: sequences that began together, and so have written equally many tokens.

Only the prompts of a cohort are padded, to the longest of those that were read with them, and never a slot to the
longest sequence of the pool. A prompt's keys and values are kept once for all its samples, whose queries are the rows
of one matrix product (Juravsky et al. 2024, "Hydragen", sect. 3.2), so a group of 8 reads its prompt once, not 8 times.
Every cohort is a call of its own in every layer: that pays where memory is slow and calls are cheap, on a processor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import Cache

from prefloop.generation.attention import attention_by
from prefloop.generation.prefill import prefill
from prefloop.generation.slots import STEP, read_whole

Prompts = Sequence[Sequence[int]]
PADDING = 128
"""Of a cohort's prompts, which is read again with every token; more, and two cohorts are cheaper."""


class Cohorts(Cache):  # type: ignore[misc]
    """Every slot is of at most one living sequence of one cohort. For layers that see all tokens before theirs."""

    refills, padding = True, PADDING

    def __init__(self, model: Any, slots: int, keeps_some_logits: bool) -> None:
        super().__init__(layers=[])
        self.model, self.keeps_some_logits = model, keeps_some_logits
        self.cohorts: list[Cohort] = []
        """The oldest first: a dead sequence writes into its slot before the one that took its place does."""
        self.at: Int[Tensor, "S"] = torch.zeros(slots, dtype=torch.long, device=model.device)
        """The position of each slot's next token."""
        self._layer = 0

    def begin(self, prompts: Prompts, rows: Sequence[int], slots: Sequence[int]) -> Float[Tensor, "n V"]:
        self._end(slots)
        read, logits = prefill(self.model, prompts, self.keeps_some_logits)
        lengths = torch.tensor([len(p) for p in prompts], device=self.at.device)
        self.cohorts.append(Cohort(read, lengths, rows, slots))
        self.at[torch.tensor(slots, device=self.at.device)] = lengths[rows]
        return logits[rows]

    def advance(self, tokens: Int[Tensor, "S"], busy: Bool[Tensor, "S"], ended: Sequence[int]) -> Float[Tensor, "S V"]:
        self._end(ended)
        for cohort in self.cohorts:
            cohort.make_room()
        with attention_by([self.model], self.attend):
            out = self.model(
                input_ids=tokens[:, None],
                position_ids=self.at[:, None],
                # Each cohort knows what it hides; without a mask the library would make one, for one length.
                attention_mask=torch.zeros(len(tokens), 1, 1, 1, dtype=self.model.dtype, device=self.at.device),
                past_key_values=self,
                use_cache=True,
            )
        for cohort in self.cohorts:
            cohort.written += 1
        self.at = self.at + busy
        logits: Tensor = out.logits[:, -1].float()
        return logits

    def keep(self, slots: Int[Tensor, "n"]) -> None:
        """Forget all other slots."""
        place = {slot: i for i, slot in enumerate(slots.tolist())}
        # Where all ended with one token there was no `advance` that would have been told.
        self._end([slot for slot in range(len(self.at)) if slot not in place])
        for cohort in self.cohorts:
            cohort.compact()
            cohort.slots = [place[slot] for slot in cohort.slots]
        self.at = self.at[slots]

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> Any:
        """The library's layers call this before they attend; the cohorts take what is theirs when they attend."""
        self._layer = layer_idx
        return key_states, value_states

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0

    def attend(
        self,
        module: nn.Module,
        query: Float[Tensor, "S H 1 D"],
        key: Float[Tensor, "S G 1 D"],
        value: Float[Tensor, "S G 1 D"],
        attention_mask: Tensor,
        scaling: float | None = None,
        softcap: float | None = None,
        **others: Any,
    ) -> tuple[Float[Tensor, "S 1 H D"], None]:
        """The library's signature; nothing is dropped out in sampling."""
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        found = torch.zeros_like(query)
        for cohort in self.cohorts:
            mine = cohort.slots
            found[mine] = cohort.attend(self._layer, query[mine], key[mine], value[mine], scale, softcap)
        return found.transpose(1, 2).contiguous(), None

    def _end(self, slots: Sequence[int]) -> None:
        for cohort in self.cohorts:
            cohort.end(slots)
        self.cohorts = [cohort for cohort in self.cohorts if any(cohort.alive)]


class Cohort:
    """n sequences of P prompts. Half of them dead, the dead are left out."""

    def __init__(self, read: Cache, lengths: Int[Tensor, "P"], rows: Sequence[int], slots: Sequence[int]) -> None:
        """`read` holds the prompts' keys and values; sequence i goes on with prompt `rows[i]`, in slot `slots[i]`."""
        self.slots, self.alive, self.written = list(slots), [True] * len(slots), 0
        self.prompt_keys: list[Float[Tensor, "P G L D"]] = [layer.keys for layer in read.layers]
        self.prompt_values: list[Float[Tensor, "P G L D"]] = [layer.values for layer in read.layers]
        self.keys: list[Float[Tensor, "n G W D"]] = []
        """Of the tokens that they wrote themselves."""
        self.values: list[Float[Tensor, "n G W D"]] = []
        for keys in self.prompt_keys:
            empty = keys.new_empty(len(slots), keys.shape[1], 0, keys.shape[3])
            self.keys.append(empty)
            self.values.append(empty)
        self.lengths = lengths
        self._ask(rows)

    def _ask(self, rows: Sequence[int]) -> None:
        """Which sequences ask each prompt, as a table: row p has those of prompt p, and again its first."""
        self.rows = list(rows)
        asking: list[list[int]] = [[] for _ in self.lengths]
        for i, row in enumerate(rows):
            asking[row].append(i)
        most = max(map(len, asking))
        device = self.lengths.device
        self.table = torch.tensor([[*a, *[(a or [0])[0]] * (most - len(a))] for a in asking], device=device)
        self.place = torch.tensor([row * most + asking[row].index(i) for i, row in enumerate(rows)], device=device)
        span = self.prompt_keys[0].shape[2]
        hidden = torch.arange(span, device=device) >= self.lengths[self.rows, None]
        self.hidden = hidden[:, None, None] if hidden.any() else None

    def end(self, slots: Sequence[int]) -> None:
        """The living sequences in these slots are over."""
        over = set(slots)
        self.alive = [lives and slot not in over for slot, lives in zip(self.slots, self.alive, strict=True)]
        if 0 < 2 * sum(self.alive) <= len(self.alive):
            self.compact()

    def compact(self) -> None:
        """Leave out the dead, and the prompts that nobody asks any more."""
        if all(self.alive):
            return
        kept = [i for i, lives in enumerate(self.alive) if lives]
        asked = sorted({self.rows[i] for i in kept})
        self.keys = [part[kept] for part in self.keys]
        self.values = [part[kept] for part in self.values]
        if len(asked) < len(self.lengths):
            span = int(self.lengths[asked].max())
            self.prompt_keys = [part[asked, :, :span] for part in self.prompt_keys]
            self.prompt_values = [part[asked, :, :span] for part in self.prompt_values]
            self.lengths = self.lengths[asked]
        self.slots, self.alive = [self.slots[i] for i in kept], [True] * len(kept)
        self._ask([asked.index(self.rows[i]) for i in kept])

    def make_room(self) -> None:
        """For one more token of each."""
        if self.written < self.keys[0].shape[2]:
            return
        more = max(STEP, self.written // 4)
        for store in (self.keys, self.values):
            for layer, held in enumerate(store):
                store[layer] = torch.nn.functional.pad(held, (0, 0, 0, more))

    def attend(
        self,
        layer: int,
        query: Float[Tensor, "n H 1 D"],
        key: Float[Tensor, "n G 1 D"],
        value: Float[Tensor, "n G 1 D"],
        scale: float,
        softcap: float | None,
    ) -> Float[Tensor, "n H 1 D"]:
        """Attention of one new token of each sequence to its prompt and to what it has written, itself included."""
        count, groups, size = len(query), key.shape[1], query.shape[-1]
        self.keys[layer][:, :, self.written] = key[:, :, 0]
        self.values[layer][:, :, self.written] = value[:, :, 0]
        keys, values, upto = self.keys[layer], self.values[layer], self.written + 1
        if not read_whole(keys):
            keys, values = keys[:, :, :upto], values[:, :, :upto]
        rows = query.reshape(count, groups, -1, size) * scale
        seen = self._each(self._by_prompt(rows) @ self.prompt_keys[layer].transpose(2, 3))
        own = rows @ keys.transpose(2, 3)
        scores = torch.cat([seen, own], -1)
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        span = seen.shape[-1]
        if self.hidden is not None:
            scores[..., :span].masked_fill_(self.hidden, torch.finfo(scores.dtype).min)
        scores[..., span + upto :] = torch.finfo(scores.dtype).min
        weights = torch.softmax(scores, -1, dtype=torch.float32).to(query.dtype)
        found = weights[..., span:] @ values
        found += self._each(self._by_prompt(weights[..., :span]) @ self.prompt_values[layer])
        return found.view(count, -1, 1, size)

    def _by_prompt(self, each: Float[Tensor, "n G r k"]) -> Float[Tensor, "P G mr k"]:
        """The rows of all sequences that ask a prompt, one after another."""
        if self.table.shape[1] == 1:
            return each[self.table[:, 0]] if len(each) > 1 else each
        prompts, most = self.table.shape
        _, groups, rows, size = each.shape
        return each[self.table].transpose(1, 2).reshape(prompts, groups, most * rows, size)

    def _each(self, found: Float[Tensor, "P G mr k"]) -> Float[Tensor, "n G r k"]:
        """Each sequence's own rows of it."""
        prompts, most = self.table.shape
        if most == 1:
            return found[self.place] if len(found) > 1 else found
        _, groups, rows, size = found.shape
        return found.view(prompts, groups, most, rows // most, size).transpose(1, 2).flatten(0, 1)[self.place]
