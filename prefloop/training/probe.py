"""Solve for the few weights on top of a model that stays as it is, with a penalty whose strength the data choose.

The problem is convex, so there is nothing to tune but the strength: the penalty is half the squared norm of the weights
of states that have standard deviation 1 (ridge; Hastie et al. 2009, sect. 3.4.1 and 4.4.4), and it is the one with the
lowest loss on prompts left out (cross-validation; sect. 7.10).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from prefloop.records import content_hash

STRENGTHS = tuple(10.0 ** (power / 2) for power in range(4, -7, -1))
"""From 100 to 0.001, of a loss that is a mean over rows; each is solved from where the one before ended."""
FOLDS = 4
WORSE = 2
"""Strengths in a row without a lower loss, after which no weaker one is tried."""
CLOSE, EXACT = (1e-4, 1e-6, 40), (1e-6, 1e-8, 400)
"""Largest gradient, smallest change and iterations: to compare strengths, and for the solution."""


def fold_of(prompt: Sequence[int]) -> int:
    """The fold in which all rows of a prompt (token ids) are left out."""
    return int(content_hash(list(prompt))[:8], 16) % FOLDS


def solve(
    mean_loss: Callable[[Sequence[int]], Float[Tensor, ""]],
    folds: Sequence[int],
    parameters: Sequence[Tensor],
    size: Callable[[], Float[Tensor, ""]],
    log: Callable[[str], None] = lambda words: None,
) -> tuple[float, float | None]:
    """Leave in `parameters` (leaf tensors with gradient) what minimises loss and penalty over all rows.

    `mean_loss(rows)` is the weighted mean loss of rows by number; `folds` says for each row when it is left out. `size`
    is the squared norm that the penalty is half of, times the strength.
    Returns (strength, loss on the prompts left out), or the strongest and None where there is one fold only.
    """
    start = [part.detach().clone() for part in parameters]
    rows = range(len(folds))
    parts = [([i for i in rows if folds[i] != fold], [i for i in rows if folds[i] == fold]) for fold in set(folds)]
    parts = [(seen, left) for seen, left in parts if seen and left]
    reached = [start for _ in parts]
    best, strength, worse = float("inf"), STRENGTHS[0], 0
    for tried in STRENGTHS if parts else ():
        total = 0.0
        for at, (seen, left) in enumerate(parts):
            _write(parameters, reached[at])
            _minimise(lambda seen=seen: mean_loss(seen), size, parameters, tried, CLOSE)  # type: ignore[misc]
            reached[at] = [part.detach().clone() for part in parameters]
            with torch.no_grad():
                total += float(mean_loss(left)) * len(left) / len(folds)
        log(f"penalty {tried:.3g}: loss {total:.4f} on prompts left out")
        best, strength, worse = (total, tried, 0) if total < best else (best, strength, worse + 1)
        if worse == WORSE:
            break
    _write(parameters, start)
    _minimise(lambda: mean_loss(list(rows)), size, parameters, strength, EXACT)
    return strength, best if parts else None


def _minimise(
    mean_loss: Callable[[], Float[Tensor, ""]],
    size: Callable[[], Float[Tensor, ""]],
    parameters: Sequence[Tensor],
    strength: float,
    until: tuple[float, float, int],
) -> None:
    gradient, change, most = until
    solver = torch.optim.LBFGS(
        list(parameters),
        max_iter=most,
        tolerance_grad=gradient,
        tolerance_change=change,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        solver.zero_grad()
        value = mean_loss() + 0.5 * strength * size()
        value.backward()
        return value

    solver.step(closure)
    solver.zero_grad()


@torch.no_grad()
def _write(into: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    for tensor, value in zip(into, values, strict=True):
        tensor.copy_(value)
