"""How a run reads its rows: one template, one length, one ledger, one share to hold out."""

from __future__ import annotations

from collections.abc import Callable, Sized
from pathlib import Path
from typing import Any, TypeVar

from prefloop.errors import InputError
from prefloop.models.template import Template
from prefloop.training.method import Inputs
from prefloop.training.roles import longest_row
from prefloop.training.run import Run

Rows = TypeVar("Rows", bound=tuple[Sized, Sized])


class Reading:
    """`longest` is the number of tokens that a row may have."""

    def __init__(self, run: Run, inputs: Inputs, template: Template) -> None:
        self.inputs, self.template = inputs, template
        self.longest = longest_row(inputs.policy, run.settings, run.log)
        self.shares = {"test_share": run.settings.test_share, "max_dropped": run.settings.max_dropped}

    def rows(self, read: Callable[..., Rows], **more: Any) -> Rows:
        """(train rows, held-out rows) of the run's data, as `read` makes them (`comparison_rows`, say).

        Raises InputError where there is none to train on.
        """
        found = self._read(read, self._data(), **more)
        self.require(found[0])
        return found

    def feedback(self, read: Callable[..., Rows], **more: Any) -> Rows:
        """The same of all the data, which may be a mixture."""
        return self._read(read, [self._data(), *self.inputs.more], **more)

    def require(self, rows: Sized) -> None:
        """Raise InputError unless there are rows; it says where those of the data went."""
        ledger = self.inputs.ledger
        if len(rows) == 0:
            sources = ", ".join(map(str, [self._data(), *self.inputs.more]))
            ledger.check(self.shares["max_dropped"], sources)
            raise InputError(
                f"{sources}: no row to train on: {ledger.rows} rows, {ledger.words()}, {ledger.used} held out; "
                "give more rows, or hold out a smaller share (test_share)"
            )

    def _data(self) -> Path:
        assert self.inputs.data is not None
        return self.inputs.data

    def _read(self, read: Callable[..., Rows], source: Path | list[Path], **more: Any) -> Rows:
        return read(source, self.template, self.longest, self.inputs.ledger, **self.shares, **more)
