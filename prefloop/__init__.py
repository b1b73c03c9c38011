"""RLHF as one closed loop: people's answers, data, reward, policy, evaluation, and round again.

Every verb of the command line is a function here: `import prefloop; prefloop.train("dpo", data="pairs.jsonl", ...)`.
They are loaded when they are first used, so that `import prefloop` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from prefloop.version import __version__

if TYPE_CHECKING:
    from prefloop.workflows.bench import bench
    from prefloop.workflows.best_of import best_of
    from prefloop.workflows.chat import chat
    from prefloop.workflows.comparing import compare, sweep
    from prefloop.workflows.data import export, import_data, init, label, snapshot
    from prefloop.workflows.demo import demo
    from prefloop.workflows.doctor import doctor
    from prefloop.workflows.erasing import erase
    from prefloop.workflows.evaluating import evaluate
    from prefloop.workflows.lineage import lineage
    from prefloop.workflows.loop import loop
    from prefloop.workflows.people import (
        backup,
        create_token,
        export_head,
        list_tokens,
        restore,
        revoke_token,
        verify_audit_log,
    )
    from prefloop.workflows.quality import measure_quality, rule_on
    from prefloop.workflows.report import report
    from prefloop.workflows.rewards import adapt, average, label_what_is_sure
    from prefloop.workflows.runs import runs
    from prefloop.workflows.sampling import sample
    from prefloop.workflows.serving_app import serve
    from prefloop.workflows.training import train, train_methods

_HOME = {
    "init": "data",
    "import_data": "data",
    "export": "data",
    "label": "data",
    "measure_quality": "quality",
    "rule_on": "quality",
    "snapshot": "data",
    "report": "report",
    "adapt": "rewards",
    "average": "rewards",
    "best_of": "best_of",
    "label_what_is_sure": "rewards",
    "lineage": "lineage",
    "runs": "runs",
    "doctor": "doctor",
    "bench": "bench",
    "sample": "sampling",
    "train": "training",
    "train_methods": "training",
    "evaluate": "evaluating",
    "compare": "comparing",
    "sweep": "comparing",
    "chat": "chat",
    "demo": "demo",
    "loop": "loop",
    "serve": "serving_app",
    "create_token": "people",
    "list_tokens": "people",
    "revoke_token": "people",
    "verify_audit_log": "people",
    "export_head": "people",
    "erase": "erasing",
    "backup": "people",
    "restore": "people",
}
"""Function -> the module of `prefloop.workflows` that it lives in."""

__all__ = [
    "__version__",
    "init",
    "demo",
    "import_data",
    "export",
    "sample",
    "label",
    "measure_quality",
    "rule_on",
    "snapshot",
    "train",
    "train_methods",
    "evaluate",
    "compare",
    "sweep",
    "report",
    "adapt",
    "average",
    "best_of",
    "label_what_is_sure",
    "lineage",
    "chat",
    "runs",
    "doctor",
    "bench",
    "loop",
    "serve",
    "create_token",
    "list_tokens",
    "revoke_token",
    "verify_audit_log",
    "export_head",
    "erase",
    "backup",
    "restore",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'prefloop' has no attribute {name!r}")
    return getattr(importlib.import_module(f"prefloop.workflows.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
