"""Columns in, nouns out: every layout that preference data comes in, as comparisons, demonstrations and prompts.

Layouts are TRL's (https://huggingface.co/docs/trl/dataset_formats): `prompt`, `chosen`, `rejected`, `completion`,
`messages`, `label`, `margin`, with text or lists of `{role, content}` as values; and Anthropic's raw transcripts,
`"\\n\\nHuman: ...\\n\\nAssistant: ..."` (https://github.com/anthropics/hh-rlhf).

Unlike TRL's trainers, which drop identical, empty and truncated rows without a word, every row is in the ledger.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

from prefloop.artifacts.folder import MANIFEST, read_artifact
from prefloop.errors import InputError
from prefloop.records import (
    QUESTION_KINDS,
    Comparison,
    Demonstration,
    Ledger,
    Messages,
    Rewarded,
    canonical_json,
    split_of,
)
from prefloop.snapshots.rows import PACKINGS, SUFFIXES, Progress, Reject, defect, read_rows, shown

__all__ = [
    "DIVERGES",
    "Progress",
    "Reject",
    "Repeats",
    "Split",
    "conversation",
    "load_comparisons",
    "load_demonstrations",
    "load_prompts",
    "load_rewarded",
    "load_rows",
    "parse_comparison",
    "parse_demonstration",
    "parse_messages",
    "parse_prompt",
    "parse_rewarded",
    "parse_transcript",
    "prompt_of",
    "missing",
    "nothing_usable",
    "read_rows",
]

Split = Literal["train", "test"]
Noun = TypeVar("Noun")
Sides = tuple[Messages, str, str | None] | tuple[Messages, str, str | None, str]
"""Prompt, first text, second text (and whose): what makes two rows the same. A prompt alone: no two rows are."""

DIVERGES = "diverges before the last turn"
"""The two conversations part before the last answer, so that there is no one prompt for both."""

_TURN = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}
_ROLE_NAMES = {
    "system": "system",
    "user": "user",
    "assistant": "assistant",
    "human": "user",
    "gpt": "assistant",
}


def parse_transcript(text: str) -> Messages | None:
    """Anthropic's `"\\n\\nHuman: ...\\n\\nAssistant: ..."` as messages, or None when the text is no such transcript.

    A turn begins at `Human:` or `Assistant:` after an empty line; the same words inside a turn are text. White space
    around a turn belongs to the format and is removed.
    """
    found = list(_TURN.finditer(text))
    if not found or found[0].start() != 0 or found[0][1] != "Human":
        return None
    ends = [m.start() for m in found[1:]] + [len(text)]
    return [{"role": _ROLES[m[1]], "content": text[m.end() : end].strip()} for m, end in zip(found, ends, strict=True)]


def parse_messages(value: Any) -> Messages | Reject:
    """`[{role, content}, ...]` (or ShareGPT's `from`, `value`) as messages; content may be a list of text parts."""
    items = [value] if isinstance(value, dict) else value
    if not isinstance(items, list) or not items:
        return Reject("malformed", "messages are a list of {role, content}")
    result: Messages = []
    for item in items:
        if not isinstance(item, dict):
            return Reject("malformed", "a message is {role, content}")
        role, content = item.get("role", item.get("from")), item.get("content", item.get("value"))
        if isinstance(content, list) and all(isinstance(p, dict) and isinstance(p.get("text"), str) for p in content):
            content = "".join(p["text"] for p in content)
        if not isinstance(role, str) or role.lower() not in _ROLE_NAMES or not isinstance(content, str):
            return Reject("malformed", "a message has a role (system, user, assistant) and text content")
        result.append({"role": _ROLE_NAMES[role.lower()], "content": content})
    return result


def _parse_prompt_value(value: Any) -> Messages | Reject:
    """A `prompt` column: text, a raw transcript that ends where the assistant is to speak, or messages."""
    if isinstance(value, str):
        turns = parse_transcript(value)
        if turns is None:
            turns = [{"role": "user", "content": value}]
        elif turns[-1] == {"role": "assistant", "content": ""}:
            turns.pop()
    else:
        parsed = parse_messages(value)
        if isinstance(parsed, Reject):
            return parsed
        turns = parsed
    return _judge_prompt(turns)


def _judge_prompt(turns: Messages) -> Messages | Reject:
    if not any(m["role"] == "user" and m["content"].strip() for m in turns):
        return Reject("empty", "the prompt says nothing")
    if turns[-1]["role"] != "user":
        return Reject("malformed", "a prompt ends with the user's turn")
    return turns


def conversation(prompt: Messages | None, value: Any, raw_prompt: Any) -> Messages | Reject:
    """The whole conversation that a `chosen`, `rejected` or `completion` column stands for."""
    if isinstance(value, str):
        turns = parse_transcript(value)
        if prompt is None:
            return turns or Reject("missing column", "text without a `prompt` column and without Human/Assistant turns")
        # Beside a prompt in messages a completion is what it says, even where it begins with "Human:".
        repeats = isinstance(raw_prompt, str) and value.startswith("\n\nHuman:") and turns is not None
        if repeats and turns is not None and turns[: len(prompt)] == prompt and len(turns) > len(prompt):
            return turns
        # In data made from transcripts the space after "Assistant:" belongs to the format, not to the answer.
        from_transcript = isinstance(raw_prompt, str) and parse_transcript(raw_prompt) is not None
        return [*prompt, {"role": "assistant", "content": value.strip() if from_transcript else value}]
    parsed = parse_messages(value)
    if isinstance(parsed, Reject) or prompt is None or parsed[: len(prompt)] == prompt:
        return parsed
    if isinstance(raw_prompt, str) and len(parsed) > 1 and parsed[-2] == prompt[-1]:
        return parsed  # prompt as text beside full conversations with a system turn, as in UltraFeedback
    return [*prompt, *parsed]


def prompt_of(row: dict[str, Any]) -> Messages | Reject | None:
    """The `prompt` column as messages, or None when the row has none."""
    return None if row.get("prompt") is None else _parse_prompt_value(row["prompt"])


def missing(row: dict[str, Any], needed: str) -> Reject:
    """The reject for absent columns: which are needed, and which were found."""
    return Reject("missing column", f"needed: {needed}; found: {', '.join(map(str, row)) or 'none'}")


def of_other_kind(row: dict[str, Any], kind: str) -> Reject | None:
    """In a mixture each row says its kind: those of other kinds are no defects."""
    said = row.get("kind")
    return Reject("other kind", f"a {said}") if said in QUESTION_KINDS and said != kind else None


def parse_comparison(row: Any) -> Comparison | Reject:
    """A comparison from one row.

    Layouts: `prompt` + `chosen` + `rejected` (text or messages; chosen and rejected may repeat the prompt); `chosen` +
    `rejected` as whole conversations (messages or raw transcripts), whose longest shared beginning is the prompt.
    Two bare texts without a prompt: what they begin with alike, up to the last white space, is the prompt, and the
    column `implicit_prompt` says so, because where the prompt ends is a guess. Optional: `label` (probability 0..1 that
    chosen is the better one), `weight` (>= 0), `margin`; every other column is kept in `.columns`.

    Reasons: malformed (also for a row with images), missing column, empty, identical (but for white space at the ends),
    "diverges before the last turn" (after the shared prompt more than one turn is left), NUL character, lone surrogate.
    """
    problem = defect(row) or of_other_kind(row, "comparison")
    if problem is not None:
        return problem
    if "chosen" not in row or "rejected" not in row:
        return missing(row, "chosen and rejected (and prompt, unless both hold the whole conversation)")
    if row["chosen"] is None or row["rejected"] is None:
        return Reject("empty", "chosen or rejected is null")
    if row.get("images") or row.get("image"):
        return Reject("malformed", "the row has images, which a language model does not see")
    if isinstance(row["chosen"], str) and row["chosen"] == row["rejected"] and row["chosen"].strip():
        return Reject("identical", "chosen and rejected say the same")
    row = with_prompt(row)
    prompt = prompt_of(row)
    if isinstance(prompt, Reject):
        return prompt
    chosen = conversation(prompt, row["chosen"], row.get("prompt"))
    rejected = conversation(prompt, row["rejected"], row.get("prompt"))
    for side in (chosen, rejected):
        if isinstance(side, Reject):
            return missing(row, "prompt") if side.reason == "missing column" else side
    pair = _part(cast(Messages, chosen), cast(Messages, rejected))
    if isinstance(pair, Reject):
        return pair
    columns = {k: v for k, v in row.items() if k not in ("prompt", "chosen", "rejected")}
    label = _take(columns, "label", 1.0, 0.0, 1.0)
    weight = _take(columns, "weight", 1.0, 0.0, math.inf)
    margin = _take(columns, "margin", None, -math.inf, math.inf)
    for number in (label, weight, margin):
        if isinstance(number, Reject):
            return number
    return Comparison(
        prompt=pair[0],
        chosen=pair[1],
        rejected=pair[2],
        label=cast(float, label),
        weight=cast(float, weight),
        margin=cast(float | None, margin),
        columns=columns,
    )


def with_prompt(row: dict[str, Any]) -> dict[str, Any]:
    """TRL's implicit prompt of two texts: cut after their shared beginning, at a white space so that no word is cut."""
    first, second = row.get("chosen"), row.get("rejected")
    if row.get("prompt") is not None or not isinstance(first, str) or not isinstance(second, str):
        return row
    if parse_transcript(first) is not None:
        return row
    shorter = min(len(first), len(second))
    shared = next((i for i in range(shorter) if first[i] != second[i]), shorter)
    # The white space goes with the completions, as in TRL. Where one text ends in the shared part its answer is empty.
    end = shared if shared == shorter else len(first[: _last_space(first[:shared])].rstrip())
    if not first[:end].strip():
        return row
    return {**row, "prompt": first[:end], "chosen": first[end:], "rejected": second[end:], "implicit_prompt": True}


def _last_space(text: str) -> int:
    """Where the last run of other characters begins."""
    return max((i + 1 for i, letter in enumerate(text) if letter.isspace()), default=0)


def _part(chosen: Messages, rejected: Messages) -> tuple[Messages, str, str] | Reject:
    """(prompt, chosen, rejected): where two conversations part, and what each then says."""
    if chosen[-1]["role"] != "assistant" or rejected[-1]["role"] != "assistant":
        return Reject("malformed", "a conversation ends with the assistant's turn")
    if not chosen[-1]["content"].strip() or not rejected[-1]["content"].strip():
        return Reject("empty", "an answer is empty")
    if len(chosen) != len(rejected) or chosen[:-1] != rejected[:-1]:
        return Reject(DIVERGES, "after the shared turns, more than one turn is left")
    if chosen[-1]["content"].strip() == rejected[-1]["content"].strip():
        return Reject("identical", "chosen and rejected say the same")
    prompt = _judge_prompt(chosen[:-1])
    return prompt if isinstance(prompt, Reject) else (prompt, chosen[-1]["content"], rejected[-1]["content"])


def _take(columns: dict[str, Any], name: str, default: float | None, low: float, high: float) -> float | Reject | None:
    """A known number out of the columns. Text that is no number (a foreign `label` column) stays there."""
    value = columns.get(name)
    if value is None or value == "":
        columns.pop(name, None)
        return default
    try:
        number = float(value) if isinstance(value, int | float | str) else math.nan
    except ValueError:
        return default
    if not math.isfinite(number) or not low <= number <= high:
        return Reject("malformed", f"{name} must be a number from {low} to {high}, got {shown(value)}")
    del columns[name]
    return number


def parse_demonstration(row: Any) -> Demonstration | Reject:
    """A prompt and the answer to learn from.

    Layouts: `prompt` + `completion`; `messages` (or `conversations`) that end with the assistant; `prompt` + `chosen`,
    or `chosen` alone as a whole conversation (the chosen side of a comparison is the demonstration). `weight` is
    optional; every other column is kept in `.columns`. Reasons as in `parse_comparison`.
    """
    problem = defect(row) or (of_other_kind(row, "demonstration") if "chosen" not in row else None)
    if problem is not None:
        return problem
    row = with_prompt(row)
    name = next((n for n in ("completion", "messages", "conversations", "chosen") if n in row), None)
    if name is None or (name == "completion" and "prompt" not in row):
        return missing(row, "prompt and completion, or messages, or chosen")
    if row[name] is None:
        return Reject("empty", f"{name} is null")
    prompt = prompt_of(row)
    if isinstance(prompt, Reject):
        return prompt
    turns = conversation(prompt, row[name], row.get("prompt"))
    if isinstance(turns, Reject):
        return missing(row, "prompt") if turns.reason == "missing column" else turns
    if turns[-1]["role"] != "assistant":
        return Reject("malformed", "a demonstration ends with the assistant's turn")
    if not turns[-1]["content"].strip():
        return Reject("empty", "the answer is empty")
    judged = _judge_prompt(turns[:-1])
    if isinstance(judged, Reject):
        return judged
    columns = {k: v for k, v in row.items() if k not in ("prompt", "rejected", name)}
    weight = _take(columns, "weight", 1.0, 0.0, math.inf)
    if isinstance(weight, Reject):
        return weight
    return Demonstration(prompt=judged, completion=turns[-1]["content"], weight=cast(float, weight), columns=columns)


def parse_rewarded(row: Any) -> Rewarded | Reject:
    """A logged completion and its reward.

    Layouts: those of `parse_demonstration` beside `reward` (any number), or else `score` or `scores` (a rating; several
    criteria count by their mean), or else `label` (an approval: 1 or 0).
    """
    if isinstance(row, dict) and row.get("kind") in ("rating", "approval"):
        row = {key: value for key, value in row.items() if key != "kind"}  # in a snapshot; both say what it is worth
    said = parse_demonstration(row)
    if isinstance(said, Reject):
        return said
    columns = dict(said.columns)
    for name in ("reward", "score", "scores", "label"):
        if columns.get(name) is not None:
            break
    else:
        return missing(row, "prompt, completion and reward (or score, scores or label)")
    value = columns.pop(name)
    if name == "scores" and isinstance(value, dict) and value:
        numbers = [_number(one) for one in value.values()]
        reward = None if None in numbers else sum(cast(list[float], numbers)) / len(numbers)
    else:
        reward = _number({"true": 1, "false": 0}.get(str(value).lower(), value) if name == "label" else value)
    if reward is None:
        return Reject("malformed", f"{name} must be a number, got {shown(value)}")
    return Rewarded(prompt=said.prompt, completion=said.completion, reward=reward, weight=said.weight, columns=columns)


def _number(value: Any) -> float | None:
    """A finite number, also as the text that a CSV file makes of it."""
    try:
        number = float(value) if isinstance(value, int | float | str) else math.nan
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def parse_prompt(row: Any) -> Messages | Reject:
    """The prompt of a row: its `prompt` column, or everything before the last answer of `messages` or `chosen`."""
    problem = defect(row)
    if problem is not None:
        return problem
    row = with_prompt(row)
    if row.get("prompt") is not None:
        return _parse_prompt_value(row["prompt"])
    name = next((n for n in ("messages", "conversations", "chosen") if row.get(n) is not None), None)
    if name is None:
        return Reject("empty", "prompt is null") if "prompt" in row else missing(row, "prompt, or messages")
    turns = conversation(None, row[name], None)
    if isinstance(turns, Reject):
        return missing(row, "prompt, or messages") if turns.reason == "missing column" else turns
    return _judge_prompt(turns[:-1] if turns[-1]["role"] == "assistant" else turns)


class Repeats:
    """Remembers what was seen, 16 bytes a row: a second time is a duplicate, the other way round is swapped."""

    def __init__(self) -> None:
        self._seen: set[bytes] = set()

    def judge(self, prompt: Messages, first: str, second: str | None = None, by: str = "") -> str | None:
        """None for a new row (remembered from now on), else "duplicate" or "swapped"; per annotator `by`."""
        key = _digest(by, prompt, first, second)
        if key in self._seen:
            return "duplicate"
        if second is not None and _digest(by, prompt, second, first) in self._seen:
            return "swapped"
        self._seen.add(key)
        return None


def _digest(by: str, prompt: Messages, first: str, second: str | None) -> bytes:
    text = json.dumps([by, [[m["role"], m["content"]] for m in prompt], first, second])
    return hashlib.blake2b(text.encode("utf-8"), digest_size=16).digest()


def load_comparisons(
    path: str | Path,
    *,
    split: Split | None = None,
    test_share: float = 0.1,
    max_dropped: float = 0.05,
    progress: Progress | None = None,
    by_annotator: bool = False,
) -> tuple[list[Comparison], Ledger]:
    """The comparisons of a snapshot folder, a file or a hub dataset, and the ledger of every row.

    A snapshot has its split in two files; elsewhere `split` is decided per prompt (records.split_of), and rows of the
    other side are in the ledger as "other split". Repeats are dropped as "duplicate". Of a pair that appears both
    ways round the first is kept and each later one is "swapped". The same pair by another `criterion` is no repeat;
    with `by_annotator` nor is it from somebody else (`annotator_of`), whatever they say of it.

    Raises InputError when the source cannot be read, holds no rows, or none can be used (exit 2); RunError when more
    than `max_dropped` of the rows are defective, or a snapshot's files do not match their hashes (exit 1).
    """

    def same(c: Comparison, row: Any) -> Sides:
        whose = annotator_of(c.columns) if by_annotator else None
        return c.prompt, c.chosen, c.rejected, canonical_json([whose, c.columns.get("criterion")])

    return load_rows(path, parse_comparison, same, split, test_share, max_dropped, progress)


def annotator_of(columns: Mapping[str, Any]) -> str | None:
    """Who said it: the column `annotator`, or the only one of `annotators`; None where that is nobody, or several."""
    several = columns.get("annotators")
    name = several[0] if isinstance(several, list) and len(several) == 1 else columns.get("annotator")
    return str(name) if isinstance(name, str | int) and str(name).strip() else None


def load_demonstrations(
    path: str | Path,
    *,
    split: Split | None = None,
    test_share: float = 0.1,
    max_dropped: float = 0.05,
    progress: Progress | None = None,
) -> tuple[list[Demonstration], Ledger]:
    """The demonstrations of a snapshot folder, a file or a hub dataset, and the ledger of every row.

    Comparisons serve too: the chosen completion is the demonstration, once, however many it was preferred to. Other
    repeats are kept: how often something was shown is part of what is to be imitated. Splits and errors as in
    `load_comparisons`.
    """

    def same(d: Demonstration, row: Any) -> Sides | Messages:
        return (d.prompt, d.completion, None) if "chosen" in row else d.prompt

    return load_rows(path, parse_demonstration, same, split, test_share, max_dropped, progress)


def load_prompts(
    path: str | Path,
    *,
    split: Split | None = None,
    test_share: float = 0.1,
    max_dropped: float = 0.05,
    progress: Progress | None = None,
) -> tuple[list[Messages], Ledger]:
    """The prompts of a file of any kind, each once; a repeated prompt is a "duplicate" in the ledger.

    Raises what `load_comparisons` raises.
    """
    return load_rows(path, parse_prompt, lambda p, row: (p, "", None), split, test_share, max_dropped, progress)


def load_rewarded(
    path: str | Path,
    *,
    split: Split | None = None,
    test_share: float = 0.1,
    max_dropped: float = 0.05,
    progress: Progress | None = None,
    rewarded: bool = True,
) -> tuple[list[Rewarded], Ledger]:
    """The completions of a log with their rewards, and the ledger of every row.

    Not `rewarded`: the rewards are still to come, so the rows need none, and each is 0. Repeats are kept: how often
    something was said is what a log tells about who said it. Splits and errors as in `load_comparisons`.
    """
    parse = parse_rewarded if rewarded else _parse_unrewarded
    return load_rows(path, parse, lambda r, row: r.prompt, split, test_share, max_dropped, progress)


def _parse_unrewarded(row: Any) -> Rewarded | Reject:
    said = parse_demonstration(row)
    if isinstance(said, Reject):
        return said
    return Rewarded(
        prompt=said.prompt, completion=said.completion, reward=0.0, weight=said.weight, columns=said.columns
    )


def load_rows(
    path: str | Path,
    parse: Callable[[Any], Noun | Reject],
    sides: Callable[[Noun, Any], Sides | Messages],
    split: Split | None,
    test_share: float,
    max_dropped: float,
    progress: Progress | None,
) -> tuple[list[Noun], Ledger]:
    """What `load_comparisons` does, for nouns of any kind: `parse` makes one of a row; `sides` is what must not repeat.

    Where that is only the prompt, anything may.
    """
    files, decided = _files(path, split)
    ledger, result, repeats = Ledger(), list[Noun](), Repeats()
    first_problem: Reject | None = None
    for file in files:
        for _, row in read_rows(file, progress):
            ledger.seen()
            noun = row if isinstance(row, Reject) else parse(row)
            if isinstance(noun, Reject):
                ledger.drop(noun.reason)
                first_problem = first_problem or noun
                continue
            parts = sides(noun, row)
            prompt = parts if isinstance(parts, list) else parts[0]
            again = None if isinstance(parts, list) else repeats.judge(*parts)
            if again is not None:
                ledger.drop(again)
            elif split is not None and not decided and split_of(prompt, test_share) != split:
                ledger.drop("other split")
            else:
                result.append(noun)
    if ledger.rows or not (decided and split):  # a snapshot of a few prompts may have an empty side
        nothing_usable(str(path), ledger, first_problem)
    if ledger.defective > max_dropped * ledger.rows:  # a split that happens to be empty is no error
        ledger.check(max_dropped, str(path))
    return result, ledger


def nothing_usable(source: str, ledger: Ledger, first: Reject | None, more: str = "") -> None:
    """Raises InputError when there were no rows, or every row is defective; it names the columns when they are why."""
    if ledger.rows == 0:
        raise InputError(f"{source} holds no rows")
    if first is None or ledger.defective < ledger.rows:
        return
    if ledger.reasons["missing column"] == ledger.rows:
        raise InputError(f"{source}: missing column; {first.detail}{more}")
    raise InputError(
        f"{source}: none of its {ledger.rows} rows can be used ({ledger.words()}); the first: {first.reason}"
        + (f", {first.detail}" if first.detail else "")
        + more
    )


def _files(path: str | Path, split: Split | None) -> tuple[list[str | Path], bool]:
    """(what to read, whether that already is the split asked for)."""
    folder = Path(path)
    if not folder.is_dir():
        return [path], False
    if (folder / MANIFEST).is_file():
        artifact = read_artifact(folder)
        if artifact.kind != "snapshot":
            raise InputError(f"{folder} is a {artifact.kind}; data are read from a snapshot or a file of rows")
    endings = [suffix + packing for suffix in SUFFIXES for packing in PACKINGS]
    files: list[str | Path] = []
    for name in (split,) if split is not None else ("train", "test"):
        found = [folder / f"{name}{ending}" for ending in endings if (folder / f"{name}{ending}").is_file()]
        files.extend(found[:1])
    if not files:
        raise InputError(f"{folder} is no snapshot: it has no {split or 'train'}.jsonl, .json, .csv or .parquet")
    return files, True
