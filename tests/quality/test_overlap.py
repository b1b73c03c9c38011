"""Adaptive overlap: one answer, more while it is uncertain, and a control arm that does not care."""

from __future__ import annotations

import pytest

from prefloop.errors import InputError
from prefloop.quality.overlap import AdaptiveOverlap
from prefloop.store.asking import Asked

NO_CONTROL = AdaptiveOverlap(control_share=0.0)


def asked(*choices: str, seed: int = 1, kind: str = "comparison", overlap: int | None = None) -> Asked:
    said = [(f"p{i}", {"choice": choice}) for i, choice in enumerate(choices)]
    n = len(said) if overlap is None else overlap
    return Asked(id="q", kind=kind, seed=seed, overlap=n, most=9, answers=said)


@pytest.mark.parametrize(
    ("choices", "wanted"),
    [
        (("a",), 2),  # Beta(2, 1): P(p > 1/2) = 3/4
        (("a", "a"), 3),  # Beta(3, 1): 7/8 < 0.9
        (("a", "a", "a"), 3),  # Beta(4, 1): 15/16
        (("a", "b"), 3),
        (("b", "b", "b"), 3),
        (("a", "b", "a", "b", "a"), 5),  # five are the most
        (("unsure",), 2),
        (("tie", "tie"), 3),
    ],
)
def test_more_are_asked_for_while_the_majority_is_uncertain(choices: tuple[str, ...], wanted: int) -> None:
    assert NO_CONTROL(asked(*choices)) == wanted


def test_a_careless_annotators_answer_settles_less() -> None:
    policy = AdaptiveOverlap(control_share=0.0, weights={"p0": 0.1})
    assert policy(asked("a", "a", "a")) == 4
    assert NO_CONTROL(asked("a", "a", "a")) == 3


def test_the_control_arm_has_its_share_and_its_number_whatever_is_said() -> None:
    policy = AdaptiveOverlap(control_share=0.25, control=3)
    arm = [seed for seed in range(2000) if policy.in_control(seed)]
    assert 430 < len(arm) < 570  # 500, three and a half standard deviations
    assert {policy(asked("a", seed=seed)) for seed in arm} == {3}
    assert {policy(asked("a", "b", "a", seed=seed)) for seed in arm} == {3}


def test_other_kinds_ask_until_two_say_the_same() -> None:
    def rating(*scores: int) -> Asked:
        said = [(f"p{i}", {"scores": {"overall": score}}) for i, score in enumerate(scores)]
        return Asked(id="q", kind="rating", seed=1, overlap=len(said), most=9, answers=said)

    assert NO_CONTROL(rating(4)) == 2
    assert NO_CONTROL(rating(4, 3)) == 3
    assert NO_CONTROL(rating(4, 3, 4)) == 3
    texts = Asked(id="q", kind="demonstration", seed=1, overlap=1, most=9, answers=[("p", {"text": "x"})])
    assert NO_CONTROL(texts) == 1


@pytest.mark.parametrize("wrong", [{"sure": 0.5}, {"control_share": 1.5}, {"most": 0}, {"control": 0}])
def test_settings_that_cannot_be_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        AdaptiveOverlap(**wrong)  # type: ignore[arg-type]
