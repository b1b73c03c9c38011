"""Encoders as reward models: the library's own scores, whatever stands beside a text in its batch, and a training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from prefloop.errors import InputError
from prefloop.models.heads import ScoreHead
from prefloop.models.load import load_tokenizer
from prefloop.models.template import Encoded, Template
from prefloop.records import Message
from prefloop.rewards.attention_credit import attention
from prefloop.rewards.learned import LearnedReward
from prefloop.workflows.training import train
from tests.small import settings_of, weights_of

CPU = torch.device("cpu")
WORDS = ["good", "bad", "number", "user", "assistant", ":", "?", *map(str, range(10)), *(f"w{i}" for i in range(60))]
SHAPE: dict[str, Any] = {
    "vocab_size": 100,
    "num_labels": 1,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 40,
    "pad_token_id": 0,
}
DISTIL: dict[str, Any] = {"vocab_size": 100, "num_labels": 1, "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32}
ENCODERS = {
    "bert": lambda: BertForSequenceClassification(BertConfig(**SHAPE)),
    "roberta": lambda: RobertaForSequenceClassification(RobertaConfig(**SHAPE)),
    "deberta": lambda: DebertaV2ForSequenceClassification(DebertaV2Config(**SHAPE)),
    "distilbert": lambda: DistilBertForSequenceClassification(DistilBertConfig(**DISTIL)),
}
TEXTS = [Encoded([2, 7, 8, 9, 3], 3), Encoded([2, 7, 8, 20, 21, 22, 23, 24, 3], 3), Encoded([2, 30, 3], 2)]


@pytest.mark.parametrize("name", ENCODERS)
@torch.no_grad()
def test_scores_are_the_librarys_own(name: str) -> None:
    """Texts of three lengths in one batch: each has the logit that the model gives it alone."""
    torch.manual_seed(0)
    model = ENCODERS[name]().eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.mul_(8)  # as it is drawn, it hardly tells one text from another
    head = ScoreHead(model)
    alone = [float(model(input_ids=torch.tensor([text.ids])).logits) for text in TEXTS]
    assert head.of(TEXTS).tolist() == pytest.approx(alone, abs=1e-5)
    assert head.states(TEXTS).shape[0] == 3
    assert max(alone) - min(alone) > 1e-3
    gain, bias = head.normalise(head.of(TEXTS))
    assert head.of(TEXTS).tolist() == pytest.approx([gain * score + bias for score in alone], abs=1e-4)
    assert float(head.of(TEXTS).mean()) == pytest.approx(0.0, abs=1e-5)


def test_it_has_no_score_for_each_token() -> None:
    head = ScoreHead(ENCODERS["bert"]())
    with pytest.raises(InputError, match="no score for each token"):
        head.each(torch.tensor([[2, 7, 3]]), torch.tensor([1]), torch.ones(1, 2, dtype=torch.bool))
    with pytest.raises(InputError, match="use a decoder"):
        attention(head)(
            torch.tensor([[2, 7, 3]]), torch.tensor([1]), torch.ones(1, 2, dtype=torch.bool), torch.ones(1), [[]]
        )
    with pytest.raises(InputError, match="no layer that gives one score"):
        ScoreHead(torch.nn.Linear(3, 2))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT that was trained on nothing, as a masked language model, with [CLS] and [SEP] and no chat template."""
    folder = tmp_path_factory.mktemp("bert")
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate([*special, *WORDS])}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    named = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=backend, **named).save_pretrained(folder)
    torch.manual_seed(0)
    BertForMaskedLM(BertConfig(**{**SHAPE, "num_labels": 2})).save_pretrained(folder)
    return folder


def test_a_text_begins_with_cls_and_ends_with_sep(encoder: Path) -> None:
    template = Template(load_tokenizer(encoder))
    ids = template.encode([{"role": "user", "content": "number 1 ?"}], "good", 40).ids
    assert (ids[0], ids[-1], ids.count(2), ids.count(3)) == (2, 3, 1, 1)


@pytest.mark.parametrize("more", [{}, {"members": 2}, {"lora": {"rank": 4}}], ids=["whole", "members", "lora"])
def test_it_learns_is_saved_and_is_the_seeds(encoder: Path, tmp_path: Path, more: dict[str, Any]) -> None:
    rows = [{"prompt": f"number {i % 10} ?", "chosen": f"good w{i}", "rejected": f"bad w{i}"} for i in range(40)]
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {**settings_of("reward_model", tmp_path), "policy": str(encoder), "data": str(data), "max_length": 40}
    settings |= {"epochs": 10, "batch_size": 8, "lr": 1e-2, **more}
    for name in ("a", "b"):
        torch.rand(3)
        train("reward_model", out=tmp_path / name, overrides=settings, log=lambda words: None)
    assert weights_of(tmp_path / "a") == weights_of(tmp_path / "b")
    reward = LearnedReward(tmp_path / "a", torch.float32, CPU)
    asked: list[list[Message]] = [[{"role": "user", "content": f"number {i} ?"}] for i in range(5)]
    good, bad = (reward(asked, [f"{word} w{50 + i}" for i in range(5)]) for word in ("good", "bad"))
    assert min(good) > max(bad)
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "a", dtype=torch.float32)
    assert isinstance(plain, BertForSequenceClassification)
    text = reward.template.encode(asked[0], "good w50", 40)
    logit = plain(input_ids=torch.tensor([text.ids])).logits.item()
    assert good[0] == pytest.approx(logit + reward.head.bias, abs=1e-4)
