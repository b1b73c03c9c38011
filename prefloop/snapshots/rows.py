"""Rows out of files: jsonl, json, csv and parquet (each also .gz or .xz), and Hugging Face datasets.

A row that cannot be used becomes a `Reject` with a short, fixed reason; nothing here raises for what a row holds,
and nothing is skipped in silence. What a *file* is (missing, damaged, of an unknown type) raises InputError.

Pyarrow and datasets are imported only when a parquet file or a hub id is read.
"""

from __future__ import annotations

import csv
import difflib
import gzip
import io
import json
import lzma
import math
import re
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from prefloop.errors import InputError

Progress = Callable[[int, float | None], None]
"""Called now and then with (rows read so far, share of the file read 0..1 or None where that is not known)."""

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
PACKINGS = ("", ".gz", ".xz")
MAX_ROW = 16 * 1024 * 1024
"""Bytes; a longer line is rejected, so that one endless line cannot fill the memory."""
MAX_DEPTH = 24
PROGRESS_EVERY = 500


@dataclass(frozen=True)
class Reject:
    """Why a row cannot be used: `reason` in a few fixed words, `detail` for a person, `row` as its raw text."""

    reason: str
    detail: str = ""
    row: str | None = None


def read_rows(source: str | Path, progress: Progress | None = None) -> Iterator[tuple[int, dict[str, Any] | Reject]]:
    """Every row of a jsonl, json, csv or parquet file (each also .gz or .xz), or of a Hugging Face dataset.

    Yields (line, row): `line` is the line in a jsonl or csv file, the 1-based position elsewhere. Blank lines are
    no rows. A hub id is `owner/name` or `owner/name:split` (default split: train). Rows are streamed; memory does
    not grow with the file.

    Raises InputError when the file is missing (with near names), of an unknown type, or a damaged archive.
    """
    rows = _hub_rows(str(source)) if _is_hub_id(source) else _file_rows(Path(source))
    done, share = 0, None
    for done, (line, value, share) in enumerate(rows, 1):
        if progress is not None and done % PROGRESS_EVERY == 0:
            progress(done, share)
        problem = value if isinstance(value, Reject) else defect(value)
        if problem is not None and problem.row is None:
            problem = replace(problem, row=row_text(value))
        yield line, problem or value
    if progress is not None:
        progress(done, 1.0)


def check_packed(source: str | Path) -> None:
    """Raises InputError when a .gz or .xz file is damaged or cut off; reads it to its end, keeps nothing."""
    path = Path(source)
    packed = _type_of(path)[1]
    if packed is None or not path.is_file():
        return
    with _readable(path), path.open("rb") as raw, _open(raw, packed) as data:
        while data.read(1 << 20):
            pass


_Found = tuple[int, Any, float | None]
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(:[\w\[\]%:+-]+)?")


def _is_hub_id(source: str | Path) -> bool:
    text = str(source)
    if Path(text).exists() or not _HUB_ID.fullmatch(text) or isinstance(source, Path):
        return False
    return _type_of(Path(text))[0] is None and not Path(text).parent.is_dir()


def _type_of(path: Path) -> tuple[str | None, str | None]:
    """(`.jsonl` or None where unknown, `.gz` or None): what a file's name says about it."""
    packed = path.suffix.lower() if path.suffix.lower() in (".gz", ".xz") else None
    inner = Path(path.stem).suffix.lower() if packed else path.suffix.lower()
    return (inner if inner in SUFFIXES else None), packed


def _file_rows(path: Path) -> Iterator[_Found]:
    if not path.exists():
        raise InputError(f"no such file: {path}{_near(path)}")
    kind, packed = _type_of(path)
    if path.is_dir() or kind is None:
        what = "is a directory" if path.is_dir() else f"ends in {path.suffix or 'no suffix'!r}"
        raise InputError(f"{path} {what}; rows are read from {', '.join(SUFFIXES)}, each also with .gz or .xz")
    size = max(path.stat().st_size, 1)
    with _readable(path), ExitStack() as stack:
        raw = stack.enter_context(path.open("rb"))
        data = stack.enter_context(_open(raw, packed))
        if kind == ".parquet":
            yield from _parquet_rows(data if packed is None else stack.enter_context(_unpacked(data)))
            return
        reader = {".jsonl": _json_lines, ".json": _json, ".csv": _csv_rows}[kind]
        for line, value in reader(data):
            yield line, value, min(raw.tell() / size, 1.0)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError) as error:
        raise InputError(f"{path} is damaged or cut off ({error}); fetch or pack it again") from None
    except PermissionError:
        raise InputError(f"{path} cannot be read: permission denied") from None


def _open(raw: BinaryIO, packed: str | None) -> BinaryIO:
    if packed == ".gz":
        return cast(BinaryIO, gzip.open(raw))
    return cast(BinaryIO, lzma.open(raw)) if packed == ".xz" else raw


def _near(path: Path) -> str:
    try:
        names = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    except PermissionError:
        names = []
    near = difflib.get_close_matches(path.name, names, n=3, cutoff=0.5)
    if near:
        return f"; near it in {path.parent}: {', '.join(near)}"
    return "" if path.parent.is_dir() else f" (there is no folder {path.parent} either)"


def _lines(data: BinaryIO) -> Iterator[tuple[int, bytes | Reject]]:
    number = 0
    while line := data.readline(MAX_ROW + 1):
        number += 1
        if len(line) <= MAX_ROW:
            yield number, line
            continue
        start = line[:200]
        while not line.endswith(b"\n") and (line := data.readline(MAX_ROW)):
            pass
        yield number, Reject("malformed", f"longer than {MAX_ROW} bytes", start.decode("utf-8", "replace"))


def _json_lines(data: BinaryIO) -> Iterator[tuple[int, Any]]:
    for number, line in _lines(data):
        if isinstance(line, Reject):
            yield number, line
        elif line.strip(b"\xef\xbb\xbf \t\r\n"):
            yield number, _json_value(line)


def _json(data: BinaryIO) -> Iterator[tuple[int, Any]]:
    """A .json file is an array of rows; many tools give that name to JSON lines, so the first character decides."""
    start = cast(io.BufferedReader, data).peek(4096).lstrip(b"\xef\xbb\xbf \t\r\n")
    yield from _json_array(data) if start.startswith(b"[") else _json_lines(data)


def _json_value(line: bytes) -> Any:
    try:
        text = line.decode("utf-8-sig")
    except UnicodeDecodeError:
        shown = line[:2000].decode("utf-8", "replace")
        try:
            line.decode("utf-8", "surrogatepass")
        except UnicodeDecodeError as error:
            return Reject("broken JSON", f"not UTF-8: {error}", shown)
        return Reject("lone surrogate", "an unpaired surrogate is in the bytes", shown)
    try:
        return json.loads(text, parse_constant=_no_constant)
    except RecursionError:
        return Reject("broken JSON", "nested too deeply", text[:2000])
    except ValueError as error:  # JSONDecodeError, NaN, and integers of more than 4,300 digits
        return Reject("broken JSON", str(error), text[:2000])


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


@contextmanager
def _as_text(data: BinaryIO, errors: str, newline: str | None = None) -> Iterator[IO[str]]:
    """`data` decoded, and given back open: whoever opened it closes it."""
    text = io.TextIOWrapper(cast(IO[bytes], data), encoding="utf-8-sig", errors=errors, newline=newline)
    try:
        yield text
    finally:
        if not data.closed:
            text.detach()


def _json_array(data: BinaryIO) -> Iterator[tuple[int, Any]]:
    """One element at a time. After a broken element the rest cannot be told apart and is one Reject."""
    with _as_text(data, "surrogatepass") as text:
        yield from _elements(text)


def _elements(text: IO[str]) -> Iterator[tuple[int, Any]]:
    decoder = json.JSONDecoder(parse_constant=_no_constant)
    step = 1 << 16
    number = 0
    try:
        buffer, at = text.read(step).lstrip()[1:], 0
        while True:
            while at < len(buffer) and buffer[at] in " \t\r\n,":
                at += 1
            if buffer[at : at + 1] == "]":
                return
            try:
                value, end = decoder.raw_decode(buffer, at)
                complete = end < len(buffer)  # a number cut by the end of the buffer would look whole
            except RecursionError:
                yield number + 1, Reject("broken JSON", "nested too deeply; the rest of the array is not read")
                return
            except ValueError as error:
                value, end, complete, problem = None, at, False, str(error)
            if not complete:
                more = text.read(max(step, len(buffer) - at)) if len(buffer) - at <= MAX_ROW else ""
                if more:
                    buffer, at = buffer[at:] + more, 0
                    continue
                if end == at:
                    shown = buffer[at : at + 200]
                    problem = problem if shown else "the closing ] is missing"
                    yield number + 1, Reject("broken JSON", f"{problem}; the rest of the array is not read", shown)
                    return
            number += 1
            yield number, value
            at = end
    except UnicodeDecodeError as error:
        yield number + 1, Reject("broken JSON", f"not UTF-8: {error}; the rest of the array is not read")


def _csv_rows(data: BinaryIO) -> Iterator[tuple[int, Any]]:
    """The first line names the columns. A cell that holds JSON messages (`[{"role": ...`) is read as such."""
    csv.field_size_limit(max(csv.field_size_limit(), MAX_ROW))
    with _as_text(data, "surrogateescape", newline="") as text:
        yield from _cells(text)


def _cells(text: IO[str]) -> Iterator[tuple[int, Any]]:
    reader = csv.reader(text)
    names: list[str] | None = None
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield line, Reject("malformed", f"not CSV: {error}")
            continue
        if not cells:
            continue
        if names is None:
            names = cells
        elif len(cells) != len(names):
            shown = json.dumps(cells)[:2000]
            yield line, Reject("malformed", f"{len(cells)} cells under {len(names)} column names", shown)
        else:
            yield line, {name: _cell(cell) for name, cell in zip(names, cells, strict=True)}


def _cell(text: str) -> Any:
    if text.startswith("[{") and '"role"' in text:
        value = _json_value(text.encode("utf-8", "surrogatepass"))
        return text if isinstance(value, Reject) else value
    return text


def _unpacked(data: BinaryIO) -> Any:
    """Parquet is read from its end, so a packed file is unpacked to an unnamed temporary one first."""
    file = tempfile.TemporaryFile()  # noqa: SIM115 the caller closes it
    shutil.copyfileobj(data, file)
    file.seek(0)
    return file


def _parquet_rows(data: BinaryIO) -> Iterator[_Found]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise InputError("reading parquet needs pyarrow: pip install pyarrow") from None
    try:
        file = pyarrow.parquet.ParquetFile(data)
        total, number = max(file.metadata.num_rows, 1), 0
        for batch in file.iter_batches(batch_size=1000):
            for row in batch.to_pylist():
                number += 1
                yield number, _plain(row), number / total
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{getattr(data, 'name', 'the file')} cannot be read as parquet: {error}") from None


def _hub_rows(source: str) -> Iterator[_Found]:
    name, _, split = source.partition(":")
    try:
        import datasets
    except ImportError:
        raise InputError(f"{source} is no file here, and reading it from the hub needs: pip install datasets") from None
    try:
        rows = datasets.load_dataset(name, split=split or "train", streaming=True)
        for number, row in enumerate(rows, 1):
            yield number, _plain(row), None
    except InputError:
        raise
    except Exception as error:  # the hub client raises a dozen unrelated types; each means: it could not be read
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{source!r} is no file here, and as a hub dataset it could not be read ({first}); "
            f"check the spelling and the network, or give a path to a file"
        ) from error


def _plain(value: Any) -> Any:
    """Arrow and hub values as JSON values: times become ISO text, decimals numbers. The rest is left for `defect`."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if hasattr(value, "isoformat"):
        return value.isoformat()
    if type(value).__name__ == "Decimal":
        return float(value)
    return value


def defect(row: Any) -> Reject | None:
    """What makes a row unfit to store anywhere, or None: not a mapping, NUL, a lone surrogate, NaN or infinity,
    an integer beyond 64 bits, nesting beyond 24 levels. It looks at every key and value, not only at known columns.
    """
    if not isinstance(row, dict):
        return Reject("malformed", f"a row is an object of columns, got {type(row).__name__}", shown(row))
    stack: list[tuple[Any, int]] = [(row, 0)]
    while stack:
        value, depth = stack.pop()
        if isinstance(value, str):
            if "\x00" in value:
                return Reject("NUL character")
            if not value.isascii() and _has_surrogate(value):
                return Reject("lone surrogate")
        elif isinstance(value, dict | list):
            if depth >= MAX_DEPTH:
                return Reject("malformed", f"nested beyond {MAX_DEPTH} levels")
            stack.extend((inner, depth + 1) for inner in (value.values() if isinstance(value, dict) else value))
            if isinstance(value, dict):
                if not all(isinstance(key, str) for key in value):
                    return Reject("malformed", "a column's name is text")
                stack.extend((key, depth + 1) for key in value)
        elif isinstance(value, float):
            if not math.isfinite(value):
                return Reject("malformed", f"{value} is not a number that can be stored")
        elif isinstance(value, int):
            if not -(2**63) < value < 2**63:
                return Reject("malformed", "an integer beyond 64 bits")
        elif value is not None:
            return Reject("malformed", f"a value of type {type(value).__name__}")
    return None


def _has_surrogate(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False


def shown(value: Any) -> str:
    """A value for an error message: short, in ASCII, never a container's content."""
    return ascii(value)[:200] if isinstance(value, str | int | float | bool) or value is None else type(value).__name__


def row_text(row: Any) -> str:
    """A row for the file of rejects: as JSON where that is possible, cut to 2,000 characters."""
    try:
        return json.dumps(row, allow_nan=False)[:2000]
    except (ValueError, TypeError, RecursionError):
        return shown(row) if not isinstance(row, dict) else f"columns: {', '.join(ascii(k)[:50] for k in row)}"[:2000]
