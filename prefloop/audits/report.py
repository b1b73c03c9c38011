"""One self-contained page that tells what was measured, for people who have never heard of RLHF.

The page has no script and fetches nothing; what models and people wrote is escaped; a section without a stored result
is listed as not measured. It renders whatever is there, so the whole loop and a single artifact use the same function.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from prefloop.audits import charts, sections
from prefloop.audits.curves import guard, training
from prefloop.audits.reward_model import reward_model
from prefloop.audits.wording import NOT_MEASURED, Data, clean, count, number, percent, words
from prefloop.errors import InputError, RunError

TITLES = {
    "shows": "The same request, before and after",
    "gold": "Tasks solved",
    "wins": "Blind comparisons",
    "reward_model": "The reward model",
    "guard": "Was the reward fooled?",
    "training": "What happened during training",
    "data": "Where the data came from",
    "people": "Who answered",
    "lineage": "From the answers to the model",
    "settings": "Settings",
}


def write_report(data: Data, out: Path) -> Path:
    """Writes the page of `data` to `out` (a file, or a folder that gets report.html) in one step; returns its path.

    Every key of `data` is optional; texts may be hostile; numbers that are missing or not finite are "not measured".
    An interval is {"value", "low", "high", "n"} and 95 %.

    {"title", "created", "seconds", "version", "seed", "simulated": bool, "machine": {name: value},
     "shows": [{"prompt", "answers": {"base"|"sft"|"policy"|"dpo"|"round2"|"average": str},
                "passed"?: {same keys: bool, as the checker says}}],
     "gold": {same keys: {interval, "families": {name: interval}}},   pass rates of checkers
     "win_rate": {interval, "ties", "consistency", "against"}, "dpo_win_rate": {...}, "round2_win_rate": {...},
     "average_win_rate": {...}, "chosen": one of the keys of "answers": the policy that it ended with,
     "reward_model": {"accuracy", "low", "high", "n", "ece", "expected_ece", "expected_ece_high", "temperature",
                      "reliability": [{"confidence", "accuracy", "n"}], "human_ceiling": interval + {"source"},
                      "floors": {name: interval}, "slices": {column: {name: interval}},
                      "length": {"longer_wins": interval, "model_prefers_longer"}, "stored_temperature",
                      "slice_ceilings": like slices, "features": {name: {"people"|"model": interval}},
                      "mistakes": [{"prompt", "better", "worse", "confidence", "label", "columns"}]},
     "guard": {"looks": [{"step", "proxy", "held_out", "held_out_low", "words", "warning", "alarm", and what else a look
               measures}], "curves": {"held_out": {"peak": [d, R]}}, "best_step"},
     "training": {"sft"|"reward_model"|"dpo": [{"step", "loss", "eval_loss"}],
                  "ppo" or another that samples: [{"step", "round", "objective/scores", "objective/kl", "length",
                                                   "objective/entropy", "diversity/distinct_2"}]},
     "data": [{"round", "kind", "rows", "annotators": {"simulated"|"person"|"ai"|"imported": answers}, "source",
               "licence", "hash", "ledger": Ledger.as_dict() or {reason: count}}],
     "people": [{"profile", "description", "position_bias", "length_bias", "tie", "skip", "mistake", "answers"}],
     "lineage": [{"kind", "name", "hash", "parents": [hash]}], "metrics": {name: number or interval},
     "settings": {...}, "seeds": {...}, "versions": {...}, "timings": {stage: seconds}, "notes": [str]}

    Raises InputError when `data` is not a mapping, RunError when the file cannot be written (nothing is left behind).
    """
    if not isinstance(data, Mapping):
        raise InputError(f"a report is made from a mapping of results, got {type(data).__name__}")
    out = Path(out)
    path = out / "report.html" if out.is_dir() else out
    return write_page(render(data), path)


def write_page(page: str, path: Path) -> Path:
    """Write a page in one step. Raises RunError when it cannot be written (nothing is left behind)."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_whole(path, page)
    except OSError as error:
        raise RunError(f"the report cannot be written to {path}: {error.strerror or error}") from None
    return path


def render(data: Data) -> str:
    """The page as text."""
    d = clean(data)
    views = {
        "shows": sections.shows(d),
        "gold": sections.gold(d),
        "wins": sections.wins(d),
        "reward_model": reward_model(d),
        "guard": guard(d),
        "training": training(d),
        "data": sections.data(d),
        "people": sections.people(d),
        "lineage": sections.lineage(d),
        "settings": sections.settings(d),
    }
    return (
        environment()
        .get_template("report.html")
        .render(
            title=words(d.get("title")) or "Report",
            simulated=sections.simulated(d) != "none",
            all_simulated=sections.simulated(d) == "all",
            meta=sections.meta(d),
            explain=sections.is_a_loop(d),
            picture=charts.loop_picture(),
            facts=sections.facts(d),
            cards=sections.cards(d),
            metrics=sections.metrics(d),
            notes=sections.notes(d),
            titles={key: title for key, title in TITLES.items() if views[key]},
            missing=[title for key, title in TITLES.items() if not views[key]],
            not_measured=NOT_MEASURED,
            views=views,
        )
    )


@cache
def environment() -> Environment:
    """Templates of these pages."""
    environment = Environment(
        loader=PackageLoader("prefloop.audits"),
        autoescape=True,  # what models and people wrote is text, never markup
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "number": number, "count": count}
    return environment


def _write_whole(path: Path, page: str) -> None:
    """All of the page or nothing, also when the machine stops in between."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(page)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
