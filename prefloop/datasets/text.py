"""Plain text for pretraining: documents from files or generators become one stream of token ids, cut into windows."""

from __future__ import annotations

import gzip
import json
import lzma
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from prefloop.errors import InputError
from prefloop.models.template import Template
from prefloop.records import Message

Document = str | list[Message]
"""Text, or a conversation (which goes through the chat template)."""

ROLE_TOKENS = {"system": "<|system|>", "user": "<|user|>", "assistant": "<|assistant|>"}
CHAT_TEMPLATE = (
    "{{ '<|bos|>' }}{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] }}"
    "{% if m['role'] == 'assistant' %}{{ '<|eos|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


@dataclass(frozen=True, kw_only=True)
class TextSource:
    """One part of the pretraining mixture: a file or `generated: task_text`, and how many tokens to take from it."""

    tokens: float
    """Tokens to take; the part repeats from its start when it is shorter."""
    path: str | None = None
    """jsonl, jsonl.gz or jsonl.xz with `text`, `sections`, `turns` (a chat) or `question` and `answer1`."""
    generated: str | None = None
    """`task_text`: documents of the task world, by the run's seed."""


def documents(path: Path) -> Iterator[Document]:
    """The documents of a file. Raises InputError when it is missing or has a row of no known shape."""
    openers: dict[str, Callable[..., Any]] = {".xz": lzma.open, ".gz": gzip.open}
    opener = openers.get(path.suffix, open)
    try:
        with opener(path, "rt", encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                yield _document(json.loads(line), f"{path}:{number}")
    except FileNotFoundError:
        raise InputError(f"no text file {path}; set the paths in the run file to where your text is") from None
    except (OSError, EOFError, lzma.LZMAError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}") from None


def _document(row: dict[str, Any], where: str) -> Document:
    if "turns" in row:
        roles = ("user", "assistant")
        return [{"role": roles[i % 2], "content": str(turn)} for i, turn in enumerate(row["turns"])]
    if "text" in row:
        text = str(row["text"])
    elif "sections" in row:
        text = "\n\n".join(map(str, row["sections"]))
    elif "question" in row and "answer1" in row:
        text = f"{row['question']} {row['answer1']}"
    else:
        raise InputError(f"{where}: no column text, sections, turns or question; found {', '.join(row)}")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with one token per digit, and pad, bos, eos and role tokens all distinct."""
    special = ["<|pad|>", "<|bos|>", "<|eos|>", *ROLE_TOKENS.values()]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token="<|pad|>",
        bos_token="<|bos|>",
        eos_token="<|eos|>",
        additional_special_tokens=list(ROLE_TOKENS.values()),
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def token_stream(source: Iterable[Document], tokenizer: PreTrainedTokenizerBase, tokens: int) -> npt.NDArray[np.int32]:
    """The first `tokens` ids of `source`; each document ends with EOS. Returns fewer when the source is shorter."""
    template = Template(tokenizer)
    bos, eos = tokenizer.bos_token_id, template.eos_id
    pieces: list[npt.NDArray[np.int32]] = []
    taken, stream = 0, iter(source)
    # About as many characters as are still wanted: a source that repeats for ever would give two million of them.
    while taken < tokens and (chunk := _up_to(stream, min(2_000_000, 1000 + 6 * (tokens - taken)))):
        texts = [d if isinstance(d, str) else _chat(template, d) for d in chunk]
        encoded = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        for document, ids in zip(chunk, encoded, strict=True):
            whole = ids if not isinstance(document, str) else [*([bos] if bos is not None else []), *ids, eos]
            pieces.append(np.asarray(whole, dtype=np.int32))
            taken += len(whole)
    return np.concatenate(pieces)[:tokens] if pieces else np.empty(0, np.int32)


def _up_to(stream: Iterator[Document], characters: int) -> list[Document]:
    """The next documents, until there are `characters` of text: enough at once for the tokenizer's threads."""
    chunk: list[Document] = []
    for document in stream:
        chunk.append(document)
        characters -= len(document) if isinstance(document, str) else sum(len(m["content"]) for m in document)
        if characters <= 0:
            break
    return chunk


def windows(stream: npt.NDArray[np.int32], length: int) -> npt.NDArray[np.int32]:
    """The stream cut into rows of `length` ids, [n, length]; what is left over at the end is dropped."""
    n = len(stream) // length
    return stream[: n * length].reshape(n, length)


def _chat(template: Template, messages: list[Message]) -> str:
    return str(template.tokenizer.apply_chat_template(messages, tokenize=False))
