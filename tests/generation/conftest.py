"""What the tests of sampling share."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from prefloop.models.load import load_tokenizer
from prefloop.models.template import Template


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def template(tiny_model: Path) -> Template:
    return Template(load_tokenizer(tiny_model))
