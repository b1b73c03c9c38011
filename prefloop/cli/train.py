"""`prefloop train`: one training job."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from prefloop.cli.answer import Answer, facts, table
from prefloop.cli.compare import comparison
from prefloop.cli.streams import log
from prefloop.cli.verb import WorkspaceOption, verb
from prefloop.errors import InputError


def register(app: typer.Typer) -> None:
    """Add the verb to the program."""

    @verb(
        app,
        "train",
        "prefloop train sft runs/hh_sft.yaml",
        "prefloop train dpo --data pairs.jsonl --policy builtin --out my-policy --set lr=1e-5 --set beta=0.2",
        "prefloop train reward_model --data comparisons.jsonl --data ratings.jsonl --out my-reward-model",
        "prefloop train ppo runs/hh_ppo.yaml --resume",
        "prefloop train dpo --data pairs.jsonl --sweep beta=0.03,0.1,0.3 --reward my-reward-model --out betas",
    )
    def train(
        method: Annotated[
            str | None, typer.Argument(metavar="METHOD", help="One of those that --list shows.", show_default=False)
        ] = None,
        run: Annotated[
            Path | None,
            typer.Argument(metavar="RUN.yaml", help="Settings; its paths are relative to it.", show_default=False),
        ] = None,
        data: Annotated[
            list[str] | None,
            typer.Option(
                "--data",
                metavar="NAME|HASH|FILE",
                help="A snapshot or a file; for reward_model also several. Without it: the newest snapshot that fits.",
                show_default=False,
            ),
        ] = None,
        policy: Annotated[
            str | None,
            typer.Option(
                "--policy",
                metavar="P",
                help="Where to start: builtin, an artifact's name or hash, a Hugging Face folder or hub id.",
                show_default=False,
            ),
        ] = None,
        out: Annotated[
            Path | None,
            typer.Option(
                "--out", metavar="DIR", help="Where the result goes, without a workspace.", show_default=False
            ),
        ] = None,
        overrides: Annotated[
            list[str] | None,
            typer.Option("--set", metavar="KEY=VALUE", help="One setting; may be given often.", show_default=False),
        ] = None,
        swept: Annotated[
            str | None,
            typer.Option(
                "--sweep",
                metavar="KEY=V1,V2,...",
                help="Train once for each value of one setting, then compare the results.",
                show_default=False,
            ),
        ] = None,
        reward: Annotated[
            str | None,
            typer.Option(
                "--reward",
                metavar="MODEL|FILE.yaml",
                help="With --sweep: draw this reward against KL, as prefloop compare does.",
                show_default=False,
            ),
        ] = None,
        resume: Annotated[bool, typer.Option("--resume", help="Go on from the last whole checkpoint.")] = False,
        device: Annotated[
            str | None, typer.Option("--device", help="auto, cpu, cuda, cuda:1, mps.", show_default="the run's")
        ] = None,
        dtype: Annotated[
            str | None, typer.Option("--dtype", help="auto, bfloat16 or float32.", show_default="the run's")
        ] = None,
        workspace: WorkspaceOption = None,
        list_methods: Annotated[bool, typer.Option("--list", help="Show the methods and stop.")] = False,
    ) -> Answer:
        """Train a policy or a reward model.

        METHOD is one of those that --list shows. Every setting is a key of RUN.yaml and can be given
        as --set key=value; an unknown key is an error that names the nearest.
        """
        import prefloop

        if list_methods:
            return _methods()
        if method is None:
            raise InputError("which method? for example: prefloop train sft; prefloop train --list shows all")
        given: dict[str, Any] = {
            "data": data[0] if data is not None and len(data) == 1 else data,
            "policy": policy,
            "out": out,
            "overrides": overrides or [],
            "resume": resume,
            "device": device,
            "dtype": dtype,
            "workspace": workspace,
            "log": log,
        }
        if swept is not None:
            key, _, values = swept.partition("=")
            if not key or not values:
                raise InputError(f"--sweep takes KEY=V1,V2,..., got {swept!r}; for example --sweep beta=0.03,0.1,0.3")
            return comparison(prefloop.sweep(method, {key: values.split(",")}, run, reward=reward, **given))
        if reward is not None:
            raise InputError(
                "--reward goes with --sweep; the reward that a method learns from is --set reward_model=..."
            )
        result = prefloop.train(method, run, **given)
        return Answer(result, lambda console: console.print(facts(result)))


def _methods() -> Answer:
    import prefloop

    methods = prefloop.train_methods()

    def show(console: Console) -> None:
        console.print(
            table(
                "Methods",
                ["method", "learns from", "makes", "what it optimises", "cost"],
                [[m["name"], m["data"], m["makes"], m["summary"], m["cost"]] for m in methods],
            )
        )

    return Answer({"methods": methods}, show)
