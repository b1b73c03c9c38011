"""Causal language modelling on packed text: the base model that everything else starts from.

Most people borrow a base model. This is the offline loop with windows of plain text for rows and the
cross-entropy of every token for a loss; it also trains the tokenizer when there is none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from prefloop.datasets.text import Document, TextSource, documents, token_stream, train_tokenizer, windows
from prefloop.errors import InputError
from prefloop.functional.logprobs import token_logprobs
from prefloop.models.device import pick_device, pick_dtype
from prefloop.models.load import save_model
from prefloop.training.method import Inputs
from prefloop.training.offline import Loss
from prefloop.training.run import Run

DEFAULTS = {"lr": 2e-3, "schedule": "cosine", "warmup": 100, "weight_decay": 0.1, "batch_size": 32, "max_length": 512}


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A Llama's dimensions."""

    vocab_size: int = 4096
    """Size of the byte-level BPE vocabulary that is trained, special tokens included."""
    hidden_size: int = 256
    """Width of the residual stream."""
    layers: int = 6
    """Transformer blocks."""
    heads: int = 4
    """Attention heads; the width of one is hidden_size / heads."""
    intermediate_size: int = 704
    """Width of the gated MLP."""
    positions: int = 1024
    """Longest sequence that the model is declared for."""


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Settings of `train pretrain`, beside those every run has."""

    text: list[TextSource]
    """The mixture; paths are relative to the run file."""
    shape: Shape = field(default_factory=Shape)
    """The model that is made."""
    tokenizer_sample: int = 30_000_000
    """Characters of the mixture that the tokenizer is trained on."""
    held_out_every: int = 100
    """Every so many windows one is held out for measuring."""
    compile: bool = False
    """Fuse the model's kernels with torch.compile; faster, and needs a C++ compiler."""


class Pretrain:
    """Rows are windows [T] of token ids; the loss is the cross-entropy of each token given those before it."""

    name = "pretrain"

    def __init__(
        self,
        config: PretrainConfig,
        run: Run,
        base: Path,
        generators: Mapping[str, Callable[[int], Iterable[Document]]],
    ) -> None:
        """`base` is what paths are relative to; `generators` give documents by name, as a function of the seed."""
        self.config, self.run = config, run
        self.device = pick_device(run.settings.device)
        self._generators, self._base = generators, base
        self.tokenizer: PreTrainedTokenizerBase = self._tokenizer()
        self.tokens_by_source: dict[str, int] = {}
        rows = self._rows()
        held = np.arange(len(rows)) % config.held_out_every == config.held_out_every - 1
        self.train_rows: Sequence[npt.NDArray[np.int32]] = list(rows[~held])
        self.eval_rows: Sequence[npt.NDArray[np.int32]] = list(rows[held])
        torch.manual_seed(run.settings.seed)
        self.model = self._new_model().to(self.device, pick_dtype(run.settings.dtype, self.device))
        self._values = torch.compile(self._token_losses, dynamic=False) if config.compile else self._token_losses

    def length(self, row: npt.NDArray[np.int32]) -> int:
        return len(row)

    def weight(self, row: npt.NDArray[np.int32]) -> float:
        return float(len(row) - 1)

    def identity(self, row: npt.NDArray[np.int32]) -> str:
        return repr(self.tokenizer.decode(row[:12].tolist()))

    def loss(self, rows: Sequence[npt.NDArray[np.int32]]) -> Loss:
        """Negative log-likelihood per token, in nats."""
        values = self._values(torch.from_numpy(np.stack(rows)).long().to(self.device)).flatten()
        return Loss(values, torch.ones_like(values))

    def save(self, folder: Path) -> None:
        save_model(self.model, self.tokenizer, folder)

    def _token_losses(self, ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T-1"]:
        logits = self.model(input_ids=ids[:, :-1], use_cache=False).logits
        return -token_logprobs(logits, ids[:, 1:])

    def _new_model(self) -> LlamaForCausalLM:
        shape = self.config.shape
        if shape.hidden_size % shape.heads:
            raise InputError(f"shape.heads must divide shape.hidden_size, got {shape.heads} and {shape.hidden_size}")
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(self.tokenizer),
                hidden_size=shape.hidden_size,
                num_hidden_layers=shape.layers,
                num_attention_heads=shape.heads,
                num_key_value_heads=shape.heads,
                intermediate_size=shape.intermediate_size,
                max_position_embeddings=shape.positions,
                tie_word_embeddings=True,
                bos_token_id=self.tokenizer.bos_token_id,
                eos_token_id=self.tokenizer.eos_token_id,
                pad_token_id=self.tokenizer.pad_token_id,
            )
        )

    def _documents(self, source: TextSource) -> Iterable[Document]:
        if (source.path is None) == (source.generated is None):
            raise InputError("text: each part has either `path` or `generated`")
        if source.path is not None:
            return documents(self._base / source.path)
        if source.generated is None or source.generated not in self._generators:
            raise InputError(f"text: no generator {source.generated!r}; there is: {', '.join(self._generators)}")
        return self._generators[source.generated](self.run.settings.seed)

    def _tokenizer(self) -> PreTrainedTokenizerBase:
        """Trained on every part of the mixture in proportion to its share."""
        total = sum(source.tokens for source in self.config.text)

        def sample() -> Iterator[str]:
            for source in self.config.text:
                room = self.config.tokenizer_sample * source.tokens / total
                for document in self._documents(source):
                    text = document if isinstance(document, str) else "\n".join(m["content"] for m in document)
                    yield text[: int(room)]
                    room -= len(text)
                    if room <= 0:
                        break

        self.run.log("training the tokenizer")
        return train_tokenizer(sample(), self.config.shape.vocab_size)

    def _rows(self) -> npt.NDArray[np.int32]:
        parts = []
        for source in self.config.text:
            name = source.generated or Path(str(source.path)).name
            self.run.log(f"tokenising {name}")
            stream = token_stream(self._repeated(source), self.tokenizer, int(source.tokens))
            self.tokens_by_source[name] = len(stream)
            parts.append(windows(stream, self.run.settings.max_length))
        return np.concatenate(parts)

    def _repeated(self, source: TextSource) -> Iterator[Document]:
        """The documents over and over. Raises InputError for a part that has none."""
        while True:
            some = False
            for document in self._documents(source):
                some = True
                yield document
            if not some:
                raise InputError(f"text: {source.path or source.generated} has no documents")


def build(config: PretrainConfig, run: Run, inputs: Inputs) -> Pretrain:
    """Pretraining from what a run names; the ledger learns how many tokens came from each part of the mixture."""
    algorithm = Pretrain(config, run, inputs.base, inputs.text_generators)
    inputs.ledger.seen(len(algorithm.train_rows) + len(algorithm.eval_rows))
    for name, tokens in algorithm.tokens_by_source.items():
        inputs.ledger.note(f"tokens from {name}", tokens)
    return algorithm
