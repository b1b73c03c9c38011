"""The last layer answers only where somebody asks: nobody reads what it says at a prompt's other tokens.

Its keys and values are those of every token. Its queries, what attention makes of them and all that follows token by
token are needed at the tokens whose states are read: for a reward model one of each text, for a policy those before a
completion's. Which parts of the layer may be spared is found by trying, not by their names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from prefloop.models.attention import Bags

WORTH = 0.8
"""Taking rows out and putting them back costs something: with a larger share of all rows, all are computed."""


REFUSALS = (TypeError, ValueError, RuntimeError, LookupError, AttributeError)
"""What somebody's model raises when it is asked for what it cannot do."""


class LastLayer:
    """The parts of a model's last layer that work row by row."""

    def __init__(self, model: nn.Module) -> None:
        layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
        self.layer: Any = layers[-1] if layers else nn.Module()
        self.inside = set(self.layer.modules())
        self.parts: list[nn.Module] = []

    def rows(self, at: Int[Tensor, "m"], total: int) -> Int[Tensor, "k"] | None:
        """Those of `total` rows to compute when the states at these are wanted; None is all of them."""
        rows = torch.unique(at)
        return rows if self.parts and len(rows) <= WORTH * total else None

    @contextmanager
    def only(self, rows: Int[Tensor, "m"], total: int) -> Iterator[None]:
        """Within it the parts compute these of the `total` rows, which are in order; the others of them are 0."""
        if not self.parts:
            yield
            return
        device = next(self.layer.parameters()).device
        bags = Bags.of(rows, total)
        out, back = bags.to(device), bags.transposed.to(device)

        def taken(part: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
            of_all = given[0]
            return out.add(of_all.reshape(total, -1)).view(1, -1, *of_all.shape[2:]), *given[1:]

        def put_back(part: nn.Module, given: Any, found: Float[Tensor, "1 k ..."]) -> Float[Tensor, "1 N ..."]:
            return back.add(found.reshape(len(rows), -1)).view(1, total, *found.shape[2:])

        with ExitStack() as hooks:
            for part in self.parts:
                hooks.enter_context(_hooked(part, taken, put_back))
            yield

    @torch.no_grad()
    def look(self, run: Callable[[], Any], rows: Int[Tensor, "m"], total: int) -> None:
        """Find the parts. `run` is a pass of `total` rows of which these are asked.

        A part is spared the other rows where the layer's answer is a number at the rows asked although what the part
        is given and what it gives is none (NaN) at all others: then it depends on none of them, whatever it is.
        """
        calls: list[Any] = []
        hook = self.layer.register_forward_pre_hook(lambda layer, *call: calls.append(call), with_kwargs=True)
        try:
            run()
        finally:
            hook.remove()
        if not calls:
            return
        given, named = calls[-1]
        places = rows.to(next(self.layer.parameters()).device)

        def blinded(x: Float[Tensor, "1 N ..."]) -> Float[Tensor, "1 N ..."]:
            tried.add(part)
            return torch.full_like(x, torch.nan).index_copy(1, places, x.index_select(1, places))

        def works() -> bool:
            try:
                found = self.layer(*given, **named)
                states: Tensor = found if isinstance(found, Tensor) else found[0]
                return bool(states[:, places].isfinite().all())
            except REFUSALS:
                return False  # what the part is given or gives is not one tensor with a row for each token

        tried: set[nn.Module] = set()
        waiting = list(self.layer.children())
        while waiting:
            part = waiting.pop()
            with _hooked(part, lambda _, x: (blinded(x[0]), *x[1:]), lambda _, x, found: blinded(found)):
                spared = works()
            if not spared or part not in tried:  # a container of parts is itself never called
                waiting += part.children()
            elif any(True for _ in part.parameters()):
                self.parts.append(part)
                with self.only(rows, total):
                    if not works():  # it is given two tensors with a row for each token, or counts on their number
                        self.parts.pop()


@contextmanager
def _hooked(part: nn.Module, before: Callable[..., Any], after: Callable[..., Any]) -> Iterator[None]:
    with part.register_forward_pre_hook(before), part.register_forward_hook(after):
        yield
