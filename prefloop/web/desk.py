"""The one way in which the app leases questions and takes answers, for its pages and for machines alike.

All writing waits in one line for one thread (store/writer.py): what many people said at the same moment goes to the
disk together, and each of them hears of it only when it is there.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence

from starlette.concurrency import run_in_threadpool

from prefloop.store.database import Store
from prefloop.store.queue import Lease, LeaseRequest
from prefloop.store.submissions import LeaseError, Receipt, Submission
from prefloop.store.writer import Writer
from prefloop.web.reading import lease_holder

REMEMBERED = 100_000
"""Leases whose holders are kept in memory; of others the database is asked."""


class LateAnswer(LeaseError):
    """The lease had ended: the answer is kept, outside overlap and consensus."""


class Desk:
    """Hands out questions and takes answers."""

    def __init__(self, store: Store, writer: Writer, lease_seconds: float) -> None:
        self.store = store
        self.writer = writer
        self.lease_seconds = lease_seconds
        self._holders: OrderedDict[str, str] = OrderedDict()

    async def lease(self, annotator: str, kinds: Sequence[str] | None = None) -> Lease | None:
        """A question for this annotator, or None where there is nothing to do."""
        found = await asyncio.wrap_future(
            self.writer.lease(LeaseRequest(annotator=annotator, kinds=kinds, seconds=self.lease_seconds))
        )
        if not found:
            return None
        self._remember(found[0].token, annotator)
        return found[0]

    async def submit(self, annotator: str, submission: Submission) -> Receipt:
        """Take what this annotator says under a lease of theirs; when this returns it is on the disk.

        Raises InputError for a value that does not fit, LeaseError for a lease that is unknown, somebody else's or
        used, LateAnswer (with the answer's id) for one that had ended.
        """
        token = submission.lease_token
        holder = self._holders.get(token)
        if holder is None:
            holder = await run_in_threadpool(lease_holder, self.store, token)
        if holder != annotator:
            raise LeaseError(f"you hold no lease {token[:12]}...; ask for a question first")
        receipt = await asyncio.wrap_future(self.writer.answer(submission))
        if receipt.late:
            raise LateAnswer(
                "the lease had ended; the answer is kept and marked late, and somebody else is asked", receipt.answer_id
            )
        return receipt

    def _remember(self, token: str, annotator: str) -> None:
        self._holders[token] = annotator
        while len(self._holders) > REMEMBERED:
            self._holders.popitem(last=False)
