"""What `prefloop compare` prints: one table for a sweep, and a second one where methods differ in many settings."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from prefloop.cli.compare import comparison


def printed(settings: list[str]) -> str:
    runs = [
        {"run": name, "method": name, "settings": dict.fromkeys(settings, value), "steps": 9, "seconds": 1.5}
        for name, value in (("dpo", 0.25), ("ppo", None))
    ]
    result: dict[str, Any] = {"runs": runs, "differ": ["method", *settings], "reward": None, "page": "page.html"}
    console = Console(file=io.StringIO(), width=80)
    comparison(result).show(console)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text


def test_a_sweeps_setting_stands_beside_its_run() -> None:
    lines = printed(["beta"]).splitlines()
    assert lines[1].split() == ["run", "method", "beta", "steps", "seconds"]
    assert [line.split() for line in lines[2:4]] == [
        ["dpo", "dpo", "0.25", "9", "1.5"],
        ["ppo", "ppo", "-", "9", "1.5"],
    ]
    assert lines[4:] == ["The page is page.html"]


def test_many_settings_have_rows_of_their_own_and_stay_readable() -> None:
    names = [f"setting_{n}" for n in range(20)]
    lines = printed(names).splitlines()
    assert lines[1].split() == ["run", "method", "steps", "seconds"]
    assert lines[4].strip() == "Settings that differ"
    assert lines[5].split() == ["dpo", "ppo"]
    assert [line.split() for line in lines[6:26]] == [[name, "0.25", "-"] for name in names]
