"""Annotators: one id for one name, and no machine that looks like a person."""

from __future__ import annotations

import pytest

from prefloop.errors import InputError
from prefloop.store.annotators import add_annotator, annotators_by_ids, kinds_of, list_annotators
from prefloop.store.database import Store


def test_the_same_name_is_the_same_annotator(store: Store) -> None:
    first = add_annotator(store, "Ada Lovelace", kind="person", profile={"languages": ["en"]})
    assert add_annotator(store, "Ada Lovelace", kind="person") == first
    assert [one.name for one in list_annotators(store)] == ["Ada Lovelace"]
    assert list_annotators(store)[0].profile == {"languages": ["en"]}


def test_a_persons_id_tells_nothing_of_the_name(store: Store) -> None:
    identity = add_annotator(store, "Ada Lovelace", kind="person")
    assert identity.startswith("person:")
    assert "ada" not in identity.lower()


def test_machines_are_marked_by_their_ids(store: Store) -> None:
    assert add_annotator(store, "careful", kind="simulated") == "simulated:careful"
    assert add_annotator(store, "simulated:careful", kind="simulated") == "simulated:careful"
    assert add_annotator(store, "judge", kind="ai") == "ai:judge"
    person = add_annotator(store, "Ada", kind="person")
    ids = ["simulated:careful", "ai:judge", person, "unknown"]
    assert kinds_of(store, ids) == {"person": 1, "simulated": 1, "ai": 1}
    assert {one.id: one.is_person for one in annotators_by_ids(store, ids).values()} == {
        "simulated:careful": False,
        "ai:judge": False,
        person: True,
    }


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("simulated:x", "person", "only a machine's name begins with simulated:"),
        ("ai:x", "simulated", "only a machine's name begins with ai:"),
        ("simulated:", "simulated", "needs something after the colon"),
        ("  ", "person", "1 to 180 characters"),
        ("x" * 181, "person", "1 to 180 characters"),
        ("a\x00b", "person", "NUL"),
        ("a\ud800b", "person", "lone surrogate"),
        ("x", "robot", "one of person, simulated, ai"),
    ],
)
def test_names_that_are_refused(store: Store, name: str, kind: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        add_annotator(store, name, kind=kind)  # type: ignore[arg-type]
    assert list_annotators(store) == []
