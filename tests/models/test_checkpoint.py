"""Checkpoints: whole or absent, and a damaged one is set aside for the one before it."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from prefloop.artifacts import files
from prefloop.errors import RunError
from prefloop.models.checkpoint import load_checkpoint, save_checkpoint


def tensors(value: float) -> dict[str, Tensor]:
    return {"w": torch.full((3, 2), value), "half": torch.tensor([value], dtype=torch.bfloat16), "n": torch.tensor(7)}


def save(folder: Path, *steps: int) -> None:
    for step in steps:
        save_checkpoint(folder, step, tensors(float(step)), {"step": step, "pi": 0.1 + 0.2})


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_is_loaded_is_what_was_saved(tmp_path: Path) -> None:
    save(tmp_path, 5)
    found = load_checkpoint(tmp_path)
    assert found is not None
    step, loaded, state, aside = found
    assert (step, aside) == (5, [])
    assert state == {"step": 5, "pi": 0.1 + 0.2}
    expected = tensors(5.0)
    assert set(loaded) == set(expected)
    assert all(torch.equal(loaded[k], v) and loaded[k].dtype == v.dtype for k, v in expected.items())


def test_two_names_for_one_tensor_are_both_kept(tmp_path: Path) -> None:
    shared = torch.arange(4.0)
    save_checkpoint(tmp_path, 1, {"a": shared, "b": shared, "view": shared[::2]}, {})
    found = load_checkpoint(tmp_path)
    assert found is not None
    assert found[1]["b"].tolist() == [0.0, 1.0, 2.0, 3.0]
    assert found[1]["view"].tolist() == [0.0, 2.0]


def test_only_the_newest_two_are_kept(tmp_path: Path) -> None:
    save(tmp_path, 1, 2, 10, 9_999_999)
    assert names(tmp_path) == ["step-00000010", "step-09999999"]


def test_none_yet(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path) is None
    assert load_checkpoint(tmp_path / "nowhere") is None


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def truncate(path: Path, at: int) -> None:
    path.write_bytes(path.read_bytes()[:at])


def remove(path: Path, at: int) -> None:
    path.unlink()


@pytest.mark.parametrize("file", ["tensors.safetensors", "state.json", "hashes.json"])
@pytest.mark.parametrize("damage", [flip, truncate, remove])
def test_a_damaged_one_is_set_aside(tmp_path: Path, file: str, damage: Any) -> None:
    save(tmp_path, 3, 4)
    damage(tmp_path / "step-00000004" / file, -10)
    found = load_checkpoint(tmp_path)
    assert found is not None
    step, loaded, state, aside = found
    assert (step, state["step"], loaded["w"][0, 0].item()) == (3, 3, 3.0)
    assert aside == ["step-00000004"]
    assert names(tmp_path) == ["bad-step-00000004-0", "step-00000003"]
    save(tmp_path, 4)  # it does not stand in the way of the next one of that name
    again = load_checkpoint(tmp_path)
    assert again is not None
    assert again[0] == 4


def test_every_one_damaged_means_none(tmp_path: Path) -> None:
    save(tmp_path, 3, 4)
    for name in names(tmp_path):
        flip(tmp_path / name / "tensors.safetensors", -1)
    assert load_checkpoint(tmp_path) is None
    assert names(tmp_path) == ["bad-step-00000003-1", "bad-step-00000004-0"]


def test_a_file_that_was_added_is_damage_too(tmp_path: Path) -> None:
    save(tmp_path, 3)
    (tmp_path / "step-00000003" / "more.json").write_text("{}")
    assert load_checkpoint(tmp_path) is None


def test_what_a_kill_left_half_written_is_not_a_checkpoint(tmp_path: Path) -> None:
    save(tmp_path, 3)
    part = tmp_path / ".step-00000004.0123abcd.part"
    part.mkdir()
    (part / "tensors.safetensors").write_bytes(b"half")
    found = load_checkpoint(tmp_path)
    assert found is not None
    assert found[0] == 3


def test_a_full_disk_leaves_the_last_good_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 3)

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(RunError, match="the disk is full.*step-00000004"):
        save(tmp_path, 4)
    monkeypatch.undo()
    assert names(tmp_path) == ["step-00000003"]
    found = load_checkpoint(tmp_path)
    assert found is not None
    assert found[0] == 3


def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    """`/dev/full` is a disk without room: safetensors' own writer must be understood as well as Python's."""
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this system")
    with pytest.raises(RunError, match="the disk is full"):
        files.write_folder(tmp_path / "x", lambda part: _write_to_full_disk(part))
    assert names(tmp_path) == []


def _write_to_full_disk(part: Path) -> None:
    (part / "file").symlink_to("/dev/full")
    with (part / "file").open("wb") as file:
        file.write(b"x" * 100_000)


def test_hashes_name_every_file(tmp_path: Path) -> None:
    save(tmp_path, 3)
    hashes = json.loads((tmp_path / "step-00000003" / "hashes.json").read_text())
    assert sorted(hashes) == ["state.json", "tensors.safetensors"]
    assert all(len(digest) == 64 for digest in hashes.values())
