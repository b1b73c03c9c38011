"""Texts of people and models as safe HTML, and the templates that all pages are made of.

What a model wrote is hostile until shown otherwise. Markdown is parsed with HTML off, then everything but plain
formatting is removed again by nh3; links and pictures become text that shows where they point, so that nothing is
loaded and nothing can be clicked by mistake. The content security policy of limits.py stands behind both.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import nh3
from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markdown_it.utils import OptionsDict
from markupsafe import Markup, escape

from prefloop.web.state import state_of

FOLDER = Path(__file__).parent
TAGS = {
    "p", "br", "hr", "em", "strong", "s", "code", "pre", "blockquote", "ul", "ol", "li", "span",
    "h1", "h2", "h3", "h4", "h5", "h6", "table", "thead", "tbody", "tr", "th", "td",
}  # fmt: skip
ATTRIBUTES: dict[str, set[str]] = {"span": {"class"}, "code": {"class"}, "ol": {"start"}}
LONGEST_MARKDOWN = 200_000
"""Longer texts are shown as they are: nobody reads their formatting, and a parser would take seconds."""
MOST_NESTING = 20


def _link_open(self: RendererHTML, tokens: Sequence[Token], index: int, options: OptionsDict, env: Any) -> str:
    return '<span class="link">'


def _link_close(self: RendererHTML, tokens: Sequence[Token], index: int, options: OptionsDict, env: Any) -> str:
    opening = next(t for t in reversed(tokens[:index]) if t.type == "link_open")
    return f'<span class="address"> ({escape(str(opening.attrGet("href") or ""))})</span></span>'


def _image(self: RendererHTML, tokens: Sequence[Token], index: int, options: OptionsDict, env: Any) -> str:
    token = tokens[index]
    address = escape(str(token.attrGet("src") or ""))
    return f'<span class="link">{escape(token.content)}<span class="address"> (picture: {address})</span></span>'


@cache
def _markdown() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False, "linkify": False, "maxNesting": MOST_NESTING})
    parser.enable(["table", "strikethrough"])
    parser.add_render_rule("link_open", _link_open)
    parser.add_render_rule("link_close", _link_close)
    parser.add_render_rule("image", _image)
    return parser


@lru_cache(maxsize=4096)
def markdown(text: str) -> Markup:
    """Markdown as HTML without scripts, links, pictures, styles or ids."""
    if len(text) > LONGEST_MARKDOWN:
        return Markup('<pre class="plain">{}</pre>').format(text)
    html = _markdown().render(text)
    cleaned = nh3.clean(html, tags=TAGS, attributes=ATTRIBUTES, link_rel=None, clean_content_tags={"script", "style"})
    return Markup(cleaned)  # noqa: S704  (nh3 has just cleaned it)


@cache
def asset(name: str) -> str:
    """The address of one of our own files, with its content's hash, so that browsers may keep it for ever."""
    digest = hashlib.sha256((FOLDER / "static" / name).read_bytes()).hexdigest()[:10]
    return f"/static/{name}?v={digest}"


def clock(at: datetime) -> str:
    """A time for people: UTC, to the minute."""
    return f"{at:%Y-%m-%d %H:%M} UTC"


def ago(at: datetime) -> str:
    """How long ago, roughly."""
    seconds = (datetime.now(UTC) - at).total_seconds()
    for name, length in (("day", 86_400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            n = int(seconds // length)
            return f"{n} {name}{'s' if n > 1 else ''} ago"
    return "just now"


def duration(seconds: float | None) -> str:
    """`42 s`, `3 min 10 s`, `2 h 5 min`; a dash where nobody measured."""
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"


def percent(share: float | None) -> str:
    """A share as per cent; a dash for None."""
    return "–" if share is None else f"{100 * share:.0f} %"


def two(number: float | None) -> str:
    """A figure with two decimals; a dash for None."""
    return "–" if number is None else f"{number:.2f}"


def shorter(text: str, most: int = 140) -> str:
    """The beginning of a text, on one line."""
    line = re.sub(r"\s+", " ", text[: most * 4]).strip()
    return line if len(line) <= most else line[: most - 1].rstrip() + "…"


def words(text: str) -> int:
    """How many words a text has."""
    return len(text.split())


def opening(messages: Sequence[Mapping[str, Any]]) -> str:
    """What a conversation is about: its last turn."""
    return str(messages[-1]["content"]) if messages else "(no prompt)"


@cache
def environment() -> Environment:
    """The templates: everything is escaped, and a name that nobody gave is an error."""
    found = Environment(
        loader=FileSystemLoader(FOLDER / "templates"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.globals.update(asset=asset)
    found.tests["meeting"] = lambda some, others: not frozenset(some).isdisjoint(others)
    found.filters.update(
        markdown=markdown,
        ago=ago,
        clock=clock,
        duration=duration,
        percent=percent,
        two=two,
        shorter=shorter,
        words=words,
        opening=opening,
    )
    return found


def fragment(name: str, /, **context: Any) -> str:
    """A piece of a page."""
    return environment().get_template(name).render(**context)


def page(request: Request, name: str, /, *, status: int = 200, **context: Any) -> HTMLResponse:
    """A whole page, for whoever is signed in."""
    common = {
        "who": getattr(request.state, "principal", None),
        "csrf": getattr(request.state, "csrf", ""),
        "here": request.url.path,
        "secure": state_of(request).settings.secure,
        "notice": NOTICES.get(request.query_params.get("done", ""), ""),
    }
    return HTMLResponse(fragment(name, **common, **context), status_code=status)


NOTICES = {
    "saved": "Saved.",
    "imported": "The file is in.",
    "guideline": "The new version holds from now on.",
    "roles": "The roles were changed.",
    "revoked": "The token no longer works.",
    "adjudicated": "Your verdict is saved.",
    "ruling": "Your ruling is saved. It holds from the next snapshot on.",
    "password": "The new password holds. Sign in with it.",
    "consent": "Your choices are saved.",
    "quiz": "All right. Let us begin.",
}
"""What a page says after something was done; the address only names it, so that nobody can put words there."""
