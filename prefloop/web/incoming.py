"""Questions from a file or from pasted rows: a prompt, and the completions to judge."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from prefloop.errors import InputError
from prefloop.quality.evidence import known_answer
from prefloop.records import Messages
from prefloop.snapshots.formats import prompt_of
from prefloop.snapshots.rows import Reject, defect, read_rows
from prefloop.store.database import Store
from prefloop.store.values import CANDIDATES
from prefloop.web.asking import Item, ask

BATCH = 500
SHOWN_PROBLEMS = 20
PAIRS = (("completion_a", "completion_b"), ("response_a", "response_b"), ("chosen", "rejected"), ("a", "b"))
"""Columns that hold the two completions of a comparison, in the words of different tools."""
LISTS = ("completions", "candidates", "responses")
SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".gz", ".xz")


@dataclass
class Incoming:
    """What became of the rows."""

    rows: int = 0
    asked: int = 0
    problems: list[str] = field(default_factory=list)
    """The first ones, in words; `rows - asked` is how many there are."""


def take_questions(
    store: Store,
    file: Path,
    kind: str,
    overlap: int,
    source: str,
    *,
    most: int | None = None,
    audience: Sequence[str] = (),
    by: str,
) -> Incoming:
    """Ask one question per good row of `file`. `kind` "auto" goes by the number of completions.

    audience: roles and annotators' ids, who alone are asked; none: everybody.

    Raises InputError where the file cannot be read or not one row is good; the message names the first problem.
    """
    found = Incoming()
    waiting: list[Item] = []
    for line, row in read_rows(file):
        found.rows += 1
        item = row if isinstance(row, Reject) else _item(row, kind, overlap, most)
        if isinstance(item, Item) and audience:
            item = replace(item, audience=audience)
        if isinstance(item, Reject):
            if len(found.problems) < SHOWN_PROBLEMS:
                found.problems.append(f"row {line}: {item.detail}")
            continue
        waiting.append(item)
        if len(waiting) == BATCH:
            found.asked += len(ask(store, waiting, source=source, by=by))
            waiting.clear()
    if waiting:
        found.asked += len(ask(store, waiting, source=source, by=by))
    if not found.asked:
        raise InputError(f"none of the {found.rows} rows is a question; {(found.problems or ['the file is empty'])[0]}")
    return found


def _item(row: Mapping[str, Any], kind: str, overlap: int, most: int | None) -> Item | Reject:
    wrong = defect(row)
    if wrong is not None:
        return wrong
    texts = _texts(row)
    if isinstance(texts, Reject):
        return texts
    prompt = prompt_of(dict(row))
    if prompt is None:
        return Reject("columns", f"it needs a column prompt (or messages), got {', '.join(map(str, row))[:120]}")
    if isinstance(prompt, Reject):
        return prompt
    wanted = kind if kind != "auto" else {0: "demonstration", 1: "rating", 2: "comparison"}.get(len(texts), "ranking")
    low, high = CANDIDATES[wanted]
    if wanted == "demonstration":
        texts = []
    if not low <= len(texts) <= high:
        return Reject("completions", f"a {wanted} needs {low} to {high} completions, got {len(texts)}")
    if len(set(texts)) != len(texts):
        return Reject("identical", "two of its completions are the same text")
    gold = _gold(wanted, row.get("gold"))
    if isinstance(gold, Reject):
        return gold
    return _built(wanted, prompt, texts, overlap, most, gold, row)


def _gold(kind: str, given: Any) -> dict[str, Any] | Reject | None:
    """The right answer that a row brings along, which makes its question gold; None where it brings none."""
    if given is None or given == "":
        return None
    said = {"true": True, "false": False}.get(given.lower(), given) if isinstance(given, str) else given
    known = known_answer(kind, said, ()) if kind in ("comparison", "approval", "rating") else None
    forms = "a, b or tie for a comparison, true or false for an approval; other kinds' gold comes through the API"
    return known or Reject("gold", f"gold must be {forms}; got {given!r:.40} for a {kind}")


def _built(
    kind: str,
    prompt: Messages,
    texts: list[str],
    overlap: int,
    most: int | None,
    gold: dict[str, Any] | None,
    row: Mapping[str, Any],
) -> Item:
    sensitive = row.get("sensitive")
    return Item(
        kind=kind,
        prompt=prompt,
        candidates=texts,
        overlap=overlap,
        most=most,
        sensitive=sensitive[:64] if isinstance(sensitive, str) and sensitive.strip() else None,
        gold=gold,
        columns={"subset": row["subset"]} if isinstance(row.get("subset"), str) else {},
    )


def _texts(row: Mapping[str, Any]) -> list[str] | Reject:
    given: Any = next((row[name] for name in LISTS if row.get(name)), None)
    if given is None:
        pair = next(((row[a], row[b]) for a, b in PAIRS if row.get(a) is not None and row.get(b) is not None), None)
        given = list(pair) if pair else [row[n] for n in ("completion", "response") if row.get(n) is not None][:1]
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except (ValueError, RecursionError):
            return Reject("completions", "completions must be a list of texts")
    if not isinstance(given, list) or not all(isinstance(one, str) and one.strip() for one in given):
        return Reject("completions", "completions must be a list of texts that are not empty")
    return given


def pasted_file(text: str, folder: Path) -> Path:
    """Pasted rows as a file of the right kind: JSON Lines, a JSON list, or a table with a header line."""
    start = text.lstrip()[:1]
    suffix = ".jsonl" if start == "{" else ".json" if start == "[" else ".csv"
    file = folder / f"pasted{suffix}"
    if suffix == ".csv" and "\t" in text.partition("\n")[0]:
        text = "\n".join(_tabs_to_commas(text))
    file.write_text(text, encoding="utf-8")
    return file


def _tabs_to_commas(text: str) -> Iterator[str]:
    """A spreadsheet's clipboard is separated by tabs."""
    for line in text.splitlines():
        yield ",".join('"' + cell.replace('"', '""') + '"' for cell in line.split("\t"))


def uploaded_file(name: str, content: Any, folder: Path) -> Path:
    """An upload on the disk, under the suffix of its name; nothing else of the name is used."""
    lower = Path(name).name.lower()
    suffixes = "".join(s for s in Path(lower).suffixes[-2:] if s in SUFFIXES)
    if not suffixes:
        raise InputError(f"a file of one of these kinds: {', '.join(SUFFIXES)}; got {Path(name).name[:80]!r}")
    file = folder / f"uploaded{suffixes}"
    with file.open("wb") as out:
        while chunk := content.read(1024 * 1024):
            out.write(chunk)
    return file


def temporary_folder() -> tempfile.TemporaryDirectory[str]:
    """Where an upload stays while it is read."""
    return tempfile.TemporaryDirectory(prefix="prefloop-import-")
