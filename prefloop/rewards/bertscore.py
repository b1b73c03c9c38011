"""Likeness to a reference answer by what a model makes of each word in its place. Zhang et al. 2020, arXiv 1904.09675

Every token of one text is matched with the nearest of the other, by the cosine of their states in one layer of a model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from prefloop.datasets.collate import completion_mask, micro_batches, pad
from prefloop.errors import InputError
from prefloop.models.device import pick_device, pick_dtype
from prefloop.models.load import load_tokenizer, load_trunk, positions_of


def bertscore(
    model: str,
    layer: int = -1,
    column: str = "reference",
    *,
    device: str = "auto",
    dtype: str = "auto",
    budget: int = 8192,
) -> Callable[..., list[float | None]]:
    """Makes the reward F1 = 2 P R / (P + R) against the text in `column`, without idf weights or rescaling.

    P is the mean over the completion's tokens of the largest cosine with a token of the reference, R the other way
    round. `model` is a folder or hub id, best of an encoder; `layer` counts as in `hidden_states`, -1 is the last (the
    authors take 9 of bert-base's 12 and 17 of roberta-large's 24). Tokens that no text has ([CLS], [SEP]) do not count;
    what is longer than the model takes is cut. A text without a token scores 0.
    Raises InputError for a layer that the model does not have.
    """
    place = pick_device(device)
    tokenizer, trunk = load_tokenizer(model), load_trunk(model, pick_dtype(dtype, place), place)
    layers = int(trunk.config.get_text_config().num_hidden_layers)
    if not -layers <= layer <= layers:
        raise InputError(f"bertscore: {model} has layers 1 to {layers} (or -{layers} to -1), got {layer}")
    longest = min(positions_of(trunk.config), tokenizer.model_max_length)

    @torch.no_grad()
    def states(texts: Sequence[str]) -> list[Float[Tensor, "n d"]]:
        rows = [tokenizer(text, truncation=True, max_length=longest)["input_ids"] for text in texts]
        result: list[Tensor] = [torch.empty(0)] * len(rows)
        for micro in micro_batches([i for i, row in enumerate(rows) if row], lambda i: len(rows[i]), budget):
            ids = pad([rows[i] for i in micro], 0).to(place)
            seen = completion_mask([0] * len(micro), [len(rows[i]) for i in micro], ids.shape[1]).to(place)
            found = trunk(input_ids=ids, attention_mask=seen.long(), output_hidden_states=True).hidden_states[layer]
            for i, one in zip(micro, torch.nn.functional.normalize(found.float(), dim=-1).cpu(), strict=True):
                special = tokenizer.get_special_tokens_mask(rows[i], already_has_special_tokens=True)
                result[i] = one[: len(rows[i])][torch.tensor(special) == 0]
        return result

    def score(completions: Sequence[str], **columns: Sequence[Any]) -> list[float | None]:
        if column not in columns:
            raise InputError(f"the data have no column {column!r} with the reference answer")
        wanted = columns[column]
        asked = [i for i, reference in enumerate(wanted) if reference is not None]
        texts = [text for i in asked for text in (completions[i], str(wanted[i]))]
        found = states(texts)
        result: list[float | None] = [None] * len(completions)
        for place, i in enumerate(asked):
            result[i] = matched(found[2 * place], found[2 * place + 1])
        return result

    return score


def matched(said: Float[Tensor, "n d"], wanted: Float[Tensor, "m d"]) -> float:
    """F1 of the greedy matching of two texts' states of length 1; 0 where a text has none."""
    if 0 in (len(said), len(wanted)):
        return 0.0
    cosine = said @ wanted.T
    precision, recall = float(cosine.amax(1).mean()), float(cosine.amax(0).mean())
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0
