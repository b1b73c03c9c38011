"""What every test shares. It is read before anything of prefloop is imported."""

from __future__ import annotations

import os
from pathlib import Path

# Two test processes share two cores; more threads than cores make both slow.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# No test reaches a network: a model or a data set that is not on disk is an error at once, not after a time-out.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# A database named in the developer's own shell must not receive the tests' rows.
os.environ.pop("PREFLOOP_DATABASE_URL", None)

import pytest
from jaxtyping import install_import_hook

# Shapes are types: every call of these functions is checked against its annotations while the tests run.
install_import_hook(["prefloop.functional", "prefloop.algorithms"], "beartype.beartype")

# postgresql_url: an empty database on a server that the tests start themselves.
pytest_plugins = ["tests.postgres"]

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data sets; a test that needs it is skipped, visibly, where it is absent."""
    folder = Path(os.environ.get("PREFLOOP_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set PREFLOOP_DATA to the folder that holds preferences/ and text/")
    return folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a causal model of two layers and its tokenizer. Read it, do not write to it."""
    from tests.tiny import write_tiny_model

    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")
