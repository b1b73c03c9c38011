"""`prefloop evaluate`: a reward model on pairs, or a policy against another; each figure with n and an interval."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from prefloop.artifacts.files import write_json
from prefloop.artifacts.folder import find_artifact, list_artifacts, named_artifact, write_artifact
from prefloop.artifacts.workspace import Workspace
from prefloop.audits.report import write_report
from prefloop.datasets.feedback import samples_of
from prefloop.errors import InputError
from prefloop.evaluation.ceiling import human_ceiling
from prefloop.evaluation.floors import length_floor, tfidf_length_floor
from prefloop.evaluation.interval import mean_interval, share_interval, sliced_shares
from prefloop.evaluation.pair_scores import both_sides
from prefloop.evaluation.reward_model import (
    decay,
    evaluate_scores,
    features_followed,
    safety,
    slices_of,
    tokens_that_earned,
    worst_mistakes,
)
from prefloop.evaluation.win_rate import Judge, win_rate
from prefloop.generation.policy import Completion, Policy
from prefloop.generation.sampler import Sampling
from prefloop.labelers.active import worth_asking
from prefloop.labelers.simulated import fresh_panel, judges
from prefloop.labelers.task_world import Task, task_prompts
from prefloop.models.device import pick_device, pick_dtype
from prefloop.records import Comparison, Messages, as_messages, prompt_id
from prefloop.rewards.checkers import check_many
from prefloop.rewards.composition import Composition, Reward
from prefloop.rewards.ensemble import Ensemble
from prefloop.rewards.learned import LearnedReward, earning
from prefloop.snapshots.formats import load_comparisons, load_prompts
from prefloop.version import __version__
from prefloop.workflows.places import Place, workspace_or_none
from prefloop.workflows.references import artifact_at, kind_of, model_at, of_parts, reward_at
from prefloop.workflows.sampling import read_prompts

ASKED_NEXT = 20
"""Pairs named as worth asking about."""
FRESH_TASKS = 240
"""Tasks that policies are compared on when no prompts are given."""


def evaluate(
    model: str,
    *,
    comparisons: str | Path | None = None,
    against: str | None = None,
    own: str | Path | None = None,
    samples: str | Path | None = None,
    prompts: Sequence[Any] | str | Path | None = None,
    judged_by: str | None = None,
    criterion: str | None = None,
    max_new_tokens: int = 128,
    temperature: float = 1.0,
    limit: int | None = None,
    seed: int = 0,
    device: str = "auto",
    dtype: str = "auto",
    workspace: Place = None,
    report: str | Path | None = None,
    log: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Measure a reward model (`comparisons`) or a policy (`against` another). In a workspace the result is kept.

    A reward model: `accuracy`, `low`, `high`, `n`, `ece`, and slices, human ceiling, floors, length bias, the features
    that preferences follow and the worst mistakes beside them. A snapshot's held-out part is used; of any other file
    every pair is, and rows that name an `annotator` count one for each. Without `comparisons` it is the snapshot that
    the model was trained on. `model` may also be a YAML of reward parts, such as an ensemble of several models: it has
    no temperature and no tokens to show. A page about it goes to `report`; without it, into the result in a workspace
    (`report` is its path).
    `own`: comparisons of the current policy's own samples; `decay` is how far the accuracy is lower there. `samples`: a
    file of completions that nobody has judged; `ask_next` are the pairs of them whose comparison would teach most.
    A policy: `win_rate` {value, low, high, n}, `kl` (nats per sequence, from the other policy), `length`. Judges are
    `judged_by`: `simulated` people (the default; they know the task world only) or a reward model, by the `criterion`
    of those that it has, if one is given. `prompts` is a list, a file, or a snapshot (its held-out prompts); without it
    fresh tasks are asked. `limit` takes the first so many. Prompts that leave no room for an answer are left out, said
    and counted (`prompts_too_long`).
    Raises InputError for models or data that do not fit.
    """
    place = workspace_or_none(workspace)
    say = log or (lambda words: None)
    if criterion is not None and judged_by in (None, "simulated"):
        raise InputError(f"criterion {criterion!r} is that of a judge of policies that is a reward model: name one")
    if comparisons is None and against is None and kind_of(model, place) == "reward_model":
        comparisons = _learned_from(model, place)
        say(f"testing on what {comparisons} holds out")
    if comparisons is not None:
        result = _reward_model(model, comparisons, own, samples, seed, device, dtype, place, say)
        return _kept(place, model, "reward_model", result, seed, report)
    if own is not None or samples is not None:
        raise InputError("own and samples are looked at through a reward model; give comparisons to test it on, too")
    if against is None:
        raise InputError(
            f"{model} names no reward model of this workspace: give --comparisons FILE to test one from elsewhere, "
            "or --against POLICY to measure a policy"
        )
    asked = asked_prompts(prompts, seed, place)[:limit]
    sampling = Sampling(max_new_tokens=max_new_tokens, temperature=temperature)
    policies = [Policy(model_at(ref, "policy", place), device=device, dtype=dtype, log=say) for ref in (model, against)]
    messages = [m for m in map(as_messages, asked) if all(policy.has_room(m, max_new_tokens) for policy in policies)]
    if too_long := len(asked) - len(messages):
        say(f"{too_long} of {len(asked)} prompts are left out: with an answer they are longer than the models take")
    if not messages:
        raise InputError(
            f"none of the {len(asked)} prompts leaves room for an answer of {max_new_tokens} tokens; the models take "
            f"{min(policy.sampler.positions for policy in policies)} tokens: give fewer new tokens or shorter prompts"
        )
    judged = _judges(judged_by, criterion, seed, device, dtype, place)
    answers = []
    for number, (ref, policy) in enumerate(zip((model, against), policies, strict=True)):
        say(f"sampling {len(messages)} answers of {ref}")
        groups = policy.answer(messages, 1, sampling, seed=seed + number)
        answers.append([group[0] for group in groups])
    result = compare_answers(messages, answers[0], answers[1], judged, seed)
    result |= {
        "judge": judged_by or "simulated",
        "criterion": criterion,
        "against": against,
        "prompts_too_long": too_long,
    }
    result["kl"] = divergence(policies[0], policies[1], messages, answers[0], seed)
    return _kept(place, model, "policy", result, seed)


def compare_answers(
    messages: Sequence[Messages],
    ours: Sequence[Completion],
    theirs: Sequence[Completion],
    judged_by: Sequence[Judge],
    seed: int,
) -> dict[str, Any]:
    """Win rate, length and share of completions that ended, of two lists of answers."""
    return {
        "win_rate": win_rate(messages, [c.text for c in ours], [c.text for c in theirs], judged_by, seed=seed),
        "length": {
            name: mean_interval([len(c.sample.ids) for c in side], seed=seed).as_dict()
            for name, side in (("policy", ours), ("against", theirs))
        },
        "terminated": {
            name: share_interval([c.terminated for c in side], seed=seed).as_dict()
            for name, side in (("policy", ours), ("against", theirs))
        },
    }


def divergence(
    policy: Policy, reference: Policy, messages: Sequence[Messages], answers: Sequence[Completion], seed: int
) -> dict[str, Any] | None:
    """KL(policy, reference) in nats per sequence, estimated on the policy's own samples; None for unlike tokenizers."""
    if policy.template.tokenizer.get_vocab() != reference.template.tokenizer.get_vocab():
        return None
    samples = [answer.sample for answer in answers]
    difference = policy.logprobs(messages, samples) - reference.logprobs(messages, samples)
    return mean_interval(difference.tolist(), seed=seed).as_dict()


def gold(tasks: Sequence[Task], answers: Sequence[str], seed: int = 0) -> dict[str, Any]:
    """Share of answers that pass their task's checker, with families: `{"value", "low", "high", "n", "families"}`."""
    checks = check_many([(t.family, t.prompt, a, t.spec) for t, a in zip(tasks, answers, strict=True)])
    passed = [check.passed for check in checks]
    groups = [prompt_id(as_messages(t.prompt)) for t in tasks]
    families = sliced_shares(passed, groups, [t.family for t in tasks], seed=seed)
    return share_interval(passed, groups, seed=seed).as_dict() | {"families": families}


def _reward_model(
    ref: str,
    comparisons: str | Path,
    own: str | Path | None,
    samples: str | Path | None,
    seed: int,
    device: str,
    dtype: str,
    place: Workspace | None,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Accuracy, calibration, slices, ceiling, floors, mistakes and features of a reward model on held-out pairs."""
    source = _source(comparisons, place)
    test = _held_out(source)
    model = None if of_parts(ref) else _model(ref, device, dtype, place)
    reward: Reward = reward_at(ref, device, dtype, place) if model is None else model
    within: list[Any] = reward.models if isinstance(reward, Composition) else [model]
    if samples is not None and not within:
        raise InputError(f"{ref} has no reward model among its parts; samples are looked at through one")
    harmful, scale = (False, 1.0) if model is None else (model.cost, model.temperature)
    say(f"scoring {len(test)} pairs")
    prompts = [pair.prompt for pair in test]
    chosen, rejected = both_sides(reward, test)
    costs = safety(test, chosen, rejected, seed=seed) if harmful else None
    if harmful:  # what was chosen is the safer one, the better of the two
        chosen, rejected = [-cost for cost in chosen], [-cost for cost in rejected]
    groups = [prompt_id(prompt) for prompt in prompts]
    slices = slices_of(test)
    result = evaluate_scores(
        chosen,
        rejected,
        groups,
        [pair.label for pair in test],
        chosen_lengths=[len(p.chosen) for p in test],
        rejected_lengths=[len(p.rejected) for p in test],
        slices=slices,
        scale=scale,
        temperature=len(set(groups)) >= 2,
        seed=seed,
    )
    if costs is not None:
        result["safety"] = costs
    result["human_ceiling"] = human_ceiling(test, seed=seed)
    result["slice_ceilings"] = {
        column: {
            name: human_ceiling([row for row, value in zip(test, values, strict=True) if value == name], seed=seed)
            for name in sorted({value for value in values if value is not None})
        }
        for column, values in slices.items()
    }
    differences = [a - b for a, b in zip(chosen, rejected, strict=True)]
    if own is not None:
        moved = _held_out(_source(own, place))
        sign = -1.0 if harmful else 1.0
        sides = zip(*both_sides(reward, moved), strict=True)
        result["decay"] = decay(test, differences, moved, [sign * (a - b) for a, b in sides], seed=seed)
    if samples is not None:
        result["ask_next"] = worth_asking(Ensemble(within), samples_of(Path(samples)), ASKED_NEXT)
    result["credit"] = [] if model is None else tokens_that_earned(model, test, differences)
    result["mistakes"] = worst_mistakes(test, differences, scale)
    say("which features preferences follow")
    result["features"] = features_followed(test, differences, scale, seed=seed)
    result["floors"] = {"length": length_floor(test, seed=seed)}
    if Path(source).is_dir():
        train, _ = load_comparisons(source, split="train")
        try:
            result["floors"]["tfidf"] = tfidf_length_floor(train, test, seed=seed)
        except InputError as error:
            say(f"no TF-IDF floor: {error}")
    return result


def _model(ref: str, device: str, dtype: str, place: Workspace | None) -> LearnedReward:
    where = pick_device(device)
    return LearnedReward(model_at(ref, "reward_model", place), pick_dtype(dtype, where), where)


def _source(ref: str | Path, place: Workspace | None) -> str | Path:
    """A file or hub id as it is; a snapshot's folder for its name or hash."""
    if Path(ref).exists() or place is None:
        return ref
    try:
        return find_artifact(place.artifacts, str(ref), "snapshot").path
    except InputError:
        if "/" in str(ref):
            return str(ref)
        raise


def _learned_from(ref: str, place: Workspace | None) -> Path:
    """The one snapshot that a reward model was trained on. Raises InputError where there is none to name."""
    root = place.artifacts if place is not None else None
    artifact = named_artifact(root, ref, "reward_model")
    stored = list_artifacts(root, "snapshot") if root is not None else []
    found = {one.hash: one.path for one in stored if one.hash in artifact.parents}
    if artifact.manifest["settings"].get("learn_from") == "held_out":
        raise InputError(f"{ref} learned from what was held out: name other pairs to test it on (--comparisons FILE)")
    if len(found) != 1:
        raise InputError(
            f"{ref} was trained on {len(found)} snapshots that are in this workspace: "
            "name the pairs to test it on (--comparisons FILE or SNAPSHOT)"
        )
    return next(iter(found.values()))


def _held_out(source: str | Path) -> list[Comparison]:
    """The pairs of a snapshot's test side, or of a file; what each annotator said of a pair, where rows name them."""
    pairs, _ = load_comparisons(source, split="test" if Path(source).is_dir() else None, by_annotator=True)
    return pairs


def asked_prompts(prompts: Sequence[Any] | str | Path | None, seed: int, place: Workspace | None) -> list[Any]:
    """What policies are asked: a list as it is, a file's prompts, a snapshot's held-out ones, or else fresh tasks."""
    if prompts is None:
        return [task.prompt for task in task_prompts(FRESH_TASKS, seed, split="fresh")]
    if not isinstance(prompts, str | Path):
        return list(prompts)
    source = _source(prompts, place)
    if Path(source).is_dir():
        return list({prompt_id(p): p for p in load_prompts(source, split="test")[0]}.values())
    return read_prompts(source)


def _judges(
    ref: str | None, criterion: str | None, seed: int, device: str, dtype: str, place: Workspace | None
) -> Sequence[Judge]:
    """Five simulated people that nobody has trained on, or a reward model."""
    if ref is None or ref == "simulated":
        return judges(fresh_panel(5, seed), seed)
    model = _model(ref, device, dtype, place)
    reward = earning(model if criterion is None else model.about(criterion))

    def verdicts(prompts: Sequence[Any], firsts: Sequence[str], seconds: Sequence[str]) -> list[str]:
        messages = [as_messages(p) for p in prompts]
        return [
            "a" if a > b else "b" if b > a else "tie"
            for a, b in zip(reward(messages, firsts), reward(messages, seconds), strict=True)
        ]

    return [verdicts]


def _kept(
    place: Workspace | None,
    ref: str,
    kind: str,
    result: dict[str, Any],
    seed: int,
    report: str | Path | None = None,
) -> dict[str, Any]:
    """Store the result beside the model, so that a report can show it; about a reward model, also as a page."""
    artifact = artifact_at(ref, kind, place)
    page = {
        "title": f"Reward model {artifact.name if artifact else Path(ref).name}",
        "version": __version__,
        "seed": seed,
        "reward_model": result,
    }
    if report is not None and kind == "reward_model":
        result = {**result, "report": str(write_report(page, Path(report)))}
    if place is None or artifact is None:
        return result

    def fill(folder: Path) -> None:
        write_json(folder / "evaluation.json", result)
        if kind == "reward_model":
            write_report(page, folder / "report.html")

    stored = write_artifact(
        place.artifacts,
        "evaluation",
        artifact.name,
        fill,
        settings={"model": ref},
        parents=[artifact.hash],
        seeds={"seed": seed},
        metrics={name: value for name, value in result.items() if name not in ("mistakes", "credit", "ask_next")},
    )
    made = {"report": str(stored.path / "report.html")} if kind == "reward_model" else {}
    return {**made, **result, "artifact": str(stored.path)}
