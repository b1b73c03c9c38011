"""The head only where it counts: log-probabilities of completion tokens, scores and values, from one trunk pass.

Sequences are padded on the right, so a causal trunk needs no attention mask. `starts[i]` is where row i's completion
begins; its token j stands at position starts[i] + j and is predicted from the one before.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from prefloop.errors import InputError
from prefloop.functional.logprobs import token_entropy, token_logprobs
from prefloop.models.load import BIAS_KEY


def base_of(model: nn.Module) -> PreTrainedModel:
    """The Hugging Face model inside an adapter's wrapper, or the model itself. Adapters stay in force."""
    return model.get_base_model() if hasattr(model, "peft_config") else model  # type: ignore[operator]


class CompletionLogprobs:
    """log pi(token | what came before) for every completion token of a batch."""

    def __init__(self, model: nn.Module) -> None:
        base = base_of(model)
        self.trunk: nn.Module = getattr(base, base.base_model_prefix)
        self.head = base.get_output_embeddings()
        self.full = base
        self.head_is_plain = self._head_is_plain()

    def __call__(
        self,
        ids: Int[Tensor, "B L"],
        starts: Int[Tensor, "B"],
        valid: Bool[Tensor, "B C"],
        temperature: float = 1.0,
        entropy: bool = False,
    ) -> tuple[Float[Tensor, "B C"], Float[Tensor, "B C"] | None]:
        """Log-probabilities, entropies if asked for, of softmax(logits / temperature), in nats; 0 where not valid."""
        position = (starts[:, None] + torch.arange(valid.shape[1], device=ids.device)).clamp_max(ids.shape[1] - 1)
        row = torch.arange(len(ids), device=ids.device)[:, None].expand_as(position)
        # In float32 before the division, as the sampler does: otherwise the two round differently.
        logits = self._logits(ids, row[valid], position[valid] - 1).float() / temperature
        result = torch.zeros(valid.shape, dtype=torch.float32, device=ids.device)
        logprobs = result.masked_scatter(valid, token_logprobs(logits, ids[row[valid], position[valid]]))
        return logprobs, result.masked_scatter(valid, token_entropy(logits)) if entropy else None

    def _logits(self, ids: Int[Tensor, "B L"], row: Int[Tensor, "n"], at: Int[Tensor, "n"]) -> Float[Tensor, "n V"]:
        if self.head_is_plain:
            logits: Tensor = self.head(self.trunk(input_ids=ids, use_cache=False).last_hidden_state[row, at])
            return logits
        capped: Tensor = self.full(input_ids=ids, use_cache=False).logits[row, at]
        return capped

    @torch.no_grad()
    def _head_is_plain(self) -> bool:
        """Some architectures scale or cap their logits after the head; those go through their own forward pass."""
        training = self.full.training
        self.full.eval()
        ids = torch.arange(4, device=self.full.device)[None] % self.full.config.get_text_config().vocab_size
        whole = self.full(input_ids=ids, use_cache=False).logits
        parts = self.head(self.trunk(input_ids=ids, use_cache=False).last_hidden_state) if self.head else None
        self.full.train(training)
        return parts is not None and whole.dtype == parts.dtype and torch.equal(whole, parts)


class ScoreHead:
    """A sequence classifier with one label as a reward model (`last`) or a critic (`each`)."""

    def __init__(self, model: nn.Module) -> None:
        base = base_of(model)
        self.model = base
        self.trunk: nn.Module = getattr(base, base.base_model_prefix)
        if not hasattr(base, "score"):
            raise InputError(
                f"{type(base).__name__} has no per-token score head; use a decoder (Llama, Qwen, GPT-2, ...)"
            )

    @property
    def bias(self) -> float:
        return float(getattr(self.model.config, BIAS_KEY, 0.0) or 0.0)

    def last(self, ids: Int[Tensor, "B L"], lengths: Int[Tensor, "B"]) -> Float[Tensor, "B"]:
        """The score of each sequence, read at its last real token, in float32."""
        hidden = self.trunk(input_ids=ids, use_cache=False).last_hidden_state
        return self._head(hidden[torch.arange(len(ids), device=ids.device), lengths - 1])

    def each(
        self, ids: Int[Tensor, "B L"], starts: Int[Tensor, "B"], valid: Bool[Tensor, "B C"]
    ) -> Float[Tensor, "B C"]:
        """The value of the state before each completion token; 0 where not valid."""
        position = (starts[:, None] + torch.arange(valid.shape[1], device=ids.device)).clamp_max(ids.shape[1] - 1)
        row = torch.arange(len(ids), device=ids.device)[:, None].expand_as(position)
        hidden = self.trunk(input_ids=ids, use_cache=False).last_hidden_state[row[valid], position[valid] - 1]
        result = torch.zeros(valid.shape, dtype=torch.float32, device=ids.device)
        return result.masked_scatter(valid, self._head(hidden))

    def _head(self, hidden: Float[Tensor, "n d"]) -> Float[Tensor, "n"]:
        # In float32: bfloat16 has eight bits, and the difference of two scores is what matters.
        head = self.model.score
        if hasattr(head, "modules_to_save"):
            head = head.modules_to_save[head.active_adapters[0]]
        return torch.nn.functional.linear(hidden.float(), head.weight.float())[..., 0] + self.bias

    @torch.no_grad()
    def initialise(self, seed: int) -> None:
        """A new head: weights from N(0, 1/sqrt(d+1)), bias 0 (Ziegler et al. 2019)."""
        weight = self.model.score.weight
        noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed))
        weight.copy_(noise / (weight.shape[1] + 1) ** 0.5)
        setattr(self.model.config, BIAS_KEY, 0.0)

    @torch.no_grad()
    def normalise(self, scores: Float[Tensor, "n"]) -> tuple[float, float]:
        """Fold gain and bias into the head so that `scores`, which it gave, would have had mean 0 and std 1.

        Returns (gain, bias). Scores that are all equal are only shifted.
        """
        mean, std = float(scores.double().mean()), float(scores.double().std(correction=0))
        gain = 1.0 / std if std > 1e-6 else 1.0
        bias = gain * (self.bias - mean)
        head = self.model.score
        head.weight.mul_(gain)
        setattr(self.model.config, BIAS_KEY, bias)
        return gain, bias


def trainable(models: Iterable[nn.Module]) -> list[nn.Parameter]:
    """The parameters that are trained, in a fixed order."""
    return [p for model in models for p in model.parameters() if p.requires_grad]
