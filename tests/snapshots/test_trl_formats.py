"""Files as TRL 1.16's documentation shows them (dataset_formats): each trains without edits, or the ledger says why.

Beside them, rows that TRL 1.16 takes without a word.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from prefloop.datasets.feedback import Judged, feedback_rows
from prefloop.datasets.rows import comparison_rows, demonstration_rows
from prefloop.models.load import load_tokenizer
from prefloop.models.template import Template
from prefloop.records import Comparison, Ledger
from prefloop.snapshots.feedback import parse_feedback
from prefloop.snapshots.formats import Reject, load_prompts, parse_comparison, parse_demonstration, parse_prompt

SKY = "What color is the sky?"
ASKED = [{"role": "user", "content": SKY}]
BLUE, GREEN = ([{"role": "assistant", "content": f"It is {color}."}] for color in ("blue", "green"))
PREFERENCES: dict[str, dict[str, Any]] = {
    "text, explicit prompt": {"prompt": "The sky is", "chosen": " blue.", "rejected": " green."},
    "text, implicit prompt": {"chosen": "The sky is blue.", "rejected": "The sky is green."},
    "chat, explicit prompt": {"prompt": ASKED, "chosen": BLUE, "rejected": GREEN},
    "chat, implicit prompt": {"chosen": [*ASKED, *BLUE], "rejected": [*ASKED, *GREEN]},
    "with a margin": {"prompt": ASKED, "chosen": BLUE, "rejected": GREEN, "margin": 0.5},
    "with tools": {"prompt": ASKED, "chosen": BLUE, "rejected": GREEN, "tools": [{"name": "look"}]},
}


@pytest.fixture(scope="module")
def template(tiny_model: Path) -> Template:
    return Template(load_tokenizer(tiny_model))


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", PREFERENCES)
def test_preferences_become_rows(name: str, template: Template, tmp_path: Path) -> None:
    ledger = Ledger()
    file = write(tmp_path / "pairs.jsonl", PREFERENCES[name])
    rows, _ = comparison_rows(file, template, 200, ledger, test_share=0.0, max_dropped=0.0)
    assert len(rows) == 1
    (row,) = rows
    assert template.decode(row.chosen.ids[row.chosen.prompt_length :]).strip().endswith("blue.")
    assert template.decode(row.rejected.ids[row.rejected.prompt_length :]).strip().endswith("green.")
    shared = row.chosen.prompt_length
    assert row.chosen.ids[:shared] == row.rejected.ids[: row.rejected.prompt_length]
    assert ledger.reasons == {}
    notes = {
        "text, implicit prompt": {"prompt guessed from the shared beginning": 1},
        "with tools": {"tools ignored": 1},
    }
    assert ledger.notes == notes.get(name, {})
    assert row.margin == (0.5 if name == "with a margin" else 0.0)


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "The sky is", "completion": " blue."},
        {"prompt": ASKED, "completion": BLUE},
        {"messages": [*ASKED, *BLUE]},
        PREFERENCES["text, implicit prompt"],
    ],
)
def test_prompts_with_completions_become_rows(row: dict[str, Any], template: Template, tmp_path: Path) -> None:
    ledger = Ledger()
    file = write(tmp_path / "rows.jsonl", row)
    rows, _ = demonstration_rows(file, template, 200, ledger, test_share=0.0, max_dropped=0.0)
    assert len(rows) == 1
    assert template.decode(rows[0].text.ids[rows[0].text.prompt_length :]).strip().endswith("blue.")


@pytest.mark.parametrize("label", [True, False])
@pytest.mark.parametrize(("prompt", "completion"), [("The sky is", " blue."), (ASKED, BLUE)])
def test_unpaired_preferences_become_rows(
    prompt: Any, completion: Any, label: bool, template: Template, tmp_path: Path
) -> None:
    """What TRL's KTO reads, text or conversational, is an approval here."""
    ledger = Ledger()
    file = write(tmp_path / "unpaired.jsonl", {"prompt": prompt, "completion": completion, "label": label})
    ((row,), _) = feedback_rows([file], template, 200, ledger, test_share=0.0, max_dropped=0.0)
    assert row.said == Judged(label)
    (text,) = row.texts
    assert template.decode(text.ids[text.prompt_length :]).strip().endswith("blue.")
    assert (ledger.reasons, ledger.notes) == ({}, {})


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "Hi", "completion": "", "label": True}, "empty"),
        ({"prompt": "Hi", "completion": "Hello.", "label": "perhaps"}, "malformed"),
        ({"prompt": "Hi", "completion": [{"role": "user", "content": "No."}], "label": False}, "malformed"),
    ],
)
def test_unpaired_rows_that_say_nothing_have_a_reason(row: dict[str, Any], reason: str) -> None:
    found = parse_feedback(row)
    assert isinstance(found, Reject)
    assert found.reason == reason


def test_prompts_alone(tmp_path: Path) -> None:
    found, ledger = load_prompts(write(tmp_path / "prompts.jsonl", {"prompt": "The sky is"}, {"prompt": ASKED}))
    assert found == [[{"role": "user", "content": "The sky is"}], ASKED]
    assert ledger.reasons == {}


@pytest.mark.parametrize(
    ("chosen", "rejected", "prompt", "answers"),
    [
        ("The sky is blue.", "The sky is green.", "The sky is", (" blue.", " green.")),
        ("It was a bluebird", "It was a blueberry", "It was a", (" bluebird", " blueberry")),
        ("One\n\ntwo", "One\n\nthree", "One", ("\n\ntwo", "\n\nthree")),
        ("A  b", "A  c", "A", ("  b", "  c")),
    ],
)
def test_an_implicit_prompt_ends_before_a_white_space(
    chosen: str, rejected: str, prompt: str, answers: tuple[str, str]
) -> None:
    """TRL cuts in the middle of a word where two words begin alike; here no word is cut."""
    pair = parse_comparison({"chosen": chosen, "rejected": rejected})
    assert isinstance(pair, Comparison)
    assert pair.prompt == [{"role": "user", "content": prompt}]
    assert (pair.chosen, pair.rejected) == answers
    assert pair.columns == {"implicit_prompt": True}
    assert parse_prompt({"chosen": chosen, "rejected": rejected}) == pair.prompt


SILENT: list[tuple[str, Any, str]] = [
    ("the same text twice", {"prompt": "Hi", "chosen": "Hello.", "rejected": "Hello."}, "identical"),
    ("the same but for a space at the end", {"prompt": "Hi", "chosen": "Hello.", "rejected": "Hello. "}, "identical"),
    ("the same, implicit prompt", {"chosen": "Hi, hello.", "rejected": "Hi, hello."}, "identical"),
    ("an empty completion", {"prompt": "Hi", "chosen": "Hello.", "rejected": ""}, "empty"),
    ("a completion of spaces", {"prompt": "Hi", "chosen": " \n", "rejected": "Hello."}, "empty"),
    ("one text begins the other", {"chosen": "The sky is", "rejected": "The sky is green."}, "empty"),
    ("an empty prompt", {"prompt": "", "chosen": "Hello.", "rejected": "No."}, "empty"),
    ("texts with nothing in common", {"chosen": "Blue.", "rejected": "Green."}, "missing column"),
    ("no text at all", {"prompt": "Hi", "chosen": 5, "rejected": "No."}, "malformed"),
    ("null", {"prompt": "Hi", "chosen": None, "rejected": "No."}, "empty"),
    ("pictures", {"prompt": "Hi", "chosen": "Yes.", "rejected": "No.", "images": ["a.png"]}, "malformed"),
    ("a tool's turn", {"prompt": ASKED, "chosen": [{"role": "tool", "content": "x"}], "rejected": GREEN}, "malformed"),
    (
        "several turns after the prompt",
        {"prompt": ASKED, "chosen": [*BLUE, *ASKED, *BLUE], "rejected": GREEN},
        "diverges before the last turn",
    ),
]


@pytest.mark.parametrize(("row", "reason"), [case[1:] for case in SILENT], ids=[case[0] for case in SILENT])
def test_bad_rows_have_a_reason(row: Any, reason: str) -> None:
    found = parse_comparison(row)
    assert isinstance(found, Reject)
    assert found.reason == reason


def test_bad_rows_are_counted_beside_good_ones(template: Template, tmp_path: Path) -> None:
    ledger = Ledger()
    rows = [*(case[1] for case in SILENT), PREFERENCES["chat, explicit prompt"]]
    kept, _ = comparison_rows(
        write(tmp_path / "x.jsonl", *rows), template, 200, ledger, test_share=0.0, max_dropped=1.0
    )
    assert len(kept) == 1
    assert ledger.as_dict()["dropped"] == {
        "diverges before the last turn": 1,
        "empty": 5,
        "identical": 3,
        "malformed": 3,
        "missing column": 1,
    }


def test_a_demonstration_without_an_answer_is_rejected() -> None:
    found = parse_demonstration({"chosen": "The sky is", "rejected": "The sky is green."})
    assert isinstance(found, Reject)
    assert found.reason == "empty"
