"""A long job as named stages: what is done is written down, and an interrupted job goes on where it stopped."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from prefloop.artifacts.files import write_json
from prefloop.errors import InputError


class Stages:
    """`do(name, work)` runs `work` once; its JSON result is kept in `file` and given back the next time.

    `settings` belong to the job: a file that was written with others is an error, because its results would not fit.
    """

    def __init__(self, file: Path, settings: Mapping[str, Any], log: Callable[[str], None]) -> None:
        self.file, self.log = file, log
        self.done: dict[str, Any] = {}
        self.seconds: dict[str, float] = {}
        plain = json.loads(json.dumps(settings, default=str))
        if file.exists():
            stored = json.loads(file.read_text(encoding="utf-8"))
            if stored["settings"] != plain:
                raise InputError(
                    f"{file.parent} holds a job with other settings; give another folder, or the same settings"
                )
            self.done, self.seconds = stored["done"], stored["seconds"]
        self._settings = plain

    def do(self, name: str, work: Callable[[], Any]) -> Any:
        """The result of `work`, now or from before. A stage that fails or is interrupted is not written down."""
        if name in self.done:
            self.log(f"{name}: done before")
            return self.done[name]
        self.log(f"== {name}")
        started = time.monotonic()
        self.done[name] = json.loads(json.dumps(work()))
        self.seconds[name] = round(time.monotonic() - started, 1)
        write_json(self.file, {"settings": self._settings, "done": self.done, "seconds": self.seconds})
        return self.done[name]
