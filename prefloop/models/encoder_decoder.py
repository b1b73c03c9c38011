"""Encoder-decoder models (T5, BART): the encoder reads each prompt once, the decoder writes its completions.

Such a model is a policy, or the critic of one; it has no state between two tokens of a prompt, so what is read off a
prompt's tokens (values of prompts, reward models, masks of another policy) is not to be had from it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from prefloop.errors import InputError
from prefloop.models.load import base_of
from prefloop.models.trees import Forest, Trunk, recomputed, same_prompt


def has_encoder(model: Any) -> bool:
    """Whether it reads prompts with an encoder of their own."""
    return bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))


def trunk_of(model: nn.Module, log: Callable[[str], None]) -> Trunk | WritingTrunk:
    """What gives states and logits of a batch of texts."""
    return WritingTrunk(model) if has_encoder(model) else Trunk(model, log)


def start_token(model: PreTrainedModel) -> int:
    """What a completion begins with in the decoder; it is no part of it. Raises InputError where none is declared."""
    token = model.config.decoder_start_token_id
    if token is None:
        raise InputError(
            f"{type(model).__name__} declares no decoder_start_token_id, so nothing can be written with it"
        )
    return int(token)


def read(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]]
) -> tuple[Float[Tensor, "P W d"], Bool[Tensor, "P W"]]:
    """The encoder's states of prompts, padded on the right, and which of them are of a token."""
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    ids = torch.zeros(len(prompts), int(lengths.max()), dtype=torch.long)
    for row, prompt in zip(ids, prompts, strict=True):
        row[: len(prompt)] = torch.tensor(prompt)
    real = (torch.arange(ids.shape[1]) < lengths[:, None]).to(model.device)
    states: Tensor = model.get_encoder()(input_ids=ids.to(model.device), attention_mask=real.long()).last_hidden_state
    return states, real


class WritingTrunk:
    """What a `Trunk` gives, of completions alone: states and logits at the last token of a prompt, where the decoder's
    start token has them, and at each token that was written. At the other tokens of a prompt there is nothing."""

    def __init__(self, model: nn.Module) -> None:
        self.full = base_of(model)
        self.start = start_token(self.full)

    def __call__(self, forest: Forest, at: Int[Tensor, "m"]) -> Float[Tensor, "m d"]:
        """The states after the tokens at these places of the row."""

        def states(encoded: Tensor, real: Tensor, ids: Tensor) -> Tensor:
            found: Tensor = self.full.get_decoder()(
                input_ids=ids, encoder_hidden_states=encoded, encoder_attention_mask=real.long(), use_cache=False
            ).last_hidden_state
            return found

        return self._written(forest, states)[at.to(self.full.device)]

    def logits(self, forest: Forest, at: Int[Tensor, "m"]) -> Float[Tensor, "m V"]:
        """The model's own logits behind the tokens at these places of the row."""

        def logits(encoded: Tensor, real: Tensor, ids: Tensor) -> Tensor:
            found: Tensor = self.full(
                encoder_outputs=BaseModelOutput(last_hidden_state=encoded),
                attention_mask=real.long(),
                decoder_input_ids=ids,
                use_cache=False,
            ).logits
            return found

        return self._written(forest, logits)[at.to(self.full.device)]

    def _written(
        self,
        forest: Forest,
        run: Callable[[Float[Tensor, "n W d"], Bool[Tensor, "n W"], Int[Tensor, "n C"]], Float[Tensor, "n C x"]],
    ) -> Float[Tensor, "N x"]:
        """`run` on every completion behind the start token, padded on the right; each prompt is read once."""
        texts, device = forest.texts, self.full.device
        groups = same_prompt(texts)
        prompt_of = {i: number for number, members in enumerate(groups) for i in members}
        of = torch.tensor([prompt_of[i] for i in range(len(texts))], device=device)
        width = 1 + max(text.completion_length for text in texts)
        ids, source = torch.zeros(len(texts), width, dtype=torch.long), torch.zeros(len(forest.ids), dtype=torch.long)
        for i, text in enumerate(texts):
            first = text.prompt_length
            ids[i, : text.length - first + 1] = torch.tensor([self.start, *text.ids[first:]])
            # Where two completions begin alike both states are equal, and the last one's is read.
            places = forest.place(i, first - 1, text.length)
            source[places] = i * width + torch.arange(len(places))
        with recomputed(self.full):
            encoded, real = read(self.full, [texts[g[0]].ids[: texts[g[0]].prompt_length] for g in groups])
            return run(encoded[of], real[of], ids.to(device)).flatten(0, 1)[source.to(device)]
