"""Plain text for pretraining: documents of every shape, a tokenizer, and a stream cut into windows."""

from __future__ import annotations

import gzip
import json
import lzma
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from prefloop.datasets.text import ROLE_TOKENS, documents, token_stream, train_tokenizer, windows
from prefloop.errors import InputError
from prefloop.models.template import Template

ROWS: list[tuple[dict[str, Any], Any]] = [
    ({"text": "one\r\ntwo"}, "one\ntwo"),
    ({"sections": ["A", "B"]}, "A\n\nB"),
    (
        {"turns": ["Hi", "Hello"]},
        [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}],
    ),
    ({"question": "Why?", "answer1": "So."}, "Why? So."),
]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(["the cat sat on the mat, 1234 times"] * 20, 300)


@pytest.mark.parametrize(("name", "opener"), [("a.jsonl", open), ("a.jsonl.gz", gzip.open), ("a.jsonl.xz", lzma.open)])
def test_documents_of_every_shape_and_packing(tmp_path: Path, name: str, opener: Any) -> None:
    with opener(tmp_path / name, "wt", encoding="utf-8") as file:
        file.write("".join(json.dumps(row) + "\n" for row, _ in ROWS))
    assert list(documents(tmp_path / name)) == [document for _, document in ROWS]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [('{"txt": "x"}\n', "bad.jsonl:1: no column text"), ('{"text": "x"}\n{"te\n', "cannot be read")],
)
def test_what_cannot_be_read(tmp_path: Path, content: str, complaint: str) -> None:
    (tmp_path / "bad.jsonl").write_text(content)
    with pytest.raises(InputError, match=complaint):
        list(documents(tmp_path / "bad.jsonl"))


def test_a_missing_file_and_a_torn_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no text file"):
        list(documents(tmp_path / "none.jsonl"))
    torn = tmp_path / "torn.jsonl.gz"
    torn.write_bytes(gzip.compress(b'{"text": "x"}\n' * 50)[:-9])
    with pytest.raises(InputError, match="cannot be read"):
        list(documents(torn))


def test_the_tokenizer_keeps_every_byte_and_splits_digits(tokenizer: PreTrainedTokenizerFast) -> None:
    text = "the cat: 1234 \u00fc\u4e2d\U0001f600\n\ttabs  and spaces"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert [tokenizer.decode([i]) for i in tokenizer("1234", add_special_tokens=False)["input_ids"]] == list("1234")
    assert len(tokenizer) <= 300


def test_control_tokens_are_distinct(tokenizer: PreTrainedTokenizerFast) -> None:
    ids = [tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id]
    ids += [tokenizer.convert_tokens_to_ids(token) for token in ROLE_TOKENS.values()]
    assert len(set(ids)) == 6
    template = Template(tokenizer)
    encoded = template.encode([{"role": "user", "content": "the cat"}], "sat", 50).ids
    assert tokenizer.decode(encoded) == "<|bos|><|user|>the cat<|assistant|>sat<|eos|>"


def test_each_document_begins_with_bos_and_ends_with_eos(tokenizer: PreTrainedTokenizerFast) -> None:
    source: list[Any] = ["the cat", [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "sat"}]]
    stream = token_stream(source, tokenizer, 1000)
    expected = "<|bos|>the cat<|eos|><|bos|><|user|>Hi<|assistant|>sat<|eos|>"
    assert tokenizer.decode(stream.tolist()) == expected
    assert stream.dtype == np.int32
    assert token_stream(source, tokenizer, 3).tolist() == stream[:3].tolist()
    assert len(token_stream([], tokenizer, 3)) == 0


def test_windows_drop_the_rest() -> None:
    assert windows(np.arange(7, dtype=np.int32), 3).tolist() == [[0, 1, 2], [3, 4, 5]]
    assert windows(np.arange(2, dtype=np.int32), 3).shape == (0, 3)
