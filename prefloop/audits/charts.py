"""Charts as inline SVG: text stays text, colours are the page's CSS variables, each has a title and a description.

Line charts are drawn 420 units wide, so that their letters stay readable on a phone; bars with intervals use
percentages and never shrink. Nothing here computes a result: it draws what is given.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from prefloop.audits.wording import Figure, figure, number
from prefloop.evaluation.interval import wilson

Point = tuple[float, float]
Box = tuple[float, float, float, float]
"""Left, top, right and bottom."""

WIDTH, HEIGHT = 420, 244
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 12, 42
LETTER, LINE = 6.0, 12.0
"""About how wide a letter and how high a line of text is."""
MOST_POINTS = 240
"""A longer line is drawn as the means of neighbouring steps."""


@dataclass(frozen=True)
class Line:
    """One line: its name, its look (a CSS class: policy, sft or base) and its points, broken where a part ends."""

    name: str
    look: str
    parts: Sequence[Sequence[Point]]


def line_chart(
    key: str,
    title: str,
    description: str,
    lines: Sequence[Line],
    *,
    from_zero: bool = False,
    breaks: Mapping[float, str] | None = None,
    x_name: str = "step",
    named: bool = False,
) -> Markup:
    """Lines over training steps. `key` makes ids unique; `breaks` {x: words} draws a dashed upright line.

    `named` writes each line's name behind its end. Where a part has more than 40 points the raw values are drawn
    faintly under their moving mean.
    """
    points = [p for line in lines for part in line.parts for p in part]
    x_low, x_high = min(x for x, _ in points), max(x for x, _ in points)
    y_ticks = ticks(min([0.0] * from_zero + [y for _, y in points]), max(y for _, y in points))
    x_ticks = [t for t in ticks(x_low, x_high) if x_low <= t <= x_high]
    right = WIDTH - RIGHT - (LETTER * max(len(line.name) for line in lines) if named else 0)

    def place(point: Point) -> Point:
        x = LEFT + (point[0] - x_low) / ((x_high - x_low) or 1) * (right - LEFT)
        y = HEIGHT - BOTTOM - (point[1] - y_ticks[0]) / (y_ticks[-1] - y_ticks[0]) * (HEIGHT - TOP - BOTTOM)
        return x, y

    body = [_y_axis(y_ticks, place, x_low)]
    for t in x_ticks:
        body.append(_text(place((t, 0))[0], HEIGHT - BOTTOM + 17, number(t), "middle"))
    body.append(_text(WIDTH - RIGHT, HEIGHT - 3, x_name, "end", "axis name"))
    for x, words in (breaks or {}).items():
        at = place((x, 0))[0]
        body.append(_rule(at, TOP, at, HEIGHT - BOTTOM, "break"))
        body.append(_text(at + 5, TOP + 9, words, "start"))
    ends: list[tuple[float, str, str]] = []
    for line in lines:
        for part in map(thinned, line.parts):
            smooth = moving_mean(part)
            if smooth is not part:
                body.append(_polyline([place(p) for p in part], f"line raw {line.look}"))
            body.append(_polyline([place(p) for p in smooth], f"line {line.look}"))
        if line.parts and line.parts[-1]:
            x, y = place(moving_mean(thinned(line.parts[-1]))[-1])
            body.append(Markup('<circle class="end {}" cx="{:.1f}" cy="{:.1f}" r="3.5"/>').format(line.look, x, y))
            ends.append((y, line.name, line.look))
    if named:
        for y, (_, name, look) in zip(apart([y for y, _, _ in ends], LINE, HEIGHT - BOTTOM), ends, strict=True):
            body.append(_text(right + 7, y + 4, name, "start", f"axis {look}"))
    return _svg(key, title, description, WIDTH, HEIGHT, body)


@dataclass(frozen=True)
class Spot:
    """One dot with its name and the intervals of both its places."""

    name: str
    x: Figure
    y: Figure


def frontier_chart(
    key: str, title: str, description: str, spots: Sequence[Spot], *, joined: bool, x_name: str, y_name: str
) -> Markup:
    """Dots with intervals in both directions; `joined` draws a line through them from left to right.

    x, which is 0 or more, is drawn by its square root, as Gao et al. 2023 (arXiv 2210.10760) draw KL: what is gained
    rises with that at first, and most policies stay close to 0.
    """
    height, top = 324, 28
    xs = [v for s in spots for v in (s.x.value, s.x.low, s.x.high) if v is not None]
    ys = [v for s in spots for v in (s.y.value, s.y.low, s.y.high) if v is not None]
    roots, y_ticks = ticks(0.0, max(0.0, *xs) ** 0.5), ticks(min(ys), max(ys))

    def place(point: Point) -> Point:
        x = LEFT + max(0.0, point[0]) ** 0.5 / roots[-1] * (WIDTH - LEFT - RIGHT)
        y = height - BOTTOM - (point[1] - y_ticks[0]) / (y_ticks[-1] - y_ticks[0]) * (height - top - BOTTOM)
        return x, y

    body = [_y_axis(y_ticks, place, 0.0)]
    for t in (root**2 for root in roots):
        body.append(_text(place((t, y_ticks[0]))[0], height - BOTTOM + 17, number(t), "middle"))
    body.append(_text(WIDTH - RIGHT, height - 2, x_name, "end", "axis name"))
    body.append(_text(0, 11, y_name, "start", "axis name"))
    if joined:
        body.append(_polyline([place((s.x.value, s.y.value)) for s in sorted(spots, key=lambda s: s.x.value)], "line"))
    for s in spots:
        x, y = place((s.x.value, s.y.value))
        if s.x.low is not None and s.x.high is not None:
            body.append(_rule(place((s.x.low, 0))[0], y, place((s.x.high, 0))[0], y, "whisker"))
        if s.y.low is not None and s.y.high is not None:
            body.append(_rule(x, place((0, s.y.low))[1], x, place((0, s.y.high))[1], "whisker"))
        words = f"{s.name}: KL {number(s.x.value)}, reward {number(s.y.value)}"
        body.append(
            Markup('<circle class="dot policy" cx="{:.1f}" cy="{:.1f}" r="5"><title>{}</title></circle>').format(
                x, y, words
            )
        )
    frame = (LEFT, top - LINE, WIDTH - RIGHT, height - BOTTOM)
    body += beside([(s.name, place((s.x.value, s.y.value))) for s in spots], frame)
    return _svg(key, title, description, WIDTH, height, body)


def beside(dots: Sequence[tuple[str, Point]], frame: Box) -> list[Markup]:
    """The name of each dot beside it where nothing else stands; a line leads to one that had to move away."""
    taken: list[Box] = [(x - 5, y - 5, x + 5, y + 5) for _, (x, y) in dots]
    drawn: list[Markup] = []
    for name, (x, y) in dots:
        width = LETTER * len(name)
        tried = [
            ((x + 9 if right else x - 9 - width), y + (shift if below else -shift))
            for shift in (7 + LINE * i for i in range(12))
            for below in (False, True)
            for right in ((False, True) if x > WIDTH * 0.7 else (True, False))
        ]
        boxes = [(left, middle - LINE / 2, left + width, middle + LINE / 2) for left, middle in tried]
        free = [box for box in boxes if _inside(box, frame) and not any(_meet(box, other) for other in taken)]
        box = (free or boxes)[0]
        taken.append(box)
        middle, right = (box[1] + box[3]) / 2, box[0] > x
        if abs(middle - y) > LINE:
            drawn.append(_rule(x, y, box[0] - 2 if right else box[2] + 2, middle, "whisker"))
        drawn.append(_text(box[0] if right else box[2], middle + 4, name, "start" if right else "end"))
    return drawn


def _inside(box: Box, frame: Box) -> bool:
    return box[0] >= frame[0] and box[1] >= frame[1] and box[2] <= frame[2] and box[3] <= frame[3]


def _meet(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def apart(heights: Sequence[float], gap: float, lowest: float) -> list[float]:
    """The heights pushed down until all are `gap` apart, and up again where that went below `lowest`."""
    order = sorted(range(len(heights)), key=heights.__getitem__)
    moved = list(heights)
    for before, after in itertools.pairwise(order):
        moved[after] = max(moved[after], moved[before] + gap)
    for i in reversed(order):
        moved[i] = min(moved[i], lowest)
        lowest = moved[i] - gap
    return moved


def reliability_chart(key: str, title: str, description: str, bins: Sequence[Mapping[str, float]]) -> Markup:
    """How sure the model was (x, 50-100%) against how often it was right (y), per bin, with Wilson's 95% interval.

    `bins` have "confidence", "accuracy" and "n"; the area of a dot grows with n. The dashed line is perfect
    calibration.
    """
    height, top = 324, 28
    spans = [wilson(b["accuracy"], max(1, int(b["n"]))) for b in bins]
    floor = min(0.4, math.floor(5 * min(low for low, _ in spans)) / 5)
    most = max(b["n"] for b in bins)

    def place(point: Point) -> Point:
        x = LEFT + (point[0] - 0.5) / 0.5 * (WIDTH - LEFT - RIGHT)
        return x, height - BOTTOM - (point[1] - floor) / (1 - floor) * (height - top - BOTTOM)

    y_ticks = [t / 10 for t in range(round(floor * 10), 11, 2)]
    body = [_y_axis(y_ticks, place, 0.5, as_percent=True)]
    for t in (0.5, 0.6, 0.7, 0.8, 0.9, 1.0):
        body.append(_text(place((t, 0))[0], height - BOTTOM + 17, f"{100 * t:.0f}%", "end" if t == 1 else "middle"))
    body.append(_text(WIDTH - RIGHT, height - 2, "how sure the model was", "end", "axis name"))
    body.append(_text(0, 11, "how often it was right", "start", "axis name"))
    (x1, y1), (x2, y2) = place((0.5, 0.5)), place((1.0, 1.0))
    body.append(_rule(x1, y1, x2, y2, "ideal"))
    for b, (low, high) in zip(bins, spans, strict=True):
        x, y = place((b["confidence"], b["accuracy"]))
        body.append(_rule(x, place((0, low))[1], x, place((0, high))[1], "whisker"))
        radius = 3 + 7 * math.sqrt(b["n"] / most)
        words = f"{b['confidence']:.0%} sure, {b['accuracy']:.0%} right, n = {int(b['n'])}"
        body.append(
            Markup('<circle class="dot policy" cx="{:.1f}" cy="{:.1f}" r="{:.1f}"><title>{}</title></circle>').format(
                x, y, radius, words
            )
        )
    return _svg(key, title, description, WIDTH, height, body)


def track(value: Figure, look: str, *, even: float | None = None) -> Markup:
    """One share on a 0-100% rail with its interval; the numbers stand beside it in the table, so it is decoration."""
    parts = [Markup('<line class="rail" x1="0" x2="100%" y1="11" y2="11"/>')]
    if even is not None:
        at = f"{100 * even:.2f}%"
        parts.append(Markup('<line class="even" x1="{0}" x2="{0}" y1="1" y2="21"/>').format(at))
    if value.low is not None and value.high is not None:
        parts.append(
            Markup('<rect class="span {}" x="{:.2f}%" width="{:.2f}%" y="6" height="10" rx="2.5"/>').format(
                look, 100 * _unit(value.low), 100 * (_unit(value.high) - _unit(value.low))
            )
        )
    parts.append(Markup('<circle class="dot {}" cx="{:.2f}%" cy="11" r="5"/>').format(look, 100 * _unit(value.value)))
    return Markup('<svg class="track" width="100%" height="22" aria-hidden="true" focusable="false">{}</svg>').format(
        Markup("").join(parts)
    )


def share_row(name: str, value: Any, look: str, even: float | None = None) -> dict[str, Any] | None:
    """A share with its bar, which is marked at `even`; None where no share from 0 to 1 is stored."""
    shown = figure(value)
    if shown is None or not 0 <= shown.value <= 1:
        return None
    return {"name": name, "figure": shown, "look": look, "track": track(shown, look, even=even)}


def share_bar(parts: Sequence[tuple[str, float]]) -> Markup:
    """Shares of a whole side by side, one rectangle per (CSS class, amount); its numbers stand in the text below."""
    whole = sum(amount for _, amount in parts) or 1
    body, x = [], 0.0
    for look, amount in parts:
        width = 100 * amount / whole
        body.append(
            Markup('<rect class="share {}" x="{:.3f}%" y="0" width="{:.3f}%" height="14"/>').format(look, x, width)
        )
        x += width
    return Markup('<svg class="bar" width="100%" height="14" aria-hidden="true" focusable="false">{}</svg>').format(
        Markup("").join(body)
    )


LOOP_STEPS = ("People show", "Model tries", "People compare", "Reward learns", "Model practises", "We measure")


def loop_picture() -> Markup:
    """The loop: 1 leads in; 2 to 6 go round."""
    centre, radius = (230.0, 276.0), 150.0
    body = [Markup('<circle class="ring" cx="{}" cy="{}" r="{}"/>').format(*centre, radius)]
    angles = [math.radians(-90 + 72 * i) for i in range(5)]
    for a in angles:  # an arrow head half way to the next
        middle = a + math.radians(36)
        x, y = centre[0] + radius * math.cos(middle), centre[1] + radius * math.sin(middle)
        body.append(
            Markup(
                '<path class="head" d="M-7 -6 L6 0 L-7 6 Z" transform="translate({:.1f} {:.1f}) rotate({:.1f})"/>'
            ).format(x, y, math.degrees(middle) + 90)
        )
    body.append(Markup('<path class="ring" d="M230 58 V92"/><path class="head" d="M224 90 L230 102 L236 90 Z"/>'))
    body.append(_node(230, 36, 1, LOOP_STEPS[0]))
    for i, a in enumerate(angles):
        body.append(_node(centre[0] + radius * math.cos(a), centre[1] + radius * math.sin(a), i + 2, LOOP_STEPS[i + 1]))
    body.append(_text(centre[0], centre[1] - 2, "one round", "middle", "centre"))
    body.append(_text(centre[0], centre[1] + 18, "and then again", "middle"))
    description = (
        "Step 1 leads into a circle of five: the model tries, people compare, a reward is learned, the model "
        "practises, we measure; and the improved model tries again."
    )
    return _svg("loop", "How people's preferences teach a model", description, 460, 430, body, "loop")


def ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Round numbers that enclose [low, high]: steps of 1, 2 or 5 times a power of ten; at least two."""
    if high <= low:
        room = abs(low) * 0.1 or 0.5
        low, high = low - room, high + room
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def moving_mean(points: Sequence[Point]) -> Sequence[Point]:
    """Each y as the mean of its neighbours (a twentieth of the line to either side); short lines stay as they are."""
    if len(points) <= 40:
        return points
    reach = len(points) // 20
    smooth = []
    for i, (x, _) in enumerate(points):
        window = [y for _, y in points[max(0, i - reach) : i + reach + 1]]
        smooth.append((x, sum(window) / len(window)))
    return smooth


def thinned(points: Sequence[Point], most: int = MOST_POINTS) -> Sequence[Point]:
    """At most `most` points: means over neighbouring steps."""
    size = math.ceil(len(points) / most)
    if size <= 1:
        return points
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [(sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in groups]


def _y_axis(
    values: Sequence[float], place: Callable[[Point], Point], x_left: float, as_percent: bool = False
) -> Markup:
    parts = []
    for t in values:
        y = place((x_left, t))[1]
        parts.append(_rule(LEFT, y, WIDTH - RIGHT, y, "grid"))
        parts.append(_text(LEFT - 7, y + 4, f"{100 * t:.0f}%" if as_percent else number(t), "end"))
    return Markup("").join(parts)


def _node(x: float, y: float, n: int, words: str) -> Markup:
    return Markup(
        '<g class="node" transform="translate({:.1f} {:.1f})"><rect x="-78" y="-22" width="156" height="44" rx="22"/>'
        '<circle cx="-56" cy="0" r="13"/><text class="count" x="-56" y="4.5" text-anchor="middle">{}</text>'
        '<text x="-35" y="4.5">{}</text></g>'
    ).format(x, y, n, words)


def _polyline(points: Sequence[Point], look: str) -> Markup:
    return Markup('<polyline class="{}" points="{}"/>').format(look, " ".join(f"{x:.1f},{y:.1f}" for x, y in points))


def _rule(x1: float, y1: float, x2: float, y2: float, look: str) -> Markup:
    return Markup('<line class="{}" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>').format(look, x1, y1, x2, y2)


def _text(x: float, y: float, words: str, anchor: str, look: str = "axis") -> Markup:
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(look, x, y, anchor, words)


def _svg(
    key: str, title: str, description: str, width: int, height: int, body: Sequence[Markup], look: str = "chart"
) -> Markup:
    return Markup(
        '<svg class="{look}" viewBox="0 0 {w} {h}" role="img" aria-labelledby="{key}-title {key}-desc">'
        '<title id="{key}-title">{title}</title><desc id="{key}-desc">{desc}</desc>{body}</svg>'
    ).format(look=look, w=width, h=height, key=key, title=title, desc=description, body=Markup("").join(body))


def standalone(chart: Markup, style: str) -> str:
    """The text of an SVG file: the chart with a style of its own instead of a page's."""
    opening, drawn = str(chart).split(">", 1)
    return f'{opening} xmlns="http://www.w3.org/2000/svg"><style>{style}</style>{drawn}\n'


def _unit(x: float) -> float:
    return min(1.0, max(0.0, x))
