"""Rows of token ids: what is kept, what is dropped, and that the ledger learns why."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from prefloop.datasets.rows import (
    comparison_rows,
    demonstration_rows,
    encode_comparison,
    encode_demonstration,
    train_prompts,
)
from prefloop.errors import RunError
from prefloop.models.load import load_tokenizer
from prefloop.models.template import Template
from prefloop.records import Comparison, Demonstration, Ledger, Message

PROMPT: list[Message] = [{"role": "user", "content": "What is 2 + 2?"}]


@pytest.fixture(scope="module")
def template(tiny_model: Path) -> Template:
    return Template(load_tokenizer(tiny_model))


def write(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_demonstration(template: Template) -> None:
    ledger = Ledger()
    row = encode_demonstration(Demonstration(prompt=PROMPT, completion="Four.", weight=2.0), template, 100, ledger)
    assert row is not None
    assert row.text == template.encode(PROMPT, "Four.", 100)
    assert row.completion_tokens == len(template.completion("Four."))
    assert (row.weight, row.identity) == (2.0, "'What is 2 + 2?'")
    assert (ledger.reasons, ledger.notes) == ({}, {})


def test_an_empty_demonstration_has_nothing_to_learn(template: Template) -> None:
    ledger = Ledger()
    assert encode_demonstration(Demonstration(prompt=PROMPT, completion=" \n"), template, 100, ledger) is None
    assert ledger.reasons == {"fully masked": 1}


def test_a_comparison(template: Template) -> None:
    ledger = Ledger()
    item = Comparison(prompt=PROMPT, chosen="Four.", rejected="Five.", label=0.8, weight=0.5, margin=1.5)
    row = encode_comparison(item, template, 100, ledger)
    assert row is not None
    assert row.chosen == template.encode(PROMPT, "Four.", 100)
    assert row.rejected == template.encode(PROMPT, "Five.", 100)
    assert (row.label, row.weight, row.margin) == (0.8, 0.5, 1.5)
    # the prompt and the F of "Four." and "Five." are computed once
    alike = row.chosen.prompt_length + 1
    assert row.chosen.ids[:alike] == row.rejected.ids[:alike]
    assert row.chosen.ids[alike] != row.rejected.ids[alike]
    assert row.length == row.chosen.length + row.rejected.length - alike
    assert (ledger.reasons, ledger.notes) == ({}, {})


def test_sides_that_truncation_made_alike_are_dropped(template: Template) -> None:
    ledger = Ledger()
    item = Comparison(prompt=PROMPT, chosen="y" * 90 + "A", rejected="y" * 90 + "B")
    assert encode_comparison(item, template, 60, ledger) is None
    assert ledger.reasons == {"truncated to identical": 1}
    assert encode_comparison(item, template, 200, ledger) is not None


def test_what_was_cut_and_what_was_a_tie_is_noted(template: Template) -> None:
    ledger = Ledger()
    cut = Comparison(prompt=PROMPT, chosen="A" + "y" * 90, rejected="B", label=0.5)
    row = encode_comparison(cut, template, 60, ledger)
    assert row is not None
    assert (row.chosen.truncated, row.rejected.truncated) == (True, False)
    long: list[Message] = [{"role": "user", "content": "x" * 90}]
    assert encode_demonstration(Demonstration(prompt=long, completion="A"), template, 40, ledger) is not None
    assert ledger.notes == {"truncated": 1, "tie": 1, "prompt truncated": 1}
    assert ledger.reasons == {}


def pairs(n: int) -> list[dict[str, Any]]:
    return [{"prompt": f"Question {i}?", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(n)]


def test_every_row_of_a_file_is_used_or_in_the_ledger(template: Template, tmp_path: Path) -> None:
    rows = [*pairs(40), {"prompt": "Q", "chosen": "same", "rejected": "same"}]
    rows.append({"prompt": "R", "chosen": "y" * 90 + "A", "rejected": "y" * 90 + "B"})
    ledger = Ledger()
    train, test = comparison_rows(
        write(tmp_path / "p.jsonl", rows), template, 40, ledger, test_share=0.3, max_dropped=0.5
    )
    assert len(train) + len(test) == ledger.used == 40
    assert ledger.rows == 42
    assert ledger.reasons == {"identical": 1, "truncated to identical": 1}
    assert len(test) > 0


def test_the_split_is_by_prompt(template: Template, tmp_path: Path) -> None:
    """Two answers to one prompt, and the same prompt in other letters, land on one side."""
    rows = [
        {"prompt": prompt, "chosen": f"good {k}", "rejected": f"bad {k}"}
        for i in range(30)
        for k, prompt in enumerate([f"Question {i}?", f"Question {i}?", f"  question  {i}?"])
    ]
    source = write(tmp_path / "p.jsonl", rows)
    train, test = comparison_rows(source, template, 100, Ledger(), test_share=0.4, max_dropped=0)
    sides = [{" ".join(row.identity.lower().split()).replace("' q", "'q") for row in side} for side in (train, test)]
    assert len(train) + len(test) == 90
    assert sides[0] & sides[1] == set()
    assert len(sides[1]) * 3 == len(test)


def test_demonstrations_of_a_comparison_file_are_what_was_chosen(template: Template, tmp_path: Path) -> None:
    source = write(tmp_path / "p.jsonl", pairs(5))
    train, test = demonstration_rows(source, template, 100, Ledger(), test_share=0.0, max_dropped=0.0)
    assert test == []
    answers = [template.decode(row.text.ids[row.text.prompt_length :]) for row in train]
    assert sorted(answers) == [f"good {i}" for i in range(5)]


def test_prompts_come_once_each_and_only_from_the_training_side(tmp_path: Path) -> None:
    source = write(tmp_path / "p.jsonl", [*pairs(40), *pairs(40)])
    ledger = Ledger()
    prompts = train_prompts(source, ledger, test_share=0.5, max_dropped=0.0)
    words = [prompt[-1]["content"] for prompt in prompts]
    assert len(words) == len(set(words))
    assert 5 < len(words) < 35
    assert set(words) <= {f"Question {i}?" for i in range(40)}


def test_a_snapshot_brings_its_own_split(template: Template, tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", pairs(6))
    write(tmp_path / "test.jsonl", pairs(9)[6:])
    train, test = comparison_rows(tmp_path, template, 100, Ledger(), test_share=0.9, max_dropped=0)
    assert (len(train), len(test)) == (6, 3)
    (tmp_path / "test.jsonl").write_text("")
    train, test = comparison_rows(tmp_path, template, 100, Ledger(), test_share=0.9, max_dropped=0)
    assert (len(train), len(test)) == (6, 0)


def test_too_many_defective_rows_stop_the_run(template: Template, tmp_path: Path) -> None:
    rows = [*pairs(9), {"prompt": "Q", "chosen": "same", "rejected": "same"}]
    source = write(tmp_path / "p.jsonl", rows)
    with pytest.raises(RunError, match=r"1 of 10 rows would be dropped \(identical: 1\)"):
        comparison_rows(source, template, 100, Ledger(), test_share=0.0, max_dropped=0.05)
