"""What a method is to the rest of the program: its settings, what it makes of what, and how it is put together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from prefloop.records import Ledger
from prefloop.training.online_settings import OnlineSettings
from prefloop.training.run import Run, RunSettings


@dataclass(frozen=True)
class Inputs:
    """What a method is given to work on: places on disk, already resolved."""

    policy: str
    data: Path | None
    resolve: Callable[[str, str], str]
    """`resolve(ref, kind)`: the directory of an artifact or model; it becomes a parent of the result."""
    base: Path
    """The folder of the run file."""
    text_generators: Mapping[str, Callable[[int], Any]]
    ledger: Ledger
    online: OnlineSettings | None = None
    """What the methods that sample share."""
    artifacts: Path | None = None
    """The workspace's artifacts, where there is a workspace."""
    more: tuple[Path, ...] = ()
    """Data sets beside the first, for a method that mixes them."""


@dataclass(frozen=True)
class Method:
    """One way to train: its settings, what it makes of what, and how it is put together."""

    config: type[Any]
    defaults: dict[str, Any]
    """Run settings that this method would choose otherwise than RunSettings does."""
    makes: Literal["policy", "reward_model"]
    data: Literal["feedback", "comparisons", "approvals", "rankings", "demonstrations", "prompts", "rewards", "text"]
    loop: Literal["offline", "online"]
    build: Callable[[Any, Run, Inputs], Any]
    summary: str
    """What it optimises, in a few words."""
    cost: str = ""
    """What that takes; a pass is forward and backward."""

    @property
    def settings(self) -> list[type[Any]]:
        """Where its settings stand: those of every run, those of its loop, its own."""
        return [RunSettings, *([OnlineSettings] if self.loop == "online" else []), self.config]
