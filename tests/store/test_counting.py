"""Counts that triggers keep are those that counting every row gives, whatever was done."""

# ruff: noqa: S608  (queries are put together from this file's own words)
from __future__ import annotations

from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import sqlalchemy as sa

from prefloop.store.accounts import add_person
from prefloop.store.asking import set_gold, set_queue_options
from prefloop.store.corrections import adjudicate, correct
from prefloop.store.counting import counts, question_counts, slot_counts
from prefloop.store.database import Store
from prefloop.store.erasure import erase_subject
from prefloop.store.feedback import answers, erase_answers, import_answers
from prefloop.store.queue import lease
from prefloop.store.submissions import Submission, submit
from prefloop.web.reading import answered_together
from tests.store.asked import ask, person

NOW = datetime.now(UTC)
STANDS = "a.value IS NOT NULL AND NOT EXISTS (SELECT 1 FROM answers n WHERE n.replaces = a.id)"
JOINED = "answers a JOIN questions q ON q.id = a.question_id JOIN annotators w ON w.id = a.annotator_id"


def recounted(store: Store) -> dict[str, Any]:
    """The same, by looking at every row."""
    with store.read() as connection:

        def by(query: str) -> dict[str, int]:
            return {key: int(n) for key, n in sorted(tuple(row) for row in connection.execute(sa.text(query)))}

        def one(query: str) -> int:
            return int(connection.execute(sa.text(query), {"now": int(NOW.timestamp() * 1e6)}).scalar_one())

        true, false = ("1", "0") if store.dialect == "sqlite" else ("true", "false")
        real = f"SELECT count(*) FROM slots WHERE gold = {false} AND reserved_for IS NULL AND"
        stands = f"SELECT count(*) FROM answers a WHERE {STANDS} AND"
        return {
            "annotators": by("SELECT kind, count(*) FROM annotators GROUP BY kind"),
            "prompts": one("SELECT count(*) FROM prompts"),
            "completions": one("SELECT count(*) FROM completions"),
            "questions": by("SELECT kind, count(*) FROM questions GROUP BY kind"),
            "answers": by(f"SELECT q.kind, count(*) FROM {JOINED} WHERE {STANDS} GROUP BY q.kind"),
            "answers_by": by(f"SELECT w.kind, count(*) FROM {JOINED} WHERE {STANDS} GROUP BY w.kind"),
            "skipped": one(f"{stands} skipped = {true}"),
            "late": one(f"{stands} late = {true}"),
            "corrections": one("SELECT count(*) FROM answers WHERE replaces IS NOT NULL"),
            "erased": one("SELECT count(*) FROM tombstones WHERE subject = 'answer'"),
            "repeats": one(f"{stands} repeat_of IS NOT NULL"),
            "adjudications": one(f"{stands} adjudication = {true}"),
            "gold": one("SELECT count(*) FROM gold"),
            "slots": {
                "open": one(f"{real} answer_id IS NULL AND (expires_at IS NULL OR expires_at <= :now)"),
                "leased": one(f"{real} answer_id IS NULL AND expires_at > :now"),
                "done": one(f"{real} answer_id IS NOT NULL"),
            },
        }


def check(store: Store) -> None:
    assert counts(store) == recounted(store)
    with store.read() as connection:
        assert question_counts(connection) == recounted(store)["questions"]
        places = sa.text("SELECT kind, count(*), count(answer_id) FROM slots GROUP BY kind ORDER BY kind")
        found = [(one.kind, one.all, one.done) for one in slot_counts(connection, NOW)]
        assert found == [tuple(row) for row in connection.execute(places)]
        worked = sa.text(
            "SELECT annotator_id, at / 86400000000 AS day, sum(CASE WHEN replaces IS NULL THEN 1 ELSE 0 END), "
            "sum(CASE WHEN replaces IS NOT NULL THEN 1 ELSE 0 END), max(at) "
            "FROM answers GROUP BY annotator_id, day ORDER BY annotator_id, day"
        )
        kept = sa.text(
            "SELECT annotator_id, day, answers, corrections, last_at FROM activity ORDER BY annotator_id, day"
        )
        rows = [[tuple(row) for row in connection.execute(query)] for query in (worked, kept)]
        assert rows[0] == rows[1]
        several = "SELECT question_id FROM answers GROUP BY question_id HAVING count(DISTINCT annotator_id) > 1"
        met = sa.text(f"SELECT number, kind FROM questions WHERE id IN ({several}) ORDER BY number")
        kept = sa.text("SELECT number, kind FROM shared ORDER BY number")
        assert connection.execute(met).all() == connection.execute(kept).all()


def test_whatever_is_done_the_counts_fit(store: Store) -> None:
    random = Random(5)
    set_queue_options(store, repeat_share=0.5, gold_share=0.3)
    lead = add_person(store, "Lea", roles=["lead"])
    people = [person(store, name) for name in ("Ada", "Bo", "Cy")]
    check(store)
    asked = ask(store, 30, overlap=2)
    ask(store, 30, overlap=2)  # the same again
    for question in asked[:4]:
        set_gold(store, question, {"choice": "a"})
    imported = {"kind": "approval", "prompt": "p", "candidates": ["x"], "value": {"approved": True}, "source": "s"}
    import_answers(store, [imported | {"annotator": f"w{n}", "at": 1e9 + n * 1e5} for n in range(5)])
    check(store)
    for turn in range(45):
        who = random.choice(people)
        for held in lease(store, who, limit=3, seconds=3600, now=NOW - timedelta(hours=2 if turn % 7 == 0 else 0)):
            value = random.choice([{"choice": "a"}, {"choice": "b"}, {"skip": "no idea"}])
            if random.random() < 0.8:
                submit(store, [Submission(lease_token=held.token, value=value, idempotency_key=held.token)], now=NOW)
        mine = [row for row in answers(store) if row.annotator == who]
        if mine and turn % 3 == 0:
            value = random.choice([{"choice": "tie"}, {"skip": "oh"}])
            correct(store, who, random.choice(mine).id, value, idempotency_key=f"c{turn}")
        if turn % 9 == 4:
            adjudicate(store, lead, asked[turn % 30], {"choice": "a"}, idempotency_key=f"j{turn}")
        if turn % 11 == 5:
            erase_answers(store, [random.choice(list(answers(store, corrected=True))).id], "asked")
        if turn % 5 == 0:
            check(store)
    found = counts(store)
    assert min(found[name] for name in ("skipped", "corrections", "repeats", "adjudications", "erased", "gold")) > 0
    assert len(answered_together(store)) > 1
    erase_subject(store, next(answers(store)).candidates[0]["id"], reason="asked")
    erase_subject(store, people[0], reason="asked")
    check(store)
