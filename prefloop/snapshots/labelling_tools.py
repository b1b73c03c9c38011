"""Exports of Argilla and Label Studio: one record with the answers of several people, as one row per answer.

    Label Studio   {"data": {...}, "annotations": [{"completed_by", "result": [...], "lead_time", "created_at"}]}
                   (its JSON export; JSON-MIN has lost who answered)
    Argilla        {"fields": {...}, "responses": {question: [{"value", "user_id", "status"}]}}, or the older
                   `responses` [{"values": {question: {"value"}}, "user_id", "status"}]

Both let everybody name their own columns. Here a prompt is called prompt, instruction, question, input or context; two
completions have one name that ends in 1 and 2, or a and b (`answer1`, `answer2`; `response-a`, `response-b`), or are
left and right; one completion is called completion, response, answer, output or text. What cannot be told apart by that
is rejected with the names that the record has; nothing is guessed.

`ground_truth` annotations, drafts and discarded records are rejected as "skipped"; records that nobody answered are
rejected as "no answer".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from prefloop.snapshots.rows import Reject

Row = dict[str, Any]
PROMPTS = ("prompt", "instruction", "question", "input", "context", "messages")
COMPLETIONS = ("completion", "response", "answer", "output", "text")
SIDES = (("1", "2"), ("a", "b"), ("left", "right"))
FIRST = ("a", "1", "left", "first")
SECOND = ("b", "2", "right", "second")
TIES = ("tie", "equal", "same", "both", "draw")
LABEL_STUDIO, ARGILLA = "Label Studio", "Argilla"


def tool_of(row: Any) -> str | None:
    """Which tool wrote this record, or None when neither did."""
    if not isinstance(row, Mapping):
        return None
    if isinstance(row.get("data"), Mapping) and isinstance(row.get("annotations"), list):
        return LABEL_STUDIO
    if isinstance(row.get("fields"), Mapping) and isinstance(row.get("responses"), list | Mapping):
        return ARGILLA
    return None


def unfold(row: Mapping[str, Any], kind: str) -> Iterator[Row | Reject]:
    """The answers in one record as rows for `answer_rows.parse_answer`, or why there is none; at least one of them."""
    tool = tool_of(row)
    texts = {str(k): v for k, v in (row["data"] if tool == LABEL_STUDIO else row["fields"]).items()}
    prompt = next((texts[name] for name in _named(texts, PROMPTS)), None)
    if prompt is None:
        yield Reject("missing column", f"no field is called {', '.join(PROMPTS)}; there is: {', '.join(texts)}")
        return
    extra = {"tool": tool, "record": str(row.get("id", ""))} | _metadata(row)
    if kind == "prompts":
        yield {"prompt": prompt} | extra
        return
    given = list(_label_studio(row) if tool == LABEL_STUDIO else _argilla(row))
    if not given:
        yield Reject("no answer", f"nobody has answered this record of {tool}")
    for one in given:
        if isinstance(one, Reject):
            yield one
            continue
        who, said = one
        parsed = READERS[kind](texts, said)
        yield parsed if isinstance(parsed, Reject) else {"prompt": prompt} | parsed | extra | who


Said = list[tuple[str, str, Any]]
"""What one person said: (name of the question, its type, value)."""


def _label_studio(row: Mapping[str, Any]) -> Iterator[tuple[Row, Said] | Reject]:
    for one in row["annotations"]:
        if not isinstance(one, Mapping) or not isinstance(one.get("result"), list):
            yield Reject("malformed", "an annotation must be an object with a result")
            continue
        if one.get("was_cancelled") or one.get("ground_truth"):
            yield Reject("skipped", "skipped by its annotator, or the project's own ground truth")
            continue
        by = one.get("completed_by")
        if isinstance(by, Mapping):
            by = by.get("id", by.get("email"))
        said: Said = []
        for part in one["result"]:
            value = part.get("value") if isinstance(part, Mapping) else None
            if isinstance(value, Mapping):
                said.append((str(part.get("from_name")), str(part.get("type")), _plain(value)))
        yield _who(by, one.get("created_at"), one.get("lead_time")), said


def _plain(value: Mapping[str, Any]) -> Any:
    """The value of one of Label Studio's controls: its only key names the control's type."""
    for name in ("selected", "rating", "choices", "text", "ranker", "number"):
        if name in value:
            return value[name]
    return None


def _argilla(row: Mapping[str, Any]) -> Iterator[tuple[Row, Said] | Reject]:
    people: dict[str, tuple[Any, Said]] = {}
    responses = row["responses"]
    if isinstance(responses, Mapping):
        given = [(name, one) for name, several in responses.items() for one in _objects(several)]
    else:
        given = [
            (name, {**one, "value": value.get("value") if isinstance(value, Mapping) else value})
            for one in _objects(responses)
            for name, value in (one.get("values") or {}).items()
        ]
    for name, one in given:
        if one.get("status", "submitted") != "submitted":
            yield Reject("skipped", f"a response whose status is {one.get('status')}")
            continue
        people.setdefault(str(one.get("user_id")), (one.get("inserted_at"), []))[1].append(
            (str(name), "", one.get("value"))
        )
    for user, (at, said) in people.items():
        yield _who(None if user == "None" else user, at, None), said


def _objects(several: Any) -> list[Mapping[str, Any]]:
    return [one for one in several if isinstance(one, Mapping)] if isinstance(several, list) else []


def _who(by: Any, at: Any, seconds: Any) -> Row:
    known = {"annotator": None if by is None else str(by), "at": at, "seconds": seconds}
    return {name: value for name, value in known.items() if value is not None}


def _metadata(row: Mapping[str, Any]) -> Row:
    found = row.get("metadata") or row.get("meta")
    return {"metadata": dict(found)} if isinstance(found, Mapping) and found else {}


def _comparison(texts: Row, said: Said) -> Row | Reject:
    sides = _two(texts)
    if isinstance(sides, Reject):
        return sides
    for _, kind, value in said:
        ranks = _ranks(value, sides)
        if ranks is not None:
            first, second = ranks
            return _chosen(texts, sides, "a" if first < second else "b" if second < first else "tie")
        word = _word(value[0] if kind == "choices" and isinstance(value, list) and len(value) == 1 else value)
        choice = _side(word, sides)
        if choice is not None:
            return _chosen(texts, sides, choice)
    return Reject("malformed", f"no answer says which of {sides[0]} and {sides[1]} is better: {_shown(said)}")


def _chosen(texts: Row, sides: tuple[str, str], choice: str) -> Row:
    first, second = (texts[name] for name in sides)
    if choice == "b":
        return {"chosen": second, "rejected": first}
    return {"chosen": first, "rejected": second} | ({"label": 0.5} if choice == "tie" else {})


def _side(word: str | None, sides: tuple[str, str]) -> str | None:
    if word is None:
        return None
    if word in (_word(sides[0]), *FIRST):
        return "a"
    if word in (_word(sides[1]), *SECOND):
        return "b"
    return "tie" if word in TIES else None


def _ranks(value: Any, sides: Sequence[str]) -> list[float] | None:
    """The rank of each of these fields, when `value` is an answer to one of Argilla's ranking questions."""
    if not isinstance(value, list) or not all(isinstance(one, Mapping) and "rank" in one for one in value):
        return None
    by_name = {_word(one.get("value")): one["rank"] for one in value}
    ranks = [by_name.get(_word(name)) for name in sides]
    return ranks if all(isinstance(rank, int) for rank in ranks) else None  # type: ignore[return-value]


def _ranking(texts: Row, said: Said) -> Row | Reject:
    for _, _, value in said:
        if isinstance(value, Mapping):  # Label Studio: {bucket: [ids, best first]}, over data.items
            order = next((ids for ids in value.values() if isinstance(ids, list)), [])
            items = next(
                (v for v in texts.values() if isinstance(v, list) and all(isinstance(i, Mapping) for i in v)), []
            )
            bodies = {str(item.get("id")): item.get("body") or item.get("title") for item in items}
            if order and all(str(one) in bodies for one in order):
                return {"completions": [bodies[str(one)] for one in order]}
        if isinstance(value, list) and value and all(isinstance(one, Mapping) and "rank" in one for one in value):
            fields = {_word(name): name for name in texts}
            named = [fields.get(_word(one.get("value"))) for one in value]
            if None not in named:
                return {
                    "completions": [texts[str(name)] for name in named],
                    "ranks": [one["rank"] for one in value],
                }
    return Reject("malformed", f"no answer ranks the record's texts: {_shown(said)}")


def _rating(texts: Row, said: Said) -> Row | Reject:
    scores = {name: value for name, _, value in said if isinstance(value, int) and not isinstance(value, bool)}
    return _about(texts, {"scores": scores}) if scores else Reject("malformed", f"no answer is a score: {_shown(said)}")


def _approval(texts: Row, said: Said) -> Row | Reject:
    words = {"yes": True, "good": True, "accept": True, "approve": True, "true": True}
    words |= {"no": False, "bad": False, "reject": False, "disapprove": False, "false": False}
    for _, _, value in said:
        word = _word(value[0] if isinstance(value, list) and len(value) == 1 else value)
        if word in words:
            return _about(texts, {"label": words[word]})
    return Reject("malformed", f"no answer says yes or no: {_shown(said)}")


def _demonstration(texts: Row, said: Said) -> Row | Reject:
    text = _text(said)
    return {"completion": text} if text else Reject("malformed", f"no answer is a text: {_shown(said)}")


def _edit(texts: Row, said: Said) -> Row | Reject:
    text = _text(said)
    return _about(texts, {"edited": text}) if text else Reject("malformed", f"no answer is a text: {_shown(said)}")


def _flags(texts: Row, said: Said) -> Row | Reject:
    for _, kind, value in said:
        if isinstance(value, list) and all(isinstance(one, str) for one in value) and kind != "textarea":
            return _about(texts, {"flags": value})
    return Reject("malformed", f"no answer is a list of labels: {_shown(said)}")


def _about(texts: Row, said: Row) -> Row | Reject:
    name = next(_named(texts, COMPLETIONS), None)
    if name is None:
        return Reject("missing column", f"no field is called {', '.join(COMPLETIONS)}; there is: {', '.join(texts)}")
    return {"completion": texts[name]} | said


def _text(said: Said) -> str | None:
    for _, kind, value in said:
        if kind == "textarea" and isinstance(value, list) and value and all(isinstance(one, str) for one in value):
            return "\n".join(value)
        if isinstance(value, str) and value.strip():
            return value
    return None


def _two(texts: Row) -> tuple[str, str] | Reject:
    """The names of the two completions."""
    names = {_word(name): name for name, value in texts.items() if isinstance(value, str | list)}
    found = set()
    for word, name in names.items():
        for first, second in SIDES:
            other = None if word is None or not word.endswith(first) else names.get(word[: -len(first)] + second)
            if other is not None:
                found.add((name, other))
    if len(found) != 1:
        return Reject(
            "missing column", f"two fields must be called like answer1 and answer2; there is: {', '.join(texts)}"
        )
    return found.pop()


def _named(texts: Row, wanted: Sequence[str]) -> Iterator[str]:
    for name in wanted:
        yield from (own for own in texts if _word(own) == name)


def _word(value: Any) -> str | None:
    """A name without what people write differently: `Response-1`, `response_1` and `response 1` are one."""
    return re.sub(r"[\s_-]+", "", str(value)).lower() if isinstance(value, str | int) else None


def _shown(said: Said) -> str:
    return ", ".join(f"{name}={value!r:.40}" for name, _, value in said[:4]) or "there is none"


READERS = {
    "comparisons": _comparison,
    "rankings": _ranking,
    "ratings": _rating,
    "approvals": _approval,
    "edits": _edit,
    "flags": _flags,
    "demonstrations": _demonstration,
}
