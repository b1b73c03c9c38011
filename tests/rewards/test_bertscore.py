"""BERTScore: the matching by hand, and the states against those of the library, text by text."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoModel, BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

from prefloop.errors import InputError
from prefloop.rewards.bertscore import bertscore, matched

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "cat", "sat", "down", "dog"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bert")
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    named = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=backend, **named).save_pretrained(folder)
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    BertForMaskedLM(
        BertConfig(vocab_size=len(WORDS), max_position_embeddings=8, initializer_range=0.5, **shape)
    ).save_pretrained(folder)
    return folder


def test_the_matching_by_hand() -> None:
    """Two tokens at right angles against one between them: P = cos 45 for both, R the same."""
    both = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    between = torch.tensor([[math.sqrt(0.5), math.sqrt(0.5)]])
    assert matched(both, between) == pytest.approx(math.sqrt(0.5))
    # P = (1 + 0) / 2, R = 1
    assert matched(both, both[:1]) == pytest.approx(2 * 0.5 * 1 / 1.5)
    assert matched(both, both) == pytest.approx(1.0)
    assert matched(both[:0], both) == 0.0


@pytest.mark.parametrize("layer", [-1, 1])
@torch.no_grad()
def test_its_states_are_the_librarys_and_special_tokens_do_not_count(encoder: Path, layer: int) -> None:
    said = ["the cat sat", "dog", "", "the dog sat down the cat sat down", "cat"]
    wanted = ["the cat sat down", "the cat", "cat", "the dog sat down the cat", None]
    found = bertscore(str(encoder), layer, device="cpu", dtype="float32")(said, reference=wanted)
    model = AutoModel.from_pretrained(encoder, dtype=torch.float32).eval()

    def states(text: str) -> list[torch.Tensor]:
        ids = [2, *(WORDS.index(word) for word in text.split()[:6]), 3]  # eight positions, two of them special
        hidden = model(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states[layer][0]
        return list(hidden[1:-1])

    for text, reference, value in zip(said, wanted, found, strict=True):
        if reference is None or not text:
            assert value == (None if reference is None else 0.0)
            continue
        cosine = [[float(torch.cosine_similarity(a, b, 0)) for b in states(reference)] for a in states(text)]
        p = sum(map(max, cosine)) / len(cosine)
        r = sum(map(max, zip(*cosine, strict=True))) / len(cosine[0])
        assert value == pytest.approx(2 * p * r / (p + r), abs=1e-5)
    same = bertscore(str(encoder), layer, device="cpu", dtype="float32")(["the cat"], reference=["the cat"])
    assert same == [pytest.approx(1.0)]


def test_a_decoder_will_do_and_what_is_wrong_is_said(tiny_model: Path, encoder: Path) -> None:
    found = bertscore(str(tiny_model), device="cpu", dtype="float32")(
        ["Say hello.", "2 + 2"], reference=["Say hello."] * 2
    )
    assert found[0] == pytest.approx(1.0)
    assert found[1] is not None
    assert found[1] < 1.0
    with pytest.raises(InputError, match=r"has layers 1 to 2 \(or -2 to -1\), got 3"):
        bertscore(str(encoder), 3, device="cpu")
    with pytest.raises(InputError, match="no column 'reference'"):
        bertscore(str(encoder), device="cpu")(["a"])
