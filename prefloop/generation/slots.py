"""Keys and values of a pool of slots, each filled to its own length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import Cache

if TYPE_CHECKING:
    from prefloop.generation.pages import Pages

STEP = 64
"""Columns are added so many at a time."""
GROWTH = 1.2
"""And at least by this factor, so that a long sequence is copied few times."""


class SlotCache(Cache):  # type: ignore[misc]
    """`columns` grow with the longest sequence that is there; a slot's sequence starts at column 0."""

    def __init__(self, slots: int, most: int, device: torch.device) -> None:
        super().__init__(layers=[])
        self.slots, self.most = slots, most
        self.keys: list[Float[Tensor, "S H W D"]] = []
        self.values: list[Float[Tensor, "S H W D"]] = []
        self.at: Int[Tensor, "S"] = torch.zeros(slots, dtype=torch.long, device=device)
        """Where each slot writes next."""
        self.reach = 0
        """Columns that are read: those that any slot has filled, this step's included, or all (`read_whole`)."""
        self._row = torch.arange(slots, device=device)

    @property
    def depth(self) -> int:
        """Layers that are held."""
        return len(self.keys)

    @property
    def dtype(self) -> torch.dtype:
        return self.keys[0].dtype

    @property
    def columns(self) -> int:
        return self.keys[0].shape[2] if self.keys else 0

    def place(self, prompts: Any, rows: Sequence[int], slots: Sequence[int], lengths: Int[Tensor, "n"]) -> None:
        """Copy row `rows[i]` of a prefilled cache, `lengths[i]` long, into slot `slots[i]`."""
        self._widen(prompts.layers[0].keys.shape[2])
        for layer, filled in enumerate(prompts.layers):
            _, heads, span, size = filled.keys.shape
            if len(self.keys) == layer:
                shape = (self.slots, heads, max(self.columns, self._rounded(span)), size)
                self.keys.append(filled.keys.new_zeros(shape))
                self.values.append(filled.values.new_zeros(shape))
            self.keys[layer][slots, :, :span] = filled.keys[rows]
            self.values[layer][slots, :, :span] = filled.values[rows]
        self.at[torch.tensor(slots, device=self.at.device)] = lengths

    def free(self, slots: Sequence[int]) -> None:
        """These decode along at the first column until they are filled, so that nobody waits for their length."""
        self.at[torch.tensor(slots, device=self.at.device)] = 0

    def begin_step(self) -> None:
        """Make room for one more token in every slot."""
        filled = int(self.at.max()) + 1
        self._widen(filled)
        self.reach = self.columns if self.keys and read_whole(self.keys[0]) else filled

    def keep(self, slots: Int[Tensor, "n"]) -> None:
        """Forget all other slots."""
        span = int(self.at[slots].max())
        for layer in range(len(self.keys)):
            self.keys[layer] = self.keys[layer][slots, :, : self._rounded(span + 1)]
            self.values[layer] = self.values[layer][slots, :, : self._rounded(span + 1)]
        self.at, self.slots, self._row = self.at[slots], len(slots), self._row[: len(slots)]

    def hidden(self, window: int | None = None) -> Bool[Tensor, "S R"]:
        """True where a slot must not look: behind its own end, and before its last `window` tokens."""
        return hidden_columns(self.at, self.reach, window)

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        self.keys[layer_idx][self._row, :, self.at] = key_states[:, :, 0]
        self.values[layer_idx][self._row, :, self.at] = value_states[:, :, 0]
        return self.keys[layer_idx][:, :, : self.reach], self.values[layer_idx][:, :, : self.reach]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.reach - 1

    def behind(self, layers: int) -> Behind:
        """The same slots for a second model, whose keys and values stand behind the first one's `layers`."""
        return Behind(self, layers)

    def _rounded(self, columns: int) -> int:
        return min(self.most, -(-columns // STEP) * STEP)

    def _widen(self, columns: int) -> None:
        if not self.keys or columns <= self.columns:
            return
        more = self._rounded(max(columns, int(self.columns * GROWTH))) - self.columns
        # In the order in which they were made: what is given back then lies together, and later ones fit into it.
        for layer in range(len(self.keys)):
            for store in (self.keys, self.values):
                store[layer] = torch.nn.functional.pad(store[layer], (0, 0, 0, more))


def read_whole(held: Tensor) -> bool:
    """Whether a product reads the empty columns of a cache, too.

    In 16 bits a processor's library copies what is not in one piece before it multiplies: with every token, in every
    layer, nearly all of the cache, which took two thirds of the time of sampling.
    """
    return held.device.type == "cpu" and held.element_size() < 4


def hidden_columns(at: Int[Tensor, "S"], reach: int, window: int | None) -> Bool[Tensor, "S R"]:
    """True for the columns behind each of `at`, and before the last `window` up to it."""
    column = torch.arange(reach, device=at.device)
    behind = column > at[:, None]
    return behind if window is None else behind | (column <= at[:, None] - window)


class Behind(Cache):  # type: ignore[misc]
    """The layers of a `SlotCache`, or of `Pages`, from number `first` on."""

    def __init__(self, slots: SlotCache | Pages, first: int) -> None:
        super().__init__(layers=[])
        self.slots, self.first = slots, first

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        return self.slots.update(key_states, value_states, layer_idx + self.first)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.slots.get_seq_length()


def windows(config: Any) -> dict[str, int | None]:
    """Kind of layer -> how many tokens back it attends, None for all. Raises LookupError for other ways to attend."""
    text = config.get_text_config()
    size = getattr(text, "sliding_window", None)
    # GPT-Neo says `attention_layers`, and keeps its window to itself.
    named = getattr(text, "layer_types", None) or getattr(text, "attention_layers", None)
    kinds = sorted(set(named or ["sliding_attention" if size else "full_attention"]))
    known = {"full_attention": None, "sliding_attention": size, "global": None}
    if strange := [kind for kind in kinds if kind not in known]:
        raise LookupError(f"it has layers of the kind {strange[0]!r}")
    return {kind: known[kind] for kind in kinds}
