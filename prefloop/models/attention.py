"""Causal attention of many stretches of one row at once, each of which sees rows of its own.

One product for each stretch would be thousands of small ones, and one product for all would compute mostly what nobody
may see. Stretches of like length are therefore padded on the left to one size and multiplied together.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

UNSEEN = -30_000.0
"""What hides a score. With -inf a padded row, which sees nothing, would become NaN; float16 ends at -65,504."""
MOST_SCORES = 1 << 21
"""Scores of one product, over all heads: more would leave the processor's cache, and take memory at once."""


class Packing(NamedTuple):
    """How generously stretches are put together: measured on a processor, see docs/batches.md."""

    block: int
    """Rows of one stretch that look back at once: fewer compute less that none may see, in more products."""
    step: int
    """Padded lengths are multiples of it."""
    product: int
    """What one more product costs, in scores of one head: a stretch joins its neighbours where that pads fewer."""


WHOLE, HALF = Packing(128, 1, 2_000), Packing(512, 16, 10_000)
"""For float32, and for numbers of half its size: those are multiplied so fast that many small products cost more than
they spare."""


class Stretch(NamedTuple):
    """Rows that follow each other, and the ranges of rows that they see, of which they are themselves the end."""

    rows: range
    seen: tuple[range, ...]

    @property
    def reach(self) -> int:
        """How many rows its last row sees."""
        return sum(map(len, self.seen))


def blocks(stretch: Stretch, size: int, window: int | None) -> Iterator[Stretch]:
    """The stretch in parts of at most `size` rows, each without what lies behind it or before the window of all."""
    for start in range(0, len(stretch.rows), size):
        yield _part(stretch, start, min(start + size, len(stretch.rows)), window)


def within(stretches: Sequence[Stretch], rows: Sequence[int]) -> list[Stretch]:
    """A stretch for each run of these rows that follow each other in one of `stretches`; both are in order."""
    found, at = [], 0
    for stretch in stretches:
        while at < len(rows) and rows[at] < stretch.rows.stop:
            start = at
            while at < len(rows) and rows[at] == rows[start] + at - start < stretch.rows.stop:
                at += 1
            first = rows[start] - stretch.rows.start
            found.append(_part(stretch, first, first + at - start, None))
    return found


def _part(stretch: Stretch, start: int, end: int, window: int | None) -> Stretch:
    """Rows start <= t < end of it, which see what it sees, but nothing behind them or before the window of all."""
    before = stretch.reach - len(stretch.rows)
    first = 0 if window is None else max(0, before + start + 1 - window)
    at, seen = 0, []
    for span in stretch.seen:
        seen.append(span[max(0, first - at) : max(0, before + end - at)])
        at += len(span)
    return Stretch(stretch.rows[start:end], tuple(seen))


class _Add(torch.autograd.Function):
    """A sparse matrix of ones times rows. Its gradient is the transposed one's, as often as it is asked for."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, bags: Bags) -> Tensor:
        ctx.bags = bags
        added: Tensor = torch.nn.functional.embedding_bag(
            bags.indices, rows, bags.offsets, mode="sum", include_last_offset=True
        )
        return added

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return ctx.bags.transposed.add(gradient.contiguous()), None


@dataclass
class Bags:
    """Which rows of one matrix are added up to each row of another: a sparse matrix of ones, row by row."""

    indices: Int[Tensor, "n"]
    offsets: Int[Tensor, "rows+1"]
    columns: int

    @classmethod
    def of(cls, places: Int[Tensor, "rows"], columns: int) -> Bags:
        """Row i is row places[i], or zero where that is negative."""
        real = places >= 0
        return cls(places[real], torch.nn.functional.pad(real.cumsum(0), (1, 0)), columns)

    @cached_property
    def transposed(self) -> Bags:
        """Which rows of the other matrix each row of the one was added to: a sort, made when it is asked for."""
        rows = torch.repeat_interleave(self.offsets.diff())
        counts = torch.bincount(self.indices, minlength=self.columns)
        offsets = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
        return Bags(rows[self.indices.argsort(stable=True)], offsets, len(self.offsets) - 1)

    def to(self, device: torch.device) -> Bags:
        return Bags(self.indices.to(device), self.offsets.to(device), self.columns)

    def add(self, rows: Float[Tensor, "columns D"]) -> Float[Tensor, "rows D"]:
        """The sums; rows that nothing is added up to are zero."""
        added: Tensor = _Add.apply(rows, self)  # type: ignore[no-untyped-call]
        return added


class Group(NamedTuple):
    """Stretches that are multiplied together."""

    stretches: int
    rows: int
    reach: int
    mask: Float[Tensor, "n q k"]

    def weights(
        self, queries: Float[Tensor, "Hn q D"], keys: Float[Tensor, "Hn k D"], softcap: float | None = None
    ) -> Float[Tensor, "Hn q k"]:
        """How much each row takes of each that it sees; queries are scaled."""
        scores = torch.bmm(queries, keys.mT)
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        return torch.softmax(scores.view(-1, *self.mask.shape).add_(self.mask), -1).view_as(scores)


@dataclass
class Plan:
    """Which stretches are multiplied together, and where their rows stand in the matrices of all heads."""

    heads: int
    groups: list[Group]
    queries: Bags
    keys: Bags
    found: Bags
    """Back from the groups to the rows."""

    @classmethod
    def of(
        cls,
        stretches: Sequence[Stretch],
        window: int | None,
        query: Float[Tensor, "H N D"],
        key: Float[Tensor, "G N D"],
    ) -> Plan:
        """For the rows N of these tensors, whose number of heads, type and device count and whose numbers do not.

        Raises ValueError where G does not divide H.
        """
        heads, shared, total = query.shape[0], key.shape[0], query.shape[1]
        if heads % shared:
            raise ValueError(f"{heads} heads of queries cannot share {shared} heads of keys")
        packing = WHOLE if query.element_size() >= 4 else HALF
        parts = [part for each in stretches if each.rows for part in blocks(each, packing.block, window)]
        # A beginning sees itself, a branch much more than itself: these two are never of like size.
        parts.sort(key=lambda part: (2 * len(part.rows) > part.reach, part.reach, len(part.rows)))
        groups, queries, keys = [], [], []
        head = torch.arange(heads)[:, None, None]
        for group in _together(parts, packing, heads):
            rows = _padded([[part.rows] for part in group], packing.step)
            seen = _padded([part.seen for part in group], packing.step)
            groups.append(Group(len(rows), rows.shape[1], seen.shape[1], _mask(rows, seen, window).to(query)))
            # Row t of head h is row t * heads + h where a tensor of shape (N, heads, D) is read as a matrix.
            queries.append(torch.where(rows < 0, -1, rows * heads + head).flatten())
            keys.append(torch.where(seen < 0, -1, seen * shared + head // (heads // shared)).flatten())
        asked, looked = Bags.of(torch.cat(queries), total * heads), Bags.of(torch.cat(keys), total * shared)
        return cls(heads, groups, *(bags.to(query.device) for bags in (asked, looked, asked.transposed)))

    def attend(
        self,
        query: Float[Tensor, "H N D"],
        key: Float[Tensor, "G N D"],
        value: Float[Tensor, "G N D"],
        scale: float,
        dropout: float = 0.0,
        softcap: float | None = None,
    ) -> Float[Tensor, "N H D"]:
        """Every row's mean of the values that it sees, weighted by the softmax of scale times query times key."""
        if dropout or softcap is not None:
            return self.step_by_step(*self.gathered(query, key, value, scale), dropout, softcap)
        found: Tensor = _Attention.apply(query, key, value, self, scale)  # type: ignore[no-untyped-call]
        return found

    def step_by_step(
        self,
        queries: Float[Tensor, "q D"],
        keys: Float[Tensor, "k D"],
        values: Float[Tensor, "k D"],
        dropout: float = 0.0,
        softcap: float | None = None,
    ) -> Float[Tensor, "N H D"]:
        """`attend` to what is `gathered`, with a gradient that the library finds, as often as it is asked for."""
        found = []
        for group, q, k, v in zip(self.groups, self.asked(queries), self.seen(keys), self.seen(values), strict=True):
            weights = group.weights(q, k, softcap)
            if dropout:
                weights = torch.nn.functional.dropout(weights, dropout)
            found.append(torch.bmm(weights, v).view(-1, queries.shape[1]))
        return self.found.add(torch.cat(found)).view(-1, self.heads, queries.shape[1])

    def gathered(
        self, query: Float[Tensor, "H N D"], key: Float[Tensor, "G N D"], value: Float[Tensor, "G N D"], scale: float
    ) -> tuple[Float[Tensor, "q D"], Float[Tensor, "k D"], Float[Tensor, "k D"]]:
        """Scaled queries, keys and values as the groups want them, one group after another."""
        # Scaled before they are multiplied: unscaled products may be more than float16 has room for.
        return self.queries.add(_matrix(query) * scale), self.keys.add(_matrix(key)), self.keys.add(_matrix(value))

    def asked(self, rows: Float[Tensor, "q D"]) -> list[Float[Tensor, "Hn q D"]]:
        """What belongs to the rows that look, group by group."""
        return self._split(rows, [group.rows for group in self.groups])

    def seen(self, rows: Float[Tensor, "k D"]) -> list[Float[Tensor, "Hn k D"]]:
        """What belongs to the rows that are seen, group by group."""
        return self._split(rows, [group.reach for group in self.groups])

    def _split(self, rows: Float[Tensor, "all D"], lengths: Sequence[int]) -> list[Float[Tensor, "Hn length D"]]:
        sizes = [self.heads * group.stretches * length for group, length in zip(self.groups, lengths, strict=True)]
        parts = zip(rows.split(sizes), lengths, strict=True)
        return [part.view(-1, length, rows.shape[1]) for part, length in parts]


class _Attention(torch.autograd.Function):
    """A plan's attention with a gradient of its own, which is the one that the library would find.

    It keeps the weights and what it was given; the library would keep every row as often as it is seen, and handle some
    dozen tensors more for each product. Where the gradient's own gradient is wanted, the library finds both.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, plan: Plan, scale: float) -> Tensor:
        queries, keys, values = plan.gathered(query, key, value, scale)
        found = torch.empty_like(queries)
        kept = []
        parts = (plan.asked(queries), plan.seen(keys), plan.seen(values), plan.asked(found))
        for group, q, k, v, into in zip(plan.groups, *parts, strict=True):
            weights = group.weights(q, k)
            torch.bmm(weights, v, out=into)
            kept.append(weights)
        ctx.plan, ctx.scale = plan, scale
        ctx.save_for_backward(query, key, value, *kept)
        return plan.found.add(found).view(-1, *query.shape[::2])

    @staticmethod
    def backward(ctx: Any, slope: Float[Tensor, "N H D"]) -> Any:
        plan, scale = ctx.plan, ctx.scale
        query, key, value, *kept = ctx.saved_tensors
        if torch.is_grad_enabled():
            found = plan.step_by_step(*plan.gathered(query, key, value, scale))
            wanted = [x for x in (query, key, value) if x.requires_grad]
            slopes = iter(torch.autograd.grad(found, wanted, slope, create_graph=True))
            return *(next(slopes) if x.requires_grad else None for x in (query, key, value)), None, None
        given = plan.gathered(query, key, value, scale)
        made = [torch.empty_like(x) for x in given]
        (q, k, v), (dq, dk, dv) = ([plan.asked(x[0]), *map(plan.seen, x[1:])] for x in (given, made))
        asked = plan.asked(plan.queries.add(slope.reshape(-1, slope.shape[2])))
        for i, weights in enumerate(kept):
            torch.bmm(weights.mT, asked[i], out=dv[i])
            of_weights = torch.bmm(asked[i], v[i].mT)
            of_scores = torch.ops.aten._softmax_backward_data(of_weights, weights, -1, weights.dtype)
            torch.bmm(of_scores, k[i], out=dq[i])
            torch.bmm(of_scores.mT, q[i], out=dk[i])
        of_query = plan.found.add(made[0]).mul_(scale)
        of_key, of_value = (plan.keys.transposed.add(x) for x in made[1:])
        shaped = (x.view(query.shape[1], -1, query.shape[2]).transpose(0, 1) for x in (of_query, of_key, of_value))
        return *shaped, None, None


def _matrix(x: Float[Tensor, "H N D"]) -> Float[Tensor, "N*H D"]:
    """Without a copy where each row's heads stand together, as projections leave them."""
    return x.transpose(0, 1).reshape(-1, x.shape[-1])


def _together(parts: Sequence[Stretch], packing: Packing, heads: int) -> Iterator[list[Stretch]]:
    """Neighbours of like size, until padding the next one would cost more than a product of its own."""
    group: list[Stretch] = []
    rows = reach = 0
    for part in parts:
        own = _up(len(part.rows), packing.step), _up(part.reach, packing.step)
        wider, longer = max(rows, own[0]), max(reach, own[1])
        padded = (len(group) + 1) * wider * longer
        more = padded - len(group) * rows * reach - own[0] * own[1]
        if group and (more > packing.product or heads * padded > MOST_SCORES):
            yield group
            group, (wider, longer) = [], own
        group.append(part)
        rows, reach = wider, longer
    if group:
        yield group


def _up(length: int, step: int) -> int:
    """The next multiple of `step`."""
    return math.ceil(length / step) * step


def _padded(spans: Sequence[Sequence[range]], step: int) -> Int[Tensor, "n width"]:
    """The numbers of each, one after another, behind as many -1 as make all as long as the longest."""
    lists = [[i for span in several for i in span] for several in spans]
    width = _up(max(map(len, lists)), step)
    return torch.tensor([[-1] * (width - len(one)) + one for one in lists])


def _mask(rows: Int[Tensor, "n q"], seen: Int[Tensor, "n k"], window: int | None) -> Float[Tensor, "n q k"]:
    """0 where a row may look (at itself, and `window` - 1 rows before), UNSEEN elsewhere. All end together."""
    queries, keys = rows.shape[1], seen.shape[1]
    ahead = torch.arange(keys) - torch.arange(keys - queries, keys)[:, None]
    hidden = ahead > 0 if window is None else (ahead > 0) | (ahead <= -window)
    return torch.zeros(()).masked_fill(hidden | (seen < 0)[:, None], UNSEEN)
