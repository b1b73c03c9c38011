"""What the web app can be told."""

from __future__ import annotations

from dataclasses import dataclass

MEBIBYTE = 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class WebSettings:
    """How the app serves; the defaults are right for one person on their own machine."""

    secure: bool = False
    """The app is reached through https: cookies are sent over nothing else."""
    hosts: tuple[str, ...] = ("127.0.0.1", "localhost", "[::1]", "::1", "testserver")
    """Names under which it may be called; others are refused, so that no foreign page can rebind its name to us."""
    lease_seconds: float = 1800.0
    """How long an annotator may hold a question."""
    session_hours: float = 12.0
    """How long one stays signed in."""
    body_bytes: int = 1 * MEBIBYTE
    """Largest request body."""
    import_bytes: int = 64 * MEBIBYTE
    """Largest body where questions and files are brought in."""
