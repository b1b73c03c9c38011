"""Documentation under test: verbs, methods and settings have their place, tables are true, links and blocks work."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest

from prefloop.algorithms import METHODS
from prefloop.artifacts.workspace import WorkspaceSettings
from prefloop.cli.app import app
from prefloop.training.online_settings import OnlineSettings
from prefloop.training.run import RunSettings
from prefloop.workflows.loop import LoopConfig

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
VERBS = [command.name for command in app.registered_commands if command.name]
ARROWS = ["questions", "import", "store", "snapshots", "reward_model", "training", "sampling", "evaluation", "report"]
ARROWS += ["serve", "api", "team", "lineage", "loop", "demo", "workspace", "cli", "settings", "python", "own", "resume"]
ARROWS += ["quality", "rewards", "online", "guard", "credit"]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
BLOCK = re.compile(r"^```(python|sh) test\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def text(name: str) -> str:
    return (DOCS / f"{name}.md").read_text(encoding="utf-8")


def settings_classes(cls: type) -> Iterator[type]:
    """A settings dataclass and those inside it."""
    yield cls
    for hint in typing.get_type_hints(cls).values():
        for inner in (hint, *typing.get_args(hint)):
            if isinstance(inner, type) and dataclasses.is_dataclass(inner):
                yield from settings_classes(inner)


def outside_code(page: str) -> str:
    return re.sub(r"^```.*?^```$", "", page, flags=re.DOTALL | re.MULTILINE)


def anchors(page: str) -> set[str]:
    """The anchors that GitHub gives to a page's headings."""
    headings = re.findall(r"^#+ (.+)$", outside_code(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", ARROWS)
def test_every_arrow_has_a_page_that_the_index_leads_to(name: str) -> None:
    assert len(text(name)) > 300
    assert f"({name}.md" in text("index")


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_its_section_with_its_options(verb: str) -> None:
    section = re.search(rf"^## prefloop {verb}\n(.*?)(?=^## |\Z)", text("cli"), re.DOTALL | re.MULTILINE)
    assert section is not None, f"docs/cli.md has no section for {verb}"
    assert f"prefloop {verb}" in section[1], "an example"
    assert f"<!-- options: {verb} -->" in section[1]
    assert f"`{verb}" in text("index") or verb == "train"


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_a_page_with_its_settings_and_an_example(method: str) -> None:
    page = text(method)
    config = METHODS[method].config
    assert f"prefloop train {method}" in page
    assert f"<!-- settings: {config.__module__}.{config.__name__} -->" in page
    assert f"<!-- defaults: {method} -->" in page
    assert f"({method}.md" in text("index")
    assert f"`{method}`" in text("training")


@pytest.mark.parametrize("method", METHODS)
def test_every_method_says_what_it_optimises_and_costs(method: str) -> None:
    """`prefloop train --list` is how a user chooses."""
    assert METHODS[method].summary
    assert METHODS[method].cost


@pytest.mark.parametrize("owner", ["settings", "online", "workspace", "loop", *METHODS])
def test_every_setting_stands_on_its_page(owner: str) -> None:
    shared = {"settings": RunSettings, "online": OnlineSettings, "workspace": WorkspaceSettings, "loop": LoopConfig}
    cls = shared.get(owner) or METHODS[owner].config
    for inner in settings_classes(cls):
        for field in dataclasses.fields(inner):
            assert f"| `{field.name}` |" in text(owner), (
                f"docs/{owner}.md does not explain {inner.__name__}.{field.name}"
            )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tables_say_what_the_code_says(page: Path) -> None:
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        import tables
    finally:
        sys.path.pop(0)
    said = page.read_text(encoding="utf-8")
    assert tables.renewed(said) == said, "run: python tools/tables.py"


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(outside_code(page.read_text(encoding="utf-8"))):
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), f"{page.name} links to {link}"
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target.read_text(encoding="utf-8")), f"{page.name} links to {link}"


def test_every_page_can_be_reached_from_the_index() -> None:
    seen, waiting = set(), [DOCS / "index.md"]
    while waiting:
        page = waiting.pop()
        if page in seen:
            continue
        seen.add(page)
        links = (link.partition("#")[0] for link in LINK.findall(page.read_text(encoding="utf-8")))
        waiting += [DOCS / link for link in links if link.endswith(".md") and (DOCS / link).is_file()]
    assert seen >= set(PAGES)


@pytest.mark.parametrize(
    "page",
    [page for page in [*PAGES, ROOT / "README.md"] if BLOCK.search(page.read_text("utf-8"))],
    ids=lambda p: p.name,
)
def test_blocks_run_as_they_are_written(page: Path, tmp_path: Path) -> None:
    """Blocks marked `test` run one after the other in one empty folder, as a reader would type them."""
    programs = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
    for language, block in BLOCK.findall(page.read_text(encoding="utf-8")):
        command = [sys.executable, "-W", "error::SyntaxWarning", "-c"] if language == "python" else ["sh", "-eu", "-c"]
        ran = subprocess.run(
            [*command, block], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=540, check=False
        )
        assert ran.returncode == 0, f"{page.name}:\n{block}\n{ran.stdout}\n{ran.stderr}"
