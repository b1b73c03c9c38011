"""What the queue goes by: gold, repeats, audiences, refusals, adjudication, and how many answers are enough."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from prefloop.errors import InputError
from prefloop.store.accounts import add_person, set_roles
from prefloop.store.annotators import add_annotator
from prefloop.store.asking import (
    REPEAT_AFTER,
    Asked,
    draw,
    gold_answers,
    queue_options,
    set_gold,
    set_queue_options,
    widen,
)
from prefloop.store.audit_log import verify
from prefloop.store.consents import set_refusals
from prefloop.store.corrections import adjudicate, correct
from prefloop.store.counting import counts
from prefloop.store.database import Store
from prefloop.store.feedback import (
    add_completions,
    add_guideline,
    add_prompts,
    add_questions,
    answer_page,
    answers,
    history,
)
from prefloop.store.queue import Lease, lease
from prefloop.store.submissions import LeaseError, Receipt, Submission, submit


def ask(store: Store, n: int = 1, *, first: int = 0, **more: Any) -> list[str]:
    prompts = add_prompts(store, [{"messages": f"prompt {first + i}"} for i in range(n)])
    shown = add_completions(store, [{"prompt_id": p, "text": text} for p in prompts for text in ("good", "bad")])
    items = [
        {"kind": "comparison", "prompt_id": p, "candidates": shown[2 * i : 2 * i + 2]} | more
        for i, p in enumerate(prompts)
    ]
    return add_questions(store, items)


def say(store: Store, held: Lease, value: dict[str, Any] | None = None, **more: Any) -> Receipt:
    said = Submission(lease_token=held.token, value=value or {"choice": "a"}, idempotency_key=held.token)
    return submit(store, [said], **more)[0]


def good(held: Lease) -> dict[str, Any]:
    """The vote for the text "good", wherever it is shown."""
    return {"choice": "ab"[[one["text"] for one in held.candidates].index("good")]}


# --- gold ---


def test_gold_is_asked_of_everybody_and_looks_like_any_other(store: Store) -> None:
    (known,) = ask(store, gold={"choice": "a"}, overlap=1)
    (plain,) = ask(store, first=1, overlap=3)
    set_queue_options(store, gold_share=1.0)
    for name in ("Ada", "Bo", "Cy"):
        who = add_annotator(store, name, kind="person")
        (first,), (second,) = lease(store, who), lease(store, who)
        assert (first.question_id, second.question_id) == (known, plain)
        assert set(vars(first)) == set(vars(second))
        assert {k: type(v) for k, v in vars(first).items()} == {k: type(v) for k, v in vars(second).items()}
        assert lease(store, who) == []
        say(store, first, good(first))
        say(store, second)
        assert lease(store, who) == []
    assert gold_answers(store) == {known: {"choice": "a"}}
    assert [row.value["choice"] for row in answers(store) if row.question_id == known] == ["a", "a", "a"]
    assert counts(store)["slots"] == {"open": 0, "leased": 0, "done": 3}
    assert verify(store).ok


def test_the_share_of_gold_is_kept(store: Store) -> None:
    ask(store, 40, gold={"choice": "a"})
    ask(store, 200, first=40)
    set_queue_options(store, gold_share=0.2)
    who = add_annotator(store, "Ada", kind="person")
    known = set(gold_answers(store))
    n = 0
    for _ in range(100):
        (held,) = lease(store, who)
        n += held.question_id in known
        say(store, held)
    assert 8 <= n <= 35  # 100 draws of 0.2: 20 expected, standard deviation 4; the seed is the annotator's random id


def test_a_question_becomes_gold_later(store: Store) -> None:
    (question,) = ask(store)
    set_gold(store, question, {"choice": "b"})
    assert gold_answers(store) == {question: {"choice": "b"}}
    with pytest.raises(InputError, match="choice must be one of"):
        set_gold(store, question, {"choice": "c"})
    with pytest.raises(InputError, match="has no question"):
        set_gold(store, "none", {"choice": "a"})
    with pytest.raises(InputError, match=r"questions\[0\]\.gold: choice must be one of"):
        ask(store, first=1, gold={"choice": "x"})


def test_options(store: Store) -> None:
    assert queue_options(store).repeat_share == 0.0
    assert set_queue_options(store, repeat_share=0.5, guideline_gate=False) == queue_options(store)
    assert queue_options(store).guideline_gate is False
    for wrong in ({"repeat_share": 1.5}, {"gold_share": True}, {"guideline_gate": 1}, {"colour": 1}):
        with pytest.raises(InputError):
            set_queue_options(store, **wrong)  # type: ignore[arg-type]


# --- repeats ---


def test_a_repeat_comes_swapped_after_others_and_counts_for_nothing(store: Store) -> None:
    set_queue_options(store, repeat_share=1.0)
    ask(store, REPEAT_AFTER + 3, overlap=1)
    who = add_annotator(store, "Ada", kind="person")
    first: list[Lease] = []
    for _ in range(REPEAT_AFTER + 1):
        (held,) = lease(store, who)
        say(store, held, good(held))
        first.append(held)
    assert len({one.question_id for one in first}) == REPEAT_AFTER + 1
    (again,) = lease(store, who)
    assert again.question_id == first[0].question_id
    assert [one["id"] for one in again.candidates] == [one["id"] for one in first[0].candidates][::-1]
    receipt = say(store, again, good(again))
    assert not receipt.late
    with pytest.raises(LeaseError, match="answered already"):
        submit(store, [Submission(lease_token=again.token, value={"choice": "b"}, idempotency_key="other")])
    plain = list(answers(store))
    both = list(answers(store, repeats=True))
    assert len(both) == len(plain) + 1
    assert both[-1].repeat_of == plain[0].id
    assert both[-1].value == plain[0].value  # the same opinion, in the stored order
    assert both[-1].raw != plain[0].raw
    assert counts(store)["slots"]["done"] == REPEAT_AFTER + 1
    assert not correct(store, who, receipt.answer_id, {"choice": "tie"}, idempotency_key="c").late
    assert [row.value for row in answers(store, repeats=True) if row.repeat_of] == [{"choice": "tie"}]
    assert verify(store).ok


def test_a_second_look_that_came_late_is_not_asked_for_again(store: Store) -> None:
    set_queue_options(store, repeat_share=1.0)
    ask(store, REPEAT_AFTER + 3, overlap=1)
    who = add_annotator(store, "Ada", kind="person")
    for _ in range(REPEAT_AFTER + 1):
        (held,) = lease(store, who)
        say(store, held, good(held))
    first = next(iter(answers(store)))
    (again,) = lease(store, who, seconds=60, now=datetime.now(UTC) - timedelta(hours=1))
    assert again.question_id == first.question_id
    assert say(store, again, good(again)).late
    (other,) = lease(store, who)
    assert other.question_id != first.question_id
    assert not say(store, other, good(other)).late


def test_a_share_of_questions_is_repeated(store: Store) -> None:
    # The draw is a function of the seed and the annotator; its mean over many is the share.
    n = sum(draw("repeat", seed, "simulated:x") < 0.3 for seed in range(2000))
    assert 520 <= n <= 680  # 600 expected, standard deviation 20


# --- who may, and who wants to ---


def test_only_the_audience_is_asked(store: Store) -> None:
    expert = add_person(store, "Ada", roles=["adjudicator"])
    chosen = add_person(store, "Bo", roles=["annotator"])
    other = add_person(store, "Cy", roles=["annotator"])
    (question,) = ask(store, overlap=3, audience=["adjudicator", chosen])
    assert [one.question_id for one in lease(store, expert)] == [question]
    assert [one.question_id for one in lease(store, chosen)] == [question]
    assert lease(store, other) == []
    set_roles(store, other, ["annotator", "adjudicator"])
    assert [one.question_id for one in lease(store, other)] == [question]
    with pytest.raises(InputError, match="audience must be a list"):
        ask(store, first=1, audience="adjudicator")


def test_who_refuses_a_content_warning_is_not_asked(store: Store) -> None:
    ada, bo, cy = (add_annotator(store, name, kind="person") for name in ("Ada", "Bo", "Cy"))
    (question,) = ask(store, overlap=3, sensitive="violence")
    set_refusals(store, ada, ["violence", "self-harm"])
    set_refusals(store, bo, ["*"])
    set_refusals(store, cy, ["slurs"])
    assert lease(store, ada) == lease(store, bo) == []
    assert [(one.question_id, one.sensitive) for one in lease(store, cy)] == [(question, "violence")]
    set_refusals(store, ada, [])
    assert len(lease(store, ada)) == 1


# --- adjudication ---


def test_an_adjudication_stands_beside_the_overlap(store: Store) -> None:
    ada = add_annotator(store, "Ada", kind="person")
    judge = add_person(store, "Judge", roles=["adjudicator"])
    (question,) = ask(store)
    (held,) = lease(store, ada)
    say(store, held)
    shown = [one["id"] for one in held.candidates][::-1]
    more = {"presented": shown, "idempotency_key": "k"}
    receipt = adjudicate(store, judge, question, {"choice": "a"}, **more)  # type: ignore[arg-type]
    assert adjudicate(store, judge, question, {"choice": "a"}, **more).replay  # type: ignore[arg-type]
    with pytest.raises(InputError, match="adjudicated this question before"):
        adjudicate(store, judge, question, {"choice": "b"}, idempotency_key="other")
    rows = list(answers(store))
    assert [(row.adjudication, row.annotator, row.late) for row in rows] == [(False, ada, False), (True, judge, False)]
    assert rows[0].value != rows[1].value  # both said "a", of opposite orders
    correct(store, judge, receipt.answer_id, {"choice": "both_bad"}, idempotency_key="c")
    assert [row.value for row in answers(store) if row.adjudication] == [{"choice": "both_bad"}]
    assert counts(store)["slots"]["done"] == 1
    with pytest.raises(InputError, match="presented must name each"):
        adjudicate(store, judge, question, {"choice": "a"}, presented=["x"], idempotency_key="z")
    with pytest.raises(InputError, match="whoever settles disagreements is adjudicator or lead or admin"):
        adjudicate(store, ada, question, {"choice": "a"}, idempotency_key="z")
    assert verify(store).ok


# --- how many answers ---


def test_an_overlap_policy_asks_for_more(store: Store) -> None:
    (sure, unsure) = ask(store, 2, overlap=1, most=3)
    seen: list[Asked] = []

    def policy(asked: Asked) -> int:
        seen.append(asked)
        return asked.overlap + (asked.id == unsure)

    for name in ("Ada", "Bo", "Cy", "Di"):
        who = add_annotator(store, name, kind="person")
        while held := lease(store, who):
            say(store, held[0], good(held[0]), overlap=policy)
    n = [sum(row.question_id == one for row in answers(store)) for one in (sure, unsure)]
    assert n == [1, 3]  # one more each time, but 3 are the most
    assert [(one.overlap, one.most, len(one.answers)) for one in seen if one.id == unsure] == [(1, 3, 1), (2, 3, 2)]
    assert seen[-1].answers[0][1] == {"choice": "a"}  # "good" is stored first


def test_questions_are_widened_by_hand(store: Store) -> None:
    fixed, *open_ended = (*ask(store), *ask(store, 2, first=1, most=2))
    assert widen(store, {fixed: 5, open_ended[0]: 5, open_ended[1]: 1}) == 1
    assert counts(store)["slots"]["open"] == 4


# --- reading ---


def test_pages_meet_every_answer_once(store: Store) -> None:
    ask(store, 5)
    who = add_annotator(store, "Ada", kind="person")
    first = [say(store, held).answer_id for held in lease(store, who, limit=3)]
    correct(store, who, first[0], {"choice": "b"}, idempotency_key="c")
    page = answer_page(store, limit=2)
    assert [row.id for row in page.answers] == first[:2]
    say(store, lease(store, who)[0])
    rest = answer_page(store, page.next, limit=1000)
    assert [row.replaces for row in rest.answers] == [None, first[0], None]
    assert answer_page(store, rest.next).answers == []
    assert answer_page(store, rest.next).next == rest.next
    assert [row.id for row in history(store, who)][1:] == [rest.answers[1].id, first[2], first[1]]
    with pytest.raises(InputError, match="limit must be"):
        answer_page(store, limit=1001)


def test_a_guideline_may_have_a_quiz(store: Store) -> None:
    quiz = [{"question": "Kind?", "options": ["yes", "no"], "correct": 0}]
    assert add_guideline(store, "Be kind.", quiz=quiz) == 1
    assert add_guideline(store, "Be kind.", quiz=quiz) == 1
    assert add_guideline(store, "Be kind.") == 2
    with pytest.raises(InputError, match=r"quiz\[0\]\.correct must be a whole number from 0 to 1"):
        add_guideline(store, "Be kind.", quiz=[quiz[0] | {"correct": 2}])
    assert verify(store).ok
