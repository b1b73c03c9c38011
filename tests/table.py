"""A policy with one row of logits for each last token: what it has learned can be worked out by hand."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import Tensor
from transformers import GPT2Config

from prefloop.models.template import Encoded


class Table(torch.nn.Module):
    """As a language model it is made of what the measures need: a trunk, an output layer, and both in one.

    What the trunk knows of a state is a one-hot row for its last token, so states that end alike are one state.
    """

    base_model_prefix = "trunk"

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.head = torch.nn.Linear(vocabulary, vocabulary, bias=False)
        torch.nn.init.zeros_(self.head.weight)
        self.config = GPT2Config(vocab_size=vocabulary)
        self.device = torch.device("cpu")

    def trunk(self, input_ids: Tensor, use_cache: bool) -> SimpleNamespace:
        return SimpleNamespace(last_hidden_state=torch.nn.functional.one_hot(input_ids, self.vocabulary).float())

    def get_output_embeddings(self) -> torch.nn.Module:
        return self.head

    def forward(self, input_ids: Tensor, use_cache: bool = False) -> SimpleNamespace:
        return SimpleNamespace(logits=self.head(self.trunk(input_ids, use_cache).last_hidden_state))

    @torch.no_grad()
    def policy(self) -> Tensor:
        """Probabilities of the next token, one row per last token."""
        return self.head.weight.T.softmax(-1)


def encoded(prompt: int, *completion: int) -> Encoded:
    """A prompt of one token and what follows it."""
    return Encoded([prompt, *completion], 1)
