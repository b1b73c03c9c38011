"""A snapshot, or what a store holds, in the formats that other tools read.

| format | columns |
|---|---|
| trl-preference | prompt, chosen, rejected as messages; margin where known: DPO and reward training |
| trl-unpaired | prompt, completion as messages, label (true for chosen, or as approved): KTO |
| trl-prompt-completion | prompt, completion as messages (the chosen side of a comparison): SFT |
| jsonl, parquet | every column of the snapshot, and `split` |

TRL's formats (https://huggingface.co/docs/trl/dataset_formats) also carry simulated, source and licence, which TRL
ignores. They have no ties, so tied rows stay out of them, counted as "tie".

An output name without a suffix is a folder with one file for each split, which `datasets.load_dataset(folder)` reads
with its splits; `.jsonl` (also .gz, .xz) and `.parquet` are one file, whose column `split` keeps the two apart.
"""

from __future__ import annotations

import gzip
import json
import lzma
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, cast

from prefloop.artifacts.files import disk_error, write_folder
from prefloop.artifacts.folder import MANIFEST, read_artifact
from prefloop.errors import InputError
from prefloop.records import Ledger, as_messages
from prefloop.snapshots.build import KINDS, build_snapshot, snapshot_rows
from prefloop.store.database import Store
from prefloop.store.erasure import texts_in
from prefloop.store.privacy import find_pii, redact_value

FORMATS = ("trl-preference", "trl-unpaired", "trl-prompt-completion", "jsonl", "parquet")
KEPT = ("simulated", "source", "licence")
SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.xz", ".parquet")

Row = dict[str, Any]


@dataclass(frozen=True)
class ExportResult:
    """What was written. `rows` counts written rows, `ledger` those of the snapshot."""

    out: Path
    format: str
    rows: int
    files: list[Path]
    ledger: Ledger
    personal_data: dict[str, int]
    """Rows in which personal data with a checkable form was found, by its kind (store.privacy); names are not."""

    def as_dict(self) -> dict[str, Any]:
        """What `export --json` prints."""
        return {
            "out": str(self.out),
            "format": self.format,
            "rows": self.rows,
            "files": [str(file) for file in self.files],
            "ledger": self.ledger.as_dict(),
            "personal_data": self.personal_data,
        }


def export(
    source: Store | str | Path,
    format: str,
    out: str | Path,
    *,
    kind: str = "comparisons",
    refuse: Callable[[Row], str | None] | None = None,
    redacted: bool = False,
) -> ExportResult:
    """Write a snapshot folder, or the consensus of a store's answers of `kind`, as `format` to `out`.

    `refuse` gives the reason why a row must not leave, or None. `redacted` replaces personal data that has a checkable
    form (e-mail addresses, telephone numbers, cards, IBANs, IP addresses) by its kind in brackets.

    Raises InputError for an unknown format or suffix, for an `out` that exists, for a snapshot that has not what the
    format needs or nothing to write; RunError when the snapshot does not match its hashes or the disk is full. Then
    nothing is left at `out`.
    """
    out = Path(out)
    if format not in FORMATS:
        raise InputError(f"export writes {', '.join(FORMATS)}, got {format!r}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} exists already; give another --out or remove it")
    suffix = _suffix(out, format)
    if not isinstance(source, Store):
        return _export(_checked(Path(source)), format, out, suffix, refuse, redacted)
    if kind not in KINDS:
        raise InputError(f"export takes the consensus of {', '.join(KINDS)}, got {kind!r}")
    with tempfile.TemporaryDirectory() as folder:
        snapshot = build_snapshot(source, Path(folder), kind)
        return _export(snapshot.artifact.path, format, out, suffix, refuse, redacted)


def _suffix(out: Path, format: str) -> str | None:
    """The suffix of a file to write, or None for a folder."""
    suffix = next((s for s in SUFFIXES if out.name.lower().endswith(s)), None)
    if suffix is None and out.suffix and not out.is_dir():
        raise InputError(f"{out}: write to a name in {', '.join(SUFFIXES)}, or without a suffix for a folder")
    if suffix is not None and format in ("jsonl", "parquet") and not suffix.startswith(f".{format}"):
        raise InputError(f"{out}: --as {format} writes a name in .{format}, not {suffix}")
    return suffix


def _checked(folder: Path) -> Path:
    if not folder.is_dir():
        raise InputError(f"no such snapshot: {folder}")
    if (folder / MANIFEST).is_file() and read_artifact(folder).kind != "snapshot":
        raise InputError(f"{folder} is no snapshot and cannot be exported")
    return folder


def _export(
    folder: Path,
    format: str,
    out: Path,
    suffix: str | None,
    refuse: Callable[[Row], str | None] | None,
    redacted: bool,
) -> ExportResult:
    ledger, written, convert = Ledger(), [0], CONVERTERS[format]
    personal: Counter[str] = Counter()

    def rows(split: str | None) -> Iterator[Row]:
        for row in snapshot_rows(folder):
            if split in (None, row["split"]) and (refuse is None or refuse(row) is None):
                for converted in convert(row):
                    clean = redact_value(converted) if redacted else converted
                    yield clean | ({"split": row["split"]} if suffix is not None else {})

    for row in snapshot_rows(folder):
        ledger.seen()
        reason = refuse(row) if refuse is not None else None
        if reason is not None:
            ledger.drop(reason)
            continue
        personal.update({one.kind for text in texts_in(row) for one in find_pii(text)})
        made = sum(1 for _ in convert(row))
        written[0] += made
        if not made:
            ledger.drop("tie")
    if not written[0]:
        raise InputError(f"{folder} has nothing to write as {format} ({ledger.words()})")
    if suffix is not None:
        _whole_file(out, lambda part: _write_rows(part, suffix, partial(rows, None)))
        return ExportResult(out, format, written[0], [out], ledger, dict(sorted(personal.items())))
    inner = ".parquet" if format == "parquet" else ".jsonl"

    def fill(part: Path) -> None:
        for split in ("train", "test"):
            if next(rows(split), None) is not None:
                _write_rows(part / f"{split}{inner}", inner, partial(rows, split))

    if out.is_dir():
        out.rmdir()
    write_folder(out, fill)
    return ExportResult(out, format, written[0], sorted(out.iterdir()), ledger, dict(sorted(personal.items())))


def _whole_file(out: Path, write: Callable[[Path], None]) -> None:
    part = out.with_name(f".{out.name}.part")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write(part)
        part.replace(out)
    except OSError as error:
        raise disk_error(error, out) from None
    finally:
        part.unlink(missing_ok=True)


def _write_rows(path: Path, suffix: str, rows: Callable[[], Iterator[Row]]) -> None:
    if suffix == ".parquet":
        _write_parquet(path, rows)
        return
    with _open(path, suffix) as file:
        for row in rows():
            file.write(json.dumps(row, ensure_ascii=False, allow_nan=False).encode("utf-8") + b"\n")


def _open(path: Path, suffix: str) -> AbstractContextManager[IO[bytes]]:
    if suffix.endswith(".gz"):
        return cast(AbstractContextManager[IO[bytes]], gzip.GzipFile(path, "wb", mtime=0))
    return lzma.LZMAFile(path, "wb") if suffix.endswith(".xz") else path.open("wb")


# Converters ------------------------------------------------------------------------------------------------------


def _answer(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def _kept(row: Row) -> Row:
    return {name: row.get(name) for name in KEPT}


def _preference(row: Row) -> Iterator[Row]:
    _need(row, "chosen", "trl-preference")
    if row["label"] != 0.5:
        margin = {} if row.get("margin") is None else {"margin": row["margin"]}
        sides = {"chosen": _answer(row["chosen"]), "rejected": _answer(row["rejected"])}
        yield {"prompt": as_messages(row["prompt"]), **sides, **margin, **_kept(row)}


def _unpaired(row: Row) -> Iterator[Row]:
    if row.get("kind") == "approval":
        answer = {"completion": _answer(row["completion"]), "label": row["label"]}
        yield {"prompt": as_messages(row["prompt"]), **answer, **_kept(row)}
        return
    _need(row, "chosen", "trl-unpaired")
    if row["label"] != 0.5:
        for side, label in (("chosen", True), ("rejected", False)):
            yield {
                "prompt": as_messages(row["prompt"]),
                "completion": _answer(row[side]),
                "label": label,
                **_kept(row),
            }


def _prompt_completion(row: Row) -> Iterator[Row]:
    if row.get("kind") in ("ranking", "rating", "approval", "edit", "flags"):
        raise InputError(f"trl-prompt-completion needs comparisons or demonstrations, and here is a {row['kind']}")
    if "completion" in row or row.get("label") != 0.5:
        text = row["completion"] if "completion" in row else row["chosen"]
        yield {"prompt": as_messages(row["prompt"]), "completion": _answer(text), **_kept(row)}


def _everything(row: Row) -> Iterator[Row]:
    yield row


def _need(row: Row, column: str, format: str) -> None:
    if column not in row:
        found = row.get("kind", "demonstration")
        raise InputError(f"{format} needs comparisons, and this snapshot holds {found}s; export another one")


CONVERTERS: dict[str, Callable[[Row], Iterator[Row]]] = {
    "trl-preference": _preference,
    "trl-unpaired": _unpaired,
    "trl-prompt-completion": _prompt_completion,
    "jsonl": _everything,
    "parquet": _everything,
}


# Parquet ---------------------------------------------------------------------------------------------------------


def _write_parquet(path: Path, rows: Callable[[], Iterator[Row]]) -> None:
    """Two passes: the first finds each column's type, so that a column that begins with nulls still has one.

    A column of mixed or nested values is written as JSON text.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise InputError("writing parquet needs pyarrow: pip install pyarrow") from None
    shapes: dict[str, set[str]] = {}
    for row in rows():
        for name, value in row.items():
            shapes.setdefault(name, set()).add(_shape(value))
    messages = pyarrow.list_(pyarrow.struct([("role", pyarrow.string()), ("content", pyarrow.string())]))
    types = {
        "messages": messages,
        "texts": pyarrow.list_(pyarrow.string()),
        "text": pyarrow.string(),
        "bool": pyarrow.bool_(),
        "int": pyarrow.int64(),
        "float": pyarrow.float64(),
    }
    kinds = {name: _one_shape(found) for name, found in shapes.items()}
    schema = pyarrow.schema([(name, types.get(kind, pyarrow.string())) for name, kind in kinds.items()])
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        for batch in _batches(rows()):
            columns = [[_as(kinds[name], row.get(name)) for row in batch] for name in kinds]
            arrays = [pyarrow.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
            writer.write_table(pyarrow.Table.from_arrays(arrays, schema=schema))


def _shape(value: Any) -> str:
    if value is None:
        return "null"
    for kind, name in ((bool, "bool"), (int, "int"), (float, "float"), (str, "text")):
        if isinstance(value, kind):
            return name
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return "texts"
    if isinstance(value, list) and all(isinstance(item, dict) and set(item) == {"role", "content"} for item in value):
        return "messages"
    return "json"


def _one_shape(found: Iterable[str]) -> str:
    known = set(found) - {"null"}
    if known == {"int", "float"}:
        return "float"
    return known.pop() if len(known) == 1 else "text" if not known else "json"


def _as(kind: str, value: Any) -> Any:
    if value is None or kind not in ("json", "float"):
        return value
    return float(value) if kind == "float" else json.dumps(value, ensure_ascii=False, allow_nan=False)


def _batches(rows: Iterator[Row], size: int = 1000) -> Iterator[list[Row]]:
    batch: list[Row] = []
    for row in rows:
        batch.append(row)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
