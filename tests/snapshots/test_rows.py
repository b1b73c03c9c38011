"""Files of every format, good and broken: each row comes out once, as itself or as a reject with its reason."""

from __future__ import annotations

import gzip
import json
import lzma
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefloop.errors import InputError
from prefloop.snapshots import rows as module
from prefloop.snapshots.rows import Reject, check_packed, defect, read_rows

ROWS: list[dict[str, Any]] = [
    {"prompt": "One", "chosen": 'äöü, "quoted"\nand a second line', "rejected": "no"},
    {"prompt": "Two", "chosen": "🙂", "rejected": "Human: not a turn"},
]


def packed(path: Path, data: bytes) -> Path:
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(data))
    elif path.suffix == ".xz":
        path.write_bytes(lzma.compress(data))
    else:
        path.write_bytes(data)
    return path


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def as_csv(rows: list[dict[str, Any]]) -> bytes:
    def cell(text: str) -> str:
        return '"' + text.replace('"', '""') + '"'

    lines = [",".join(rows[0])] + [",".join(cell(value) for value in row.values()) for row in rows]
    return ("\r\n".join(lines) + "\r\n").encode()


def as_parquet(tmp_path: Path) -> bytes:
    path = tmp_path / "made.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    return path.read_bytes()


@pytest.mark.parametrize("packing", ["", ".gz", ".xz"])
@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "parquet"])
def test_every_format_gives_the_same_rows(tmp_path: Path, kind: str, packing: str) -> None:
    data = {
        "jsonl": lambda: b"".join(json.dumps(row).encode() + b"\n" for row in ROWS),
        "json": lambda: json.dumps(ROWS, indent=1).encode(),
        "csv": lambda: as_csv(ROWS),
        "parquet": lambda: as_parquet(tmp_path),
    }[kind]()
    path = packed(tmp_path / f"rows.{kind}{packing}", data)
    assert [row for _, row in read_rows(path)] == ROWS


def test_json_lines_under_the_name_json_are_read(tmp_path: Path) -> None:
    path = packed(tmp_path / "rows.json", b'\xef\xbb\xbf{"prompt": "a"}\n\n{"prompt": "b"}\n')
    assert list(read_rows(path)) == [(1, {"prompt": "a"}), (3, {"prompt": "b"})]


def test_csv_messages_are_read_as_messages_and_other_json_stays_text(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "Hi, you"}]
    data = as_csv([{"prompt": json.dumps(messages), "chosen": "[1, 2]", "rejected": '{"a": 1}'}])
    [(line, row)] = read_rows(packed(tmp_path / "rows.csv", data))
    assert (line, row) == (2, {"prompt": messages, "chosen": "[1, 2]", "rejected": '{"a": 1}'})


def test_a_csv_row_of_another_width_is_rejected(tmp_path: Path) -> None:
    path = packed(tmp_path / "rows.csv", b"prompt,chosen\nonly one\na,b\n")
    (line, reject), good = read_rows(path)
    assert isinstance(reject, Reject)
    assert (line, reject.reason, reject.detail) == (2, "malformed", "1 cells under 2 column names")
    assert good == (3, {"prompt": "a", "chosen": "b"})


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"a": ', "broken JSON"),
        (b"plain words", "broken JSON"),
        (b'{"a": NaN}', "broken JSON"),
        (b'{"a": -Infinity}', "broken JSON"),
        (b'{"a": "\xff\xfe"}', "broken JSON"),
        (b"[" * 100_000 + b"]" * 100_000, "broken JSON"),
        (b'{"a": ' * 100_000 + b"1" + b"}" * 100_000, "broken JSON"),
        (b'{"a": ' + b"9" * 5_000 + b"}", "broken JSON"),
        (b'{"a": ' + b"[" * 50 + b"]" * 50 + b"}", "malformed"),
        (b'{"a": 9223372036854775808}', "malformed"),
        (b'{"a": 1e999}', "malformed"),
        (b"9" * 300, "malformed"),
        (b'["a", "b"]', "malformed"),
        (b"null", "malformed"),
        (b'"text"', "malformed"),
        (b'{"a": "x\\u0000y"}', "NUL character"),
        (b'{"a": {"b": ["\\u0000"]}}', "NUL character"),
        (b'{"\\u0000": 1}', "NUL character"),
        (b'{"a": "\\ud800"}', "lone surrogate"),
        (b'{"\\udfff": 1}', "lone surrogate"),
        (b'{"a": "\xed\xa0\x80"}', "lone surrogate"),
    ],
)
def test_a_bad_line_is_one_reject_and_its_neighbours_stay(tmp_path: Path, line: bytes, reason: str) -> None:
    path = packed(tmp_path / "rows.jsonl", b'{"a": 1}\n' + line + b'\n{"a": 2}\n')
    (_, first), (number, reject), (_, last) = read_rows(path)
    assert (first, last) == ({"a": 1}, {"a": 2})
    assert isinstance(reject, Reject)
    assert (number, reject.reason) == (2, reason)
    assert reject.row is not None
    assert len(reject.row) <= 2000
    json.dumps(reject.row).encode()


def test_an_endless_line_is_rejected_without_being_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ROW", 1000)
    path = packed(tmp_path / "rows.jsonl", b'{"a": "' + b"x" * 5000 + b'"}\n{"a": 2}\n')
    (_, reject), good = read_rows(path)
    assert isinstance(reject, Reject)
    assert (reject.reason, reject.detail, len(reject.row or "")) == ("malformed", "longer than 1000 bytes", 200)
    assert good == (2, {"a": 2})


def test_a_json_array_is_streamed_across_buffers(tmp_path: Path) -> None:
    rows = [{"i": i, "text": "z" * 997} for i in range(300)]  # more than four buffers of 64 KiB
    path = packed(tmp_path / "rows.json", json.dumps(rows).encode())
    assert [row for _, row in read_rows(path)] == rows


@pytest.mark.parametrize(
    ("text", "good", "detail"),
    [
        ('[{"a": 1}, {"a": 2', 1, "the rest of the array is not read"),
        ('[{"a": 1}, {"a" 2}, {"a": 3}]', 1, "the rest of the array is not read"),
        ('[{"a": 1}', 1, "the closing ] is missing"),
        ('[{"a": 1}, ' + "[" * 100_000, 1, "nested too deeply"),
    ],
)
def test_a_broken_array_says_that_its_rest_is_not_read(tmp_path: Path, text: str, good: int, detail: str) -> None:
    *rows, (_, reject) = read_rows(packed(tmp_path / "rows.json", text.encode()))
    assert [row for _, row in rows] == [{"a": 1}] * good
    assert isinstance(reject, Reject)
    assert reject.reason == "broken JSON"
    assert detail in reject.detail


@given(st.lists(st.one_of(st.binary(max_size=60), st.text(max_size=60).map(_bytes)), max_size=8))
def test_random_lines_never_raise_and_none_is_lost(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]
) -> None:
    kept = [line.replace(b"\n", b" ") for line in lines]
    path = packed(tmp_path_factory.mktemp("random") / "rows.jsonl", b"".join(line + b"\n" for line in kept))
    found = list(read_rows(path))
    assert len(found) == sum(bool(line.strip(b"\xef\xbb\xbf \t\r\n")) for line in kept)
    assert all(isinstance(row, Reject | dict) for _, row in found)


def test_a_missing_file_is_named_with_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "hh_rlhf.jsonl.gz").touch()
    with pytest.raises(InputError, match=r"no such file: .*hh_rlfh\.jsonl\.gz; near it in .*: hh_rlhf\.jsonl\.gz"):
        list(read_rows(tmp_path / "hh_rlfh.jsonl.gz"))
    with pytest.raises(InputError, match="there is no folder"):
        list(read_rows(str(tmp_path / "nowhere" / "rows.jsonl")))


@pytest.mark.parametrize("name", ["rows.txt", "rows", "rows.gz", "weights.pkl"])
def test_an_unknown_type_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(InputError, match=r"\.jsonl, \.json, \.csv, \.parquet"):
        list(read_rows(tmp_path / name))


@pytest.mark.parametrize("name", ["rows.jsonl.gz", "rows.jsonl.xz"])
def test_a_cut_archive_is_an_error_and_not_a_shorter_file(tmp_path: Path, name: str) -> None:
    path = packed(tmp_path / name, b'{"a": "%s"}\n' % (b"0123456789abcdef" * 1000))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match="damaged or cut off"):
        list(read_rows(path))
    with pytest.raises(InputError, match="damaged or cut off"):
        check_packed(path)
    path.write_bytes(b"no archive at all")
    with pytest.raises(InputError, match="damaged or cut off"):
        check_packed(path)


def test_a_file_that_is_no_parquet_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read as parquet"):
        list(read_rows(packed(tmp_path / "rows.parquet", b"no parquet")))


def test_parquet_values_become_json_values(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    table = pyarrow.table(
        {
            "at": pyarrow.array([0], pyarrow.timestamp("us", "UTC")),
            "turns": [[{"role": "user", "content": "x"}]],
            "none": pyarrow.array([None], pyarrow.string()),
            "raw": [b"\x00"],
        }
    )
    pyarrow.parquet.write_table(table.drop(["raw"]), path)
    [(_, row)] = read_rows(path)
    assert row == {"at": "1970-01-01T00:00:00+00:00", "turns": [{"role": "user", "content": "x"}], "none": None}
    pyarrow.parquet.write_table(table, path)
    [(_, reject)] = read_rows(path)
    assert isinstance(reject, Reject)
    assert (reject.reason, reject.detail) == ("malformed", "a value of type bytes")


def test_a_hub_id_without_network_says_what_to_do() -> None:
    with pytest.raises(InputError, match=r"'prefloop-tests/none:test' is no file here.*check the spelling"):
        list(read_rows("prefloop-tests/none:test"))


def test_progress_is_told_and_ends_at_one(jsonl: Callable[..., Path]) -> None:
    calls: list[tuple[int, float | None]] = []
    list(read_rows(jsonl({"a": i} for i in range(1200)), lambda done, share: calls.append((done, share))))
    assert [done for done, _ in calls] == [500, 1000, 1200]
    assert calls[-1] == (1200, 1.0)


def test_defect_looks_everywhere_and_accepts_what_can_be_stored() -> None:
    good = {"a": [1, 2.5, None, True, {"b": "Human: ok"}], "big": 2**63 - 1}
    assert defect(good) is None
    assert defect({"a": object()}) == Reject("malformed", "a value of type object")
    assert defect({1: "x"}) is not None


def test_nothing_heavy_is_imported() -> None:
    heavy = ["torch", "pandas", "pyarrow", "datasets"]  # numpy is what the consensus is computed with
    names = "prefloop.snapshots.importing, prefloop.snapshots.export, prefloop.snapshots.build"
    code = f"import sys, {names}; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
