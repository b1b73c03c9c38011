"""The head only where it counts: log-probabilities of completion tokens, scores and values, from one trunk pass.

Texts that share their prompt compute it once (`prefloop.models.trees`). Batches that come as tensors are padded on the
right: `starts[i]` is where row i's completion begins, and its token j is predicted from position starts[i] + j - 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from prefloop.errors import InputError
from prefloop.functional.logprobs import head_logprobs, head_logprobs_and_entropy, token_entropy, token_logprobs
from prefloop.models.encoder_decoder import WritingTrunk, has_encoder, trunk_of
from prefloop.models.load import BIAS_KEY, base_of
from prefloop.models.template import Encoded
from prefloop.models.trees import Forest, Trunk, texts_of

IMPOSSIBLE = -1e9
"""The logit of a token that cannot be drawn."""


class CompletionLogprobs:
    """log pi(token | what came before) for every completion token of a batch."""

    def __init__(self, model: nn.Module, log: Callable[[str], None] = lambda words: None) -> None:
        """`log` is told when the model cannot share prompts."""
        self.trunk = trunk_of(model, log)
        self.full = self.trunk.full
        self.head = self.full.get_output_embeddings()
        self.head_is_plain = self._head_is_plain()

    def __call__(
        self,
        ids: Int[Tensor, "B L"],
        starts: Int[Tensor, "B"],
        valid: Bool[Tensor, "B C"],
        temperature: float = 1.0,
        entropy: bool = False,
        only: Bool[Tensor, "m V"] | None = None,
    ) -> tuple[Float[Tensor, "B C"], Float[Tensor, "B C"] | None]:
        """Log-probabilities, entropies if asked for, of softmax(logits / temperature), in nats; 0 where not valid.

        Rows that begin with the same prompt share it. `only` says for each of the m valid tokens, row by row, which
        tokens could have stood there; the others' logits are taken for -inf.
        """
        forest = Forest.plant(texts_of(ids, starts, valid))
        result = torch.zeros(valid.shape, dtype=torch.float32, device=ids.device)
        if not entropy and only is None:
            return result.masked_scatter(valid, self.along(forest, temperature)), None
        tokens = torch.tensor(forest.completions(), device=ids.device)
        if only is None and self.head_is_plain and not torch.is_grad_enabled():
            hidden = self._hidden(forest)
            found = head_logprobs_and_entropy(hidden, self.head.weight, self.head.bias, tokens, temperature)
            return result.masked_scatter(valid, found[0]), result.masked_scatter(valid, found[1])
        logits = self._logits(forest).float() / temperature
        if only is not None:
            # Not -inf: times a probability of 0 it is no number. exp of this is 0 all the same.
            logits = logits.masked_fill(~only, IMPOSSIBLE)
        logprobs = result.masked_scatter(valid, token_logprobs(logits, tokens))
        return logprobs, result.masked_scatter(valid, token_entropy(logits)) if entropy else None

    def logits(
        self, ids: Int[Tensor, "B L"], starts: Int[Tensor, "B"], valid: Bool[Tensor, "B C"]
    ) -> Float[Tensor, "m V"]:
        """The logits that each of the m valid tokens was drawn from, row by row."""
        return self._logits(Forest.plant(texts_of(ids, starts, valid)))

    def of(
        self, texts: Sequence[Encoded], temperature: float = 1.0
    ) -> tuple[Float[Tensor, "n C"], Bool[Tensor, "n C"]]:
        """(log-probabilities, which of them are of a token) of each text's completion, in nats; 0 behind its end.

        Texts with the same prompt share it, in whatever order they come.
        """
        forest = Forest.plant(texts)
        device = self.full.device
        counts = torch.tensor([text.completion_length for text in texts], device=device)
        valid = torch.arange(int(counts.max()), device=device) < counts[:, None]
        found = self.along(forest, temperature)
        return torch.zeros(valid.shape, dtype=torch.float32, device=device).masked_scatter(valid, found), valid

    def along(self, forest: Forest, temperature: float = 1.0) -> Float[Tensor, "m"]:
        """log pi of each of a forest's completion tokens, text by text, in nats."""
        tokens = torch.tensor(forest.completions(), device=self.full.device)
        if self.head_is_plain:
            return head_logprobs(self._hidden(forest), self.head.weight, self.head.bias, tokens, temperature)
        # In float32 before the division, as the sampler does: otherwise the two round differently.
        return token_logprobs(self._logits(forest).float() / temperature, tokens)

    def _hidden(self, forest: Forest) -> Float[Tensor, "m d"]:
        """The state that each completion token was predicted from."""
        return self.trunk(forest, forest.before())

    def _logits(self, forest: Forest) -> Float[Tensor, "m V"]:
        if self.head_is_plain:
            logits: Tensor = self.head(self._hidden(forest))
            return logits
        return self.trunk.logits(forest, forest.before())

    @torch.no_grad()
    def _head_is_plain(self) -> bool:
        """Some architectures scale or cap their logits after the head; those go through their own forward pass."""
        if type(self.head) is not nn.Linear or isinstance(self.trunk, WritingTrunk):
            return False
        training = self.full.training
        self.full.eval()
        ids = torch.arange(4, device=self.full.device)[None] % self.full.config.get_text_config().vocab_size
        whole = self.full(input_ids=ids, use_cache=False).logits
        parts = self.head(self.trunk.body(input_ids=ids, use_cache=False).last_hidden_state)
        self.full.train(training)
        return whole.dtype == parts.dtype and torch.equal(whole, parts)


class ScoreHead:
    """A sequence classifier with one label as a reward model (`states`, `score`), or as a critic (`each`).

    A decoder reads its score from the state of a text's last token. An encoder (BERT, RoBERTa, DeBERTa, ...) looks at
    the whole text at once; the last layer of its own head reads its score. An encoder-decoder is a critic, which
    has a value for every token that its decoder writes, and no reward model.
    """

    def __init__(self, model: nn.Module, log: Callable[[str], None] = lambda words: None) -> None:
        """`log` is told when the model cannot share prompts. Raises InputError where no layer gives one number."""
        self.model = base_of(model)
        writes = has_encoder(self.model)
        self.decoder = trunk_of(model, log) if writes or hasattr(self.model, "score") else None
        if not hasattr(self.model, "score"):
            _last_layer(self.model)
        if self.decoder is None:
            log(f"{type(self.model).__name__} is an encoder: it computes every text with a prompt of its own")

    @property
    def trunk(self) -> Trunk:
        """What gives a state for every token of a text. Raises InputError for a model with an encoder."""
        found = self._critic
        if isinstance(found, WritingTrunk):
            raise InputError(
                f"{type(self.model).__name__} is an encoder-decoder, which serves as a policy or its critic, not as a "
                "reward model; use a decoder (Llama, Qwen, GPT-2, ...) or an encoder (BERT, ...)"
            )
        return found

    @property
    def _critic(self) -> Trunk | WritingTrunk:
        """What gives a state for every token of a completion."""
        if self.decoder is None:
            raise InputError(
                f"{type(self.model).__name__} is an encoder, which has no score for each token; "
                "use a decoder (Llama, Qwen, GPT-2, ...) here"
            )
        return self.decoder

    @property
    def final(self) -> nn.Linear:
        """The layer that makes a score of a state; an adapted model's own copy of it."""
        if not hasattr(self.model, "score"):
            return _last_layer(self.model)
        head: Any = self.model.score
        if hasattr(head, "modules_to_save"):
            head = head.modules_to_save[head.active_adapters[0]]
        return head  # type: ignore[no-any-return]

    @property
    def bias(self) -> float:
        return float(getattr(self.model.config, BIAS_KEY, 0.0) or 0.0)

    def of(self, texts: Sequence[Encoded]) -> Float[Tensor, "n"]:
        """The score of each text, read at its last token, in float32."""
        return self.score(self.states(texts))

    def states(self, texts: Sequence[Encoded]) -> Float[Tensor, "n d"]:
        """What the score is read from, which further heads read as well: a decoder's state at a text's last token.

        Texts with the same prompt share it, in whatever order they come.
        """
        if self.decoder is None:
            return _encoded(self.model, self.final, texts)
        forest = Forest.plant(texts)
        return self.trunk(forest, forest.last())

    def wide_states(self, texts: Sequence[Encoded]) -> Float[Tensor, "n dddd"]:
        """Four times as much of each text: the state of its last token, the same half-way up the layers, and the means
        of both over its completion. Raises InputError for an encoder."""
        forest = Forest.plant(texts)
        deep = self.trunk.deep(forest)
        said = [forest.place(i, text.prompt_length, text.length) for i, text in enumerate(texts)]
        means = torch.stack([deep[at].mean(0) if at else deep.new_zeros(deep.shape[1]) for at in said])
        return torch.cat([deep[forest.last().to(deep.device)], means], dim=-1)

    def last(self, ids: Int[Tensor, "B L"], lengths: Int[Tensor, "B"]) -> Float[Tensor, "B"]:
        """The score of each row, read at its last real token, in float32."""
        return self.of(texts_of(ids, lengths, lengths.new_zeros(len(lengths), 0).bool()))

    def each(
        self, ids: Int[Tensor, "B L"], starts: Int[Tensor, "B"], valid: Bool[Tensor, "B C"]
    ) -> Float[Tensor, "B C"]:
        """The value of the state before each completion token; 0 where not valid."""
        found = self.along(Forest.plant(texts_of(ids, starts, valid)))
        return torch.zeros(valid.shape, dtype=torch.float32, device=ids.device).masked_scatter(valid, found)

    def along(self, forest: Forest) -> Float[Tensor, "m"]:
        """The value of the state before each of a forest's completion tokens, text by text."""
        hidden = self._critic(forest, forest.before())
        if isinstance(self.decoder, WritingTrunk):
            head: Any = self.model
            hidden = torch.tanh(head.classification_head.dense(hidden).float())
        return self.score(hidden)

    def score(self, hidden: Float[Tensor, "n d"]) -> Float[Tensor, "n"]:
        """The score of each state."""
        own = None if self.final.bias is None else self.final.bias.float()
        return torch.nn.functional.linear(hidden.float(), self.weight[None], own)[..., 0] + self.bias

    @property
    def weight(self) -> Float[Tensor, "d"]:
        """What a state is multiplied by, in float32: bfloat16 has eight bits, and the difference of scores matters."""
        return self.final.weight[0].float()

    @torch.no_grad()
    def initialise(self, seed: int) -> None:
        """A new head: weights from N(0, 1/sqrt(d+1)), bias 0 (Ziegler et al. 2019)."""
        weight = self.final.weight
        noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed))
        weight.copy_(noise / (weight.shape[1] + 1) ** 0.5)
        if self.final.bias is not None:
            self.final.bias.zero_()
        setattr(self.model.config, BIAS_KEY, 0.0)

    @torch.no_grad()
    def normalise(self, scores: Float[Tensor, "n"]) -> tuple[float, float]:
        """Fold gain and bias into the head so that `scores`, which it gave, would have had mean 0 and std 1.

        Returns (gain, bias). Scores that are all equal are only shifted.
        """
        mean, std = float(scores.cpu().double().mean()), float(scores.cpu().double().std(correction=0))
        gain = 1.0 / std if std > 1e-6 else 1.0
        bias = gain * (self.bias - mean)
        self.final.weight.mul_(gain)
        if self.final.bias is not None:
            self.final.bias.mul_(gain)
        setattr(self.model.config, BIAS_KEY, bias)
        return gain, bias


def _last_layer(model: nn.Module) -> nn.Linear:
    """The layer that gives an encoder's one number; an adapter's own copy where there is one."""
    found = {
        name: part for name, part in model.named_modules() if isinstance(part, nn.Linear) and part.out_features == 1
    }
    copies = [part for name, part in found.items() if "modules_to_save" in name]
    candidates = copies or list(found.values())
    if not candidates:
        raise InputError(f"{type(model).__name__} has no layer that gives one score; use a sequence classifier")
    return candidates[-1]


def _encoded(model: PreTrainedModel, final: nn.Linear, texts: Sequence[Encoded]) -> Float[Tensor, "n d"]:
    """What the last layer of an encoder's head is given for each text, in one padded batch."""
    lengths = torch.tensor([text.length for text in texts])
    ids = torch.full((len(texts), int(lengths.max())), int(model.config.pad_token_id or 0))
    for row, text in zip(ids, texts, strict=True):
        row[: text.length] = torch.tensor(text.ids)
    mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
    given: list[Tensor] = []
    hook = final.register_forward_pre_hook(lambda layer, inputs: given.append(inputs[0]))
    try:
        model(input_ids=ids.to(model.device), attention_mask=mask.to(model.device))
    finally:
        hook.remove()
    return given[-1]


def trainable(models: Iterable[nn.Module]) -> list[nn.Parameter]:
    """The parameters that are trained, in a fixed order."""
    return [p for model in models for p in model.parameters() if p.requires_grad]
