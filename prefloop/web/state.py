"""What the app's routes share: the store, the desk, the settings, and what is known of tokens for a moment."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starlette.requests import HTTPConnection

from prefloop.store.accounts import Principal
from prefloop.store.database import Store
from prefloop.web.desk import Desk
from prefloop.web.quality import Quality
from prefloop.web.settings import WebSettings


@dataclass
class State:
    """One per app."""

    store: Store
    desk: Desk
    settings: WebSettings
    quality: Quality
    artifacts: Path | None = None
    """Where snapshots are written; None where the app has no workspace, and then it makes none."""
    token_owners: dict[bytes, tuple[float, Principal]] = field(default_factory=dict)
    """SHA-256 of a token -> until when it is believed (monotonic seconds), and whose it is."""
    figures: dict[str, tuple[float, Any]] = field(default_factory=dict)
    """Results that take long, and until when they are shown again."""

    def close(self) -> None:
        """Write what waits to be written, and end what works beside."""
        self.quality.close()
        self.desk.writer.close()

    @property
    def cookie(self) -> str:
        """`__Host-` binds the cookie to https and to this host; a browser refuses it over plain http."""
        return "__Host-prefloop" if self.settings.secure else "prefloop"

    def recent(self, name: str, seconds: float, make: Callable[[], Any]) -> Any:
        """What `make` gave in the last `seconds`, or gives now."""
        known = self.figures.get(name)
        if known is not None and known[0] > time.monotonic():
            return known[1]
        value = make()
        self.figures[name] = (time.monotonic() + seconds, value)
        return value


def state_of(connection: HTTPConnection) -> State:
    """The state of the app that this request came to."""
    state: State = connection.app.state.prefloop
    return state
