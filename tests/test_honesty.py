"""The check of the tests themselves: it finds what it is for, and finds nothing here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TOOL = ROOT / "tools" / "honesty.py"


def check(tree: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, TOOL, tree], capture_output=True, text=True, timeout=60, check=False)


def test_nothing_is_found_in_this_project() -> None:
    found = check(ROOT)
    assert found.returncode == 0, found.stdout
    assert found.stdout.startswith("\n0 findings in ") or found.stdout.startswith("0 findings in ")


@pytest.mark.parametrize(
    ("place", "source", "finding"),
    [
        ("tests/test_a.py", "def test_a():\n    print(1)\n", "test_a asserts nothing"),
        ("tests/test_a.py", "def test_a():\n    assert True\n", "test_a asserts nothing"),
        ("tests/test_a.py", "def test_a():\n    assert f() == g(abs=0.2)\n", "a tolerance of 0.2"),
        ("tests/test_a.py", "import pytest\npytest.mark.skip()\n", "skipped without a reason"),
        ("prefloop/a.py", "def a():\n    'Says a lot.'\n    pass\n", "a is a stub"),
        ("prefloop/a.py", "def a():\n    raise NotImplementedError\n", "a is a stub"),
        ("prefloop/a.py", "try:\n    f()\nexcept Exception:\n    pass\n", "swallows every exception"),
        ("prefloop/a.py", "import torch\ntorch.load('x', weights_only=True)\n", "torch.load runs what it reads"),
        ("prefloop/a.py", "import pickle\npickle.loads(b'')\n", "pickle.loads runs what it reads"),
        ("prefloop/a.py", "import yaml\nyaml.load('')\n", "yaml.load runs what it reads"),
        ("prefloop/a.py", "f(trust_remote_code=True)\n", "runs code from a model's folder"),
        ("prefloop/a.py", "import subprocess\nsubprocess.run('x', shell=True)\n", "goes through a shell"),
        ("prefloop/a.py", "x = 1  # " + "TODO: later\n", "TODO: later"),
    ],
)
def test_each_kind_is_found(tmp_path: Path, place: str, source: str, finding: str) -> None:
    file = tmp_path / place
    file.parent.mkdir(parents=True)
    file.write_text(source)
    found = check(tmp_path)
    assert found.returncode == 1
    assert finding in found.stdout
    assert "1 findings in 1 files" in found.stdout


@pytest.mark.parametrize(
    ("place", "source"),
    [
        ("tests/test_a.py", "def checks(x):\n    assert x\ndef test_a():\n    checks(f())\n"),
        ("tests/test_a.py", "import pytest\ndef test_a():\n    with pytest.raises(ValueError):\n        f()\n"),
        ("tests/test_a.py", "def test_a():\n    # honest: a coin is thrown\n    assert f() == g(abs=0.2)\n"),
        ("prefloop/a.py", "class A(Protocol):\n    def a(self): ...\n"),
        ("prefloop/a.py", "try:\n    f()\nexcept KeyError:\n    pass\n"),
    ],
)
def test_what_is_right_is_left_alone(tmp_path: Path, place: str, source: str) -> None:
    file = tmp_path / place
    file.parent.mkdir(parents=True)
    file.write_text(source)
    found = check(tmp_path)
    assert found.returncode == 0, found.stdout
