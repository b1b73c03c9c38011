"""Charts as plain SVG, without script or inline style. Each stands beside a table with its numbers."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

WIDTH, HEIGHT, FOOT = 1000, 150, 22


def columns(key: str, title: str, days: Sequence[tuple[str, int]]) -> Markup:
    """One column per (date, number). `key` makes ids unique on a page."""
    most = max([n for _, n in days] + [1])
    step = WIDTH / max(1, len(days))
    body = [Markup('<line class="base" x1="0" x2="{}" y1="{}" y2="{}"/>').format(WIDTH, HEIGHT, HEIGHT)]
    for index, (date, n) in enumerate(days):
        height = max(2.0, (HEIGHT - 20) * n / most) if n else 0.0
        x = index * step
        body.append(
            Markup(
                '<rect class="column" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" rx="3">'
                "<title>{}: {}</title></rect>"
            ).format(x + step * 0.14, HEIGHT - height, step * 0.72, height, date, n)
        )
        if index in (0, len(days) - 1):
            anchor = "start" if index == 0 else "end"
            at = x if index == 0 else x + step
            body.append(
                Markup('<text x="{:.1f}" y="{}" text-anchor="{}">{}</text>').format(at, HEIGHT + 17, anchor, date)
            )
    body.append(Markup('<text x="0" y="12">most on one day: {:,}</text>').format(most))
    return Markup(
        '<svg class="chart" viewBox="0 0 {w} {h}" role="img" aria-labelledby="{key}-t">'
        '<title id="{key}-t">{title}</title>{body}</svg>'
    ).format(w=WIDTH, h=HEIGHT + FOOT, key=key, title=title, body=Markup("").join(body))


def bar(done: int, held: int, whole: int) -> Markup:
    """Done and in work of a whole, side by side; the numbers stand beside it, so it is decoration."""
    whole = max(1, whole)
    return Markup(
        '<svg class="bar" width="100%" height="8" aria-hidden="true" focusable="false">'
        '<rect class="rest" width="100%" height="8" rx="4"/>'
        '<rect class="held" width="{:.2f}%" height="8" rx="4"/>'
        '<rect class="done" width="{:.2f}%" height="8" rx="4"/></svg>'
    ).format(min(100.0, 100 * (done + held) / whole), min(100.0, 100 * done / whole))


def interval(value: float, low: float | None, high: float | None, floor: float = 0.0) -> Markup:
    """A share with its interval on a rail from `floor` to 1."""

    def place(x: float) -> float:
        return 100 * min(1.0, max(0.0, (x - floor) / (1 - floor)))

    parts = [Markup('<line class="rail" x1="0" x2="100%" y1="9" y2="9"/>')]
    if low is not None and high is not None:
        parts.append(
            Markup('<rect class="span" x="{:.2f}%" width="{:.2f}%" y="5" height="8" rx="2"/>').format(
                place(low), place(high) - place(low)
            )
        )
    parts.append(Markup('<circle class="dot" cx="{:.2f}%" cy="9" r="4.5"/>').format(place(value)))
    return Markup('<svg class="track" width="100%" height="18" aria-hidden="true" focusable="false">{}</svg>').format(
        Markup("").join(parts)
    )
