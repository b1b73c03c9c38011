"""Prompts, completions, questions and answers: added in bulk, read as a stream, never overwritten.

Ids come from content, so that adding the same thing twice adds it once and two stores that were filled alike agree.
An answer's id comes from its question, its annotator and how many answers of that annotator came before, never from
what was said: an id that outlives an erased text must not let anybody test a guess of it. What was said is committed
to by `answers.hash`, under a key that goes when the text goes.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from prefloop.errors import InputError
from prefloop.records import Messages, as_messages, canonical_json, content_hash
from prefloop.store.annotators import imported_annotators
from prefloop.store.asking import put_gold
from prefloop.store.audit_log import (
    OPERATOR,
    Entry,
    answer_entries,
    append,
    append_many,
    commitment,
    guideline_commitment,
)
from prefloop.store.database import Row, Store, in_answer_order, insert_new
from prefloop.store.items import completion_row, drafted, prompt_row, question_row, quiz_question, whole
from prefloop.store.tables import (
    annotators,
    audiences,
    completions,
    guidelines,
    prompts,
    questions,
    reports,
    slots,
    tombstones,
)
from prefloop.store.tables import answers as answer_table
from prefloop.store.tables import candidates as candidate_table
from prefloop.store.values import (
    canonical,
    check_kind,
    check_storable,
    in_chunks,
    is_skip,
)

PAGE = 1000
"""Answers read in one transaction: between pages a reader holds nothing that a writer would wait for."""


@dataclass(frozen=True, kw_only=True)
class AnswerRow:
    """What one annotator said to one question."""

    id: str
    cursor: int
    """`answers(after=cursor)` goes on behind this answer."""
    question_id: str
    kind: str
    round: int
    annotator: str
    simulated: bool
    """True unless a person answered (an AI labeler is no person either)."""
    value: dict[str, Any]
    """In the stored order: the choice "a" means `candidates[0]`."""
    raw: dict[str, Any]
    """As said: the choice "a" means `presented_order[0]`."""
    presented_order: list[str]
    """Candidate ids as the annotator saw them."""
    skipped: bool
    late: bool
    """Came after its lease had ended: kept, but outside overlap and consensus."""
    replaces: str | None
    """The answer that this one corrects."""
    seconds: float | None
    at: str
    """When it was said: UTC, ISO 8601."""
    source: str | None
    licence: str | None
    messages: Messages
    candidates: list[dict[str, Any]]
    """In stored order: `id`, `text`, `policy`."""
    columns: dict[str, Any]
    """Of the question and of the answer; the answer's win."""
    hash: str
    """Keyed commitment to what was said."""
    repeat_of: str | None = None
    """The same annotator's first answer, when the question came again, swapped: outside overlap and consensus."""
    adjudication: bool = False
    """Settles what others disagreed about; outside overlap."""


@dataclass(frozen=True, kw_only=True)
class AnswerPage:
    """Some answers, and where to go on."""

    answers: list[AnswerRow]
    next: int
    """`answer_page(store, after=next)` goes on behind these; the same as before when there is nothing new."""


def add_prompts(store: Store, items: Sequence[Mapping[str, Any]]) -> list[str]:
    """Add prompts and return their ids, one per item. A prompt that is there already stays as it is.

    Items: `messages` (or `prompt`: text), and if known `source`, `licence`, `columns`.
    """
    now = datetime.now(UTC)
    rows = [prompt_row(item, f"prompts[{index}]", now) for index, item in enumerate(items)]
    with store.write() as connection:
        insert_new(connection, prompts, _distinct(rows))
    return [row["id"] for row in rows]


def stored_prompts(store: Store) -> list[Messages]:
    """Every prompt as messages, in a stable order; erased ones are left out."""
    query = sa.select(prompts.c.messages).where(prompts.c.messages.is_not(None)).order_by(prompts.c.id)
    with store.read() as connection:
        return [as_messages(row.messages) for row in connection.execute(query)]


def add_completions(store: Store, items: Sequence[Mapping[str, Any]]) -> list[str]:
    """Add completions and return their ids, one per item; the same text of the same policy and settings is one.

    Items: `prompt_id`, `text`, and if known `policy` (hash or name), `sampling` (settings), `terminated` (whether it
    ended by itself). Raises InputError for a prompt that is not in the store.
    """
    now = datetime.now(UTC)
    rows = [completion_row(item, f"completions[{index}]", now) for index, item in enumerate(items)]
    with store.write() as connection:
        _require(connection, prompts, {row["prompt_id"] for row in rows}, "prompt")
        insert_new(connection, completions, _distinct(rows))
    return [row["id"] for row in rows]


def add_questions(store: Store, items: Sequence[Mapping[str, Any]], *, by: str = OPERATOR) -> list[str]:
    """Ask questions: each waits in the queue until `overlap` annotators have answered it. Returns their ids.

    Items: `kind`, `prompt_id`, `candidates` (completion ids), and if wanted `overlap` (default 1), `round` (0),
    `source`, `licence`, `columns`, `guideline` (a version), `priority` (smaller is asked sooner, 0), `seed` (of
    the order in which candidates are shown; by default it comes from the question's id), `most` (answers at most, when
    an overlap policy wants more than `overlap`), `sensitive` (a content warning such as "violence"), `audience` (roles
    and annotators' ids: nobody else is asked) and `gold` (the right answer, in the stored order: the question is asked
    of everybody, `overlap` at a time). The same kind, prompt, candidates, round and columns are the same question and
    are asked once.
    """
    now = datetime.now(UTC)
    rows = [question_row(item, f"questions[{index}]", now) for index, item in enumerate(items)]
    asked = {row["id"]: (row, item) for row, item in zip(reversed(rows), reversed(items), strict=True)}
    asked = dict(reversed(asked.items()))
    with store.write() as connection:
        in_answer_order(connection)  # the tallies of slots are kept by one transaction at a time
        _require(connection, prompts, {row["prompt_id"] for row in rows}, "prompt")
        _require_completions(connection, [(row, item["candidates"]) for row, item in asked.values()])
        _require(connection, guidelines, {row["guideline"] for row in rows} - {None}, "guideline", "version")
        known = _existing(connection, questions, asked)
        new = {identity: pair for identity, pair in asked.items() if identity not in known}
        insert_new(connection, questions, [row for row, _ in new.values()])
        insert_new(
            connection, candidate_table, _candidate_rows((i, item["candidates"]) for i, (_, item) in new.items())
        )
        insert_new(
            connection,
            slots,
            [
                {
                    "question_id": row["id"],
                    "n": n,
                    "kind": row["kind"],
                    "priority": item.get("priority", 0),
                    "sensitive": row["sensitive"],
                    "restricted": bool(item.get("audience")),
                    "gold": item.get("gold") is not None,
                }
                for row, item in new.values()
                for n in range(row["overlap"])
            ],
        )
        insert_new(
            connection,
            audiences,
            [
                {"question_id": i, "member": one}
                for i, (_, item) in new.items()
                for one in set(item.get("audience") or ())
            ],
        )
        for identity, (row, item) in new.items():
            if item.get("gold") is not None:
                put_gold(connection, identity, row["kind"], item["gold"], item["candidates"], by)
    return [row["id"] for row in rows]


def add_guideline(
    store: Store, text: str, *, quiz: Sequence[Mapping[str, Any]] | None = None, by: str = OPERATOR
) -> int:
    """Store a new version of the guideline and return its number (1, 2, ...); the same text and quiz is no new one.

    `quiz`: questions that gate this version, each `{"question": text, "options": [texts], "correct": index}`.
    """
    if not isinstance(text, str) or not text.strip():
        raise InputError("a guideline needs text")
    check_storable(text, "guideline")
    asked = None if quiz is None else [quiz_question(one, f"quiz[{index}]") for index, one in enumerate(quiz)]
    with store.write() as connection:
        in_answer_order(connection)
        newest = connection.execute(sa.select(guidelines).order_by(guidelines.c.version.desc()).limit(1)).first()
        if newest is not None and newest.text == text and newest.quiz == asked:
            return int(newest.version)
        version = 1 if newest is None else int(newest.version) + 1
        row = {"version": version, "text": text, "quiz": asked, "created_at": datetime.now(UTC)}
        connection.execute(sa.insert(guidelines).values(row))
        append(connection, "guideline", by, str(version), guideline_commitment(version, text, asked))
    return version


def newest_guideline(store: Store) -> dict[str, Any] | None:
    """`version`, `text` and `quiz` of the guideline that holds now; None where there is none."""
    with store.read() as connection:
        row = connection.execute(sa.select(guidelines).order_by(guidelines.c.version.desc()).limit(1)).first()
    return None if row is None else {"version": row.version, "text": row.text, "quiz": row.quiz}


def import_answers(store: Store, items: Sequence[Mapping[str, Any]]) -> list[str]:
    """Add answers that were given elsewhere, all or none, and return their ids.

    Items: `kind`, `messages` (or `prompt`: text), `candidates` (texts, in stored order), `value` (as in values.py;
    "a" is `candidates[0]`; a ranking may name candidates by position: `[[0], [1, 2]]`), `annotator` (a name), and if
    known `source`, `licence`, `columns`, `at` (ISO 8601 or seconds since 1970), `seconds`, `policies` (one per
    candidate). Nobody else is asked such a question. What one annotator said on one question is kept once, however
    often it is imported; something that was erased does not come back.
    """
    now = datetime.now(UTC)
    drafts = [drafted(item, f"answers[{index}]", now) for index, item in enumerate(items)]
    with store.write() as connection:
        in_answer_order(connection)
        ids = imported_annotators(connection, [(draft.annotator, draft.source) for draft in drafts], now)
        insert_new(connection, prompts, _distinct([draft.prompt for draft in drafts]))
        insert_new(connection, completions, _distinct([row for draft in drafts for row in draft.completions]))
        insert_new(connection, questions, _distinct([draft.question for draft in drafts]))
        by_question = {draft.question["id"]: [row["id"] for row in draft.completions] for draft in drafts}
        insert_new(connection, candidate_table, _candidate_rows(by_question.items()))
        said = _said_before(connection, sorted(by_question))
        rows: list[dict[str, Any]] = []
        result = []
        for draft in drafts:
            annotator = ids[draft.annotator, draft.source]
            earlier = said.setdefault((draft.question["id"], annotator), [])
            same = next((a for a, value in earlier if value is None or value == draft.said), None)
            if same is None:
                row = new_answer_row(
                    draft.question["id"], annotator, len(earlier), draft.value, by_question[draft.question["id"]]
                )
                rows.append(row | draft.rest)
                earlier.append((row["id"], draft.said))
                same = row["id"]
            result.append(same)
        if rows:
            connection.execute(sa.insert(answer_table), rows)
            append_many(connection, answer_entries(rows, "import"))
    return result


def answers(
    store: Store,
    *,
    kind: str | None = None,
    after: int | None = None,
    round: int | None = None,
    corrected: bool = False,
    repeats: bool = False,
) -> Iterator[AnswerRow]:
    """Every answer that stands, in the order in which it was committed, as it was when the first one is read.

    `after`: only those behind this cursor. `corrected`: also those that a later answer replaces. `repeats`: also those
    to questions that came again (they measure an annotator, and would count twice in a consensus). Erased answers do
    not appear; skips (`skipped`) and late answers (`late`) do, and count for no consensus. Streams: the answers may be
    many, and whoever reads may write between two of them.
    """
    if kind is not None:
        check_kind(kind)
    wanted: list[sa.ColumnElement[bool]] = [answer_table.c.value.is_not(None)]
    if kind is not None:
        wanted.append(questions.c.kind == kind)
    if round is not None:
        wanted.append(questions.c.round == round)
    if not repeats:
        wanted.append(answer_table.c.repeat_of.is_(None))
    with store.read() as connection:
        last = connection.execute(sa.select(sa.func.max(answer_table.c.number))).scalar() or 0
    if not corrected:
        newer = answer_table.alias("newer")
        wanted.append(~sa.exists().where(newer.c.replaces == answer_table.c.id, newer.c.number <= last))
    cursor = after or 0
    while cursor < last:
        with store.read() as connection:
            page = _page(connection, [*wanted, answer_table.c.number > cursor, answer_table.c.number <= last])
        yield from page
        if len(page) < PAGE:
            return
        cursor = page[-1].cursor


def answer_page(store: Store, after: int | None = None, limit: int = 100) -> AnswerPage:
    """Up to `limit` (1 to 1000) answers behind the cursor `after`, in the order in which they were committed.

    Going on with `next` meets every answer once, whoever writes meanwhile. Everything that was said is there and says
    what it is: late answers, repeats, skips, and answers that a later one `replaces`; only erased ones are not.
    """
    whole(limit, 1, PAGE, "limit")
    whole(after or 0, 0, 2**63 - 1, "after")
    with store.read() as connection:
        rows = _page(connection, [answer_table.c.value.is_not(None), answer_table.c.number > (after or 0)], limit)
    return AnswerPage(answers=rows, next=rows[-1].cursor if rows else after or 0)


def history(store: Store, annotator: str, *, limit: int = 50, before: int | None = None) -> list[AnswerRow]:
    """What somebody said last, the newest first, without what they corrected since; `before`: an older page."""
    whole(limit, 1, PAGE, "limit")
    newer = answer_table.alias("newer")
    wanted = [
        answer_table.c.annotator_id == annotator,
        answer_table.c.value.is_not(None),
        ~sa.exists().where(newer.c.replaces == answer_table.c.id),
    ]
    if before is not None:
        wanted.append(answer_table.c.number < before)
    with store.read() as connection:
        return _page(connection, wanted, limit, newest_first=True)


def answers_by_ids(store: Store, ids: Iterable[str]) -> dict[str, AnswerRow]:
    """The answers among `ids` that were not erased, by id, also those that were corrected since (for lineage)."""
    found: dict[str, AnswerRow] = {}
    with store.read() as connection:
        for chunk in in_chunks(sorted(set(ids))):
            rows = _page(connection, [answer_table.c.id.in_(chunk), answer_table.c.value.is_not(None)])
            found.update((row.id, row) for row in rows)
    return found


def erased_among(store: Store, ids: Iterable[str]) -> dict[str, datetime]:
    """When the answers among `ids` that have been erased were erased."""
    found: dict[str, datetime] = {}
    with store.read() as connection:
        for chunk in in_chunks(sorted(set(ids))):
            rows = connection.execute(
                sa.select(tombstones.c.subject_id, tombstones.c.at).where(
                    tombstones.c.subject == "answer", tombstones.c.subject_id.in_(chunk)
                )
            )
            found.update((row.subject_id, row.at) for row in rows)
    return found


def erase_answers(store: Store, ids: Iterable[str], reason: str, *, by: str = OPERATOR) -> int:
    """Remove what these answers say and return how many were erased now; id, hash and a tombstone stay.

    The key of the hash goes as well, so that the hash confirms no guess. Raises InputError for an unknown id.
    """
    check_storable(reason, "reason")
    wanted = sorted(set(ids))
    now = datetime.now(UTC)
    erased = 0
    with store.write() as connection:
        in_answer_order(connection)
        _require(connection, answer_table, set(wanted), "answer")
        for chunk in in_chunks(wanted):
            live = connection.execute(
                sa.select(answer_table.c.id, answer_table.c.hash).where(
                    answer_table.c.id.in_(chunk), answer_table.c.value.is_not(None)
                )
            ).all()
            if not live:
                continue
            connection.execute(
                sa.insert(tombstones),
                [{"subject": "answer", "subject_id": r.id, "hash": r.hash, "reason": reason, "at": now} for r in live],
            )
            connection.execute(
                sa.update(answer_table)
                .where(answer_table.c.id.in_([row.id for row in live]))
                .values(value=sa.null(), key=sa.null(), columns=sa.null())
            )
            connection.execute(sa.delete(reports))
            append_many(connection, [Entry("erasure", by, row.id, row.hash) for row in live])
            erased += len(live)
    return erased


def new_answer_row(
    question: str,
    annotator: str,
    ordinal: int,
    value: Mapping[str, Any],
    presented_order: Sequence[str],
) -> dict[str, Any]:
    """The columns of an answer that follow from what was said; the caller adds when and how it came."""
    key = secrets.token_hex(32)
    return {
        "id": content_hash(["answer", question, annotator, ordinal])[:24],
        "question_id": question,
        "annotator_id": annotator,
        "ordinal": ordinal,
        "value": dict(value),
        "key": key,
        "hash": commitment(key, question, annotator, value, presented_order),
        "presented_order": list(presented_order),
        "skipped": is_skip(value),
    }


def _candidate_rows(by_question: Iterable[tuple[str, Sequence[str]]]) -> list[dict[str, Any]]:
    return [
        {"question_id": question, "position": position, "completion_id": completion}
        for question, shown in by_question
        for position, completion in enumerate(shown)
    ]


def _page(
    connection: Connection,
    wanted: Sequence[sa.ColumnElement[bool]],
    limit: int = PAGE,
    newest_first: bool = False,
) -> list[AnswerRow]:
    query = (
        sa.select(
            answer_table,
            questions.c.kind,
            questions.c.round,
            questions.c.source.label("question_source"),
            questions.c.licence.label("question_licence"),
            questions.c.columns.label("question_columns"),
            prompts.c.messages,
            annotators.c.kind.label("annotator_kind"),
        )
        .select_from(answer_table.join(questions, _same_question()).join(prompts).join(annotators))
        .where(*wanted)
        .order_by(answer_table.c.number.desc() if newest_first else answer_table.c.number)
        .limit(limit)
    )
    rows = connection.execute(query).all()
    shown = candidates_of(connection, [row.question_id for row in rows])
    return [_answer_row(row, shown.get(row.question_id, [])) for row in rows]


_CANDIDATES = (
    sa.select(candidate_table.c.question_id, completions.c.id, completions.c.text, completions.c.policy)
    .select_from(candidate_table.join(completions))
    .where(candidate_table.c.question_id.in_(sa.bindparam("ids", expanding=True)))
    .order_by(candidate_table.c.question_id, candidate_table.c.position)
)


def candidates_of(connection: Connection, question_ids: Iterable[str]) -> dict[str, list[dict[str, Any]]]:
    """The candidates of these questions in stored order, each with `id`, `text` and `policy`."""
    found: dict[str, list[dict[str, Any]]] = {}
    for chunk in in_chunks(list(dict.fromkeys(question_ids))):
        for question, identity, written, policy in connection.execute(_CANDIDATES, {"ids": chunk}):
            found.setdefault(question, []).append({"id": identity, "text": written, "policy": policy})
    return found


def _answer_row(row: Row, shown: list[dict[str, Any]]) -> AnswerRow:
    stored = [candidate["id"] for candidate in shown]
    return AnswerRow(
        id=row.id,
        cursor=row.number,
        question_id=row.question_id,
        kind=row.kind,
        round=row.round,
        annotator=row.annotator_id,
        simulated=row.annotator_kind != "person",
        value=canonical(row.kind, row.value, row.presented_order, stored),
        raw=row.value,
        presented_order=row.presented_order,
        skipped=row.skipped,
        late=row.late,
        replaces=row.replaces,
        seconds=row.seconds,
        at=row.at.isoformat().replace("+00:00", "Z"),
        source=row.source if row.source is not None else row.question_source,
        licence=row.licence if row.licence is not None else row.question_licence,
        messages=row.messages,
        candidates=shown,
        columns={**(row.question_columns or {}), **(row.columns or {})},
        hash=row.hash,
        repeat_of=row.repeat_of,
        adjudication=row.adjudication,
    )


def _same_question() -> sa.ColumnElement[bool]:
    return answer_table.c.question_id == questions.c.id


def _said_before(
    connection: Connection, question_ids: Sequence[str]
) -> dict[tuple[str, str], list[tuple[str, str | None]]]:
    """(question, annotator) -> [(answer id, canonical JSON of its value, or None when erased)], oldest first."""
    said: dict[tuple[str, str], list[tuple[str, str | None]]] = {}
    for chunk in in_chunks(question_ids):
        query = (
            sa.select(answer_table.c.question_id, answer_table.c.annotator_id, answer_table.c.id, answer_table.c.value)
            .where(answer_table.c.question_id.in_(chunk))
            .order_by(answer_table.c.ordinal)
        )
        for question, annotator, identity, value in connection.execute(query):
            earlier = said.setdefault((question, annotator), [])
            earlier.append((identity, None if value is None else canonical_json(value)))
    return said


def _existing(connection: Connection, table: sa.Table, ids: Iterable[Any], column: str = "id") -> set[Any]:
    found: set[Any] = set()
    for chunk in in_chunks(list(ids)):
        found.update(connection.scalars(sa.select(table.c[column]).where(table.c[column].in_(chunk))))
    return found


def _require(connection: Connection, table: sa.Table, ids: set[Any], what: str, column: str = "id") -> None:
    missing = ids - _existing(connection, table, sorted(ids), column)
    if missing:
        first = ", ".join(str(one) for one in sorted(missing)[:3])
        raise InputError(
            f"the store has no {what} {first}" + (f" (and {len(missing) - 3} more)" if len(missing) > 3 else "")
        )


def _require_completions(connection: Connection, asked: Sequence[tuple[dict[str, Any], Sequence[str]]]) -> None:
    """Every candidate must be there, and be a completion of its question's prompt."""
    belongs: dict[str, str] = {}
    for chunk in in_chunks(sorted({one for _, shown in asked for one in shown})):
        rows = connection.execute(
            sa.select(completions.c.id, completions.c.prompt_id).where(completions.c.id.in_(chunk))
        )
        belongs.update((row.id, row.prompt_id) for row in rows)
    for row, shown in asked:
        for one in shown:
            if one not in belongs:
                raise InputError(f"the store has no completion {one}")
            if belongs[one] != row["prompt_id"]:
                raise InputError(f"completion {one} answers prompt {belongs[one]}, not {row['prompt_id']}")


def _distinct(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first row of each id."""
    seen: dict[str, dict[str, Any]] = {}
    for row in rows:
        seen.setdefault(row["id"], row)
    return list(seen.values())
