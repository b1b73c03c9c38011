"""A reward model from every kind of feedback: one file, several files, a workspace; criteria, members, thresholds."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification

import prefloop
from prefloop.datasets.feedback import Compared, FeedbackRow, Judged, Ranked, Rated
from prefloop.errors import InputError
from prefloop.evaluation.pair_scores import both_sides
from prefloop.models.feedback import ANSWERS_KEY, HEADS_KEY, TEMPERATURE_KEY
from prefloop.records import Comparison, as_messages
from prefloop.rewards.composition import compose
from prefloop.rewards.learned import LearnedReward
from prefloop.training.offline import train_offline
from prefloop.workflows.training import train
from tests.small import build, settings_of, write_inputs

CPU = torch.device("cpu")
SCALE = ["awful", "bad", "fine", "good", "superb"]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return write_inputs(tmp_path_factory.mktemp("inputs"))


def asked(i: int) -> dict[str, Any]:
    return {"prompt": f"Number {i}?"}


def rows_of(kind: str, n: int = 20) -> list[dict[str, Any]]:
    """What people say who like words further right in SCALE."""
    made = []
    for i in range(n):
        low, high = sorted(((i * 3) % 5, (i * 3 + 1 + i % 3) % 5))
        better, worse = f"{SCALE[high]} {i % 4}", f"{SCALE[low]} {i % 4}"
        made.append(
            asked(i)
            | {
                "comparison": {"chosen": better, "rejected": worse},
                "ranking": {"completions": [f"{word} {i % 4}" for word in SCALE], "ranks": [5, 4, 3, 2, 1]},
                "rating": {"completion": f"{SCALE[i % 5]} {i}", "scores": {"overall": i % 5 + 1}},
                "approval": {"completion": f"{SCALE[i % 5]} {i}", "label": i % 5 > 2},
                "edit": {"completion": worse, "edited": better},
                "flags": {"completion": f"{SCALE[i % 5]} {i}", "flags": [] if i % 5 > 1 else ["hallucination"]},
            }[kind]
        )
    return made


def write(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def trained(inputs: Path, out: Path, data: Any, **changes: Any) -> dict[str, Any]:
    settings = settings_of("reward_model", inputs, **{"batch_size": 8, "epochs": 8, "lr": 3e-3, **changes})
    settings.pop("data")
    return train("reward_model", out=out, data=data, overrides=settings, log=lambda words: None)


def in_order(folder: Path) -> bool:
    """Whether fresh answers are scored in the order of SCALE."""
    reward = LearnedReward(folder, torch.float32, CPU)
    means = [
        sum(reward([[{"role": "user", "content": f"Fresh {i}?"}] for i in range(4)], [f"{word} 2"] * 4))
        for word in SCALE
    ]
    return means[0] < means[2] < means[4]


@pytest.mark.parametrize("kind", ["ranking", "rating", "approval", "edit", "flags"])
def test_any_one_kind_is_enough_and_needs_nothing_extra(kind: str, inputs: Path, tmp_path: Path) -> None:
    result = trained(inputs, tmp_path / "rm", write(tmp_path / "rows.jsonl", rows_of(kind, 40)))
    assert result["ledger"]["used"] == 40
    assert in_order(tmp_path / "rm")


def test_a_mixture_is_one_file_or_several(inputs: Path, tmp_path: Path) -> None:
    """The same rows in one file and in three give the same model; each kind's loss is logged."""
    parts = [rows_of(kind, 10) for kind in ("comparison", "rating", "ranking")]
    one = write(tmp_path / "all.jsonl", [row for part in parts for row in part])
    several = [write(tmp_path / f"{i}.jsonl", part) for i, part in enumerate(parts)]
    whole = trained(inputs, tmp_path / "one", one)
    split = trained(inputs, tmp_path / "several", several)
    assert whole["metrics"]["loss"] == split["metrics"]["loss"]
    assert {name for name in whole["metrics"] if name.startswith("loss/")} == {
        "loss/comparison",
        "loss/rating",
        "loss/ranking",
    }
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "several")]
    assert weights[0] == weights[1]


def test_other_methods_read_one_data_set(inputs: Path, tmp_path: Path) -> None:
    data = [write(tmp_path / f"{i}.jsonl", rows_of("comparison", 4)) for i in range(2)]
    settings = {k: v for k, v in settings_of("dpo", inputs).items() if k != "data"}
    with pytest.raises(InputError, match="dpo reads one data set, got 2"):
        train("dpo", out=tmp_path / "out", data=data, overrides=settings)


def row(said: Any, kind: str, texts: int, **more: Any) -> FeedbackRow:
    from prefloop.models.template import Encoded

    return FeedbackRow(kind, tuple(Encoded([1, 2, i], 1) for i in range(texts)), said, 1.0, "'x'", **more)


def given(algorithm: Any, monkeypatch: pytest.MonkeyPatch, scores: list[list[float]]) -> None:
    monkeypatch.setattr(type(algorithm), "scores", lambda self, texts: torch.tensor(scores))


def test_each_kind_has_its_likelihood(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: a tie under nu = 1, a ranking with odds 2 : 1, a level and a yes at their thresholds."""
    rows = [row for kind in ("comparison", "rating", "approval") for row in rows_of(kind, 6)]
    rows.append({**asked(9), "chosen": "p", "rejected": "q", "label": 0.5})
    algorithm, _ = build("reward_model", inputs, tmp_path / "run", data=str(write(tmp_path / "r.jsonl", rows)))
    monkeypatch.setattr(algorithm.answers, "tie_start", 0.0)  # nu = 1
    given(algorithm, monkeypatch, [[math.log(4)], [0.0], [math.log(2)], [0.0], [0.3], [1.2]])
    found = algorithm.loss(
        [
            row(Compared(0.5, 1.0, 0.0, 0.0), "comparison", 2),
            row(Ranked((1, 2)), "ranking", 2),
            row(Rated({"overall": 1}), "rating", 1),
            row(Judged(True), "approval", 1),
        ]
    )
    lowest = algorithm.answers.thresholds("rating:overall")[0].item()
    needed = algorithm.answers.thresholds("approval").item()
    expected = [
        -math.log(1 / 3.5),  # 2 : 1 : 1/2
        -math.log(2 / 3),
        math.log1p(math.exp(0.3 - lowest)),
        math.log1p(math.exp(needed - 1.2)),
    ]
    assert found.values.tolist() == pytest.approx(expected, rel=1e-5)
    assert found.metrics["rewards/approval_accuracies"][0].tolist() == [float(needed < 1.2)]
    assert found.metrics["rewards/ranking_accuracies"][0].tolist() == [1.0]


def test_thresholds_start_at_the_shares_that_people_gave() -> None:
    """4 of 10 said yes: logit(4.5 / 11); a level that nobody chose keeps its place in the order."""
    from prefloop.models.feedback import SPREAD, Answers

    answers = Answers({"approval": [6, 4], "both_bad": [9, 0], "rating:help": [2, 0, 4, 3, 1]}, ties=0.2)
    assert answers.thresholds("approval").item() == pytest.approx(SPREAD * math.log(6.5 / 4.5))
    assert answers.thresholds("both_bad").item() == 0.0
    edges = answers.thresholds("rating:help")
    assert (edges.diff() > 0).all()
    assert answers.log_ties is not None
    assert answers.log_ties.exp().item() == pytest.approx(2.3 * 0.2 / 0.8)
    assert Answers({}).log_ties is None


def test_strength_becomes_llama_2s_margin(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for margin, at_full in (("small", 1.0), ("large", 3.0)):
        algorithm, _ = build("reward_model", inputs, tmp_path / margin, margin=margin)
        given(algorithm, monkeypatch, [[at_full], [0.0]])
        loss = algorithm.loss([row(Compared(1.0, 0.0, 0.0, 3.0), "comparison", 2)])
        assert loss.values.item() == pytest.approx(math.log(2))


def test_a_demonstration_beats_what_else_there_is_to_its_prompt(inputs: Path, tmp_path: Path) -> None:
    rows = [
        *rows_of("comparison", 3),
        {**asked(1), "completion": "superb, truly"},
        {**asked(77), "completion": "alone"},
    ]
    algorithm, _ = build("reward_model", inputs, tmp_path / "run", data=str(write(tmp_path / "r.jsonl", rows)))
    (shown,) = [r for r in algorithm.train_rows if r.kind == "demonstration"]
    assert shown.said == Ranked((1, 2, 2))


def test_the_ledger_says_what_taught_nothing(inputs: Path, tmp_path: Path) -> None:
    rows = [
        *rows_of("comparison", 6),
        {**asked(1), "completion": "a", "edited": "a "},
        {**asked(2), "completion": "a", "spans": [{"start": 0, "end": 1}]},
        {**asked(3), "completions": ["a", "b"], "ranks": [1, 1]},
        {**asked(77), "completion": "alone"},
    ]
    result = trained(inputs, tmp_path / "rm", write(tmp_path / "r.jsonl", rows))
    dropped = {"unchanged": 1, "spans only": 1, "all tied": 1, "nothing to compare with": 1}
    assert result["ledger"]["dropped"] == dropped


def test_criteria_are_heads_and_the_rest_loads_them_not(inputs: Path, tmp_path: Path) -> None:
    """Helpful likes one end of SCALE, brief the other; the main score, taught by comparisons, is a third."""
    rows: list[dict[str, Any]] = list(rows_of("comparison", 20))
    for i in range(40):
        level = i % 5
        scores = {"helpful": level + 1, "brief": 5 - level}
        rows.append({**asked(i), "completion": f"{SCALE[level]} {i}", "scores": scores})
    trained(inputs, tmp_path / "rm", write(tmp_path / "r.jsonl", rows), criteria=["helpful", "brief"])
    fresh: list[Any] = [[{"role": "user", "content": f"Fresh {i}?"}] for i in range(4)]

    def gap(criterion: str | None) -> float:
        reward = LearnedReward(tmp_path / "rm", torch.float32, CPU, criterion=criterion)
        return sum(reward(fresh, ["superb 1"] * 4)) - sum(reward(fresh, ["awful 1"] * 4))

    assert gap("helpful") > 0 > gap("brief")
    with pytest.raises(InputError, match=r"'helpfull'; did you mean 'helpful'"):
        LearnedReward(tmp_path / "rm", torch.float32, CPU, criterion="helpfull")
    # A part of a reward can be one of them; a pair about one of them is measured by it.
    both = {name: {"learned": "rm", "criterion": name, "weight": 0.5} for name in ("helpful", "brief")}
    rewards = compose(both, lambda ref: LearnedReward(tmp_path / ref, torch.float32, CPU))
    parts = rewards.score(fresh, ["superb 1", "awful 1"] * 2).parts
    assert parts["helpful"][0] > parts["helpful"][1]
    assert parts["brief"][0] < parts["brief"][1]
    test = [
        {**asked(i), "chosen": f"{first} {i}", "rejected": f"{second} {i}", "criterion": criterion}
        for i in range(200, 206)
        for first, second, criterion in (("superb", "awful", "helpful"), ("awful", "superb", "brief"))
    ]
    judged = prefloop.evaluate(
        str(tmp_path / "rm"), comparisons=write(tmp_path / "t.jsonl", test), device="cpu", dtype="float32"
    )
    assert judged["slices"]["criterion"]["brief"]["value"] == 1.0
    assert judged["accuracy"] == 1.0
    with pytest.raises(InputError, match=r"has one score and no criteria, got criterion 'brief'; train it with"):
        LearnedReward(inputs / "rm", torch.float32, CPU).about("brief")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "rm")
    assert model.config.num_labels == 1
    assert set(getattr(model.config, HEADS_KEY)) == {"helpful", "brief"}
    assert set(getattr(model.config, ANSWERS_KEY)["questions"]) == {"rating:helpful", "rating:brief"}
    assert getattr(model.config, TEMPERATURE_KEY) > 0


def test_members_are_different_and_the_score_is_their_mean(inputs: Path, tmp_path: Path) -> None:
    trained(inputs, tmp_path / "rm", write(tmp_path / "r.jsonl", rows_of("comparison", 40)), members=3)
    reward = LearnedReward(tmp_path / "rm", torch.float32, CPU)
    prompts: list[Any] = [[{"role": "user", "content": "Fresh?"}]] * 5
    each = reward.members(prompts, SCALE)
    assert each.shape == (5, 3)
    # honest: the mean head is rounded to bfloat16 in the file, the members' are not
    torch.testing.assert_close(each.mean(dim=1), torch.tensor(reward(prompts, SCALE)), atol=0.05, rtol=0.02)
    assert each.std(dim=1).min() > 1e-3
    assert in_order(tmp_path / "rm")


def test_a_workspace_with_several_kinds(inputs: Path, tmp_path: Path) -> None:
    """Everything that people said is frozen as one snapshot, both-bad pairs as approvals that were not given."""
    place = prefloop.init(tmp_path / "place")
    for kind in ("comparison", "rating", "approval", "edit", "flags", "ranking"):
        prefloop.import_data(
            write(tmp_path / f"{kind}.jsonl", rows_of(kind, 6)), f"{kind}s".replace("gss", "gs"), workspace=place
        )
    settings = {k: v for k, v in settings_of("reward_model", inputs, steps=2).items() if k != "data"}
    result = train("reward_model", overrides=settings, workspace=place, log=lambda words: None)
    kinds = {name for name in result["metrics"] if name.startswith("loss/")}
    assert len(kinds) >= 5
    for kind in ("rankings", "ratings", "approvals", "edits", "flags"):
        made = prefloop.snapshot(kind, workspace=place)
        assert made.rows == 6


def spread_rows(tmp_path: Path) -> Path:
    rows = [{**asked(i), "completion": f"{word} {i}"} for i in range(6) for word in SCALE]
    return write(tmp_path / "samples.jsonl", rows)


def test_metarm_with_eta_0_is_ordinary_training(inputs: Path, tmp_path: Path) -> None:
    data, samples = write(tmp_path / "r.jsonl", rows_of("comparison", 12)), str(spread_rows(tmp_path))
    settings = {"steps": 3}
    trained(inputs, tmp_path / "plain", data, **settings)
    trained(inputs, tmp_path / "nought", data, **settings, meta={"samples": samples, "eta": 0.0})
    trained(inputs, tmp_path / "meta", data, **settings, meta={"samples": samples, "eta": 1.0})
    plain, nought, meta = ((tmp_path / n / "model.safetensors").read_bytes() for n in ("plain", "nought", "meta"))
    assert plain == nought
    assert plain != meta


def test_the_weights_come_back_to_the_bit_and_stand_higher_in_between(inputs: Path, tmp_path: Path) -> None:
    from prefloop.functional.feedback import difference_spread

    samples = str(spread_rows(tmp_path))
    algorithm, _ = build("reward_model", inputs, tmp_path / "run", meta={"samples": samples, "eta": 0.5, "prompts": 6})
    before = {name: p.detach().clone() for name, p in algorithm.model.named_parameters()}

    def spread() -> float:
        with torch.no_grad():
            scores = torch.stack([algorithm.scores(group[:4])[:, 0] for group in algorithm.samples])
        return difference_spread(scores).mean().item()

    low = spread()
    with algorithm.shifted(0):
        assert spread() > low
    assert all(torch.equal(p, before[name]) for name, p in algorithm.model.named_parameters())


def test_samples_without_two_completions_are_refused(inputs: Path, tmp_path: Path) -> None:
    alone = write(tmp_path / "s.jsonl", [{**asked(1), "completion": "a"}])
    with pytest.raises(InputError, match="no prompt with two different completions"):
        build("reward_model", inputs, tmp_path / "run", meta={"samples": str(alone)})


def test_a_reward_model_of_the_workspace_is_trained_on(inputs: Path, tmp_path: Path) -> None:
    """Refresh: the artifact is the start and a parent; new answers beside the old ones are a mixture."""
    place = prefloop.init(tmp_path / "place")
    old, new = (write(tmp_path / f"{i}.jsonl", rows_of(kind, 8)) for i, kind in enumerate(("comparison", "rating")))
    settings = {k: v for k, v in settings_of("reward_model", inputs, steps=2).items() if k != "data"}
    quiet = {"workspace": place, "log": lambda words: None}
    first = train("reward_model", data=old, overrides=settings, **quiet)
    settings.pop("policy")
    second = train("reward_model", data=[new, old], policy=first["artifact"], overrides=settings, **quiet)
    from prefloop.artifacts.folder import read_artifact

    assert read_artifact(Path(second["artifact"])).parents == [first["hash"]]


def test_each_criterion_has_the_temperature_of_its_own_pairs(inputs: Path, tmp_path: Path) -> None:
    """The likeliest one, found by another program; people are surer about one criterion than about the other."""
    from scipy.optimize import minimize_scalar

    rows = [
        {
            **asked(i),
            "chosen": f"superb {i}",
            "rejected": f"awful {i}",
            "label": (i % 10 >= odd) * 1.0,
            "criterion": name,
        }
        for i in range(200)
        for name, odd in (("sure", 1), ("unsure", 4))
    ]
    given = {"data": str(write(tmp_path / "r.jsonl", rows)), "test_share": 0.4, "freeze": True}
    algorithm, run = build("reward_model", inputs, tmp_path / "run", criteria=["sure", "unsure"], **given)
    train_offline(algorithm, run)
    algorithm.save(tmp_path / "rm")
    kept = json.loads((tmp_path / "rm" / "calibration.json").read_text())["criteria"]
    reward = LearnedReward(tmp_path / "rm", torch.float32, CPU)
    for name, found in kept.items():
        pairs = [row for row in algorithm.eval_rows if row.criterion == name]
        assert found["held_out_pairs"] == len(pairs) > 50
        scores = reward.about(name).scores([text for row in pairs for text in row.texts]).double().view(-1, 2)
        labels = torch.tensor([row.said.label for row in pairs]).double()

        def loss(log_heat: float, scores: torch.Tensor = scores, labels: torch.Tensor = labels) -> float:
            logits = (scores[:, 0] - scores[:, 1]) / math.exp(log_heat)
            return float(torch.nn.functional.binary_cross_entropy_with_logits(logits, labels))

        best = math.exp(minimize_scalar(loss, bounds=(-4, 4), method="bounded").x)
        assert reward.about(name).temperature == found["temperature"] == pytest.approx(best, rel=0.03)
    # honest: they are to be far apart, not close
    assert kept["unsure"]["temperature"] != pytest.approx(kept["sure"]["temperature"], rel=0.5)

    test = [
        Comparison(
            prompt=as_messages(asked(i)["prompt"]),
            chosen=f"superb {i}",
            rejected=f"awful {i}",
            columns={"criterion": name},
        )
        for i in (3, 4)
        for name in kept
    ]
    chosen, rejected = both_sides(reward, test)
    for pair, one, other in zip(test, chosen, rejected, strict=True):
        judge = reward.about(pair.columns["criterion"])
        own = judge([pair.prompt] * 2, [pair.chosen, pair.rejected])
        # In float32, and of batches of other sizes; the scores are larger than their difference.
        assert (one - other) / reward.temperature == pytest.approx((own[0] - own[1]) / judge.temperature, rel=1e-4)


def pairs_by(criterion: str | None, n: int = 60) -> list[dict[str, Any]]:
    """People like what is superb; those who look for what is brief like the other."""
    sides = ("superb", "awful") if criterion != "brief" else ("awful", "superb")
    return [
        {
            **asked(i),
            "chosen": f"{sides[0]} {i % 7}",
            "rejected": f"{sides[1]} {i % 5}",
            "label": (i % 5 > 0) * 1.0,
            **({"criterion": criterion} if criterion else {}),
        }
        for i in range(n)
    ]


def preferred(reward: LearnedReward) -> list[float]:
    """P that each of the scale's texts is preferred to the first."""
    prompts: list[Any] = [[{"role": "user", "content": "Fresh?"}]] * len(SCALE)
    scores = torch.tensor(reward(prompts, SCALE))
    return torch.sigmoid((scores - scores[0]) / reward.temperature).tolist()


@pytest.mark.parametrize("freeze", [True, False])
def test_a_score_that_no_new_row_is_about_stays_as_it_was(freeze: bool, inputs: Path, tmp_path: Path) -> None:
    """What is preferred by it does not change, though gain, bias and temperature are set anew; the others learn."""
    rows = [*pairs_by(None), *pairs_by("helpful"), *pairs_by("brief")]
    trained(inputs, tmp_path / "a", write(tmp_path / "a.jsonl", rows), criteria=["helpful", "brief"], freeze=True)
    said = [{**asked(i), "completion": SCALE[i % 5], "scores": {"brief": 1 + i % 5}} for i in range(40)]
    more: dict[str, Any] = {"freeze": True} if freeze else {"lr": 1e-9}
    trained(inputs, tmp_path / "b", write(tmp_path / "b.jsonl", said), policy=str(tmp_path / "a"), **more)
    before, after = (LearnedReward(tmp_path / name, torch.float32, CPU) for name in ("a", "b"))
    assert set(after.heads.criteria) == {"helpful", "brief"}
    assert after.head.weight.norm() > 0
    # honest: the head of the score itself is stored in bfloat16, before and after a gain
    assert preferred(after) == pytest.approx(preferred(before), abs=0.01)
    assert preferred(after.about("helpful")) == pytest.approx(preferred(before.about("helpful")), abs=1e-4)
    if freeze:
        assert preferred(after.about("brief")) != pytest.approx(preferred(before.about("brief")), abs=0.05)


def test_what_was_asked_about_a_score_that_stays_is_kept(inputs: Path, tmp_path: Path) -> None:
    """P of each level of a rating is the same after gain and bias have been set on other texts."""
    ratings = [{**asked(i), "completion": SCALE[i % 5], "scores": {"helpful": 1 + i % 5}} for i in range(40)]
    trained(inputs, tmp_path / "a", write(tmp_path / "a.jsonl", ratings), criteria=["helpful"], freeze=True)
    rows = write(tmp_path / "b.jsonl", pairs_by(None))
    trained(inputs, tmp_path / "b", rows, policy=str(tmp_path / "a"), freeze=True, normalise=16)
    prompts: list[Any] = [[{"role": "user", "content": "Fresh?"}]] * len(SCALE)
    found = []
    for name in ("a", "b"):
        reward = LearnedReward(tmp_path / name, torch.float32, CPU, criterion="helpful")
        question = getattr(reward.head.model.config, ANSWERS_KEY)["questions"]["rating:helpful"]
        logits = (
            torch.tensor(question["thresholds"]) - question["slope"] * torch.tensor(reward(prompts, SCALE))[:, None]
        )
        found.append(logits)
    torch.testing.assert_close(found[1], found[0], atol=1e-3, rtol=1e-3)


def test_a_score_that_never_learned_is_zero_and_refused_however_it_was_trained(inputs: Path, tmp_path: Path) -> None:
    trained(inputs, tmp_path / "rm", write(tmp_path / "r.jsonl", pairs_by("helpful")), criteria=["helpful"])
    reward = LearnedReward(tmp_path / "rm", torch.float32, CPU)
    assert "learned nothing" in reward.untaught
    assert reward.about("helpful").untaught == ""
    with pytest.raises(
        InputError, match="1 of 1 pairs have no column criterion, and the score itself of .* learned no"
    ):
        both_sides(reward, [Comparison(prompt=as_messages("Q?"), chosen="superb", rejected="awful")])
    again = write(tmp_path / "a.jsonl", pairs_by("helpful"))
    trained(inputs, tmp_path / "again", again, policy=str(tmp_path / "rm"), freeze=True)
    assert "learned nothing" in LearnedReward(tmp_path / "again", torch.float32, CPU).untaught
    trained(inputs, tmp_path / "on", write(tmp_path / "o.jsonl", pairs_by(None)), policy=str(tmp_path / "rm"))
    assert LearnedReward(tmp_path / "on", torch.float32, CPU).untaught == ""


def test_a_criterion_that_no_row_is_about(inputs: Path, tmp_path: Path) -> None:
    file = str(write(tmp_path / "r.jsonl", pairs_by("helpful")))
    with pytest.raises(InputError, match="criteria: no row is about 'helpfull'; rows are about helpful"):
        build("reward_model", inputs, tmp_path / "run", criteria=["helpfull"], data=file)


def test_rankings_are_about_their_criterion(inputs: Path, tmp_path: Path) -> None:
    rows = [{**row, "criterion": "order"} for row in rows_of("ranking", 8)]
    algorithm, _ = build(
        "reward_model", inputs, tmp_path / "run", criteria=["order"], data=str(write(tmp_path / "r.jsonl", rows))
    )
    algorithm.loss(algorithm.train_rows).values.sum().backward()
    assert algorithm.heads.weight.grad[0].norm() > 0
    assert not algorithm.head.final.weight.grad.any()


def test_a_text_that_comes_again_is_read_once(inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reward = LearnedReward(inputs / "rm", torch.float32, CPU)
    said = ["one", "two", "one", "three", "two"]
    prompts: list[Any] = [[{"role": "user", "content": "Q?"}]] * 5
    apart = [reward(prompts[:1], [text])[0] for text in said]
    read, states = [], reward.head.states
    monkeypatch.setattr(reward.head, "states", lambda texts: read.extend(texts) or states(texts))
    assert reward(prompts, said) == pytest.approx(apart, abs=1e-6)
    assert len(read) == 3
