"""How fast the app is, through HTTP, on a machine that has nothing else to do: `benchmarks.web` with its promises."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.web import cycles, page_routes, pages

TRIES = 8
STOLEN = 0.05


def test_every_page_is_measured() -> None:
    found = page_routes()
    assert {"/work", "/lead", "/lead/agreement", "/lead/review", "/lead/review/{question}", "/me"} <= set(found)


@pytest.mark.prove
def test_five_hundred_cycles_a_second_through_http(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """30 clients, SQLite, synchronous=FULL. The best of three in which the processors were ours: another program for a
    moment is not our slowness, and a host that gives a virtual machine's processors to others is no two processors."""
    monkeypatch.delenv("PREFLOOP_DATABASE_URL", raising=False)
    ours: list[dict[str, Any]] = []
    for number in range(TRIES):
        found = cycles(tmp_path / f"{number}", clients=30, seconds=10, questions=12_000)
        print(found)
        ours += [found] * ((found["stolen"] or 0) < STOLEN)
        if len(ours) == 3:
            break
    if not ours:
        pytest.skip(f"the host took more than {STOLEN:.0%} of the processors' time in each of {TRIES} runs")
    best = max(ours, key=lambda one: one["cycles_per_second"])
    assert best["cycles_per_second"] >= 500
    assert best["request_p95_ms"] < 100


@pytest.mark.prove
def test_every_page_takes_less_than_50_ms_with_a_hundred_thousand_questions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PREFLOOP_DATABASE_URL", raising=False)
    found = pages(tmp_path, 100_000)
    print(found)
    assert found.pop("report_seconds")
    assert {path: one for path, one in found.items() if not one["p95"] < 50} == {}
