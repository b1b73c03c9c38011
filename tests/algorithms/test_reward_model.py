"""The reward model: what it learns, how its scores are set, and that all who score see the same ids."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from prefloop.datasets.rows import encode_demonstration
from prefloop.errors import InputError
from prefloop.generation.policy import Policy
from prefloop.records import Demonstration, Ledger, Message
from prefloop.rewards.learned import LearnedReward
from prefloop.training.offline import train_offline
from prefloop.training.probe import STRENGTHS
from prefloop.workflows.training import train
from tests.small import build, settings_of, write_inputs

CPU = torch.device("cpu")
TURNS: list[Message] = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Hello <eos> there"},
    {"role": "assistant", "content": "Hi."},
    {"role": "user", "content": "Which fruit?"},
]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return write_inputs(tmp_path_factory.mktemp("inputs"))


def trained(inputs: Path, out: Path, **changes: Any) -> dict[str, Any]:
    settings = settings_of("reward_model", inputs, **changes)
    return train("reward_model", out=out, overrides=settings, log=lambda words: None)


GOLDEN = json.loads((Path(__file__).parent.parent / "golden" / "trl_losses.json").read_text(encoding="utf-8"))
"""What TRL 1.16's own code made of random batches: benchmarks/trl_losses.py."""


@pytest.mark.parametrize(
    "case", [c for c in GOLDEN["cases"] if c["method"] == "reward_model"], ids=lambda case: str(case["settings"])
)
def test_trls_reward_trainer_computes_the_same(case: dict[str, Any], inputs: Path, tmp_path: Path) -> None:
    """Loss and gradient by each score, with a margin of each pair's own and with centring."""
    given = GOLDEN["batches"][case["batch"]]
    rows = [
        {"prompt": f"Q {i}?", "chosen": "yes", "rejected": "no", "margin": margin}
        for i, margin in enumerate(given["margins"])
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = str(tmp_path / "pairs.jsonl")
    algorithm, _ = build("reward_model", inputs, tmp_path / "run", data=data, **case["settings"])
    scores = torch.stack(torch.tensor(given["logprobs"]).chunk(2), dim=1).flatten().requires_grad_()
    algorithm.scores = lambda texts: scores[:, None]
    loss = algorithm.loss(algorithm.train_rows)
    value = (loss.values * loss.weights).mean()
    value.backward()
    assert value.item() == pytest.approx(case["loss"], rel=1e-5)
    assert scores.grad is not None
    expected = torch.stack(torch.tensor(case["gradient"]).chunk(2), dim=1).flatten()
    torch.testing.assert_close(scores.grad, expected, rtol=1e-4, atol=1e-6)


def test_what_can_be_separated_is(inputs: Path, tmp_path: Path) -> None:
    """Answers with `good` are always chosen: training accuracy 1, and fresh pairs are told apart as well."""
    rows = [{"prompt": f"Q {i}?", "chosen": f"good {i % 7}", "rejected": f"bad {i % 5}"} for i in range(40)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = str(tmp_path / "pairs.jsonl")
    result = trained(inputs, tmp_path / "rm", data=data, batch_size=8, epochs=10, lr=3e-3, log_every=5)
    assert result["metrics"]["rewards/accuracies"] == 1.0
    reward = LearnedReward(tmp_path / "rm", torch.float32, CPU)
    prompts: list[list[Message]] = [[{"role": "user", "content": f"Fresh {i}?"}] for i in range(6)]
    good, bad = (reward(prompts, [f"{word} 3"] * 6) for word in ("good", "bad"))
    assert min(good) > max(bad)
    train_prompts: list[list[Message]] = [[{"role": "user", "content": row["prompt"]}] for row in rows]
    scores = reward(train_prompts, [row["chosen"] for row in rows]) + reward(
        train_prompts, [row["rejected"] for row in rows]
    )
    # honest: the scores were set to mean 0 and deviation 1 before the weights were rounded to bfloat16
    assert math.isclose(sum(scores) / 80, 0.0, abs_tol=0.15)
    # honest: the same rounding
    assert math.isclose(torch.tensor(scores).std(correction=0).item(), 1.0, abs_tol=0.15)
    kept = json.loads((tmp_path / "rm" / "normalisation.json").read_text())
    assert kept["gain"] > 0


def test_one_learns_from_the_answers_that_another_holds_out(inputs: Path, tmp_path: Path) -> None:
    rows = [{"prompt": f"Q {i}?", "chosen": "good", "rejected": "bad"} for i in range(60)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = {"data": str(tmp_path / "pairs.jsonl"), "test_share": 0.25}
    one, _ = build("reward_model", inputs, tmp_path / "one", **given)
    other, _ = build("reward_model", inputs, tmp_path / "other", learn_from="held_out", **given)
    seen, held_out = ({row.identity for row in side} for side in (one.train_rows, one.eval_rows))
    assert seen
    assert held_out
    assert seen.isdisjoint(held_out)
    assert {row.identity for row in other.train_rows} == held_out
    assert {row.identity for row in other.eval_rows} < seen
    assert len(other.eval_rows) == len(other.train_rows)


def frozen_rows(path: Path, **more: Any) -> dict[str, Any]:
    """Settings of a run on 60 pairs whose labels disagree, so that no weights are too large."""
    rows = [
        {"prompt": f"Q {i}?", "chosen": f"good {i % 7}", "rejected": f"bad {i % 5}", "label": (i % 5 > 0) * 1.0, **more}
        for i in range(60)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"data": str(path), "test_share": 0.0, "freeze": True, "normalise": 0}


def weights_by_sklearn(states: torch.Tensor, labels: list[float], penalty: float) -> Any:
    """Logistic regression on the differences of states with standard deviation 1, taken back to the states' scale."""
    from sklearn.linear_model import LogisticRegression

    spread = states.std(0)
    scaled = (states / spread).numpy()
    differences = scaled[0::2] - scaled[1::2]
    strength = 1 / (penalty * len(labels))
    fitted = LogisticRegression(C=strength, fit_intercept=False, tol=1e-10, max_iter=5000).fit(differences, labels)
    return fitted.coef_[0] / spread.numpy()


def test_frozen_the_model_stays_and_its_heads_are_the_ridge_solution(inputs: Path, tmp_path: Path) -> None:
    given = frozen_rows(tmp_path / "pairs.jsonl")
    trained(inputs, tmp_path / "rm", **given)
    before, after = (
        load_file(inputs / "policy" / "model.safetensors"),
        load_file(tmp_path / "rm" / "model.safetensors"),
    )
    shared = [name for name in before if name in after]
    assert len(shared) > 5
    assert all(torch.equal(before[name].to(after[name].dtype), after[name]) for name in shared)

    (recorded,) = [json.loads(line) for line in (tmp_path / "rm" / "metrics.jsonl").read_text().splitlines()]
    assert recorded["penalty"] in STRENGTHS
    algorithm, _ = build("reward_model", inputs, tmp_path / "again", **given)
    states = torch.stack([algorithm.known[tuple(t.ids)] for row in algorithm.train_rows for t in row.texts]).double()
    expected = weights_by_sklearn(states, [row.said.label for row in algorithm.train_rows], recorded["penalty"])
    assert after["score.weight"][0].tolist() == pytest.approx(
        expected.tolist(), rel=0.01, abs=0.01 * abs(expected).max()
    )


def test_a_frozen_model_in_bfloat16_is_solved_in_float32(inputs: Path, tmp_path: Path) -> None:
    """The head is rounded to bfloat16, 8 bits, once: at the end."""
    given = frozen_rows(tmp_path / "pairs.jsonl")
    algorithm, run = build("reward_model", inputs, tmp_path / "run", dtype="bfloat16", **given)
    states = torch.stack([algorithm.known[tuple(t.ids)] for row in algorithm.train_rows for t in row.texts]).double()
    train_offline(algorithm, run)
    (recorded,) = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    expected = weights_by_sklearn(states, [row.said.label for row in algorithm.train_rows], recorded["penalty"])
    weight = algorithm.head.final.weight
    assert weight.dtype == torch.bfloat16
    assert weight[0].float().tolist() == pytest.approx(expected.tolist(), abs=0.01 * abs(expected).max())


@pytest.mark.parametrize("kind", ["approval", "rating"])
def test_a_slope_takes_no_part_of_the_penalty_away(kind: str, inputs: Path, tmp_path: Path) -> None:
    """Answers about single texts alone: slope times weights is what logistic regression finds, whatever the slope.

    A rating of which only two levels were used is nearly an approval: the others keep a little of the probability.
    """
    from sklearn.linear_model import LogisticRegression

    rows = [{"prompt": f"Q {i}?", "completion": f"answer {i % 7} {i % 3}"} for i in range(60)]
    labels = [(i % 5 > 0) != (i % 7 > 3) for i in range(60)]
    said = [{"label": label} if kind == "approval" else {"scores": {"overall": 4 + label}} for label in labels]
    (tmp_path / "rows.jsonl").write_text(
        "".join(json.dumps(row | one) + "\n" for row, one in zip(rows, said, strict=True))
    )
    given = {"data": str(tmp_path / "rows.jsonl"), "test_share": 0.0, "freeze": True, "normalise": 0}
    algorithm, run = build("reward_model", inputs, tmp_path / "run", **given)
    train_offline(algorithm, run)
    (recorded,) = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    states = torch.stack([algorithm.known[tuple(row.texts[0].ids)] for row in algorithm.train_rows]).double()
    spread = states.std(0)
    strength = 1 / (recorded["penalty"] * len(labels))
    fitted = LogisticRegression(C=strength, tol=1e-10, max_iter=5000).fit((states / spread).numpy(), labels)
    question = "approval" if kind == "approval" else "rating:overall"
    found = algorithm.answers.slope(question).detach() * algorithm.head.final.weight[0].detach()
    expected = fitted.coef_[0] / spread.numpy()
    near = 0.02 if kind == "approval" else 0.05
    assert found.tolist() == pytest.approx(expected.tolist(), abs=near * abs(expected).max())


def test_frozen_with_a_single_prompt_nothing_is_cross_validated(inputs: Path, tmp_path: Path) -> None:
    rows = [{"prompt": "Q?", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(8)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = {"data": str(tmp_path / "pairs.jsonl"), "test_share": 0.0, "freeze": True, "normalise": 0}
    algorithm, run = build("reward_model", inputs, tmp_path / "run", **given)
    train_offline(algorithm, run)
    (recorded,) = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert recorded["penalty"] == STRENGTHS[0]
    assert "cross_validated_loss" not in recorded
    scores = algorithm.scores([text for row in algorithm.train_rows for text in row.texts])[:, 0]
    assert bool((scores[0::2] > scores[1::2]).all())


def test_heads_of_criteria_read_the_whole_answer(inputs: Path, tmp_path: Path) -> None:
    """What they read is the model's own hidden states, and what is saved is read again to the same scores."""
    asked = {"criteria": ["helpful"], "reads": "answer"}
    given = {**frozen_rows(tmp_path / "pairs.jsonl", criterion="helpful"), **asked}
    algorithm, run = build("reward_model", inputs, tmp_path / "run", **given)
    text = algorithm.train_rows[3].texts[0]
    with torch.no_grad():
        out = algorithm.head.model.model(torch.tensor([text.ids]), output_hidden_states=True)
    deep = torch.cat([out.last_hidden_state[0], out.hidden_states[1][0]], 1)
    expected = torch.cat([deep[-1], deep[text.prompt_length :].mean(0)])
    assert len(out.hidden_states) == 3
    assert torch.allclose(algorithm.known[tuple(text.ids)], expected, atol=1e-5)

    train_offline(algorithm, run)
    scores = algorithm.scores([text])[0, 1].item()
    states = torch.stack([algorithm.known[tuple(t.ids)] for row in algorithm.train_rows for t in row.texts]).double()
    (recorded,) = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    expected = weights_by_sklearn(states, [row.said.label for row in algorithm.train_rows], recorded["penalty"])
    assert algorithm.heads.weight[0].tolist() == pytest.approx(expected.tolist(), abs=0.01 * abs(expected).max())
    algorithm.save(tmp_path / "rm")
    reward = LearnedReward(tmp_path / "rm", torch.float32, torch.device("cpu"), criterion="helpful")
    assert reward.scores([text]).item() == pytest.approx(scores, rel=1e-3)  # the trunk is stored in bfloat16
    with pytest.raises(InputError, match="freeze: true and reads: answer"):
        build("reward_model", inputs, tmp_path / "next", policy=str(tmp_path / "rm"), criteria=["helpful"])


@pytest.mark.parametrize(
    ("wishes", "words"),
    [
        ({"reads": "answer", "criteria": ["helpful"]}, "give freeze: true"),
        ({"reads": "answer", "freeze": True}, "name the rows' criteria"),
        ({"reads": "answer", "freeze": True, "criteria": ["helpful"], "members": 3}, "leave members out"),
        ({"freeze": True, "meta": {"samples": "samples.jsonl"}}, "leave one of them out"),
    ],
)
def test_wishes_of_a_frozen_model_that_cannot_be(
    wishes: dict[str, Any], words: str, inputs: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=words):
        build("reward_model", inputs, tmp_path / "run", **wishes)


def test_frozen_members_learn_and_the_score_is_their_mean(inputs: Path, tmp_path: Path) -> None:
    algorithm, _ = build("reward_model", inputs, tmp_path / "run", freeze=True, members=3)
    assert [name for name, p in algorithm.model.named_parameters() if p.requires_grad and "scorer" in name] == []
    assert algorithm.heads.weight.requires_grad
    text = algorithm.train_rows[0].texts[0]
    scores = algorithm.scores([text])[0]
    assert torch.allclose(scores[0], scores[1:4].mean())


def test_what_others_hold_out_must_be_there(inputs: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none of the \d+ rows is held out: give test_share"):
        build("reward_model", inputs, tmp_path / "run", learn_from="held_out", test_share=0.0)


def test_frozen_and_lora_are_two_wishes(inputs: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="leave one of them out"):
        build("reward_model", inputs, tmp_path / "run", freeze=True, lora={"rank": 2})


def set_scores(algorithm: Any, monkeypatch: pytest.MonkeyPatch, chosen: list[float], rejected: list[float]) -> None:
    both = [[score] for pair in zip(chosen, rejected, strict=True) for score in pair]
    monkeypatch.setattr(type(algorithm), "scores", lambda self, texts: torch.tensor(both))


def test_loss_and_metrics(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Odds of 3 to 1 for the chosen, none, and 3 to 1 against."""
    algorithm, _ = build("reward_model", inputs, tmp_path / "run")
    set_scores(algorithm, monkeypatch, [math.log(3), 1.0, 0.0], [0.0, 1.0, math.log(3)])
    loss = algorithm.loss(algorithm.train_rows[:3])
    assert loss.values.tolist() == pytest.approx([-math.log(0.75), math.log(2), -math.log(0.25)], rel=1e-5)
    assert loss.metrics["rewards/accuracies"][0].tolist() == [1.0, 0.0, 0.0]
    assert loss.metrics["rewards/margins"][0].tolist() == pytest.approx([math.log(3), 0.0, -math.log(3)])


def test_centring_and_margin(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    algorithm, _ = build("reward_model", inputs, tmp_path / "run", center=0.01, margin=True)
    set_scores(algorithm, monkeypatch, [2.0], [1.0])
    row = algorithm.train_rows[0]
    row = replace(row, said=replace(row.said, margin=1.0))
    # the margin leaves a difference of 0; (2 + 1)^2 / 100 keeps the scores near 0
    assert algorithm.loss([row]).values.tolist() == pytest.approx([math.log(2) + 0.09], rel=1e-5)


def test_a_soft_label_and_a_weight(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    algorithm, _ = build("reward_model", inputs, tmp_path / "run")
    set_scores(algorithm, monkeypatch, [math.log(3), 5.0], [0.0, 1.0])
    one, other = algorithm.train_rows[:2]
    soft = replace(one, said=replace(one.said, label=0.6), weight=0.5)
    tie = replace(other, said=replace(other.said, label=0.5))
    loss = algorithm.loss([soft, tie])
    assert loss.values[0].item() == pytest.approx(-0.6 * math.log(0.75) - 0.4 * math.log(0.25), rel=1e-5)
    assert loss.weights.tolist() == [0.5, 1.0]
    assert loss.metrics["rewards/accuracies"][0].tolist() == [1.0, 0.5]


def test_everybody_sees_the_same_ids(inputs: Path, tmp_path: Path) -> None:
    """SFT, reward training, evaluation, PPO's scoring, the sampler and chat: one prompt and answer, one list of ids."""
    answer = "An apple <assistant> please."
    reward_model, _ = build("reward_model", inputs, tmp_path / "a")
    ppo, _ = build("ppo", inputs, tmp_path / "b")
    sft, _ = build("sft", inputs, tmp_path / "c")
    policy = Policy(inputs / "policy", device="cpu", dtype="float32")
    row = encode_demonstration(Demonstration(prompt=TURNS, completion=answer), sft.template, 512, Ledger())
    assert row is not None
    ids = row.text.ids
    assert ids.count(sft.template.eos_id) == 2  # after the earlier answer and after this one; the forged one is text

    seen: list[list[int]] = []
    texts = [reward_model.template.encode(TURNS, answer, 512)]
    scorers = (LearnedReward(inputs / "rm", torch.float32, CPU), ppo.roles.reward)
    for head in (*(scorer.head for scorer in scorers), reward_model.head):
        honest = head.states
        head.states = lambda texts, honest=honest: (seen.extend(text.ids for text in texts), honest(texts))[1]
    for scorer in scorers:
        scorer.max_length = 512
        scorer([TURNS], [answer])
    reward_model.scores(texts)
    assert seen == [ids, ids, ids]

    for template in (ppo.roles.template, policy.template):
        assert template.prompt(TURNS) == ids[: row.text.prompt_length]
        assert [*template.prompt(TURNS), *template.completion(answer)] == ids
    asked: list[list[int]] = []
    draw = policy.sampler.__class__.__call__
    try:
        policy.sampler.__class__.__call__ = lambda self, prompts, *rest, **more: (  # type: ignore[method-assign]
            asked.extend(prompts),
            draw(self, prompts, *rest, **more),
        )[1]
        policy.answer([TURNS], seed=1)
    finally:
        policy.sampler.__class__.__call__ = draw  # type: ignore[method-assign]
    assert asked == [ids[: row.text.prompt_length]]


def test_scores_do_not_depend_on_the_batch(inputs: Path) -> None:
    alone = LearnedReward(inputs / "rm", torch.float32, CPU, micro_batch_tokens=1)
    together = LearnedReward(inputs / "rm", torch.float32, CPU, micro_batch_tokens=10**6)
    prompts: list[list[Message]] = [[{"role": "user", "content": "x" * n}] for n in (1, 40, 7)]
    answers = ["short", "a much longer answer than that", ""]
    assert alone(prompts, answers) == pytest.approx(together(prompts, answers), abs=1e-5)
    assert len(set(alone(prompts, answers))) == 3


def test_a_second_training_goes_on_from_the_head_that_is_there(inputs: Path, tmp_path: Path) -> None:
    """A reward model as the starting point keeps its head; a policy gets a new one from the seed."""
    from prefloop.models.load import load_reward_model

    kept, _ = build("reward_model", inputs, tmp_path / "a", policy=str(inputs / "rm"))
    stored = load_reward_model(inputs / "rm", torch.float32, CPU)
    assert torch.equal(kept.head.model.score.weight, stored.score.weight)
    fresh, _ = build("reward_model", inputs, tmp_path / "b")
    again, _ = build("reward_model", inputs, tmp_path / "c")
    other, _ = build("reward_model", inputs, tmp_path / "d", seed=1)
    assert torch.equal(fresh.head.model.score.weight, again.head.model.score.weight)
    assert not torch.equal(fresh.head.model.score.weight, other.head.model.score.weight)


def test_gain_and_bias_are_set_on_the_reference_policys_samples(inputs: Path, tmp_path: Path) -> None:
    """Before training and after it, their scores have mean 0 and deviation 1 (Ziegler et al. 2019)."""
    samples = tmp_path / "samples.jsonl"
    rows = [
        {"prompt": f"Which fruit, number {i % 4}?", "completion": f"{i} kiwi" + " nut" * (i % 3)} for i in range(20)
    ]
    samples.write_text("".join(json.dumps(row) + "\n" for row in rows))
    algorithm, _ = build("reward_model", inputs, tmp_path / "run", reference_samples=str(samples))
    texts = [algorithm.template.encode([{"role": "user", "content": r["prompt"]}], r["completion"], 64) for r in rows]
    with torch.no_grad():
        first = algorithm.scores(texts)[:, 0]
    assert first.mean().item() == pytest.approx(0.0, abs=1e-5)
    assert first.std(correction=0).item() == pytest.approx(1.0, abs=1e-4)
    result = trained(inputs, tmp_path / "rm", reference_samples=str(samples), lr=3e-3, epochs=5)
    assert result["metrics"]["loss"] < 0.69
    scores = LearnedReward(tmp_path / "rm", torch.float32, CPU).scores(texts)
    # honest: the weights were rounded to bfloat16 after the scores were set to mean 0 and deviation 1
    assert scores.mean().item() == pytest.approx(0.0, abs=0.1)
    # honest: the same rounding
    assert scores.std(correction=0).item() == pytest.approx(1.0, abs=0.1)
    kept = json.loads((tmp_path / "rm" / "normalisation.json").read_text())
    assert kept["on"] == "the reference policy's samples"
    assert kept["before"]["gain"] > 0
    assert kept["gain"] != pytest.approx(1.0, abs=1e-3)
