"""`prefloop sample`: what a policy says, and questions about it for people."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

from prefloop.artifacts.files import write_text
from prefloop.artifacts.folder import MANIFEST, read_manifest
from prefloop.errors import InputError
from prefloop.generation.policy import Completion, Policy
from prefloop.generation.sampler import Sampling
from prefloop.records import Message, Messages, as_messages
from prefloop.snapshots.formats import parse_prompt
from prefloop.snapshots.rows import Reject, read_rows
from prefloop.store.feedback import add_completions, add_prompts, add_questions, stored_prompts
from prefloop.training.progress import progress
from prefloop.workflows.places import Place, store_of, workspace_at, workspace_or_none
from prefloop.workflows.references import model_at

ASKABLE = ("comparison", "demonstration")


def sample(
    policy: str,
    prompts: Sequence[str | Sequence[Message]] | str | Path | None = None,
    *,
    per_prompt: int = 1,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    stop: Sequence[str] = (),
    max_new_tokens: int = 256,
    seed: int = 0,
    device: str = "auto",
    dtype: str = "auto",
    beta: float | None = None,
    ask: str | None = None,
    overlap: int = 1,
    round: int = 0,
    workspace: Place = None,
    out: str | Path | None = None,
    log: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Sample `per_prompt` completions of each prompt: `{"completions": [{"prompt", "completion", "terminated"}], ...}`.

    `prompts` is a list of texts or messages, a file with a column `prompt`, or None for the workspace's prompts.
    `beta` is how far a policy's value heads (ILQL's) move its log-probabilities; without it as trained.
    `ask` also puts questions of that kind into the workspace's queue: a comparison of each completion of a prompt with
    the next one that differs (two of them make one question), or a demonstration of each prompt (nothing is sampled).
    Raises InputError for a file without prompts, a model that cannot be loaded, or `ask` without a workspace.
    """
    asked = _asked(ask, per_prompt)
    given = prompts_of(prompts, workspace)
    messages = [as_messages(p) for p in given]
    if asked == "demonstration":
        ids = _ask_demonstrations(messages, overlap, round, workspace)
        return {"policy": policy, "completions": [], "questions": len(set(ids))}
    sampling = Sampling(
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        stop=tuple(stop),
    )
    sampling.check()
    place = model_at(policy, "policy", workspace_or_none(workspace))
    say = log or (lambda words: None)
    actor = Policy(place, device=device, dtype=dtype, beta=beta, log=say)
    say(f"sampling {len(given)} x {per_prompt} completions from {policy}")
    with progress("sample", len(given) * per_prompt) as advance:
        done = [0]

        def more(n: int) -> None:
            done[0] += n
            advance(done[0])

        groups = actor.answer(messages, per_prompt, sampling, seed=seed, progress=more)
    result: dict[str, Any] = {
        "policy": policy,
        "completions": [
            {"prompt": prompt, "completion": c.text, "terminated": c.terminated}
            for prompt, group in zip(given, groups, strict=True)
            for c in group
        ],
    }
    if asked is not None:
        settings = {**asdict(sampling), "stop": list(stop), "seed": seed, **({} if beta is None else {"beta": beta})}
        version = read_manifest(Path(place)).hash if (Path(place) / MANIFEST).is_file() else policy
        result["questions"] = _ask_comparisons(messages, groups, version, settings, overlap, round, workspace)
    if out is not None:
        write_text(Path(out), "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in result["completions"]))
    return result


def read_prompts(path: str | Path) -> list[Any]:
    """The prompts of a file, as they stand there (text or messages). Raises InputError naming the first bad line."""
    found = []
    for line, row in read_rows(path):
        parsed = row if isinstance(row, Reject) else parse_prompt(row)
        if isinstance(parsed, Reject):
            raise InputError(f"{path}, line {line}: {parsed.reason}" + (f" ({parsed.detail})" if parsed.detail else ""))
        assert isinstance(row, dict)
        found.append(row["prompt"] if isinstance(row.get("prompt"), str) else parsed)
    if not found:
        raise InputError(f'{path} holds no prompts; it needs lines such as {{"prompt": "What is 5 + 5?"}}')
    return found


def _asked(ask: str | None, per_prompt: int) -> str | None:
    if ask is not None and ask not in ASKABLE:
        raise InputError(f"--ask takes {' or '.join(ASKABLE)}, got {ask!r}")
    if ask == "comparison" and per_prompt < 2:
        raise InputError("a comparison needs two completions of a prompt: give --per-prompt 2 or more")
    return ask


def prompts_of(prompts: Sequence[Any] | str | Path | None, workspace: Place) -> list[Any]:
    """Those of a list or a file, or with None the workspace's. Raises InputError where there are none."""
    if isinstance(prompts, str | Path):
        return read_prompts(prompts)
    if prompts is not None:
        return list(prompts)
    place = workspace_at(workspace)
    with store_of(place) as store:
        found = stored_prompts(store)
    if not found:
        raise InputError(
            f"{place.root} holds no prompts yet; give --prompts FILE, or: prefloop import FILE --as prompts"
        )
    return found


def _ask_demonstrations(messages: Sequence[Messages], overlap: int, round: int, workspace: Place) -> list[str]:
    with store_of(workspace_at(workspace)) as store:
        ids = add_prompts(store, [{"messages": m} for m in messages])
        kind = {"kind": "demonstration", "candidates": [], "overlap": overlap, "round": round}
        return add_questions(store, [{**kind, "prompt_id": prompt} for prompt in ids])


def _ask_comparisons(
    messages: Sequence[Messages],
    groups: Sequence[Sequence[Completion]],
    policy: str,
    settings: dict[str, Any],
    overlap: int,
    round: int,
    workspace: Place,
) -> int:
    """Queue the comparisons; returns how many there are."""
    with store_of(workspace_at(workspace)) as store:
        prompt_ids = add_prompts(store, [{"messages": m} for m in messages])
        items = [
            {"prompt_id": p, "text": c.text, "policy": policy, "sampling": settings, "terminated": c.terminated}
            for p, group in zip(prompt_ids, groups, strict=True)
            for c in group
            if c.text.strip()
        ]
        written = iter(zip(items, add_completions(store, items), strict=True))
        questions = []
        for p, group in zip(prompt_ids, groups, strict=True):
            distinct = {}
            for _ in (c for c in group if c.text.strip()):
                item, completion = next(written)
                distinct[item["text"]] = completion
            # Every other neighbour: each completion is in one question, so that no text counts twice.
            pairs = list(pairwise(distinct.values()))[::2]
            questions += [{"kind": "comparison", "prompt_id": p, "candidates": list(pair)} for pair in pairs]
        add_questions(store, [{**q, "overlap": overlap, "round": round} for q in questions])
    return len(questions)
