"""Pretraining: a tokenizer and a model from text, and what is said when the text is not right."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from prefloop.errors import InputError
from prefloop.models.load import load_policy, load_tokenizer
from prefloop.workflows.training import train
from tests.small import build, settings_of, write_inputs


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return write_inputs(tmp_path_factory.mktemp("inputs"))


def test_the_loss_is_the_cross_entropy_of_each_token_but_the_first(inputs: Path, tmp_path: Path) -> None:
    algorithm, _ = build("pretrain", inputs, tmp_path / "run")
    rows = algorithm.train_rows[:2]
    values = algorithm.loss(rows).values.view(2, 15)
    ids = torch.stack([torch.tensor(row) for row in rows]).long()
    with torch.no_grad():
        logp = algorithm.model(input_ids=ids).logits.log_softmax(-1)
    for row in range(2):
        for t in range(1, 16):
            assert values[row, t - 1].item() == pytest.approx(-logp[row, t - 1, ids[row, t]].item(), abs=1e-5)
    assert values.mean().item() == pytest.approx(math.log(len(algorithm.tokenizer)), rel=0.05)


def test_it_learns_and_can_be_used_by_everything_else(inputs: Path, tmp_path: Path) -> None:
    result = train(
        "pretrain",
        out=tmp_path / "out",
        overrides=settings_of("pretrain", inputs, steps=60, lr=1e-2, held_out_every=10),
        log=lambda words: None,
    )
    assert result["metrics"]["loss"] < 3.5
    assert result["metrics"]["eval_loss"] < 3.5
    assert result["ledger"]["notes"] == {"tokens from text.jsonl": 2000}
    assert load_policy(tmp_path / "out", torch.float32, torch.device("cpu")).config.vocab_size <= 300
    tokenizer = load_tokenizer(tmp_path / "out")
    assert tokenizer.chat_template is not None
    assert len({tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id}) == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text": [{"tokens": 10}]}, "either `path` or `generated`"),
        ({"text": [{"tokens": 10, "generated": "poems"}]}, "no generator 'poems'"),
        ({"text": [{"tokens": 10, "path": "nowhere.jsonl"}]}, "no text file"),
        ({"text": [{"tokns": 10}]}, "tokns"),
        ({"shape": {"heads": 3, "hidden_size": 16}}, "shape.heads must divide shape.hidden_size, got 3 and 16"),
    ],
)
def test_what_is_wrong_is_said(changes: dict[str, Any], message: str, inputs: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        train(
            "pretrain",
            out=tmp_path / "out",
            overrides=settings_of("pretrain", inputs, **changes),
            log=lambda words: None,
        )


def test_a_source_without_documents(inputs: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    text = [{"path": str(inputs / "text.jsonl"), "tokens": 500}, {"path": str(tmp_path / "empty.jsonl"), "tokens": 500}]
    with pytest.raises(InputError, match="has no documents"):
        build("pretrain", inputs, tmp_path / "run", text=text)
