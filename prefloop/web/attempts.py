"""How often somebody may guess: wrong tries per name, forgotten after a while. In memory, for one process serves."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque

MOST_NAMES = 10_000


class Attempts:
    """Counts wrong tries. `most` of them within `seconds` close the door for that name until they are old."""

    def __init__(self, most: int, seconds: float) -> None:
        self.most = most
        self.seconds = seconds
        self._failed: OrderedDict[str, deque[float]] = OrderedDict()
        self._lock = threading.Lock()

    def allowed(self, name: str) -> bool:
        """Whether one more try is allowed."""
        with self._lock:
            return len(self._recent(name)) < self.most

    def failed(self, name: str) -> None:
        """Count a wrong try."""
        with self._lock:
            tries = self._recent(name)
            tries.append(time.monotonic())
            self._failed[name] = tries
            self._failed.move_to_end(name)
            while len(self._failed) > MOST_NAMES:
                self._failed.popitem(last=False)

    def forget(self, name: str) -> None:
        """The right password was given."""
        with self._lock:
            self._failed.pop(name, None)

    def _recent(self, name: str) -> deque[float]:
        tries = self._failed.get(name) or deque()
        while tries and tries[0] < time.monotonic() - self.seconds:
            tries.popleft()
        return tries
