"""`prefloop sample`: what a policy says."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from prefloop.cli.answer import Answer
from prefloop.cli.streams import log, printable
from prefloop.cli.verb import DeviceOption, DtypeOption, SeedOption, WorkspaceOption, verb


def register(app: typer.Typer) -> None:
    """Add the verb to the program."""

    @verb(
        app,
        "sample",
        "prefloop sample --policy builtin --prompts prompts.jsonl --per-prompt 4 --json",
        "prefloop sample --policy sft --per-prompt 2 --ask comparison --overlap 2",
    )
    def sample(
        policy: Annotated[
            str,
            typer.Option(
                "--policy", metavar="P", help="builtin, an artifact's name or hash, a Hugging Face folder or hub id."
            ),
        ],
        prompts: Annotated[
            Path | None,
            typer.Option(
                "--prompts",
                metavar="FILE",
                help="jsonl with a column `prompt` (text or messages). Without it: the workspace's prompts.",
                show_default=False,
            ),
        ] = None,
        per_prompt: Annotated[int, typer.Option("--per-prompt", min=1, help="Completions for each prompt.")] = 1,
        temperature: Annotated[
            float, typer.Option("--temperature", min=0.0, help="0 takes the likeliest token.")
        ] = 1.0,
        top_k: Annotated[int, typer.Option("--top-k", min=0, help="Draw from so many tokens; 0 keeps every one.")] = 0,
        top_p: Annotated[float, typer.Option("--top-p", min=0.0, max=1.0, help="1 keeps every token.")] = 1.0,
        min_p: Annotated[
            float,
            typer.Option("--min-p", min=0.0, max=1.0, help="Share of the likeliest token's probability; 0: none."),
        ] = 0.0,
        stop: Annotated[
            list[str] | None,
            typer.Option(
                "--stop", metavar="TEXT", help="Ends a completion before it; may be given often.", show_default=False
            ),
        ] = None,
        beta: Annotated[
            float | None,
            typer.Option(
                "--beta",
                min=0.0,
                help="How far value heads (ilql's) move the log-probabilities; without it as trained.",
                show_default=False,
            ),
        ] = None,
        max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1, help="Longest completion.")] = 256,
        seed: SeedOption = 0,
        device: DeviceOption = "auto",
        dtype: DtypeOption = "auto",
        ask: Annotated[
            str | None,
            typer.Option(
                "--ask",
                metavar="KIND",
                help="Also queue questions of this kind about the completions: comparison or demonstration.",
                show_default=False,
            ),
        ] = None,
        overlap: Annotated[int, typer.Option("--overlap", min=1, help="How many people answer each question.")] = 1,
        round: Annotated[int, typer.Option("--round", help="The round that the questions belong to.")] = 0,
        out: Annotated[
            Path | None,
            typer.Option(
                "--out", metavar="FILE", help="Also write the completions here, as jsonl.", show_default=False
            ),
        ] = None,
        workspace: WorkspaceOption = None,
    ) -> Answer:
        """Sample completions from a policy; with --ask, make questions of them."""
        import prefloop

        result = prefloop.sample(
            policy,
            prompts,
            per_prompt=per_prompt,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            stop=stop or [],
            beta=beta,
            max_new_tokens=max_new_tokens,
            seed=seed,
            device=device,
            dtype=dtype,
            ask=ask,
            overlap=overlap,
            round=round,
            workspace=workspace,
            out=out,
            log=log,
        )

        def show(console: Console) -> None:
            if "questions" in result:
                console.print(f"{result['questions']} questions are in the queue")
            for item in result["completions"]:
                console.rule(_opening(item["prompt"]), align="left")
                console.print(printable(item["completion"]) + ("" if item["terminated"] else " […]"), markup=False)

        return Answer(result, show)


def _opening(prompt: object) -> str:
    """The first words of a prompt, for a heading."""
    from rich.markup import escape

    text = prompt if isinstance(prompt, str) else prompt[-1]["content"] if isinstance(prompt, list) else str(prompt)
    return escape(printable(" ".join(str(text).split())[:100]))
