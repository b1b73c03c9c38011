"""Layouts of preference data, and the ledger of every row. Expected values are written out by hand."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefloop.errors import InputError, RunError
from prefloop.records import Comparison, Demonstration, split_of
from prefloop.snapshots.formats import (
    DIVERGES,
    Reject,
    load_comparisons,
    load_demonstrations,
    load_prompts,
    parse_comparison,
    parse_demonstration,
    parse_prompt,
    parse_transcript,
)


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


SYSTEM = {"role": "system", "content": "Be kind."}
HI = [user("Hi")]
TALK = [user("Hi"), assistant("Hello!"), user("How?")]

LAYOUTS: dict[str, tuple[dict[str, Any], list[dict[str, str]]]] = {
    "text": ({"prompt": "Hi", "chosen": "good", "rejected": "bad"}, HI),
    "messages": ({"prompt": TALK, "chosen": [assistant("good")], "rejected": [assistant("bad")]}, TALK),
    "one message each": ({"prompt": TALK, "chosen": assistant("good"), "rejected": assistant("bad")}, TALK),
    "implicit": ({"chosen": [*TALK, assistant("good")], "rejected": [*TALK, assistant("bad")]}, TALK),
    "implicit with a system turn": (
        {"chosen": [SYSTEM, *HI, assistant("good")], "rejected": [SYSTEM, *HI, assistant("bad")]},
        [SYSTEM, *HI],
    ),
    "prompt as text, whole conversations": (
        {"prompt": "Hi", "chosen": [*HI, assistant("good")], "rejected": [*HI, assistant("bad")]},
        HI,
    ),
    "the same with a system turn": (
        {"prompt": "Hi", "chosen": [SYSTEM, *HI, assistant("good")], "rejected": [SYSTEM, *HI, assistant("bad")]},
        [SYSTEM, *HI],
    ),
    "the conversation goes on before it parts": (
        {
            "prompt": "Hi",
            "chosen": [assistant("Hello!"), user("How?"), assistant("good")],
            "rejected": [assistant("Hello!"), user("How?"), assistant("bad")],
        },
        TALK,
    ),
    "transcripts": (
        {
            "chosen": "\n\nHuman: Hi\n\nAssistant: Hello!\n\nHuman: How?\n\nAssistant: good",
            "rejected": "\n\nHuman: Hi\n\nAssistant: Hello!\n\nHuman: How?\n\nAssistant: bad",
        },
        TALK,
    ),
    "prompt as a transcript": (
        {"prompt": "\n\nHuman: Hi\n\nAssistant:", "chosen": " good", "rejected": " bad"},
        HI,
    ),
    "prompt as text, whole transcripts": (
        {"prompt": "Hi", "chosen": "\n\nHuman: Hi\n\nAssistant: good", "rejected": "\n\nHuman: Hi\n\nAssistant: bad"},
        HI,
    ),
    "ShareGPT": (
        {
            "chosen": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "good"}],
            "rejected": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "bad"}],
        },
        HI,
    ),
    "text parts": (
        {
            "prompt": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
            "chosen": "good",
            "rejected": "bad",
        },
        HI,
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout: str) -> None:
    row, prompt = LAYOUTS[layout]
    assert parse_comparison({**row, "subset": "x"}) == Comparison(
        prompt=prompt, chosen="good", rejected="bad", columns={"subset": "x"}
    )
    assert parse_demonstration(row) == Demonstration(prompt=prompt, completion="good")


def test_a_transcript_keeps_what_looks_like_a_turn_but_is_not() -> None:
    text = "\n\nHuman: Say 'Human: hi'\nHuman: no new turn\n\nAssistant: Assistant: and Human: inside\n\nso it is"
    assert parse_transcript(text) == [
        user("Say 'Human: hi'\nHuman: no new turn"),
        assistant("Assistant: and Human: inside\n\nso it is"),
    ]
    assert parse_transcript("The Human: said") is None
    assert parse_transcript("\n\nAssistant: I begin") is None


def test_beside_a_prompt_an_answer_that_begins_with_human_is_text() -> None:
    row = {"prompt": HI, "chosen": "good", "rejected": "Human: Hi"}
    assert parse_comparison(row) == Comparison(prompt=HI, chosen="good", rejected="Human: Hi")


T = "\n\nHuman: Hi\n\nAssistant: "


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "Hi", "chosen": "same", "rejected": " same\n"}, "identical"),
        ({"chosen": T + "same", "rejected": T + "same"}, "identical"),
        ({"prompt": "Hi", "chosen": "", "rejected": "bad"}, "empty"),
        ({"prompt": "Hi", "chosen": "good", "rejected": " \n"}, "empty"),
        ({"prompt": "Hi", "chosen": None, "rejected": "bad"}, "empty"),
        ({"prompt": "  ", "chosen": "good", "rejected": "bad"}, "empty"),
        ({"chosen": T + "good", "rejected": T}, "empty"),
        ({"chosen": T + "good\n\nHuman: And?\n\nAssistant: so", "rejected": T + "bad"}, DIVERGES),
        (
            {"chosen": T + "one\n\nHuman: a\n\nAssistant: x", "rejected": T + "two\n\nHuman: a\n\nAssistant: y"},
            DIVERGES,
        ),
        ({"chosen": T + "good\n\nHuman: And?", "rejected": T + "bad"}, "malformed"),
        ({"prompt": "Hi", "good": "x", "bad": "y"}, "missing column"),
        ({"chosen": "good", "rejected": "bad"}, "missing column"),
        ({"prompt": "Hi", "chosen": 5, "rejected": "bad"}, "malformed"),
        ({"prompt": "Hi", "chosen": [], "rejected": "bad"}, "malformed"),
        ({"prompt": [{"role": "judge", "content": "x"}], "chosen": "good", "rejected": "bad"}, "malformed"),
        ({"prompt": [assistant("I begin")], "chosen": "good", "rejected": "bad"}, "empty"),
        ({"prompt": [*HI, assistant("Hello")], "chosen": "good", "rejected": "bad"}, "malformed"),
        ({"prompt": "Hi", "chosen": "good", "rejected": "bad", "label": 1.5}, "malformed"),
        ({"prompt": "Hi", "chosen": "good", "rejected": "bad", "weight": -1}, "malformed"),
        ({"prompt": "Hi", "chosen": "good", "rejected": "bad", "margin": "inf"}, "malformed"),
        ({"prompt": "Hi", "chosen": "good", "rejected": "bad", "x": float("nan")}, "malformed"),
        ({"prompt": "Hi", "chosen": "go\x00od", "rejected": "bad"}, "NUL character"),
        ({"prompt": "Hi", "chosen": "good", "rejected": "bad\ud800"}, "lone surrogate"),
        ("no row", "malformed"),
        (7, "malformed"),
        (None, "malformed"),
    ],
)
def test_what_cannot_be_used_has_a_reason(row: Any, reason: str) -> None:
    found = parse_comparison(row)
    assert isinstance(found, Reject)
    assert found.reason == reason


def test_known_numbers_are_taken_and_foreign_ones_left() -> None:
    row = {"prompt": "Hi", "chosen": "good", "rejected": "bad", "label": "0.75", "weight": 2, "margin": -1, "n": 3}
    assert parse_comparison(row) == Comparison(
        prompt=HI, chosen="good", rejected="bad", label=0.75, weight=2.0, margin=-1.0, columns={"n": 3}
    )
    foreign = {"prompt": "Hi", "chosen": "good", "rejected": "bad", "label": "helpful", "margin": None, "weight": ""}
    assert parse_comparison(foreign) == Comparison(
        prompt=HI, chosen="good", rejected="bad", columns={"label": "helpful"}
    )


def test_demonstrations() -> None:
    made = Demonstration(prompt=HI, completion="good", weight=0.5, columns={"id": 1})
    assert parse_demonstration({"prompt": "Hi", "completion": "good", "weight": 0.5, "id": 1}) == made
    assert parse_demonstration({"messages": [*HI, assistant("good")], "weight": 0.5, "id": 1}) == made
    for row, reason in [
        ({"prompt": "Hi", "completion": " "}, "empty"),
        ({"completion": "good"}, "missing column"),
        ({"text": "good"}, "missing column"),
        ({"messages": HI}, "malformed"),
        ({"messages": [assistant("alone")]}, "empty"),
        ([], "malformed"),
    ]:
        found = parse_demonstration(row)
        assert isinstance(found, Reject)
        assert found.reason == reason


def test_demonstrations_count_as_often_as_they_were_shown_and_what_was_preferred_once(
    jsonl: Callable[..., Path],
) -> None:
    shown = {"prompt": "Hi", "completion": "good"}
    found, ledger = load_demonstrations(jsonl([shown, shown, {**shown, "completion": "fine"}]))
    assert [d.completion for d in found] == ["good", "good", "fine"]
    assert ledger.as_dict() == {"rows": 3, "used": 3, "dropped": {}, "notes": {}}
    preferred = [{"prompt": "Hi", "chosen": "good", "rejected": text} for text in ("bad", "worse")]
    found, ledger = load_demonstrations(jsonl(preferred))
    assert [d.completion for d in found] == ["good"]
    assert ledger.as_dict() == {"rows": 2, "used": 1, "dropped": {"duplicate": 1}, "notes": {}}


def test_prompts() -> None:
    for row in ({"prompt": "Hi"}, {"messages": HI}, {"messages": [*HI, assistant("x")]}, {"chosen": T + "good"}):
        assert parse_prompt(row) == HI
    for row, reason in [({"prompt": None}, "empty"), ({"text": "Hi"}, "missing column"), ({"prompt": ""}, "empty")]:
        found = parse_prompt(row)
        assert isinstance(found, Reject)
        assert found.reason == reason


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just(T + "good"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "content", "from", "value", "text"]), inner, max_size=3)
    ),
    max_leaves=6,
)
some_rows = st.dictionaries(
    st.sampled_from(["prompt", "chosen", "rejected", "completion", "messages", "label", "weight", "margin", "other"]),
    json_values | st.just([*HI, assistant("good")]) | st.sampled_from(["Hi", "good", "bad"]),
)


@settings(max_examples=150, deadline=None)
@given(some_rows | json_values)
def test_parsing_never_raises_and_what_it_accepts_is_usable(row: Any) -> None:
    for parse in (parse_comparison, parse_demonstration, parse_prompt):
        found = parse(row)
        if isinstance(found, Reject):
            assert found.reason
            continue
        prompt = found if isinstance(found, list) else found.prompt
        assert prompt[-1]["role"] == "user"
        json.dumps(prompt).encode()
        if isinstance(found, Comparison):
            assert found.chosen.strip()
            assert found.chosen.strip() != found.rejected.strip()
            assert 0.0 <= found.label <= 1.0


pairs = st.fixed_dictionaries(
    {side: st.sampled_from(["x", "y", "z", ""]) for side in ("chosen", "rejected")} | {"prompt": st.sampled_from("pq")}
)


@settings(max_examples=40, deadline=None)
@given(rows=st.lists(pairs, min_size=1, max_size=12))
def test_the_ledger_accounts_for_every_row(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, str]]
) -> None:
    path = tmp_path_factory.mktemp("ledger") / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    expected: Counter[str] = Counter()
    kept: set[tuple[str, ...]] = set()
    for row in rows:
        prompt, chosen, rejected = row["prompt"], row["chosen"], row["rejected"]
        if not chosen or not rejected:
            expected["empty"] += 1
        elif chosen == rejected:
            expected["identical"] += 1
        elif (prompt, chosen, rejected) in kept:
            expected["duplicate"] += 1
        elif (prompt, rejected, chosen) in kept:
            expected["swapped"] += 1
        else:
            kept.add((prompt, chosen, rejected))
    if not kept:
        with pytest.raises(InputError):
            load_comparisons(path, max_dropped=1.0)
        return
    found, ledger = load_comparisons(path, max_dropped=1.0)
    assert {(c.prompt[0]["content"], c.chosen, c.rejected) for c in found} == kept
    assert ledger.reasons == expected
    assert (ledger.rows, ledger.used) == (len(rows), len(found))


def good(n: int, prompt: str = "Question") -> list[dict[str, str]]:
    return [{"prompt": f"{prompt} {i}", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(n)]


def test_too_many_defects_stop_and_repeats_are_no_defects(jsonl: Callable[..., Path]) -> None:
    rows = good(19)
    bad = {"prompt": "x", "chosen": "same", "rejected": "same"}
    _, ledger = load_comparisons(jsonl([*rows, bad]))  # 1 of 20: exactly the 5 % that are allowed
    assert ledger.as_dict() == {"rows": 20, "used": 19, "dropped": {"identical": 1}, "notes": {}}
    with pytest.raises(RunError, match=r"2 of 21 rows would be dropped \(identical: 1, missing column: 1\)"):
        load_comparisons(jsonl([*rows, bad, {"prompt": "y"}]))
    _, ledger = load_comparisons(jsonl([*rows, *rows]))
    assert ledger.as_dict() == {"rows": 38, "used": 19, "dropped": {"duplicate": 19}, "notes": {}}
    swapped = {"prompt": "Question 3", "chosen": "bad 3", "rejected": "good 3"}
    with pytest.raises(RunError, match=r"swapped: 1\), more than the allowed share of 0%"):
        load_comparisons(jsonl([*rows, swapped]), max_dropped=0.0)


def test_a_file_without_a_column_names_it(jsonl: Callable[..., Path]) -> None:
    path = jsonl([{"prompt": "a", "better": "x", "worse": "y"}] * 2)
    with pytest.raises(
        InputError, match=r"missing column; needed: chosen and rejected .*; found: prompt, better, worse"
    ):
        load_comparisons(path)
    with pytest.raises(InputError, match="holds no rows"):
        load_comparisons(jsonl([], "empty.jsonl"))
    with pytest.raises(InputError, match=r"none of its 2 rows can be used \(broken JSON: 1, empty: 1\)"):
        load_comparisons(jsonl(["{", {"prompt": "a", "chosen": "", "rejected": "y"}], "bad.jsonl"))


def test_the_split_is_by_prompt_and_accounts_for_the_other_side(jsonl: Callable[..., Path]) -> None:
    rows = [{**row, "chosen": f"{row['chosen']} {n}"} for row in good(60) for n in range(3)]
    path = jsonl(rows)
    train, train_ledger = load_comparisons(path, split="train", test_share=0.3)
    test, _ = load_comparisons(path, split="test", test_share=0.3)
    everything, _ = load_comparisons(path)
    assert len(train) + len(test) == len(everything) == 180
    assert not {c.prompt[0]["content"] for c in train} & {c.prompt[0]["content"] for c in test}
    assert train_ledger.reasons == {"other split": len(test)}
    assert 0 < len(test) < len(train)
    prompts, _ = load_prompts(path, split="test", test_share=0.3)
    assert len(prompts) * 3 == len(test)


def test_a_split_may_be_empty_without_being_an_error(jsonl: Callable[..., Path]) -> None:
    side = split_of([{"role": "user", "content": "Question 0"}], 0.5)
    path = jsonl(good(1))
    found, ledger = load_comparisons(path, split="train" if side == "test" else "test", test_share=0.5)
    assert (found, ledger.rows, ledger.reasons) == ([], 1, {"other split": 1})


def test_a_plain_folder_of_splits_is_read_and_any_other_folder_is_not(tmp_path: Path) -> None:
    for split, n in (("train", 3), ("test", 2)):
        rows = good(n, split)
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    assert len(load_comparisons(tmp_path)[0]) == 5
    assert [d.completion for d in load_demonstrations(tmp_path, split="test")[0]] == ["good 0", "good 1"]
    (tmp_path / "test.jsonl").write_text("")
    assert load_comparisons(tmp_path, split="test")[0] == []
    with pytest.raises(InputError, match=r"no snapshot: it has no train\.jsonl"):
        load_comparisons(tmp_path / "..")


def test_anthropics_file(data_dir: Path) -> None:
    path = data_dir / "preferences" / "hh_rlhf.jsonl.gz"
    started = time.process_time()
    found, ledger = load_comparisons(path)
    assert time.process_time() - started < 10
    assert ledger.as_dict() == {
        "rows": 4637,
        "used": 4615,
        "dropped": {DIVERGES: 4, "empty": 9, "identical": 9},
        "notes": {},
    }
    assert Counter(c.columns["subset"] for c in found).total() == 4615
    assert set(found[0].columns) == {"subset"}
    assert all(c.prompt[0]["role"] == c.prompt[-1]["role"] == "user" for c in found)
    assert not any("\n\nHuman:" in text for c in found for text in (c.chosen, c.rejected))
    train, _ = load_comparisons(path, split="train")
    test, _ = load_comparisons(path, split="test")
    assert len(train) + len(test) == 4615
    openings = [{" ".join(c.prompt[0]["content"].lower().split()) for c in side} for side in (train, test)]
    assert not openings[0] & openings[1]
    assert 0.07 < len(test) / 4615 < 0.13
