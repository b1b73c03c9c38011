"""Who may come in, what the audit log says, and copies of the store: the functions behind four verbs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefloop.errors import InputError
from prefloop.settings import check_choice
from prefloop.store import audit_log, tokens
from prefloop.store import backup as backups
from prefloop.store.accounts import ROLES, Role
from prefloop.workflows.places import Place, store_of, workspace_at


def create_token(
    name: str, role: str = "annotator", *, days: float | None = None, workspace: Place = None
) -> dict[str, Any]:
    """A token for the HTTP API that lets its bearer act as `name` in one role: `token`, `annotator`, `id`.

    Somebody new is added. The token is shown this once; the store keeps its hash. Without `days` it holds until it is
    revoked. Raises InputError for an unknown role and for somebody who was deactivated.
    """
    known = _role(role)
    with store_of(workspace_at(workspace)) as store:
        made = tokens.create_token(store, name, known, days=days)
    return {"token": made.token, "annotator": made.annotator, "id": made.id, "name": name, "role": role}


def list_tokens(*, workspace: Place = None) -> list[dict[str, Any]]:
    """What is known of every token, newest first; the tokens themselves nobody knows."""
    with store_of(workspace_at(workspace)) as store:
        return [vars(one) for one in tokens.tokens(store)]


def revoke_token(id: str, *, workspace: Place = None) -> dict[str, Any]:
    """End a token at once. Raises InputError for one that is not there."""
    with store_of(workspace_at(workspace)) as store:
        tokens.revoke_token(store, id)
    return {"id": id, "revoked": True}


def verify_audit_log(head: str | Path | None = None, *, workspace: Place = None) -> audit_log.Verified:
    """Examine the audit log, and the answers, guidelines and roles against it.

    `head`: a file that `export_head` wrote before: any change of what had happened by then is found. Without it, a
    log that was rewritten as a whole cannot be told from the true one. Raises InputError for a file that is none.
    """
    known = None if head is None else audit_log.read_head(head)
    with store_of(workspace_at(workspace)) as store:
        return audit_log.verify(store, known)


def export_head(out: str | Path | None = None, *, workspace: Place = None) -> audit_log.Head:
    """The audit log's newest event, written to `out` if given. Keep it where nobody can write who has the database."""
    with store_of(workspace_at(workspace)) as store:
        if out is None:
            return audit_log.head(store)
        if Path(out).exists():
            raise InputError(f"{out} exists already; an older head proves more, so it is not overwritten")
        return audit_log.write_head(store, out)


def backup(path: str | Path, *, workspace: Place = None) -> dict[str, Any]:
    """Copy the store to a new file, also while others write to it: `path`, `bytes`, `sha256`, `answers`, `head`.

    Raises InputError when `path` exists, RunError when the disk is full or pg_dump is missing.
    """
    with store_of(workspace_at(workspace)) as store:
        return backups.backup(store, path)


def restore(path: str | Path, *, workspace: Place = None) -> dict[str, Any]:
    """Put a copy that `backup` made in the place of the store: `restored`, `kept`, `answers`, `erased_again`, `head`.

    What was erased since the copy was made is erased again. Raises InputError when `path` is no such copy, RunError
    when another process writes to the database all the while.
    """
    return backups.restore(workspace_at(workspace).database_url, path)


def _role(role: str) -> Role:
    check_choice("--role", role, ROLES)
    return next(one for one in ROLES if one == role)
