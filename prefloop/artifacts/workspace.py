"""A workspace: the folder that holds one project's answers and artifacts."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from prefloop.artifacts.files import write_text
from prefloop.errors import InputError
from prefloop.settings import build, read_yaml

FILE = "prefloop.yaml"


@dataclass(frozen=True, kw_only=True)
class WorkspaceSettings:
    """What `prefloop.yaml` may say."""

    database: str = "sqlite:///prefloop.db"
    """SQLAlchemy URL; a relative SQLite path is relative to the workspace. PREFLOOP_DATABASE_URL overrides it."""
    test_share: float = 0.1
    """Share of the prompts that snapshots hold back for measuring."""


@dataclass(frozen=True)
class Workspace:
    """`root/prefloop.yaml`, `root/prefloop.db`, `root/artifacts/`."""

    root: Path
    settings: WorkspaceSettings

    @property
    def artifacts(self) -> Path:
        return self.root / "artifacts"

    @property
    def database_url(self) -> str:
        """PREFLOOP_DATABASE_URL when it is set, else the URL of `prefloop.yaml`."""
        url = os.environ.get("PREFLOOP_DATABASE_URL") or self.settings.database
        prefix = "sqlite:///"
        if url.startswith(prefix) and not url.removeprefix(prefix).startswith("/"):
            return f"{prefix}{(self.root / url.removeprefix(prefix)).resolve()}"
        return url

    @classmethod
    def create(cls, directory: str | Path = ".") -> Workspace:
        """Make a workspace; one that is there already is opened and left as it is."""
        root = Path(directory).resolve()
        if root.exists() and not root.is_dir():
            raise InputError(f"{root} is a file; a workspace is a folder")
        if not (root / FILE).exists():
            write_text(
                root / FILE,
                "# A prefloop workspace. Settings: docs/workspace.md\n"
                "database: sqlite:///prefloop.db\ntest_share: 0.1\n",
            )
        (root / "artifacts").mkdir(exist_ok=True)
        return cls.open(root)

    @classmethod
    def open(cls, directory: str | Path) -> Workspace:
        """The workspace in exactly this folder. Raises InputError when there is none."""
        root = Path(directory).resolve()
        if not (root / FILE).is_file():
            raise InputError(f"{root} is not a workspace (no {FILE}); make one with: prefloop init {directory}")
        return cls(root, build(WorkspaceSettings, read_yaml(root / FILE), FILE))

    @classmethod
    def find(cls, start: str | Path = ".") -> Workspace:
        """The nearest workspace at or above `start`. Raises InputError when there is none."""
        here = Path(start).resolve()
        for folder in (here, *here.parents):
            if (folder / FILE).is_file():
                return cls.open(folder)
        raise InputError(f"no workspace at or above {here} (no {FILE}); make one with: prefloop init")
