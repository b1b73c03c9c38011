"""`prefloop quality` as a user types it."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from prefloop.cli.app import run


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    before = signal.getsignal(signal.SIGTERM)
    yield tmp_path
    signal.signal(signal.SIGTERM, before)


def call(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[str, str]:
    capfd.readouterr()
    with pytest.raises(SystemExit) as left:
        run(list(arguments))
    out, err = capfd.readouterr()
    assert not left.value.code, err
    return out, err


def rows() -> list[dict[str, object]]:
    """Three who agree, and one who gets the gold questions wrong."""
    result: list[dict[str, object]] = []
    for i in range(24):
        right = 1.0 if i * 7 % 3 else 0.0
        for who in ("ann", "bo", "cy", "wrong"):
            label = 1 - right if who == "wrong" else right
            row = {"prompt": f"Question {i}?", "chosen": f"x{i}", "rejected": f"y{i}", "label": label, "annotator": who}
            result.append(row | {"subset": "ab"[i % 2]} | ({"gold": "a" if right else "b"} if i < 12 else {}))
    return result


def test_the_contract_of_json_and_a_table_for_people(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows()))
    call(capfd, "init", ".")
    call(capfd, "import", "pairs.jsonl", "--as", "comparisons")
    out, _ = call(capfd, "quality", "--json")
    found = json.loads(out)
    assert {"agreement", "annotators", "consensus"} <= found.keys()
    assert found["agreement"]["percent"]["value"] == 0.5  # three of six pairs of people
    assert set(found["agreement"]["slices"]["subset"]) == {"a", "b"}
    assert found["consensus"]["questions"] == 24
    people = {tuple(one["flags"]): one for one in found["annotators"]}
    assert len(found["annotators"]) == 4
    assert people["inverted",]["n"] == 24
    assert people["inverted",]["weight"] == 0.1
    assert all(0 <= one["low"] <= one["reliability"] <= one["high"] <= 1 for one in found["annotators"])
    out, err = call(capfd, "quality")
    assert "Krippendorff" in out
    assert "inverted" in out
    assert "0/12" in out
    assert "more than 5%" in err  # one of four is much


def test_an_empty_workspace_has_nothing_to_say_and_says_so(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    call(capfd, "init", ".")
    found = json.loads(call(capfd, "quality", "--json")[0])
    assert (found["annotators"], found["consensus"]) == ([], {"questions": 0, "uncertain": 0})
    assert found["agreement"]["alpha"]["why"] == "no item has answers from two people"
    assert "undefined" in call(capfd, "quality")[0]
