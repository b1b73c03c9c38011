"""From the store to a standing: what people said through the queue, with gold, repeats and adjudication."""

from __future__ import annotations

from hashlib import sha256
from random import Random
from typing import Any

import pytest

from prefloop.quality.assessment import assess, standings_of
from prefloop.quality.evidence import asked_about, gather, known_answer, pair_item
from prefloop.quality.overlap import AdaptiveOverlap
from prefloop.store.accounts import add_person
from prefloop.store.annotators import add_annotator
from prefloop.store.asking import set_queue_options
from prefloop.store.corrections import adjudicate
from prefloop.store.database import Store
from prefloop.store.feedback import add_completions, add_guideline, add_prompts, add_questions, answers, import_answers
from prefloop.store.queue import Lease, lease
from prefloop.store.submissions import Submission, submit


@pytest.fixture(autouse=True)
def same_people(monkeypatch: pytest.MonkeyPatch) -> None:
    """People's ids are drawn, and who is asked gold follows from them: one world of the many, the same each time."""
    draw = Random(0)
    monkeypatch.setattr("secrets.token_hex", lambda n: draw.randbytes(n).hex())


GOOD, POOR = "This is the better answer", "This is the poorer answer"


def ask(store: Store, n: int, gold: int, **more: Any) -> list[str]:
    """n questions, the first `gold` of them with a known answer; either candidate may be better, or longer."""
    rng = Random(0)
    prompts = add_prompts(store, [{"prompt": f"Question {i}?"} for i in range(n)])
    items = []
    for i, prompt in enumerate(prompts):
        texts = [GOOD + "." * rng.randrange(60), POOR + "." * rng.randrange(60)]
        rng.shuffle(texts)
        shown = add_completions(store, [{"prompt_id": prompt, "text": text} for text in texts])
        item = {"kind": "comparison", "prompt_id": prompt, "candidates": shown, "overlap": 6, **more}
        if i < gold:
            item["gold"] = {"choice": "a" if texts[0].startswith(GOOD) else "b"}
        items.append(item)
    return add_questions(store, items)


def choice(way: str, shown: Lease, rng: Random) -> str:
    first, second = (candidate["text"] for candidate in shown.candidates)
    right = "a" if first.startswith(GOOD) else "b"
    wrong = "b" if right == "a" else "a"
    if way == "left":
        return "a"
    if way == "random":  # whatever stands first; by the texts, so that the test is the same each time
        return min(
            (sha256(f"{shown.messages}{text}".encode()).digest(), side) for text, side in ((first, "a"), (second, "b"))
        )[1]
    if way == "length":
        return "a" if len(first) >= len(second) else "b"
    if way == "inverted":
        return wrong if rng.random() < 0.9 else right
    return right if rng.random() < 0.9 else wrong


def answer(store: Store, way: str, number: int, n: int) -> str:
    who = add_annotator(store, f"{way} {number}", kind="person")
    rng = Random(f"{way}{number}")
    held = lease(store, who, limit=n)
    submit(
        store,
        [
            Submission(
                lease_token=one.token, value={"choice": choice(way, one, rng)}, idempotency_key=one.token, seconds=20.0
            )
            for one in held
        ],
    )
    return who


def test_planted_people_are_found_through_the_queue(store: Store) -> None:
    set_queue_options(store, gold_share=0.25)
    ask(store, 130, 20)
    people = {answer(store, "honest", i, 75): "honest" for i in range(5)}
    people |= {answer(store, way, 0, 75): way for way in ("left", "random", "length", "inverted")}
    standings = {one.id: one for one in standings_of(gather(store))}
    assert set(standings) == set(people)
    found = {way: standings[who] for who, way in people.items()}
    for who, way in people.items():
        assert bool(standings[who].flags) == (way != "honest"), (way, standings[who])
        assert (standings[who].weight < 1) == (way != "honest")
    assert "position" in found["left"].flags
    assert "length" in found["length"].flags
    assert "inverted" in found["inverted"].flags
    assert "gold" in found["random"].flags
    assert found["left"].first == 1.0
    assert found["honest"].gold >= 10
    assert found["honest"].seconds == 20.0
    assert found["honest"].low > found["random"].high


def test_one_pair_is_one_item_however_it_is_asked(store: Store) -> None:
    prompt = [{"role": "user", "content": "Which?"}]
    item, swapped = pair_item(asked_about(prompt, {}), "x", "y")
    back, other = pair_item(asked_about(prompt, {"subset": "s"}), "y", "x")
    assert item == back
    assert swapped != other
    said = [
        ("ann", ["x", "y"], "comparison", {"choice": "a"}),
        ("bo", ["y", "x"], "comparison", {"choice": "b"}),
        ("cy", ["x", "y", "z"], "ranking", {"order": [[0], [1, 2]]}),
    ]
    import_answers(
        store,
        [
            {"kind": kind, "messages": prompt, "candidates": texts, "value": value, "annotator": who, "source": "s"}
            for who, texts, kind, value in said
        ],
    )
    labels = {one.annotator: {atom.item: atom.label for atom in one.atoms} for one in gather(store)}
    want = "b" if swapped else "a"  # x is the better one
    assert [atoms[item] for atoms in labels.values()] == [want] * 3
    assert sorted(labels[next(k for k, v in labels.items() if len(v) == 3)].values()).count("tie") == 1
    assert assess(gather(store)).consensus[item].n == 3


def test_every_kind_has_its_items_and_its_gold(store: Store) -> None:
    prompt = add_prompts(store, [{"prompt": "Say hello."}])[0]
    [shown] = add_completions(store, [{"prompt_id": prompt, "text": "Hello!"}])
    common = {"prompt_id": prompt, "candidates": [shown], "guideline": add_guideline(store, "Be kind.")}
    values: dict[str, dict[str, Any]] = {
        "approval": {"approved": True},
        "rating": {"scores": {"helpful": 4, "honest": 5}},
        "flags": {"flags": ["rude"]},
    }
    add_questions(store, [{**common, "kind": kind, "gold": values[kind]} for kind in values])
    who = add_annotator(store, "ann", kind="person")
    set_queue_options(store, gold_share=1.0)
    held = lease(store, who, limit=3)
    submit(
        store,
        [Submission(lease_token=one.token, value=values[one.kind], idempotency_key=one.token) for one in held],
    )
    found = {one.kind: one for one in gather(store)}
    assert [atom.label for atom in found["approval"].atoms] == ["yes"]
    assert {atom.item.rpartition(":")[2]: atom.label for atom in found["rating"].atoms} == {
        "helpful": "4",
        "honest": "5",
    }
    assert [atom.label for atom in found["flags"].atoms] == ["yes"]
    assert all(set(one.gold.values()) == {atom.label for atom in one.atoms} for one in found.values())
    assert {one.guideline for one in found.values()} == {1}
    [standing] = standings_of(list(found.values()))
    assert (standing.gold, standing.gold_right) == (4, 4)


def test_an_adjudication_settles_and_is_nobodys_vote(store: Store) -> None:
    [question] = ask(store, 1, 0)
    for number, way in enumerate(("honest", "honest", "inverted")):
        answer(store, way, number, 1)
    lead = add_person(store, "lead", roles=["lead"])
    shown = next(answers(store)).candidates
    poor = next(candidate["id"] for candidate in shown if candidate["text"].startswith(POOR))
    label = "a" if shown[0]["id"] == poor else "b"
    order = [candidate["id"] for candidate in shown]
    adjudicate(store, lead, question, {"choice": label}, presented=order, idempotency_key="k")
    judgements = gather(store)
    [settled] = assess(judgements).consensus.values()
    assert (settled.n, settled.probability, settled.uncertain) == (3, 1.0, False)
    [judged] = [one for one in judgements if one.adjudication]
    assert settled.label == judged.atoms[0].label


def test_the_queue_asks_on_while_people_disagree(store: Store) -> None:
    asked = ask(store, 30, 0, overlap=1, most=5)
    policy = AdaptiveOverlap(control_share=0.2)
    for number in range(5):
        way = "honest" if number % 2 else "inverted"
        who = add_annotator(store, f"{way} {number}", kind="person")
        rng = Random(number)
        for one in lease(store, who, limit=100):
            value = {"choice": choice(way, one, rng)}
            submit(store, [Submission(lease_token=one.token, value=value, idempotency_key=one.token)], overlap=policy)
    counted = dict.fromkeys(asked, 0)
    for row in answers(store):
        counted[row.question_id] += 1
    assert set(counted.values()) <= {3, 4, 5}
    assert 3 in counted.values()  # the control arm, and what was settled at once
    assert 5 in counted.values()


@pytest.mark.parametrize(
    ("kind", "gold", "value"),
    [
        ("comparison", "a", {"choice": "a"}),
        ("comparison", "rejected", {"choice": "b"}),
        ("comparison", {"choice": "tie"}, {"choice": "tie"}),
        ("comparison", "a1", None),
        ("comparison", None, None),
        ("approval", True, {"approved": True}),
        ("approval", "yes", None),
        ("ranking", {"order": [["x"], ["y"]]}, {"order": [[0], [1]]}),
        ("ranking", {"order": [["x"]]}, None),
        ("flags", {"flags": []}, {"flags": []}),
        ("demonstration", "text", None),
    ],
)
def test_what_a_gold_column_may_say(kind: str, gold: Any, value: dict[str, Any] | None) -> None:
    assert known_answer(kind, gold, ["x", "y"]) == value


def test_imported_pairs_that_begin_with_the_chosen_text_show_no_position(store: Store) -> None:
    def said(who: str, i: int, choice: str, source: str) -> dict[str, Any]:
        texts = {"kind": "comparison", "messages": [{"role": "user", "content": f"{i}"}], "candidates": ["x", "y"]}
        return {**texts, "value": {"choice": choice}, "annotator": who, "source": source}

    import_answers(store, [said("ann", i, "a", "chosen first") for i in range(40)])
    import_answers(store, [said("ann", i, "ab"[i % 2], "as shown") for i in range(40)])
    first = {one.slices["source"]: {atom.first for atom in one.atoms} for one in gather(store)}
    assert first["chosen first"] == {0}
    assert 0 not in first["as shown"]
    assert {one.first for one in standings_of(gather(store)) if one.first is None or one.first > 0.9} == {None}
