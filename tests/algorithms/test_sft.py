"""Supervised fine-tuning: it learns the completion, EOS included, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from prefloop.generation.policy import Policy
from prefloop.generation.sampler import Sampling
from prefloop.workflows.training import train
from tests.small import build as built
from tests.small import settings_of, write_inputs

PAIRS = {
    "Say hello.": "Hello to you.",
    "What is 2 + 2?": "It is 4.",
    "Who are you?": "I am Tom. Kind regards.",
    "And again?": "No.",
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return write_inputs(tmp_path_factory.mktemp("inputs"))


def test_four_answers_are_learnt_by_heart_eos_included(inputs: Path, tmp_path: Path) -> None:
    data = tmp_path / "demonstrations.jsonl"
    data.write_text("".join(json.dumps({"prompt": p, "completion": c}) + "\n" for p, c in PAIRS.items()))
    result = train(
        "sft",
        out=tmp_path / "out",
        overrides=settings_of("sft", inputs, data=str(data), steps=150, lr=1e-2, schedule="linear"),
        log=lambda words: None,
    )
    assert result["metrics"]["loss"] < 0.05
    policy = Policy(tmp_path / "out", device="cpu", dtype="float32")
    prompts = [[{"role": "user", "content": prompt}] for prompt in PAIRS]
    answers = policy.answer(prompts, sampling=Sampling(temperature=0, max_new_tokens=40))
    assert [group[0].text for group in answers] == list(PAIRS.values())
    assert all(group[0].terminated for group in answers)


def test_the_loss_is_the_negative_log_likelihood_of_the_completion(inputs: Path, tmp_path: Path) -> None:
    algorithm, _ = built("sft", inputs, tmp_path / "run")
    rows = algorithm.train_rows[:3]
    loss = algorithm.loss(rows)
    expected: list[float] = []
    for row in rows:
        ids = torch.tensor([row.text.ids])
        with torch.no_grad():
            logp = algorithm.model(input_ids=ids).logits[0].log_softmax(-1)
        expected += [-logp[t - 1, ids[0, t]].item() for t in range(row.text.prompt_length, row.text.length)]
        assert ids[0, -1] == algorithm.template.eos_id
    assert loss.values.tolist() == pytest.approx(expected, abs=1e-5)
    assert loss.weights.tolist() == [1.0] * len(expected)


def test_by_sequence_every_demonstration_counts_alike(inputs: Path, tmp_path: Path) -> None:
    algorithm, _ = built("sft", inputs, tmp_path / "run", reduction="sequence")
    rows = algorithm.train_rows[:4]
    weights = algorithm.loss(rows).weights.split([row.completion_tokens for row in rows])
    assert len({row.completion_tokens for row in rows}) > 1
    assert [part.sum().item() for part in weights] == pytest.approx([1.0] * 4)
    assert [algorithm.weight(row) for row in rows] == [1.0] * 4


def test_a_tokenizer_whose_pad_is_its_eos_still_learns_eos(inputs: Path, tmp_path: Path) -> None:
    """As GPT-2's: what is told from text by id would mask every EOS, and the policy would never stop."""
    algorithm, _ = built("sft", inputs, tmp_path / "run")
    rows = algorithm.train_rows[:4]
    before = algorithm.loss(rows).values
    algorithm.template.pad_id = algorithm.template.eos_id
    after = algorithm.loss(rows).values
    assert len(after) == sum(row.completion_tokens for row in rows)
    assert torch.equal(before, after)
