"""What an answer may say, per kind of question, and what text a database can keep.

The value of an answer refers to the candidates as they were shown: "a" is the first one on the annotator's screen.
`canonical` turns it to the stored order.

    comparison     {"choice": "a" | "b" | "tie" | "both_bad" | "unsure", "strength": 1..3}    (strength may be left out)
    ranking        {"order": [["c1"], ["c2", "c3"]]}      best first; candidates in one list are tied
    rating         {"scores": {"helpful": 4}}             1..5 per criterion
    approval       {"approved": true}
    edit           {"text": "...", "spans": [{"start": 0, "end": 4, ...}]}                    (either, or both)
    flags          {"flags": ["hallucination"]}           an empty list says that nothing is wrong
    demonstration  {"text": "..."}
    any kind       {"skip": "reason"}

Every value may carry a "note", free text about the answer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeGuard, TypeVar

from prefloop.errors import InputError
from prefloop.records import QUESTION_KINDS

T = TypeVar("T")

CHOICES = ("a", "b", "tie", "both_bad", "unsure")
MAX_DEPTH = 32
"""Of nested lists and mappings; more is an attack or an accident."""
MAX_INTEGER = 2**63 - 1

CANDIDATES: dict[str, tuple[int, int]] = {
    "comparison": (2, 2),
    "ranking": (2, 26),
    "rating": (1, 1),
    "approval": (1, 1),
    "edit": (1, 2),
    "flags": (1, 1),
    "demonstration": (0, 0),
}
"""How few and how many candidates a question of each kind has."""


def check_storable(value: Any, what: str) -> None:
    """Raise InputError unless every database keeps `value` as it is: text, numbers, booleans, None, lists, mappings.

    Refused are NUL characters (PostgreSQL), lone surrogates (no UTF-8), NaN and infinity (no JSON), integers beyond
    63 bits, and nesting deeper than MAX_DEPTH. `what` names the place in the message.
    """
    stack: list[tuple[Any, str, int]] = [(value, what, 0)]
    while stack:
        item, place, depth = stack.pop()
        if isinstance(item, str):
            _check_text(item, place)
        elif isinstance(item, bool) or item is None:
            continue
        elif isinstance(item, int):
            if not -MAX_INTEGER <= item <= MAX_INTEGER:
                raise InputError(f"{place}: a whole number must fit into 63 bits")
        elif isinstance(item, float):
            if not math.isfinite(item):
                raise InputError(f"{place}: a number must be finite, got {item}")
        elif depth >= MAX_DEPTH:
            raise InputError(f"{what}: nested deeper than {MAX_DEPTH} levels")
        elif isinstance(item, Mapping):
            for key, inner in item.items():
                if not isinstance(key, str):
                    raise InputError(f"{place}: a key must be text, got {key!r:.60}")
                _check_text(key, place)
                stack.append((inner, f"{place}.{key:.40}", depth + 1))
        elif isinstance(item, (list, tuple)):
            stack.extend((inner, f"{place}[{index}]", depth + 1) for index, inner in enumerate(item))
        else:
            raise InputError(f"{place}: {type(item).__name__} cannot be stored; text, numbers, lists and mappings can")


def _check_text(text: str, place: str) -> None:
    if "\x00" in text:
        raise InputError(f"{place}: the text holds a NUL character, which no database keeps; remove it")
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InputError(
                f"{place}: the text holds a lone surrogate (U+{ord(text[error.start]):04X} at character "
                f"{error.start}), which is no valid Unicode; decode the source again or remove it"
            ) from None


def check_kind(kind: Any, place: str = "kind") -> None:
    """Raise InputError unless `kind` is one of the seven kinds of question."""
    if kind not in QUESTION_KINDS:
        raise InputError(f"{place} must be one of {', '.join(QUESTION_KINDS)}, got {kind!r:.60}")


def check_candidate_count(kind: str, n: int, place: str) -> None:
    """Raise InputError unless a question of this kind can have `n` candidates."""
    low, high = CANDIDATES[kind]
    if not low <= n <= high:
        wanted = str(low) if low == high else f"{low} to {high}"
        raise InputError(f"{place}: a {kind} has {wanted} candidate(s), got {n}")


def is_skip(value: Mapping[str, Any]) -> bool:
    """Whether an answer says nothing about the question but why it was passed over."""
    return "skip" in value


def validate_value(kind: str, value: Any, candidate_ids: Sequence[str]) -> None:
    """Raise InputError, with what would be right, unless `value` answers a question of this kind.

    `candidate_ids`: the question's candidates, in any order (only rankings name them).
    """
    check_kind(kind)
    if not isinstance(value, Mapping):
        raise InputError(f"the value of an answer must be an object such as {EXAMPLES[kind]}, got {value!r:.80}")
    check_storable(value, "value")
    note = value.get("note", "")
    if not isinstance(note, str):
        raise InputError(f"note must be text, got {note!r:.60}")
    if is_skip(value):
        _check_keys(value, ("skip",), '{"skip": "reason"}')
        if not isinstance(value["skip"], str) or not value["skip"].strip():
            raise InputError(f"skip must give a reason in words, got {value['skip']!r:.60}")
        return
    _check_keys(value, KEYS[kind], EXAMPLES[kind])
    RULES[kind](value, candidate_ids)


def canonical(kind: str, value: Mapping[str, Any], presented: Sequence[str], stored: Sequence[str]) -> dict[str, Any]:
    """`value` with its choice in the stored order, "a" being `stored[0]`; everything else is as said.

    `presented` and `stored`: the candidate ids as shown and as kept.
    """
    result = dict(value)
    if kind == "comparison" and result.get("choice") in ("a", "b"):
        chosen = presented["ab".index(result["choice"])]
        result["choice"] = "ab"[list(stored).index(chosen)]
    return result


def in_chunks(items: Sequence[T], size: int = 500) -> Iterator[Sequence[T]]:
    """`items` in pieces that fit into one SQL `IN (...)`."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _check_keys(value: Mapping[str, Any], allowed: tuple[str, ...], example: str) -> None:
    unknown = sorted(set(value) - set(allowed) - {"note"})
    if unknown:
        raise InputError(f"an answer of this kind looks like {example}; it has no {', '.join(map(repr, unknown))}")


def _comparison(value: Mapping[str, Any], candidate_ids: Sequence[str]) -> None:
    choice, strength = value.get("choice"), value.get("strength")
    if choice not in CHOICES:
        raise InputError(f"choice must be one of {', '.join(CHOICES)}, got {choice!r:.60}")
    if "strength" in value and (not _is_whole(strength) or not 1 <= strength <= 3):
        raise InputError(f"strength must be 1 (slightly), 2 or 3 (much better), got {strength!r:.60}")


def _ranking(value: Mapping[str, Any], candidate_ids: Sequence[str]) -> None:
    order = value.get("order")
    if not isinstance(order, list) or not all(
        isinstance(group, list) and group and all(isinstance(one, str) for one in group) for group in order
    ):
        raise InputError(f"order must be a list of non-empty lists of candidate ids, best first, got {order!r:.80}")
    named = [one for group in order for one in group]
    if sorted(named) != sorted(candidate_ids):
        raise InputError(
            f"order must name each of {', '.join(candidate_ids)} exactly once, got {', '.join(named) or 'none'}"
        )


def _rating(value: Mapping[str, Any], candidate_ids: Sequence[str]) -> None:
    scores = value.get("scores")
    if not isinstance(scores, Mapping) or not scores:
        raise InputError(f'scores must be an object such as {{"helpful": 4}}, got {scores!r:.80}')
    for criterion, score in scores.items():
        if not criterion.strip() or len(criterion) > 64:
            raise InputError(f"a criterion needs a name of 1 to 64 characters, got {criterion!r:.80}")
        if not _is_whole(score) or not 1 <= score <= 5:
            raise InputError(f"the score of {criterion} must be a whole number from 1 to 5, got {score!r:.60}")


def _approval(value: Mapping[str, Any], candidate_ids: Sequence[str]) -> None:
    if not isinstance(value.get("approved"), bool):
        raise InputError(f"approved must be true or false, got {value.get('approved')!r:.60}")


def _edit(value: Mapping[str, Any], candidate_ids: Sequence[str]) -> None:
    if "text" not in value and "spans" not in value:
        raise InputError("an edit needs the new text, spans, or both; got neither")
    if "text" in value:
        _demonstration(value, candidate_ids)
    spans = value.get("spans", [])
    if not isinstance(spans, list):
        raise InputError(f"spans must be a list, got {spans!r:.60}")
    for index, span in enumerate(spans):
        start, end = (span.get("start"), span.get("end")) if isinstance(span, Mapping) else (None, None)
        if not _is_whole(start) or not _is_whole(end) or not 0 <= start <= end:
            raise InputError(
                f'spans[{index}] must be like {{"start": 0, "end": 4}} with 0 <= start <= end, got {span!r:.60}'
            )


def _flags(value: Mapping[str, Any], candidate_ids: Sequence[str]) -> None:
    flags = value.get("flags")
    if not isinstance(flags, list) or not all(isinstance(one, str) and one.strip() for one in flags):
        raise InputError(f'flags must be a list of names such as ["hallucination"], got {flags!r:.80}')
    if len(set(flags)) != len(flags):
        raise InputError(f"flags must name each finding once, got {', '.join(flags):.80}")


def _demonstration(value: Mapping[str, Any], candidate_ids: Sequence[str]) -> None:
    text = value.get("text")
    if not isinstance(text, str) or not text.strip():
        raise InputError(f"text must hold what was written, got {text!r:.60}")


def _is_whole(number: Any) -> TypeGuard[int]:
    return isinstance(number, int) and not isinstance(number, bool)


RULES: dict[str, Callable[[Mapping[str, Any], Sequence[str]], None]] = {
    "comparison": _comparison,
    "ranking": _ranking,
    "rating": _rating,
    "approval": _approval,
    "edit": _edit,
    "flags": _flags,
    "demonstration": _demonstration,
}
KEYS: dict[str, tuple[str, ...]] = {
    "comparison": ("choice", "strength"),
    "ranking": ("order",),
    "rating": ("scores",),
    "approval": ("approved",),
    "edit": ("text", "spans"),
    "flags": ("flags",),
    "demonstration": ("text",),
}
EXAMPLES: dict[str, str] = {
    "comparison": '{"choice": "a", "strength": 2}',
    "ranking": '{"order": [["c1"], ["c2", "c3"]]}',
    "rating": '{"scores": {"helpful": 4}}',
    "approval": '{"approved": true}',
    "edit": '{"text": "..."}',
    "flags": '{"flags": ["hallucination"]}',
    "demonstration": '{"text": "..."}',
}


def check_word(word: str, what: str) -> None:
    """Raises InputError for anything but a word of 1 to 64 characters that every database keeps."""
    if not isinstance(word, str) or not 1 <= len(word.strip()) <= 64 or len(word) > 64:
        raise InputError(f"{what} must be a word of 1 to 64 characters, got {word!r:.80}")
    check_storable(word, what)
