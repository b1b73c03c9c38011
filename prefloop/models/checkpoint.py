"""Checkpoints that resume to the same bits: tensors as safetensors, the rest as JSON, every file hashed.

A checkpoint is a folder `step-00000120/` that appears whole or not at all. One that is torn or whose bytes
changed is moved aside (`bad-…`) and the last good one is used.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from prefloop.artifacts.files import payload_hashes, write_folder, write_json
from prefloop.models.load import disk_errors

HASHES = "hashes.json"


def save_checkpoint(
    folder: Path, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any], keep: int = 2
) -> None:
    """Write `folder/step-N` atomically, then remove all but the newest `keep`. Raises RunError on a full disk."""

    def fill(part: Path) -> None:
        copies = {name: tensor.detach().contiguous().cpu().clone() for name, tensor in tensors.items()}
        with disk_errors():
            save_file(copies, part / "tensors.safetensors")
        write_json(part / "state.json", dict(state))
        write_json(part / HASHES, payload_hashes(part, HASHES))

    write_folder(folder / f"step-{step:08d}", fill)
    for old in sorted(folder.glob("step-*"))[:-keep]:
        shutil.rmtree(old)


def load_checkpoint(folder: Path) -> tuple[int, dict[str, Tensor], dict[str, Any], list[str]] | None:
    """The newest good checkpoint: (step, tensors, state, names of those set aside), or None when there is none."""
    aside: list[str] = []
    for path in sorted(folder.glob("step-*"), reverse=True):
        try:
            if payload_hashes(path, HASHES) != json.loads((path / HASHES).read_text(encoding="utf-8")):
                raise ValueError("its bytes do not match their hashes")
            tensors = load_file(path / "tensors.safetensors")
            state = json.loads((path / "state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError, SafetensorError):
            # Moved, not deleted: a person may want to look; left in place it would block the next rename.
            path.rename(path.with_name(f"bad-{path.name}-{len(list(folder.glob('bad-*')))}"))
            aside.append(path.name)
            continue
        return int(path.name.removeprefix("step-")), tensors, state, aside
    return None
