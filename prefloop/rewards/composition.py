"""A reward made of parts: weighted sums, products, thresholds, gates, and constraints with a price that is learned.

A reward is any function `(prompts, completions, **columns) -> scores`, TRL's signature
(https://huggingface.co/docs/trl/rewards): it is called by keyword, columns are lists as long as the completions, and
None says that it does not apply to a row. Every part is logged under its name.
"""

from __future__ import annotations

import importlib
import inspect
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat

from prefloop.errors import InputError, RunError
from prefloop.records import Message, prompt_id
from prefloop.rewards.ensemble import Combine, Ensemble
from prefloop.rewards.lagrange import next_price, penalised
from prefloop.settings import build

Reward = Callable[..., Sequence[float | None]]
"""Scores of completions, given their prompts (lists of messages) and whatever columns the data have."""
Together = Callable[[list[str]], Reward]
"""Loads several reward models that are adapters of one base."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One part of a reward, as YAML writes it. It has one source: learned, function, sum or product."""

    learned: str | list[str] | None = None
    """A reward model: an artifact's name or hash, or a directory; several are an ensemble."""
    members: Combine = "mean"
    """What an ensemble says: the mean of its members, the worst, or the mean less `penalty` times their variance."""
    penalty: NonNegativeFloat = 0.5
    """Used with `members: penalised`; 0.5 suits best-of-n, 0.1 PPO (Coste et al. 2023)."""
    criterion: str | None = None
    """Which score of a reward model with `criteria` counts, such as harmless; without it the score itself."""
    trunk: Literal["own", "shared"] = "own"
    """shared: the models are adapters (`lora`) of one base, loaded once; with the run's `trunk: shared`, the policy."""
    function: str | Callable[..., Any] | None = None
    """`module:function`, called as TRL calls it; the module is looked for beside the run file too. In Python also a
    function itself."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """Given to `function` once, by keyword; it then returns the reward (it makes one)."""
    messages: bool = False
    """Hand a function of your own prompts and completions as lists of messages, as TRL does for chats."""
    sum: dict[str, Any] | None = None
    """Parts that are added up, each with its weight."""
    product: dict[str, Any] | None = None
    """Parts that are multiplied."""
    weight: float = 1.0
    """What the part counts in the sum that it stands in."""
    threshold: float | None = None
    """The score becomes 1 where it is at least so much, and 0 where it is less."""
    clip: Annotated[list[float], Field(min_length=2, max_length=2)] | None = None
    """The score is kept between these two numbers."""
    at_least: float | None = None
    """A gate: a completion that scores less gets `otherwise`, whatever the other parts say."""
    otherwise: float = -1.0
    """What the whole reward is where a gate is closed."""
    limit: float | None = None
    """A constraint: the part is a cost, whose mean may not exceed this; a multiplier prices it and is learned."""
    multiplier: PositiveFloat = 1.0
    """The price at the start; used with limit."""
    multiplier_lr: NonNegativeFloat = 0.05
    """How fast the price follows the violation; used with limit."""


@dataclass(frozen=True)
class Scored:
    """Scores, and what each part said before it was weighted (NaN where it does not apply)."""

    total: list[float]
    parts: dict[str, list[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Named:
    """A part that has been put together."""

    name: str
    part: Part
    score: Callable[..., Scored]
    models: Sequence[Reward] = ()


class Composition:
    """A reward made of named parts. It is called like any reward; `score` also tells what the parts said."""

    def __init__(self, parts: Sequence[_Named], columns: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        self.parts = list(parts)
        self.columns = columns or {}
        self.models = [m for p in parts for m in p.models]
        """The reward models among the parts."""
        self.multipliers = {p.name: p.part.multiplier for p in parts if p.part.limit is not None}

    def __call__(
        self, prompts: Sequence[Sequence[Message]], completions: Sequence[str], **columns: Sequence[Any]
    ) -> list[float]:
        return self.score(prompts, completions, **columns).total

    def score(
        self, prompts: Sequence[Sequence[Message]], completions: Sequence[str], **columns: Sequence[Any]
    ) -> Scored:
        """Weighted sum, less what the constraints cost (Safe RLHF: (r - sum l c) / (1 + sum l)), then the gates."""
        columns = {**self._columns_of(prompts), **columns}
        found = {p.name: p.score(prompts, completions, **columns) for p in self.parts}
        shaped = {p.name: [_shaped(p.part, value) for value in found[p.name].total] for p in self.parts}
        earning = [p for p in self.parts if p.part.limit is None]
        total = []
        for row in range(len(completions)):
            values = [(p.part.weight, shaped[p.name][row]) for p in earning]
            said = [weight * value for weight, value in values if not math.isnan(value)]
            if not said:
                raise RunError(f"no part of the reward applies to the completion {completions[row][:60]!r}")
            costs = {name: shaped[name][row] for name in self.multipliers}
            reward = penalised(sum(said), costs, self.multipliers)
            closed = [p.part.otherwise for p in self.parts if _closed(p.part, found[p.name].total[row])]
            total.append(min(closed, default=reward))
        parts: dict[str, list[float]] = {}
        for name, scored in found.items():
            parts[name] = scored.total
            parts |= {f"{name}.{inner}": values for inner, values in scored.parts.items()}
        return Scored(total, parts)

    def _columns_of(self, prompts: Sequence[Sequence[Message]]) -> dict[str, list[Any]]:
        if not self.columns:
            return {}
        rows = [self.columns.get(prompt_id(prompt), {}) for prompt in prompts]
        return {name: [row.get(name) for row in rows] for name in sorted({name for row in rows for name in row})}

    def adapt(self, parts: Mapping[str, Sequence[float]]) -> None:
        """Once per rollout: each constraint's price follows the mean of its cost (Safe RLHF)."""
        for p in self.parts:
            if p.part.limit is not None:
                costs = [value for value in (_shaped(p.part, v) for v in parts[p.name]) if not math.isnan(value)]
                if costs:
                    violation = sum(costs) / len(costs) - p.part.limit
                    self.multipliers[p.name] = next_price(self.multipliers[p.name], violation, p.part.multiplier_lr)

    def state(self) -> dict[str, float]:
        """The prices, each as `rewards/<name>/multiplier`."""
        return {f"rewards/{name}/multiplier": price for name, price in self.multipliers.items()}

    def load_state(self, state: Mapping[str, float]) -> None:
        """Take up what `state()` gave."""
        self.multipliers = {name: state[f"rewards/{name}/multiplier"] for name in self.multipliers}


class Function:
    """Anybody's reward function, called by keyword with the columns that it names; its answer is checked."""

    def __init__(self, name: str, function: Reward, *, messages: bool = False) -> None:
        self.name, self.function, self.messages = name, function, messages
        parameters = list(inspect.signature(function).parameters.values())
        keywords = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters) or not keywords
        self.takes = None if takes_all else set(keywords)
        self.needs = {p.name for p in parameters if p.name in keywords and p.default is p.empty}
        # A function of two things that knows neither of TRL's names for them: (prompts, completions) by position.
        self.by_position = self.takes is not None and "completions" not in self.takes and len(self.needs) == 2

    def score(
        self, prompts: Sequence[Sequence[Message]], completions: Sequence[str], **columns: Sequence[Any]
    ) -> Scored:
        texts = [[{"role": "assistant", "content": text}] for text in completions] if self.messages else completions
        given: dict[str, Any] = {**columns, "prompts": prompts, "completions": texts}
        if self.by_position:
            said = list(self.function(prompts, texts))
        else:
            known = {k: v for k, v in given.items() if self.takes is None or k in self.takes}
            if missing := self.needs - {*known}:
                raise InputError(
                    f"the reward {self.name!r} reads {sorted(missing)[0]!r}, which is no column of the data; "
                    f"there are: {', '.join(sorted(given))}"
                )
            said = list(self.function(**known))
        if len(said) != len(completions):
            raise RunError(f"the reward {self.name!r} gave {len(said)} scores for {len(completions)} completions")
        return Scored([math.nan if value is None else float(value) for value in said])


def scored(
    reward: Reward, prompts: Sequence[Sequence[Message]], completions: Sequence[str], **columns: Sequence[Any]
) -> Scored:
    """What `reward` says, with its parts where it is made of parts. Raises RunError for too few or too many scores."""
    if isinstance(reward, Composition):
        return reward.score(prompts, completions, **columns)
    return Function("reward", reward).score(prompts, completions, **columns)


def compose(
    spec: Mapping[str, Any],
    learned: Callable[[str], Reward],
    *,
    base: Path | None = None,
    columns: Mapping[str, Mapping[str, Any]] | None = None,
    where: str = "reward",
    together: Together | None = None,
) -> Composition:
    """The reward that a mapping {name: part} describes (see `Part`).

    `learned(ref)` loads a reward model, `together(refs)` several adapters of one base; `base` is the folder in
    which modules are looked for first; `columns` are what the data say beside each prompt, by its id
    (`prompt_columns`). A part may also be a callable.
    Raises InputError for a part with no source or with two, an unknown key, or a function that is not there.
    """
    if not isinstance(spec, Mapping) or not spec:
        raise InputError(f"{where} must name its parts, such as {{length: {{function: 'module:name'}}}}; got {spec!r}")
    parts = []
    for name, given in spec.items():
        here = f"{where}: {name}"
        if callable(given):
            parts.append(_Named(str(name), Part(), Function(str(name), given).score))
            continue
        if not isinstance(given, Mapping):
            raise InputError(f"{here} must be a mapping such as {{learned: my-reward-model, weight: 1}}; got {given!r}")
        part = build(Part, given, here)
        sources = [s for s in ("learned", "function", "sum", "product") if getattr(part, s) is not None]
        if len(sources) != 1:
            said = " and ".join(sources) or "none"
            raise InputError(f"{here} needs one of learned, function, sum and product; it has {said}")
        if part.criterion is not None and part.learned is None:
            raise InputError(f"{where}: {name} has the criterion {part.criterion!r}; only a reward model has criteria")
        if part.clip is not None and part.clip[0] >= part.clip[1]:
            raise InputError(f"{here}: clip must be [low, high] with low < high, got {part.clip}")
        parts.append(_named(str(name), part, learned, base, here, together))
    if all(p.part.limit is not None for p in parts):
        raise InputError(f"{where} has constraints only; at least one part must earn something")
    return Composition(parts, columns)


def _named(
    name: str, part: Part, learned: Callable[[str], Reward], base: Path | None, where: str, together: Together | None
) -> _Named:
    if part.learned is not None:
        refs = [part.learned] if isinstance(part.learned, str) else part.learned
        if part.trunk == "own":
            models: list[Any] = [learned(ref) for ref in refs]
            if part.criterion is not None:
                models = [model.about(part.criterion) for model in models]
        elif part.criterion is not None:
            raise InputError(f"{where}: adapters that share a trunk have one score each; leave `criterion` out")
        elif together is not None:
            models = [together(refs)]
        else:
            raise InputError(f"{where}: a shared trunk cannot be loaded here; leave `trunk` out")
        for untaught in (getattr(model, "untaught", "") for model in models):
            if untaught:
                raise InputError(f"{where}: {untaught}")
        alone = len(models) == 1 and part.members == "mean"
        if part.limit is None and part.weight >= 0 and any(getattr(model, "cost", False) for model in models):
            raise InputError(f"{where} is a cost model, higher for what is worse: give it a limit, or a weight below 0")
        model = models[0] if alone else Ensemble(models, part.members, part.penalty)
        return _Named(name, part, Function(name, model).score, models)
    if part.function is not None:
        made: Any = imported(part.function, base) if isinstance(part.function, str) else part.function
        if part.arguments:
            made = made(**part.arguments)
        return _Named(name, part, Function(name, made, messages=part.messages).score)
    inner = _inner(part.sum or part.product or {}, learned, base, where, together)
    return _Named(name, part, _Product(inner).score if part.sum is None else inner.score, inner.models)


def _inner(
    spec: Mapping[str, Any], learned: Callable[[str], Reward], base: Path | None, where: str, together: Together | None
) -> Composition:
    made = compose(spec, learned, base=base, where=where, together=together)
    if made.multipliers:
        raise InputError(
            f"{where}: {next(iter(made.multipliers))} has a limit; constraints stand at the top level only"
        )
    return made


@dataclass(frozen=True)
class _Product:
    """The parts of a composition, multiplied."""

    inner: Composition

    def score(
        self, prompts: Sequence[Sequence[Message]], completions: Sequence[str], **columns: Sequence[Any]
    ) -> Scored:
        found = self.inner.score(prompts, completions, **columns)
        factors = [[_shaped(p.part, value) for value in found.parts[p.name]] for p in self.inner.parts]
        return Scored([math.prod(row) for row in zip(*factors, strict=True)], found.parts)


def imported(address: str, base: Path | None = None) -> Reward:
    """The function at `module:name`. Raises InputError when there is none."""
    module, colon, name = address.partition(":")
    if not colon or not module or not name:
        raise InputError(f"a function is given as module:name, got {address!r}")
    added = str(base) if base is not None else ""
    if added:
        sys.path.insert(0, added)
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise InputError(f"no function at {address!r}: {error}") from None
    finally:
        if added:
            sys.path.remove(added)
    if not callable(found):
        raise InputError(f"{address!r} is a {type(found).__name__}, not a function")
    return found  # type: ignore[no-any-return]


def _shaped(part: Part, value: float) -> float:
    if part.threshold is not None and not math.isnan(value):
        value = float(value >= part.threshold)
    return value if part.clip is None else min(max(value, part.clip[0]), part.clip[1])


def _closed(part: Part, value: float) -> bool:
    return part.at_least is not None and value < part.at_least
