"""A file of other people's data into the store: the good rows go in, the others go to a file with their reasons."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from prefloop.artifacts.files import disk_error
from prefloop.errors import InputError
from prefloop.records import Ledger
from prefloop.snapshots.answer_rows import (
    HH_LICENCE,
    HH_SOURCE,
    IMPORT_KINDS,
    is_transcript,
    parse_answer,
)
from prefloop.snapshots.crowds import import_rows
from prefloop.snapshots.formats import Repeats, nothing_usable
from prefloop.snapshots.labelling_tools import tool_of, unfold
from prefloop.snapshots.rows import Progress, Reject, check_packed, read_rows, row_text
from prefloop.store.database import Store
from prefloop.store.feedback import add_prompts, import_answers

BATCH = 500
"""Rows in one transaction: each is whole or absent, and importing the file again adds what is missing."""

_Waiting = tuple[int, dict[str, Any], Any]
"""Line, item for the store, row as read."""


@dataclass(frozen=True)
class ImportResult:
    """What became of the rows of one source; imported + rejected is all of them."""

    imported: int
    rejected: int
    reasons: dict[str, int]
    rejects_file: Path | None
    """None when nothing was rejected."""
    ledger: Ledger

    def as_dict(self) -> dict[str, Any]:
        """What `import --json` prints."""
        return {
            "imported": self.imported,
            "rejected": self.rejected,
            "reasons": self.reasons,
            "rejects_file": str(self.rejects_file) if self.rejects_file else None,
        }


def import_file(
    store: Store,
    source: str | Path,
    kind: str,
    *,
    rejects_dir: Path,
    source_name: str | None = None,
    licence: str | None = None,
    criterion: str | None = None,
    progress: Progress | None = None,
) -> ImportResult:
    """Import every good row of a file or hub dataset as `kind` (answer_rows.IMPORT_KINDS; its columns stand there).

    A row of a published crowd (crowds.py) or a record of Argilla or Label Studio (labelling_tools.py) is one row per
    answer, each with its annotator, and counts as so many.
    `criterion` is the column that says what each row is about, where it has another name; a row without it is rejected.
    `source_name` and `licence` go with every answer; by default the source is the file's name (or the hub id). Rows
    that are Anthropic's raw transcripts are recognised and get "anthropics/hh-rlhf" and "MIT". Rejected rows are
    written to `rejects_dir/<name>.rejects.jsonl` as {line, reason, detail, row}. A row that repeats an earlier one of
    the file is rejected as "duplicate", one that contradicts it (the same annotator, the same pair, the other way
    round) as "swapped". A file that was imported before adds nothing and counts as imported.

    Raises InputError when the source cannot be read, or when none of its rows is good (the rejects file is there
    then). A packed file is checked to its end first, so that a damaged one adds nothing.
    RunError when the disk is full.
    """
    if kind not in IMPORT_KINDS:
        raise InputError(f"import takes {', '.join(IMPORT_KINDS)}, got {kind!r}")
    check_packed(source)
    name = _name_of(str(source))
    ledger, repeats, first_problem = Ledger(), Repeats(), None
    waiting: list[_Waiting] = []
    with _Rejects(rejects_dir / f"{name}.rejects.jsonl") as rejects:

        def reject(line: int, problem: Reject, row: Any) -> None:
            nonlocal first_problem
            first_problem = first_problem or problem
            ledger.drop(problem.reason)
            rejects.write(line, problem, row)

        for line, row in _rows(source, kind, progress):
            ledger.seen()
            known = is_transcript(row)
            named = row if criterion is None or isinstance(row, Reject) else _about(row, criterion)
            item = (
                named
                if isinstance(named, Reject)
                else parse_answer(
                    named,
                    kind,
                    source=source_name or (HH_SOURCE if known else name),
                    licence=licence or (HH_LICENCE if known else None),
                )
            )
            if not isinstance(item, Reject):
                item = _judge_again(item, repeats)
            if isinstance(item, Reject):
                reject(line, item, row)
                continue
            waiting.append((line, item, row))
            if len(waiting) == BATCH:
                for refused in _store(store, kind, waiting):
                    reject(*refused)
                waiting.clear()
        for refused in _store(store, kind, waiting):
            reject(*refused)
    nothing_usable(str(source), ledger, first_problem, f"; the rows are in {rejects.path}")
    return ImportResult(
        imported=ledger.used,
        rejected=ledger.dropped,
        reasons=dict(sorted(ledger.reasons.items())),
        rejects_file=rejects.path if ledger.dropped else None,
        ledger=ledger,
    )


def _rows(source: str | Path, kind: str, progress: Progress | None) -> Iterator[tuple[int, dict[str, Any] | Reject]]:
    """The rows of a source; a record of a labelling tool is one row per answer."""
    for line, row in (import_rows if kind == "comparisons" else read_rows)(source, progress):
        if isinstance(row, Reject) or tool_of(row) is None:
            yield line, row
        else:
            yield from ((line, one) for one in unfold(row, kind))


def _about(row: dict[str, Any], column: str) -> dict[str, Any] | Reject:
    """The row with its criterion under that name."""
    name = row.get(column)
    if isinstance(name, str) and name.strip():
        return {**row, "criterion": name}
    found = f"is {name!r}" if column in row else f"is none of {', '.join(row)}"
    return Reject("malformed", f"column {column!r}, which is to name the criterion, {found}")


def _judge_again(item: dict[str, Any], repeats: Repeats) -> dict[str, Any] | Reject:
    """The item, or a Reject when this file said it before or said the opposite before."""
    texts = item.get("candidates", [])
    value = item.get("value", {})
    choice = value.get("choice")
    criterion = item.get("columns", {}).get("criterion")
    by = json.dumps([item.get("annotator"), item["source"], choice == "tie", criterion])
    if choice is None:
        again = repeats.judge(item["messages"], json.dumps([texts, value], sort_keys=True), None, by)
    else:
        first, second = reversed(texts) if choice == "b" else texts
        again = repeats.judge(item["messages"], first, second, by)
        if again == "swapped" and choice == "tie":
            again = "duplicate"
    return item if again is None else Reject(again, "an earlier row of the file says this" + _OR.get(again, ""))


_OR = {"swapped": ", the other way round", "duplicate": " already"}


def _store(
    store: Store, kind: str, waiting: Sequence[tuple[int, dict[str, Any], Any]]
) -> list[tuple[int, Reject, Any]]:
    """Store a batch. When the store refuses it, store its items one by one; those still refused are returned."""
    add = add_prompts if kind == "prompts" else import_answers
    try:
        add(store, [item for _, item, _ in waiting])
        return []
    except InputError:
        refused = []
        for line, item, row in waiting:
            try:
                add(store, [item])
            except InputError as error:
                refused.append((line, Reject("malformed", str(error)), row))
        return refused


def _name_of(source: str) -> str:
    """`data/hh_rlhf.jsonl.gz` -> `hh_rlhf`; `owner/name:split` -> `owner-name-split`."""
    path = Path(source)
    if path.exists():
        return re.sub(r"(\.(jsonl|json|csv|parquet|gz|xz))+$", "", path.name, flags=re.IGNORECASE) or path.name
    return re.sub(r"[^\w.-]+", "-", source).strip("-.") or "rows"


class _Rejects:
    """The file of rejected rows. It appears, replacing an older one, only when there is something to say."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[str] | None = None
        self._part: Path | None = None

    def __enter__(self) -> _Rejects:
        return self

    def write(self, line: int, problem: Reject, row: Any) -> None:
        raw = problem.row if problem.row is not None else row_text(row)
        entry = {"line": line, "reason": problem.reason, "detail": problem.detail, "row": raw}
        try:
            if self._file is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._file = tempfile.NamedTemporaryFile(  # noqa: SIM115 closed in __exit__
                    "w", encoding="utf-8", dir=self.path.parent, prefix=f".{self.path.name}.", delete=False
                )
                self._part = Path(self._file.name)
            self._file.write(json.dumps(entry) + "\n")
        except OSError as error:
            raise disk_error(error, self.path) from None

    def __exit__(self, *unused: object) -> None:
        if self._file is None or self._part is None:
            return
        try:
            self._file.close()
            self._part.replace(self.path)
        except OSError as error:
            self._part.unlink(missing_ok=True)
            raise disk_error(error, self.path) from None
