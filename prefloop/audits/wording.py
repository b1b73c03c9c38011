"""Numbers as people read them. What is not a finite number is None, and a reader is told "not measured"."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Data = Mapping[str, Any]

NOT_MEASURED = "not measured"
UNREADABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff\u202a-\u202e\u2066-\u2069]")
"""Control characters, lone surrogates and marks that reverse the writing direction: shown as U+FFFD."""


@dataclass(frozen=True)
class Figure:
    """One measured number with what is known of its interval and n."""

    value: float
    low: float | None = None
    high: float | None = None
    n: int | None = None

    @property
    def percent(self) -> str:
        return percent(self.value)

    @property
    def interval(self) -> str:
        """ "64–77%", or "" where no interval is stored."""
        if self.low is None or self.high is None:
            return ""
        return f"{_places(self.low)}–{_places(self.high)}%"

    @property
    def note(self) -> str:
        """ "95% interval 64–77%, n = 200", with "no interval stored" where there is none."""
        known = f"95% interval {self.interval}" if self.interval else "no interval stored"
        return known if self.n is None else f"{known}, n = {count(self.n)}"


def clean(value: Any) -> Any:
    """Plain JSON values whose texts can be written as UTF-8 and read on one page; NaN and infinity become None."""
    if isinstance(value, Mapping):
        return {str(clean(str(key))): clean(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [clean(inner) for inner in value]
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if hasattr(value, "item"):  # numpy scalars
        return clean(value.item())
    return UNREADABLE.sub("\ufffd", str(value).replace("\r\n", "\n").replace("\r", "\n"))


def measured(value: Any) -> float | None:
    """The number, if it is one."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if math.isfinite(value) else None


def figure(value: Any, key: str = "value") -> Figure | None:
    """A Figure from {"value", "low", "high", "n"} or from a bare number; None when it was not measured."""
    if not isinstance(value, Mapping):
        alone = measured(value)
        return None if alone is None else Figure(alone)
    main = measured(value.get(key))
    if main is None:
        return None
    n = measured(value.get("n"))
    return Figure(main, measured(value.get("low")), measured(value.get("high")), None if n is None else int(n))


def percent(share: float | None) -> str:
    """A share 0..1 as "71%"."""
    return NOT_MEASURED if share is None else f"{_places(share)}%"


def number(value: Any) -> str:
    """Three significant digits: 0.0312, 1.24, 12.3, 1,234. Texts stay as they are."""
    x = measured(value)
    if x is None:
        return NOT_MEASURED if value is None else str(value)
    if x == int(x) and abs(x) < 1e15:
        text = f"{int(x):,}"
    elif abs(x) >= 100:
        text = f"{x:,.0f}"
    else:
        text = f"{x:.3g}" if abs(x) >= 1e-4 else f"{x:.1e}"
    return text.replace("-", "−")


def count(n: Any) -> str:
    """A whole number with its thousands apart: 12,345."""
    x = measured(n)
    return NOT_MEASURED if x is None else f"{round(x):,}"


def duration(seconds: Any) -> str:
    """ "38 s", "4 min 12 s", "1 h 20 min"."""
    x = measured(seconds)
    if x is None:
        return NOT_MEASURED
    whole = round(x)
    if whole < 60:
        return f"{whole} s" if x >= 10 else f"{x:.1f} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _places(share: float) -> str:
    """Per cent without decimals, except where that would turn nearly none into none, or nearly all into all."""
    x = 100 * share
    rounded = round(x)
    if x != rounded and rounded in (0, 100):
        return f"{x:.1f}"
    return str(rounded)


def words(value: Any) -> str:
    """Something short and readable, or nothing."""
    return "" if value is None or isinstance(value, (Mapping, list)) else str(value).strip()


def heading(name: str) -> str:
    """A key as a heading: "reward_model" is Reward model, "ppo" is PPO."""
    if name in ("sft", "ppo", "dpo"):
        return name.upper()
    return (name[:1].upper() + name[1:]).replace("_", " ")


def mapping(value: Any) -> Data:
    """The mapping; an empty one where something else is stored."""
    return value if isinstance(value, Mapping) else {}


def listed(value: Any) -> list[Any]:
    """The list; an empty one where something else is stored."""
    return value if isinstance(value, list) else []
