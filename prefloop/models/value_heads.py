"""Values of states and actions on a language model's trunk: one V, and Qs with slow copies (Snell et al. 2022).

A state is what has been written so far, an action is the next token, so a Q head has one output per entry of the
vocabulary. The heads are small networks (linear to twice the width, ReLU, linear) and are saved beside the policy as
`value_heads.safetensors`; with `Perturbed` a policy writes what its heads think well of.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from prefloop.errors import InputError
from prefloop.functional.temporal_difference import perturbed_logits
from prefloop.models.encoder_decoder import has_encoder
from prefloop.models.heads import CompletionLogprobs
from prefloop.models.load import base_of, disk_errors
from prefloop.models.template import Encoded
from prefloop.models.trees import Forest

FILE = "value_heads.safetensors"


class ValueHeads(nn.Module):
    """V(s), two Q(s, .), and the Qs' targets, which are not trained but follow; in float32 whatever the trunk is in."""

    def __init__(self, width: int, vocabulary: int, seed: int = 0, beta: float = 1.0) -> None:
        super().__init__()
        self.width, self.vocabulary = width, vocabulary
        self.beta = beta
        """How strongly `Perturbed` goes by the heads."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.value = _head(width, 1)
            self.q = nn.ModuleList(_head(width, vocabulary) for _ in range(2))
        self.target = deepcopy(self.q).requires_grad_(False)

    def values(self, hidden: Float[Tensor, "*n d"]) -> Float[Tensor, "*n"]:
        """V of each state."""
        values: Tensor = self.value(hidden.float())[..., 0]
        return values

    def q_values(self, hidden: Float[Tensor, "*n d"]) -> tuple[Float[Tensor, "*n V"], ...]:
        """Each Q of every action in each state."""
        return tuple(q(hidden.float()) for q in self.q)

    @torch.no_grad()
    def target_q(self, hidden: Float[Tensor, "*n d"]) -> Float[Tensor, "*n V"]:
        """The smaller of the target Qs."""
        first, second = (q(hidden.float()) for q in self.target)
        return torch.minimum(first, second)

    def save(self, folder: Path) -> None:
        """Write them beside a policy."""
        facts = {"width": self.width, "vocabulary": self.vocabulary, "beta": self.beta}
        with disk_errors():
            save_file(
                {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()},
                folder / FILE,
                metadata={"prefloop": json.dumps(facts)},
            )


def load_value_heads(folder: str | Path, device: torch.device) -> ValueHeads | None:
    """The heads that lie beside a policy, or None. Raises InputError when the file is not one of ours."""
    place = Path(folder) / FILE
    if not place.is_file():
        return None
    try:
        with safe_open(place, framework="pt") as file:
            facts = json.loads(file.metadata()["prefloop"])
            heads = ValueHeads(facts["width"], facts["vocabulary"], beta=facts["beta"])
        heads.load_state_dict(load_file(place))
    except Exception as error:  # safetensors, json and torch each raise their own
        raise InputError(f"{place} holds no value heads: {str(error).splitlines()[0]}") from None
    return heads.to(device).eval().requires_grad_(False)


class CompletionStates:
    """What a trunk knows before each completion token, and the logits of the policy there."""

    def __init__(self, model: nn.Module, log: Callable[[str], None] = lambda words: None) -> None:
        """`log` is told when the model cannot share prompts."""
        if has_encoder(model):
            raise InputError(f"{type(base_of(model)).__name__} has an encoder; value heads are for decoders alone")
        measure = CompletionLogprobs(model, log)
        self.trunk, self.head, self.plain = measure.trunk, measure.head, measure.head_is_plain

    def of(
        self, texts: Sequence[Encoded]
    ) -> tuple[Float[Tensor, "m d"], Float[Tensor, "m V"], Int[Tensor, "m"], Bool[Tensor, "n C"]]:
        """(hidden states, logits, tokens) of the m decisions, text by text, and where each stands in its completion.

        Texts with the same prompt share it. A model that alters its logits after the head computes them in a second
        pass.
        """
        forest = Forest.plant(texts)
        device = self.trunk.full.device
        before = forest.before()
        hidden = self.trunk(forest, before)
        logits = self.head(hidden) if self.plain else self.trunk.logits(forest, before)
        counts = torch.tensor([text.completion_length for text in texts], device=device)
        valid = torch.arange(int(counts.max()), device=device) < counts[:, None]
        return hidden, logits.float(), torch.tensor(forest.completions(), device=device), valid


class Perturbed(nn.Module):
    """A policy whose logits are log pi(a) + beta (min Q(a) - V): it samples as ILQL does, everywhere a policy does.

    Its parts keep the names that a Hugging Face model has, so that samplers and measures take it for one.
    """

    def __init__(self, model: PreTrainedModel, heads: ValueHeads) -> None:
        super().__init__()
        self.policy, self.heads = model, heads
        self.base_model_prefix = model.base_model_prefix
        self.config, self.generation_config = model.config, model.generation_config
        width = base_of(model).get_output_embeddings().weight.shape
        if (heads.vocabulary, heads.width) != tuple(width):
            raise InputError(
                f"the value heads are for {heads.vocabulary} tokens and width {heads.width}, the policy has "
                f"{width[0]} and {width[1]}"
            )

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("policy"), name)

    def forward(self, input_ids: Tensor, position_ids: Tensor | None = None, **arguments: Any) -> Any:
        """The policy's own output with its logits perturbed."""
        if position_ids is not None:
            arguments["position_ids"] = position_ids
        out = self.policy(input_ids=input_ids, output_hidden_states=True, **arguments)
        hidden = out.hidden_states[-1]
        out.logits = perturbed_logits(
            out.logits, self.heads.target_q(hidden), self.heads.values(hidden), self.heads.beta
        )
        out.hidden_states = None
        return out


def _head(width: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, outputs))
