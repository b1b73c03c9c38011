"""What may load what: the layers, and the parts that never load torch."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import prefloop

ROOT = Path(__file__).resolve().parent.parent
TORCH_FREE = ["records", "settings", "artifacts", "store", "quality", "snapshots", "cli.app", "workflows.data"]
TORCH_FREE += ["web", "web.routes", "workflows.quality"]


def loaded_by(statement: str) -> set[str]:
    """The top-level modules that a fresh Python has loaded after `statement`."""
    script = f"import sys; {statement}; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    return set(
        subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
        ).stdout.split()
    )


@pytest.mark.parametrize("module", TORCH_FREE)
def test_what_handles_answers_never_loads_torch(module: str) -> None:
    package = importlib.import_module(f"prefloop.{module}")
    below = [name for _, name, _ in pkgutil.iter_modules(getattr(package, "__path__", []), f"prefloop.{module}.")]
    loaded = loaded_by(
        "; ".join(f"import {name}" for name in [f"prefloop.{module}", *below] if "migrations" not in name)
    )
    assert "prefloop" in loaded
    assert not {"torch", "transformers", "tokenizers"} & loaded


def test_import_prefloop_loads_nothing_else() -> None:
    assert not {"torch", "sqlalchemy", "yaml", "typer", "numpy"} & loaded_by("import prefloop")


def test_the_layers_hold() -> None:
    """Design: each layer imports only from the layers below it, and neighbours not from each other."""
    checked = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert checked.returncode == 0, checked.stdout
    assert "0 broken" in checked.stdout


def test_the_public_functions_are_those_of_the_command_line() -> None:
    verbs = ["init", "demo", "export", "sample", "label", "snapshot", "train", "evaluate", "report", "lineage"]
    verbs += ["measure_quality", "chat", "runs", "doctor", "loop", "serve"]
    for name in [*verbs, "import_data", "train_methods"]:
        function = getattr(prefloop, name)
        assert callable(function), name
        assert function.__doc__, name
        assert name in dir(prefloop)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="trian"):
        prefloop.trian  # noqa: B018
