"""Texts that begin alike go through the trunk once: laid end to end, each shared beginning stands there one time.

A tree is a beginning that several texts share, and one branch for what each goes on with. All trees of a batch form one
row without padding. A branch sees the trunk of its tree and itself, at the positions that it has in its own text; so
every hidden state is the one that the text has alone, whatever the position scheme (rotary, absolute, sliding window).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from prefloop.models.attention import Plan, Stretch, within
from prefloop.models.last_layer import REFUSALS, LastLayer
from prefloop.models.load import base_of
from prefloop.models.template import Encoded

ATTENTION = "prefloop_trees"
"""The name of our attention in the transformers library's table of them."""


@dataclass(frozen=True)
class Tree:
    """Where a beginning and its branches stand in the row, in tokens; an empty branch is one too."""

    trunk: int
    branches: tuple[int, ...]


@dataclass
class Forest:
    """A batch of texts as one row of N tokens."""

    texts: Sequence[Encoded]
    ids: Int[Tensor, "N"]
    positions: Int[Tensor, "N"]
    trees: list[Tree]
    places: list[tuple[int, int, int]]
    """Of each text: where its trunk stands, how long that is, where its branch stands."""
    windows: set[int | None] = field(default_factory=set)
    """The sliding windows that the layers told their attention of; filled by a forward pass."""
    plans: dict[tuple[Any, ...], Plan] = field(default_factory=dict)
    """How its attention is put together: layers that are alike need the same."""

    @classmethod
    def plant(cls, texts: Sequence[Encoded]) -> Forest:
        """Texts with the same prompt become one tree; what their completions begin with in common is shared too."""
        ids: list[int] = []
        positions: list[int] = []
        trees: list[Tree] = []
        places = [(0, 0, 0)] * len(texts)
        for members in same_prompt(texts):
            root, shared = len(ids), shared_beginning([texts[i].ids for i in members])
            ids += texts[members[0]].ids[:shared]
            positions += range(shared)
            for i in members:
                places[i] = (root, shared, len(ids))
                ids += texts[i].ids[shared:]
                positions += range(shared, texts[i].length)
            trees.append(Tree(shared, tuple(texts[i].length - shared for i in members)))
        return cls(texts, torch.tensor(ids), torch.tensor(positions), trees, places)

    def place(self, text: int, start: int, end: int) -> list[int]:
        """Where tokens start <= t < end of a text stand in the row."""
        root, shared, branch = self.places[text]
        return [root + t if t < shared else branch + t - shared for t in range(start, end)]

    def stretches(self) -> list[Stretch]:
        """Each trunk, which sees itself, and each branch, which sees its trunk before."""
        found, at = [], 0
        for tree in self.trees:
            trunk = range(at, at + tree.trunk)
            found.append(Stretch(trunk, (trunk,)))
            at = trunk.stop
            for length in tree.branches:
                branch = range(at, at + length)
                found.append(Stretch(branch, (trunk, branch)))
                at = branch.stop
        return found

    def last(self) -> Int[Tensor, "n"]:
        """Where each text's last token stands."""
        return torch.tensor([self.place(i, text.length - 1, text.length)[0] for i, text in enumerate(self.texts)])

    def before(self) -> Int[Tensor, "m"]:
        """Where the token before each completion token stands, text by text."""
        return torch.tensor(
            [p for i, text in enumerate(self.texts) for p in self.place(i, text.prompt_length - 1, text.length - 1)],
            dtype=torch.long,
        )

    def completions(self) -> list[int]:
        """The completions' ids, in the order of `before`."""
        return [token for text in self.texts for token in text.ids[text.prompt_length :]]


def texts_of(ids: Int[Tensor, "B L"], starts: Int[Tensor, "B"], valid: Bool[Tensor, "B C"]) -> list[Encoded]:
    """The rows of a batch that is padded on the right; row i's completion begins at starts[i]."""
    ends = (starts + valid.sum(1)).tolist()
    return [Encoded(row[:end], start) for row, start, end in zip(ids.tolist(), starts.tolist(), ends, strict=True)]


def same_prompt(texts: Sequence[Encoded]) -> list[list[int]]:
    """Which texts have the same prompt, in the order of the first of each."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, text in enumerate(texts):
        groups.setdefault(tuple(text.ids[: text.prompt_length]), []).append(i)
    return list(groups.values())


def shared_beginning(sequences: Sequence[list[int]]) -> int:
    """How many ids all sequences begin with alike."""
    first, last = min(sequences), max(sequences)
    return next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))


def tokens_of(texts: Sequence[Encoded]) -> int:
    """Tokens that go through the trunk when these texts are one batch."""
    total = sum(text.length for text in texts)
    return total - sum((len(g) - 1) * shared_beginning([texts[i].ids for i in g]) for g in same_prompt(texts))


class Trunk:
    """A model's last hidden states, or its logits, of a batch of texts."""

    def __init__(self, model: nn.Module, log: Callable[[str], None] = lambda words: None) -> None:
        """Tries on a few tokens whether the model can share beginnings; says through `log` when it cannot."""
        self.full = base_of(model)
        self.body: nn.Module = getattr(self.full, self.full.base_model_prefix)
        self.keeps = "logits_to_keep" in inspect.signature(self.full.forward).parameters
        self.last = LastLayer(self.full)
        self.shares = self._can_share()
        if not self.shares:
            log(
                f"{type(self.full).__name__} cannot share a prompt between completions: "
                "each is computed with a prompt of its own, padded"
            )

    def __call__(self, forest: Forest, at: Int[Tensor, "m"]) -> Float[Tensor, "m d"]:
        """The states after the tokens at these places of the row."""
        with recomputed(self.full):
            if self.shares:
                states = self._together(forest, self.last.rows(at, len(forest.ids)))
            else:
                states = self._alone(forest, self._states)
        return states[at.to(states.device)]

    def deep(self, forest: Forest) -> Float[Tensor, "N dd"]:
        """The state after each token of the row, and beside it the state half-way up the layers."""
        with recomputed(self.full):
            if not self.shares:
                return self._alone(forest, lambda ids: self._halves(input_ids=ids, use_cache=False))
            with self._passing(forest):
                return self._halves(**self._row(forest))[0]

    def logits(self, forest: Forest, at: Int[Tensor, "m"]) -> Float[Tensor, "m V"]:
        """The model's own logits behind the tokens at these places of the row."""
        places = at.to(self.full.device)
        if not self.shares:
            with recomputed(self.full):
                return self._alone(forest, lambda ids: self.full(input_ids=ids, use_cache=False).logits)[places]
        with recomputed(self.full), self._passing(forest, self.last.rows(at, len(forest.ids))):
            if self.keeps:
                kept: Tensor = self.full(**self._row(forest), logits_to_keep=places).logits
                return kept[0]
            logits: Tensor = self.full(**self._row(forest)).logits
        return logits[0, places]

    def _together(self, forest: Forest, rows: Int[Tensor, "k"] | None = None) -> Float[Tensor, "N d"]:
        with self._passing(forest, rows):
            hidden: Tensor = self.body(**self._row(forest)).last_hidden_state
        return hidden[0]

    def _passing(self, forest: Forest, rows: Int[Tensor, "k"] | None = None) -> AbstractContextManager[None]:
        return tree_attention(self.full, Pass(forest, self.last, rows))

    def _halves(self, **given: Any) -> Float[Tensor, "B L dd"]:
        out = self.body(**given, output_hidden_states=True)
        return torch.cat([out.last_hidden_state, out.hidden_states[len(out.hidden_states) // 2]], dim=-1)

    def _row(self, forest: Forest) -> dict[str, Any]:
        ids, positions = (t.to(self.full.device)[None] for t in (forest.ids, forest.positions))
        return {"input_ids": ids, "position_ids": positions, "use_cache": False}

    def _states(self, ids: Int[Tensor, "B L"]) -> Float[Tensor, "B L d"]:
        states: Tensor = self.body(input_ids=ids, use_cache=False).last_hidden_state
        return states

    def _alone(self, forest: Forest, run: Callable[[Tensor], Tensor]) -> Float[Tensor, "N x"]:
        """`run` on every text with a beginning of its own, padded on the right, texts of like length together."""
        lengths = [text.length for text in forest.texts]
        parts: list[list[int]] = []
        for i in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
            if parts and lengths[parts[-1][0]] * (len(parts[-1]) + 1) <= len(forest.ids):
                parts[-1].append(i)
            else:
                parts.append([i])
        found: list[Tensor] = []
        source, done = [0] * len(forest.ids), 0
        for part in parts:
            width = lengths[part[0]]
            ids = torch.tensor([[*forest.texts[i].ids, *[0] * (width - lengths[i])] for i in part])
            for i in part:
                root, shared, branch = forest.places[i]
                # Every text has its copy of a shared beginning; they are equal, and the last one's is read.
                source[root : root + shared] = range(done, done + shared)
                source[branch : branch + lengths[i] - shared] = range(done + shared, done + lengths[i])
                done += width
            found.append(run(ids.to(self.full.device)).flatten(0, 1))
        return torch.cat(found)[torch.tensor(source, device=self.full.device)]

    def _spare(self, forest: Forest, expected: Float[Tensor, "N d"]) -> None:
        """Let the last layer leave out what nobody asks for, where the states that are asked for stay what they are."""
        rows = torch.unique(forest.last())
        with self._passing(forest, rows):
            self.last.look(lambda: self.body(**self._row(forest)), rows, len(forest.ids))
        if self.last.parts and not self._alike(self._together(forest, rows)[rows], expected[rows]):
            self.last.parts.clear()

    def _alike(self, found: Float[Tensor, "n d"], expected: Float[Tensor, "n d"]) -> bool:
        """Whether states are the same but for rounding."""
        error = (found.float() - expected).norm(dim=1) / expected.norm(dim=1)
        return bool((error <= torch.finfo(self.full.dtype).eps ** 0.5).all())

    @torch.no_grad()
    def _can_share(self) -> bool:
        """Whether a small forest has the states that its texts have alone: the model decides, not its name."""
        config = self.full.config.get_text_config()
        draw = torch.Generator().manual_seed(0)
        ids = torch.randint(min(100, config.vocab_size), (4, 9), generator=draw).tolist()
        forest = Forest.plant([Encoded(ids[a] + ids[b], 9) for a, b in ((0, 1), (0, 2), (3, 2), (3, 1), (1, 3))])
        training = self.full.training
        self.full.eval()
        try:
            expected = self._alone(forest, self._states).float()
            shared = self._alike(self._together(forest), expected)
            if shared:
                self._spare(forest, expected)
        except REFUSALS:
            return False  # it takes no position ids, its attention is its own, or it has fewer than 18 positions
        finally:
            self.full.train(training)
        # A window that the layers do not tell the attention of would go unseen in eighteen tokens.
        declared = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
        told = bool(forest.windows - {None})
        return shared and (told or not declared)


@dataclass
class Pass:
    """A batch on its way through a model."""

    forest: Forest
    last: LastLayer
    rows: Int[Tensor, "k"] | None
    """The places of the row, in order and on the processor, whose states are wanted of the last layer; None is all."""


_passing: ContextVar[Pass] = ContextVar("pass")


@contextmanager
def tree_attention(model: PreTrainedModel, now: Pass) -> Iterator[None]:
    """Within it the model's attention follows the forest of `now`, and its last layer spares what nobody asks for."""
    usual = model.config._attn_implementation
    token = _passing.set(now)
    model.set_attn_implementation(ATTENTION)
    try:
        with nullcontext() if now.rows is None else now.last.only(now.rows, len(now.forest.ids)):
            yield
    finally:
        model.set_attn_implementation(usual)
        _passing.reset(token)


def growing_again(model: PreTrainedModel) -> AbstractContextManager[None]:
    """Within it the model's attention is again what it is now: for layers that are computed a second time."""
    now = _passing.get(None)
    return nullcontext() if now is None else tree_attention(model, now)


@contextmanager
def recomputed(model: nn.Module) -> Iterator[None]:
    """Within it, layers that are to be recomputed are, also where dropout is off: the library asks `training`."""
    layers = [
        module
        for module in model.modules()
        if isinstance(module, GradientCheckpointingLayer) and module.gradient_checkpointing
    ]
    before = [layer.training for layer in layers]
    wanted = torch.is_grad_enabled()
    try:
        for layer in layers:
            layer.training = wanted  # the flag of the layer alone: what is inside it keeps its own, dropout off
        yield
    finally:
        for layer, training in zip(layers, before, strict=True):
            layer.training = training


def attend(
    module: nn.Module,
    query: Float[Tensor, "1 H N D"],
    key: Float[Tensor, "1 G N D"],
    value: Float[Tensor, "1 G N D"],
    attention_mask: None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **others: Any,
) -> tuple[Float[Tensor, "1 N H D"], None]:
    """Attention of a forest: each branch sees its trunk and itself, each trunk itself, and nothing sees what follows.

    The signature is the transformers library's; `others` is what it tells every attention and means nothing here.
    """
    now = _passing.get()
    forest, rows = now.forest, now.rows if module in now.last.inside else None
    forest.windows.add(sliding_window)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    wanted = None if rows is None else tuple(rows.tolist())
    alike = (sliding_window, query.shape[1], key.shape[1], query.dtype, query.device, wanted)
    if alike not in forest.plans:
        stretches = forest.stretches() if wanted is None else within(forest.stretches(), wanted)
        forest.plans[alike] = Plan.of(stretches, sliding_window, query[0], key[0])
    return forest.plans[alike].attend(query[0], key[0], value[0], scale, dropout, softcap)[None], None


AttentionInterface.register(ATTENTION, attend)
