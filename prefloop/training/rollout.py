"""Experience: B sequences of T decisions. A decision is one sampled token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from prefloop.datasets.collate import completion_mask, pad
from prefloop.errors import RunError
from prefloop.generation.sampler import Sample


@dataclass(frozen=True)
class Rollout:
    """What the policy did, and what it got for it. An algorithm adds its own tensors in `added`."""

    ids: Int[Tensor, "B L"]
    """Prompt and completion, padded on the right."""
    starts: Int[Tensor, "B"]
    """Where each completion begins in `ids`."""
    valid: Bool[Tensor, "B T"]
    """True where a decision was made."""
    sampled_logprobs: Float[Tensor, "B T"]
    """log pi of each decision, as the sampler saw it; 0 where not valid."""
    terminated: Bool[Tensor, "B"]
    """Ended by EOS; the others were truncated by the length limit."""
    scores: Float[Tensor, "B"]
    """The reward of each whole sequence."""
    weight_version: int
    """Rollouts that the policy had been trained on when it sampled."""
    beta: float = 0.0
    """Price of a nat of KL from the reference, for this rollout."""
    texts: Sequence[str] = ()
    """The completions as text, where they are known."""
    together: int = 1
    """So many neighbouring sequences always go through the loss together."""
    grouped: int = 1
    """So many neighbouring sequences answer one prompt, and stay in one minibatch."""
    added: dict[str, Tensor] = field(default_factory=dict)
    parts: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """What each part of the reward said of each sequence of the whole rollout, before it was weighted."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def words(self) -> str:
        """What an error message calls this batch."""
        return f"the minibatch with {(self.texts[0] if self.texts else '')[:48]!r} and {len(self) - 1} more"

    @property
    def lengths(self) -> Int[Tensor, "B"]:
        """Tokens of each row of `ids`, padding left out."""
        return self.starts + self.valid.sum(1)

    def adding(self, **tensors: Tensor) -> Rollout:
        """The same rollout with more columns: [B, T], 0 where not valid, or [B]."""
        return replace(self, added={**self.added, **tensors})

    def decisions(self, *names: str) -> list[Float[Tensor, "n"]]:
        """Added columns at the valid decisions, in one row after the other."""
        return [self.added[name][self.valid] for name in names]

    def completions(self) -> list[list[int]]:
        """The token ids of each completion, EOS included where there is one."""
        ends = self.lengths.tolist()
        return [row[a:b] for row, a, b in zip(self.ids.tolist(), self.starts.tolist(), ends, strict=True)]

    def rows(self, index: Sequence[int]) -> Rollout:
        """Some of the sequences, without the columns that only the others need."""
        at = torch.as_tensor(list(index), device=self.ids.device)
        width, decisions = int(self.lengths[at].max()), int(self.valid[at].sum(1).max())
        return replace(
            self,
            ids=self.ids[at, :width],
            starts=self.starts[at],
            valid=self.valid[at, :decisions],
            sampled_logprobs=self.sampled_logprobs[at, :decisions],
            terminated=self.terminated[at],
            scores=self.scores[at],
            texts=[self.texts[i] for i in index] if self.texts else (),
            added={k: v[at, :decisions] if v.ndim > 1 else v[at] for k, v in self.added.items()},
        )


def groups(rollout: Rollout) -> Float[Tensor, "n k"]:
    """The scores of each prompt's completions."""
    return rollout.scores.view(-1, rollout.grouped)


def make_rollout(
    prompts: Sequence[Sequence[int]],
    samples: Sequence[Sample],
    scores: Sequence[float],
    pad_id: int,
    weight_version: int,
    device: torch.device,
) -> Rollout:
    """Sampled ids, not their text tokenised again: the decisions are exactly those that were made.

    Raises RunError where a sample says that it was made with other weights than those of `weight_version`.
    """
    if others := {sample.weight_version for sample in samples} - {weight_version, None}:
        raise RunError(
            f"rollout {weight_version + 1} is for weights that had {weight_version} rollouts, but some of its samples "
            f"were made with those of {', '.join(map(str, others))}: a sampler needs `update` before it is asked"
        )
    lengths = [len(s.ids) for s in samples]
    valid = completion_mask([0] * len(samples), lengths, max(lengths))
    logprobs = torch.zeros(valid.shape)
    logprobs[valid] = torch.tensor([value for s in samples for value in s.logprobs])
    return Rollout(
        ids=pad([[*p, *s.ids] for p, s in zip(prompts, samples, strict=True)], pad_id).to(device),
        starts=torch.tensor([len(p) for p in prompts], device=device),
        valid=valid.to(device),
        sampled_logprobs=logprobs.to(device),
        terminated=torch.tensor([s.terminated for s in samples], device=device),
        scores=torch.tensor(list(scores), dtype=torch.float32, device=device),
        weight_version=weight_version,
    )
