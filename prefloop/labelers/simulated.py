"""Simulated people: the B-Pref teachers, in front of texts. Lee et al. 2021, https://arxiv.org/abs/2111.03026

What a person makes of a completion is a score (0..1): 0.6 of its graded checker score, so partial credit counts, and
0.4 when it passes whole, because a letter that cannot be sent is of little use however many of its parts are right.
From two scores comes an answer by B-Pref's steps, in B-Pref's order: skip when both are too bad; choose by Boltzmann
(or argmax when skill is -1); flip by mistake; and where the scores are all but equal, a tie overwrites. Biases towards
the first place and the longer text are added to the logit. Thresholds are plain score differences; nothing multiplies
them a second time.

They answer through the same `lease` and `submit` as people do, and their ids begin with `simulated:`.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Literal

from prefloop.errors import InputError
from prefloop.labelers.task_world import FAMILIES, Task, demonstrate, spec_of
from prefloop.records import Message, as_messages
from prefloop.rewards.checkers import check_many
from prefloop.store.annotators import add_annotator
from prefloop.store.database import Store
from prefloop.store.queue import Lease, lease
from prefloop.store.submissions import Submission, submit

ARGMAX = -1.0
WHOLE = 0.4
"""Share of a person's judgement that is whether the answer does its job; the rest is which of its parts are there."""
Choice = Literal["a", "b", "tie", "skip"]


@dataclass(frozen=True, kw_only=True)
class Profile:
    """How one kind of simulated person judges and writes."""

    name: str
    skill: float = 15.0
    """beta: the log-odds of the better text per point of score difference (scores are 0..1); -1 always takes it."""
    position_bias: float = 0.0
    """Added to the log-odds of the text shown first."""
    length_bias: float = 0.0
    """Added to the log-odds of the longer text, per 100 characters that it is longer."""
    tie: float = 0.01
    """Scores closer than this are a tie; at 0 there are none."""
    skip: float = 0.0
    """The question is skipped when both scores are below this; at 0 none is."""
    mistake: float = 0.0
    """Chance that the choice is turned round, 0..1. Writing goes wrong more often: see `demonstrate`."""
    seconds: float = 20.0
    """Mean time per answer."""

    def __post_init__(self) -> None:
        if self.skill < 0 and self.skill != ARGMAX:
            raise InputError(f"skill must be 0 or more, or -1 for always the better one, got {self.skill}")
        for name in ("tie", "skip", "mistake"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} must be between 0 and 1, got {getattr(self, name)}")


PROFILES: dict[str, Profile] = {
    profile.name: profile
    for profile in (
        Profile(name="careful", skill=30.0, mistake=0.05, seconds=40.0),
        Profile(name="typical", skill=15.0, mistake=0.1, skip=0.15),
        Profile(name="hasty", skill=8.0, mistake=0.15, skip=0.15, seconds=6.0),
        Profile(name="position_biased", skill=12.0, mistake=0.1, position_bias=1.0, tie=0.0),
        Profile(name="length_biased", skill=12.0, mistake=0.1, length_bias=0.5),
    )
}
PANEL = tuple(PROFILES)
"""The people of the demonstration: one of each. Their mean `mistake` is 0.1."""


def fresh_panel(n: int, seed: int) -> list[Profile]:
    """`n` profiles nobody has trained on: each a mix of its own, drawn around `typical`. For evaluation."""
    rng = Random(f"fresh_panel:{seed}")
    return [
        Profile(
            name=f"fresh-{seed}-{k}",
            skill=math.exp(rng.uniform(math.log(10), math.log(30))),
            position_bias=rng.gauss(0, 0.5),
            length_bias=rng.gauss(0, 0.2),
            tie=rng.uniform(0, 0.05),
            mistake=rng.uniform(0.02, 0.12),
            seconds=rng.uniform(10, 40),
        )
        for k in range(1, n + 1)
    ]


def probability_first(profile: Profile, first: float, second: float, longer_by: float = 0.0) -> float:
    """P(the text shown first is chosen), mistakes included; neither skips nor ties.

    `first`, `second`: scores, 0..1. `longer_by`: characters by which the first text is longer.
    """
    bias = profile.position_bias + profile.length_bias * longer_by / 100
    if profile.skill == ARGMAX and first != second:
        p = float(first > second)
    else:
        p = _sigmoid(max(profile.skill, 0.0) * (first - second) + bias)
    return (1 - profile.mistake) * p + profile.mistake * (1 - p)


def choose(profile: Profile, first: float, second: float, longer_by: float, rng: Random) -> Choice:
    """What this person says about two texts: "a" is the first as shown. Draws one number from `rng`."""
    place = rng.random()
    if max(first, second) < profile.skip:
        return "skip"
    if abs(first - second) < profile.tie:
        return "tie"
    return "a" if place < probability_first(profile, first, second, longer_by) else "b"


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


# --- answering the store's questions -----------------------------------------------------------------------------

TURN = 400
"""Leases held at once: their completions are checked in one batch, because a batch starts one sandbox."""
AT_A_TIME = 10
"""Leases that one person takes before the next one's turn, so that a panel shares the questions."""
LEASE_SECONDS = 3600.0
CANNOT_JUDGE = "not one of the tasks that simulated people know: " + ", ".join(FAMILIES)


def label(
    store: Store,
    who: str | Profile | Sequence[str | Profile],
    *,
    seed: int = 0,
    limit: int | None = None,
    kinds: Sequence[str] = ("comparison", "demonstration"),
    number: int = 1,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Let simulated people answer what waits in the queue, until nothing is left for them or `limit` is reached.

    `who`: a profile or its name, several of them, or "panel" for one of each. Person `number` of a profile is the
    annotator `simulated:<profile>-<number>`. Each answer depends on `seed`, the annotator and the question alone, not
    on the order of the queue; its idempotency key is of annotator and question, so nothing is answered twice. A
    question about none of the task world's families is skipped with that reason.
    `progress` is called with the count of answers so far.
    Returns {"annotators", "answers", "comparison", "demonstration", "skipped", "ties"}; `answers` includes the skips.
    Raises InputError for an unknown profile or a kind that simulated people cannot answer.
    """
    unknown = set(kinds) - {"comparison", "demonstration"}
    if unknown:
        raise InputError(f"simulated people answer comparison and demonstration, not {', '.join(sorted(unknown))}")
    people = {
        add_annotator(store, f"{p.name}-{number}", kind="simulated", profile=dataclasses.asdict(p) | {"seed": seed}): p
        for p in profiles_of(who)
    }
    done: Counter[str] = Counter()
    while limit is None or done["answers"] < limit:
        held = _take_turns(store, list(people), kinds, TURN if limit is None else min(TURN, limit - done["answers"]))
        if not held:
            break
        submissions = _answer(held, people, seed, done)
        submit(store, submissions)
        if progress is not None:
            progress(done["answers"])
    names = ("answers", "comparison", "demonstration", "skipped", "ties")
    return {"annotators": sorted(people), **{name: done[name] for name in names}}


def profiles_of(who: str | Profile | Iterable[str | Profile]) -> list[Profile]:
    """The profiles meant by a name, a profile, or several; "panel" is one of each. InputError for a wrong name."""
    if isinstance(who, Profile):
        return [who]
    if isinstance(who, str):
        names = PANEL if who == "panel" else (who,)
        wrong = [name for name in names if name not in PROFILES]
        if wrong:
            raise InputError(f"no simulated profile {wrong[0]!r}; there are {', '.join(PROFILES)}, and panel")
        return [PROFILES[name] for name in names]
    return [profile for one in who for profile in profiles_of(one)]


def _take_turns(store: Store, annotators: list[str], kinds: Sequence[str], most: int) -> list[tuple[str, Lease]]:
    """Up to `most` leases, a few for each annotator in turn."""
    held: list[tuple[str, Lease]] = []
    waiting = list(annotators)
    while waiting and len(held) < most:
        for annotator in list(waiting):
            n = min(AT_A_TIME, most - len(held))
            got = lease(store, annotator, kinds=kinds, limit=n, seconds=LEASE_SECONDS) if n else []
            held += [(annotator, one) for one in got]
            if n and not got:
                waiting.remove(annotator)
    return held


def _answer(
    held: Sequence[tuple[str, Lease]], people: dict[str, Profile], seed: int, done: Counter[str]
) -> list[Submission]:
    """One submission per lease; adds to the counts in `done`."""
    tasks = [task_of(one.messages) for _, one in held]
    scores = iter(
        _scores(
            (task, candidate["text"])
            for task, (_, one) in zip(tasks, held, strict=True)
            if task is not None and one.kind == "comparison"
            for candidate in one.candidates
        )
    )
    submissions = []
    for task, (annotator, one) in zip(tasks, held, strict=True):
        profile = people[annotator]
        rng = Random(f"{seed}:{annotator}:{one.question_id}")
        value: dict[str, Any]
        if task is None:
            value = {"skip": CANNOT_JUDGE}
        elif one.kind == "comparison":
            texts = [candidate["text"] for candidate in one.candidates]
            value = _comparison(profile, (next(scores), next(scores)), texts, rng)
        else:
            value = {"text": demonstrate(task, rng, profile)}
        done.update(("answers", "skipped" if "skip" in value else one.kind))
        done["ties"] += value.get("choice") == "tie"
        seconds = round(profile.seconds * rng.lognormvariate(-0.125, 0.5), 1)  # mean 1: exp(-0.125 + 0.5**2 / 2)
        key = f"{annotator}:{one.question_id}"
        submissions.append(Submission(lease_token=one.token, value=value, idempotency_key=key, seconds=seconds))
    return submissions


def _comparison(profile: Profile, scores: tuple[float, float], texts: Sequence[str], rng: Random) -> dict[str, Any]:
    choice = choose(profile, *scores, len(texts[0]) - len(texts[1]), rng)
    if choice == "skip":
        return {"skip": "both are too bad to compare"}
    if choice == "tie":
        return {"choice": "tie"}
    difference = abs(scores[0] - scores[1])
    return {"choice": choice, "strength": 1 if difference < 0.2 else 2 if difference < 0.5 else 3}


def task_of(messages: Sequence[Message]) -> Task | None:
    """The task of a prompt, read from its last user turn; None when it is none of the task world's."""
    last = next((message["content"] for message in reversed(messages) if message["role"] == "user"), "")
    return spec_of(last)


def _scores(pairs: Iterable[tuple[Task, str]]) -> list[float]:
    checks = check_many([(t.family, t.prompt, text, t.spec) for t, text in pairs])
    return [(1 - WHOLE) * check.score + WHOLE * check.passed for check in checks]


# --- judging for evaluation --------------------------------------------------------------------------------------


Judge = Callable[[Sequence[Any], Sequence[str], Sequence[str]], list[str]]


def judges(who: str | Profile | Sequence[str | Profile], seed: int = 0) -> list[Judge]:
    """A blind judge for win rates for each of `who`: `(prompts, first texts, second texts)` -> "a", "b" or "tie".

    What a person says of a pair is decided by `seed`, their place in `who`, the prompt and the texts. What B-Pref would
    skip is a tie. A judge raises InputError for a prompt outside the task world.
    """
    seen: dict[tuple[str, str], float] = {}
    return [_judge(profile, f"{seed}:{number}", seen) for number, profile in enumerate(profiles_of(who))]


def _judge(profile: Profile, stream: str, seen: dict[tuple[str, str], float]) -> Judge:
    """`seen` holds the scores of (prompt, text) that any of the judges has looked at: checking may run a program."""

    def scores(tasks: Sequence[Task], texts: Sequence[str]) -> list[float]:
        pairs = {(t.prompt, text): (t, text) for t, text in zip(tasks, texts, strict=True)}
        new = [key for key in pairs if key not in seen]
        seen.update(zip(new, _scores(pairs[key] for key in new), strict=True))
        return [seen[t.prompt, text] for t, text in zip(tasks, texts, strict=True)]

    def verdicts(prompts: Sequence[Any], a: Sequence[str], b: Sequence[str]) -> list[str]:
        tasks = []
        for prompt in prompts:
            task = task_of(as_messages(prompt))
            if task is None:
                raise InputError(f"simulated people cannot judge {prompt!r:.120}: {CANNOT_JUDGE}")
            tasks.append(task)
        said: list[str] = []
        for task, one, two, text, other in zip(tasks, scores(tasks, a), scores(tasks, b), a, b, strict=True):
            rng = Random(f"{stream}:{task.prompt}:{text}:{other}")
            choice = choose(profile, one, two, len(text) - len(other), rng)
            said.append("tie" if choice == "skip" else choice)
        return said

    return verdicts
