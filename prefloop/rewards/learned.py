"""The learned reward: a reward model's score of (prompt, completion), on the tokenise path that trained it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from prefloop.datasets.collate import text_batches
from prefloop.errors import InputError
from prefloop.models.feedback import HEADS_KEY, TEMPERATURE_KEY, Heads
from prefloop.models.heads import ScoreHead
from prefloop.models.load import COST_KEY, load_reward_model, load_tokenizer, positions_of
from prefloop.models.shared import adapter_on
from prefloop.models.template import Encoded, Template
from prefloop.records import Message
from prefloop.settings import check_choice


class LearnedReward:
    """A reward function `(prompts, completions, **columns) -> scores` (TRL's signature) from a reward model."""

    def __init__(
        self,
        ref: str | Path,
        dtype: torch.dtype,
        device: torch.device,
        *,
        max_length: int = 512,
        micro_batch_tokens: int = 8192,
        criterion: str | None = None,
        trunk: PreTrainedModel | None = None,
    ) -> None:
        """`criterion`: one of those that the model has a head of its own for; without it, the score itself.

        `trunk`: a policy without an adapter; the model, an adapter of it, is read on that policy's own weights.
        """
        self.place = str(ref)
        self.template = Template(load_tokenizer(ref))
        model: nn.Module = load_reward_model(ref, dtype, device) if trunk is None else adapter_on(trunk, Path(ref))
        self.head = ScoreHead(model)
        config = self.head.model.config
        self.cost = bool(getattr(config, COST_KEY, False))
        """A cost model: the higher the score, the worse; above 0 people would call the answer unsafe."""
        self.heads = Heads.stored(config).to(device)
        self.wide = self.heads.weight.shape[1] > config.get_text_config().hidden_size
        """Its further heads read the whole answer."""
        self.criterion = self._checked(criterion)
        self.device, self.budget = device, micro_batch_tokens
        self.max_length = min(max_length, positions_of(self.head.model.config))

    def about(self, criterion: str) -> LearnedReward:
        """The same model, its weights shared, as the score of one of its criteria. Raises InputError for another."""
        other = copy.copy(self)
        other.criterion = self._checked(criterion)
        return other

    def asked(self, criterion: object) -> LearnedReward:
        """The score for answers about `criterion`: that criterion's where the model has one, else its own."""
        return self.about(criterion) if isinstance(criterion, str) and criterion in self.heads.criteria else self

    @property
    def temperature(self) -> float:
        """P(a is preferred to b) = sigmoid((score(a) - score(b)) / temperature)."""
        config = self.head.model.config
        own = getattr(config, HEADS_KEY)[self.criterion] if self.criterion is not None else {}
        return float(own.get("temperature", getattr(config, TEMPERATURE_KEY, 1.0)))

    @property
    def untaught(self) -> str:
        """What is wrong with a score that is the same for every text; empty for any other."""
        if self.criterion is not None or not self.heads.criteria or bool(self.head.final.weight.any()):
            return ""
        return (
            f"the score itself of {self.place} learned nothing, as all of its rows were about criteria; "
            f"name one as the criterion: {', '.join(self.heads.criteria)}"
        )

    def _checked(self, criterion: str | None) -> str | None:
        if criterion is not None and not self.heads.criteria:
            raise InputError(
                f"{self.place} has one score and no criteria, got criterion {criterion!r}; "
                f"train it with criteria: [{criterion}]"
            )
        if criterion is not None:
            check_choice("criterion", criterion, self.heads.criteria)
        return criterion

    def __call__(
        self,
        prompts: Sequence[Sequence[Message]],
        completions: Sequence[str],
        **columns: Sequence[Any],
    ) -> list[float]:
        """One score per completion. A completion that was cut off is scored as if it ended there."""
        texts = [self.template.encode(p, c, self.max_length) for p, c in zip(prompts, completions, strict=True)]
        return self.scores(texts).tolist()

    @torch.no_grad()
    def states(self, prompts: Sequence[Sequence[Message]], completions: Sequence[str]) -> npt.NDArray[np.float64]:
        """What the trunk makes of each text, (n, d): the state of its last token, from which the score is read."""
        texts = [self.template.encode(p, c, self.max_length) for p, c in zip(prompts, completions, strict=True)]
        found: npt.NDArray[np.float64] = self._read(texts, lambda states: states, self.head.states).double().numpy()
        return found

    @torch.no_grad()
    def scores(self, texts: Sequence[Encoded]) -> Float[Tensor, "n"]:
        """Scores of encoded texts, in their order, on the CPU in float32."""
        if self.criterion is not None:
            states = self.head.wide_states if self.wide else self.head.states
            return self._read(texts, self.heads, states)[:, self.heads.names.index(self.criterion)]
        return self._read(texts, self.head.score, self.head.states)

    @torch.no_grad()
    def members(self, prompts: Sequence[Sequence[Message]], completions: Sequence[str]) -> Float[Tensor, "n members"]:
        """The scores of an ensemble's members, whose mean the score is; of any other model, or criterion, it alone."""
        texts = [self.template.encode(p, c, self.max_length) for p, c in zip(prompts, completions, strict=True)]
        if self.criterion is not None or not self.heads.members:
            return self.scores(texts)[:, None]
        return self._read(texts, self.heads, self.head.states)[:, self.heads.members]

    def _read(
        self,
        texts: Sequence[Encoded],
        head: Callable[[Tensor], Tensor],
        states: Callable[[Sequence[Encoded]], Tensor],
    ) -> Tensor:
        """What `head` makes of the `states` of each text, in the order of the texts, on the CPU in float32.

        A text that comes more than once is read once.
        """
        keys = [(tuple(text.ids), text.prompt_length) for text in texts]
        different = dict(zip(keys, texts, strict=True))
        places = {key: place for place, key in enumerate(different)}
        once = list(different.values())
        parts: dict[int, Tensor] = {}
        for micro in text_batches(once, self.budget):
            found = head(states([once[i] for i in micro])).float().cpu()
            parts.update(zip(micro, found, strict=True))
        return torch.stack([parts[places[key]] for key in keys]) if parts else torch.empty(0)


def earning(model: LearnedReward) -> LearnedReward:
    """The model. Raises InputError for a score that nothing was learned about, as all rows were about criteria, and for
    a cost model: whoever earned its score would do as much harm as possible."""
    if model.untaught:
        raise InputError(model.untaught)
    if model.cost:
        raise InputError(
            f"{model.place} is a cost model, whose score is higher for what is worse; as a reward it needs a limit: "
            "reward: {taste: {learned: my-reward-model}, harm: {learned: my-cost-model, limit: 0}}"
        )
    return model
