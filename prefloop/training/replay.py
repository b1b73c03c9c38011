"""A replay buffer: the last completions that a policy wrote, and what each of their tokens earned (Lin 1992).

It stands between sampling and the loss of a method that may learn from what older policies did. Tensors of a fixed size
hold it, written round and round, so that a checkpoint keeps it as it keeps a target network.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from prefloop.training.rollout import Rollout
from prefloop.training.run import generator


class Replay:
    """Room for `capacity` completions of at most `decisions` tokens, `length` with their prompts; on the CPU."""

    def __init__(self, capacity: int, length: int, decisions: int, seed: int) -> None:
        self.capacity, self.seed = capacity, seed
        self.tensors: dict[str, Tensor] = {
            "ids": torch.zeros(capacity, length, dtype=torch.long),
            "starts": torch.zeros(capacity, dtype=torch.long),
            "decisions": torch.zeros(capacity, dtype=torch.long),
            "rewards": torch.zeros(capacity, decisions),
            "added": torch.zeros((), dtype=torch.long),
        }

    def __len__(self) -> int:
        return min(self.capacity, int(self.tensors["added"]))

    def add(self, rollout: Rollout) -> None:
        """Remember every completion of a rollout with its column `rewards`; the oldest are forgotten."""
        kept = rollout.rows(range(max(0, len(rollout) - self.capacity), len(rollout)))
        places = (int(self.tensors["added"]) + torch.arange(len(kept))) % self.capacity
        self.tensors["ids"][places, : kept.ids.shape[1]] = kept.ids.cpu()
        self.tensors["starts"][places] = kept.starts.cpu()
        self.tensors["decisions"][places] = kept.valid.sum(1).cpu()
        self.tensors["rewards"][places, : kept.valid.shape[1]] = kept.added["rewards"].float().cpu()
        self.tensors["added"] += len(kept)

    def draw(self, like: Rollout) -> Rollout:
        """As many completions as `like` has, each any of those remembered, by chance; a function of the seed and the
        rollout's number. They have the column `rewards` and nothing else that was measured."""
        stream = generator(self.seed, "replay", like.weight_version)
        at = torch.randint(len(self), (len(like),), generator=stream)
        ids, starts, decisions, rewards = (self.tensors[name][at] for name in ("ids", "starts", "decisions", "rewards"))
        device = like.ids.device
        valid = torch.arange(rewards.shape[1]) < decisions[:, None]
        drawn = replace(
            like,
            ids=ids.to(device),
            starts=starts.to(device),
            valid=valid.to(device),
            sampled_logprobs=torch.zeros(valid.shape, device=device),
            terminated=torch.zeros(len(at), dtype=torch.bool, device=device),
            scores=torch.zeros(len(at), device=device),
            texts=(),
            grouped=1,
            added={"rewards": (rewards * valid).to(device)},
            parts={},
        )
        return drawn.rows(range(len(at)))
