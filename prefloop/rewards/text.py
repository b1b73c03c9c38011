"""Rewards by rule: length, repetition, a pattern, phrases, an exact number, a JSON schema, executed code.

Each function here is a reward, `(completions, **columns) -> scores`, or makes one from its arguments. The columns are
those of the data beside the prompt; a row whose column is empty gets None: the reward does not apply to it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from prefloop.errors import InputError
from prefloop.rewards.checkers import FAMILIES, check_many, numbers_in
from prefloop.rewards.sandbox import Snippet, run_python

RuleReward = Callable[..., list[float | None]]


def words(completions: Sequence[str], **columns: Any) -> list[float | None]:
    """Length in words."""
    return [float(len(text.split())) for text in completions]


def characters(completions: Sequence[str], **columns: Any) -> list[float | None]:
    """Length in characters."""
    return [float(len(text)) for text in completions]


def length_between(at_least: int = 0, at_most: int = 200) -> RuleReward:
    """0 for a length in words within these bounds, else minus the share by which it misses the nearer one."""
    if not 0 <= at_least <= at_most or at_most == 0:
        raise InputError(f"length_between needs 0 <= at_least <= at_most, got {at_least} and {at_most}")

    def score(completions: Sequence[str], **columns: Any) -> list[float | None]:
        lengths = [len(text.split()) for text in completions]
        return [-max(0, n - at_most) / at_most - max(0, at_least - n) / max(1, at_least) for n in lengths]

    return score


def repetition(n: int = 3) -> RuleReward:
    """Share of a text's word n-grams that are repeats of an earlier one, 0..1; a text too short for one has 0."""

    def score(completions: Sequence[str], **columns: Any) -> list[float | None]:
        return [1.0 - distinct([text], n) for text in completions]

    return score


def distinct(texts: Sequence[str], n: int) -> float:
    """Distinct-n (Li et al. 2016): different word n-grams as a share of all, over all texts; 1 where there is none."""
    grams = [gram for text in texts for gram in ngrams(text.lower().split(), n)]
    return len(set(grams)) / len(grams) if grams else 1.0


def ngrams(tokens: Sequence[str], n: int) -> list[tuple[str, ...]]:
    """Every n tokens in a row."""
    return [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]


def pattern(pattern: str, *, whole: bool = False) -> RuleReward:
    """1 where the regular expression is found (or, with `whole`, matches the text from end to end), else 0."""
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise InputError(f"pattern {pattern!r} is no regular expression: {error}") from None
    find = compiled.fullmatch if whole else compiled.search
    return lambda completions, **columns: [float(find(text) is not None) for text in completions]


def phrases(phrases: Sequence[str]) -> RuleReward:
    """How often any of these phrases occurs, upper or lower case alike."""
    if not phrases:
        raise InputError("phrases needs at least one phrase")
    found = re.compile("|".join(rf"(?<!\w){re.escape(p)}(?!\w)" for p in sorted(phrases, key=len, reverse=True)), re.I)
    return lambda completions, **columns: [float(len(found.findall(text))) for text in completions]


def exact_number(column: str = "answer") -> RuleReward:
    """1 where the last number of the completion is the one in this column, else 0; None where the column is empty."""

    def score(completions: Sequence[str], **columns: Sequence[Any]) -> list[float | None]:
        return [
            None if want is None else float(numbers_in(text)[-1:] == [float(want)])
            for text, want in zip(completions, _column(columns, column), strict=True)
        ]

    return score


def json_schema(schema: dict[str, Any] | None = None, *, column: str | None = None) -> RuleReward:
    """1 where the completion is JSON that fits the schema, 0.5 where it is JSON, else 0 (needs the extra `checks`).

    The schema is given, or stands in a column of the data. A completion may have its JSON in one ``` fence.
    """
    if (schema is None) == (column is None):
        raise InputError("json_schema needs either a schema or the column that holds one")
    try:
        import jsonschema_rs
    except ImportError:
        raise InputError("json_schema needs a library: pip install 'prefloop[checks]'") from None
    validators: dict[str, Any] = {}

    def fits(value: Any, wanted: Any) -> bool:
        key = json.dumps(wanted, sort_keys=True)
        if key not in validators:
            validators[key] = jsonschema_rs.validator_for(wanted)
        return bool(validators[key].is_valid(value))

    def judged(text: str, wanted: Any) -> float:
        fenced = re.search(r"```(?:json)?\s*\n(.*?)```", text, re.S)
        try:
            value = json.loads(fenced[1] if fenced else text)
        except (ValueError, RecursionError):
            return 0.0
        return 1.0 if fits(value, json.loads(wanted) if isinstance(wanted, str) else wanted) else 0.5

    def score(completions: Sequence[str], **columns: Sequence[Any]) -> list[float | None]:
        schemas = [schema] * len(completions) if column is None else _column(columns, column)
        return [
            None if wanted is None else judged(text, wanted) for text, wanted in zip(completions, schemas, strict=True)
        ]

    return score


def code_cases(column: str = "cases") -> RuleReward:
    """Share of the cases, [[arguments], result], that the first Python function of the completion gets right, 0..1.

    The code stands in a ``` fence, or is the whole completion. It runs in the sandbox (`prefloop.rewards.sandbox`).
    """

    def score(completions: Sequence[str], **columns: Sequence[Any]) -> list[float | None]:
        cases = _column(columns, column)
        asked = [i for i, case in enumerate(cases) if case]
        snippets = [
            Snippet(_source(completions[i]), tuple(tuple(arguments) for arguments, _ in cases[i])) for i in asked
        ]
        result: list[float | None] = [None] * len(completions)
        for i, outcome in zip(asked, run_python(snippets), strict=True):
            got = outcome.results or ()
            right = [_same(mine, wanted) for mine, (_, wanted) in zip(got, cases[i], strict=False)]
            result[i] = sum(right) / len(cases[i])
        return result

    return score


def task(completions: Sequence[str], **columns: Sequence[Any]) -> list[float | None]:
    """The task world's own checker, 0..1, by the columns `family` and `spec` of its prompts."""
    families, specs = _column(columns, "family"), _column(columns, "spec")
    asked = [i for i, family in enumerate(families) if family in FAMILIES and specs[i] is not None]
    checks = check_many([(families[i], "", completions[i], specs[i]) for i in asked])
    result: list[float | None] = [None] * len(completions)
    for i, check in zip(asked, checks, strict=True):
        result[i] = check.score
    return result


def _source(text: str) -> str:
    fenced = re.search(r"```(?:python|py)?[ \t]*\n(.*?)```", text, re.S)
    return fenced[1] if fenced else text


def _same(mine: object, wanted: object) -> bool:
    return isinstance(mine, bool) == isinstance(wanted, bool) and mine == wanted


def _column(columns: Mapping[str, Sequence[Any]], name: str) -> Sequence[Any]:
    if name not in columns:
        raise InputError(f"this reward reads the column {name!r}; the data have {', '.join(sorted(columns)) or 'none'}")
    return columns[name]
