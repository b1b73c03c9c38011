"""The verbs as a user types them: one loop by hand on a tiny model, and bad input on purpose."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from prefloop.cli.app import run

Call = Callable[..., tuple[int, str, str]]
PAIRS = [{"prompt": f"What is {n} + {n}?", "chosen": f"It is {2 * n}.", "rejected": "No idea."} for n in range(24)]
SMALL = ["--set", "batch_size=8", "--set", "epochs=1", "--set", "lr=1e-3", "--device", "cpu", "--dtype", "float32"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder to work in; the program's signal handler is taken back afterwards."""
    monkeypatch.chdir(tmp_path)
    before = signal.getsignal(signal.SIGTERM)
    yield tmp_path
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def call(capfd: pytest.CaptureFixture[str]) -> Call:
    def call(*arguments: str | Path) -> tuple[int, str, str]:
        """Exit code, standard output, standard error."""
        capfd.readouterr()
        with pytest.raises(SystemExit) as left:
            run([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return int(left.value.code or 0), out, err

    return call


@pytest.fixture
def answer(call: Call) -> Callable[..., dict[str, Any]]:
    def answer(*arguments: str | Path) -> dict[str, Any]:
        """The object that --json prints, of a call that succeeds."""
        code, out, err = call(*arguments, "--json")
        assert code == 0, err
        assert out.count("\n") == 1
        found: dict[str, Any] = json.loads(out)
        return found

    return answer


@pytest.fixture
def pairs(folder: Path) -> Path:
    file = folder / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in PAIRS))
    return file


def test_the_loop_by_hand(answer: Callable[..., dict[str, Any]], pairs: Path, tiny_model: Path, folder: Path) -> None:
    """init, import, snapshot, sft, reward model, ppo, evaluate, sample, ask, label, lineage, runs, report."""
    assert Path(answer("init")["workspace"]) == folder
    imported = answer("import", pairs, "--as", "comparisons")
    assert (imported["imported"], imported["rejected"], imported["reasons"]) == (24, 0, {})
    frozen = answer("snapshot", "--as", "comparisons", "--name", "mine", "--test-share", "0.3")
    assert set(frozen) == {"artifact", "rows", "hash", "ledger"}
    assert frozen["rows"] == 24

    sft = answer("train", "sft", "--policy", tiny_model, *SMALL)
    assert {"artifact", "steps", "seconds", "metrics", "ledger"} <= set(sft)
    assert sft["ledger"]["used"] == 24
    reward = answer("train", "reward_model", "--policy", "sft", *SMALL)
    ppo = answer(
        "train",
        "ppo",
        "--policy",
        "sft",
        *SMALL,
        "--set",
        "steps=1",
        "--set",
        "max_new_tokens=4",
        "--set",
        "minibatches=1",
    )
    assert ppo["steps"] == 1
    measured = answer("evaluate", "reward_model", "--comparisons", "mine", "--dtype", "float32")
    assert {"accuracy", "low", "high", "n", "ece"} <= set(measured)
    unnamed = answer("evaluate", "reward_model", "--dtype", "float32")
    assert {**unnamed, "report": "", "artifact": ""} == {**measured, "report": "", "artifact": ""}
    won = answer("evaluate", "ppo", "--against", "sft", "--limit", "6", "--max-new-tokens", "4", "--dtype", "float32")
    assert {"value", "low", "high", "n"} <= set(won["win_rate"])
    assert {"kl", "length"} <= set(won)
    assert won["prompts_too_long"] == 0
    asked = folder / "lengths.jsonl"
    asked.write_text(json.dumps({"prompt": "word " * 4000}) + '\n{"prompt": "Say hello."}\n')
    short = ("--judge", "reward_model", "--max-new-tokens", "4", "--dtype", "float32")
    won = answer("evaluate", "ppo", "--against", "sft", "--prompts", asked, *short)
    assert (won["prompts_too_long"], won["win_rate"]["n"]) == (1, 1)

    found = answer("lineage", "ppo")
    kinds = [link["kind"] for link in found["chain"]]
    assert kinds[0] == "policy"
    assert sorted(kinds) == ["policy", "policy", "reward_model", "snapshot"]
    assert reward["hash"] in [link["hash"] for link in found["chain"]]
    assert len(found["answers"]) == 24
    assert [run["state"] for run in answer("runs")["runs"]] == ["finished"] * 3
    page = Path(answer("report", "reward_model")["report"]).read_text()
    assert str(measured["n"]) in page

    prompts = folder / "prompts.jsonl"
    prompts.write_text('{"prompt": "What is 2 + 2?"}\n{"prompt": [{"role": "user", "content": "Say hello."}]}\n')
    sampled = answer("sample", "--policy", "sft", "--prompts", prompts, "--per-prompt", "2", "--max-new-tokens", "4")
    assert [sorted(row) for row in sampled["completions"]] == [["completion", "prompt", "terminated"]] * 4
    assert [row["prompt"] for row in sampled["completions"]][::2] == [
        "What is 2 + 2?",
        [{"role": "user", "content": "Say hello."}],
    ]
    assert sampled == answer(
        "sample", "--policy", "sft", "--prompts", prompts, "--per-prompt", "2", "--max-new-tokens", "4"
    )
    asked = answer("sample", "--policy", "sft", "--prompts", prompts, "--ask", "demonstration")
    assert asked["questions"] == 2
    done = answer("label", "--by", "simulated:careful")
    assert done["simulated"] is True
    assert done["annotators"] == ["simulated:careful-1"]
    assert (done["demonstration"], done["skipped"]) == (1, 1)  # "Say hello." is no task of theirs


def test_dpo_without_a_workspace(
    answer: Callable[..., dict[str, Any]], call: Call, pairs: Path, tiny_model: Path, folder: Path
) -> None:
    made = answer("train", "dpo", "--data", pairs, "--policy", tiny_model, "--out", "mine", *SMALL)
    assert made["artifact"] == "mine"
    assert sorted(path.name for path in folder.iterdir()) == ["mine", "pairs.jsonl"]
    from transformers import AutoModelForCausalLM

    assert AutoModelForCausalLM.from_pretrained(folder / "mine").config.hidden_size == 32
    code, _, err = call("train", "dpo", "--data", pairs, "--policy", tiny_model, "--out", "mine", *SMALL)
    assert code == 2
    assert "mine exists and is not empty" in err


def broken_models(tiny: Path, folder: Path) -> dict[str, Path]:
    """Folders that must not be loaded, each for its reason."""
    made = {}
    for name in ("no tokenizer", "pickled", "own code", "not JSON"):
        made[name] = folder / name.replace(" ", "-")
        shutil.copytree(tiny, made[name])
    for file in made["no tokenizer"].glob("*token*"):
        file.unlink()
    (made["pickled"] / "model.safetensors").rename(made["pickled"] / "pytorch_model.bin")
    config = json.loads((tiny / "config.json").read_text())
    (made["own code"] / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModelForCausalLM": "x.Y"}}))
    (made["not JSON"] / "config.json").write_text("{")
    return made


def test_bad_models_are_refused_with_their_reason(call: Call, pairs: Path, tiny_model: Path, folder: Path) -> None:
    models = broken_models(tiny_model, folder)
    before = sorted(folder.iterdir())
    for name, words in {
        "no tokenizer": "no tokenizer",
        "pickled": "pickled weights (pytorch_model.bin)",
        "own code": "needs code of its own",
        "not JSON": "is not JSON",
    }.items():
        for verb in (
            ["train", "dpo", "--data", pairs, "--policy", models[name], "--out", "out"],
            ["sample", "--policy", models[name], "--prompts", pairs],
        ):
            code, out, err = call(*verb)
            assert (code, out) == (2, ""), name
            assert words in err
            assert "Traceback" not in err
    assert sorted(folder.iterdir()) == before, "nothing half-written"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--data", "nope.jsonl"], 2, "nope.jsonl"),
        (["--data", "pairs.jsonl", "--policy", "nope"], 2, "no model at 'nope'"),
        (["--data", "wrong.jsonl"], 2, "rejected"),
        (["--data", "broken.jsonl"], 1, "broken JSON: 8"),
        (["--data", "pairs.jsonl", "--set", "batchsize=4"], 2, "did you mean 'batch_size'?"),
        (["--data", "pairs.jsonl", "--set", "batch_size=0"], 2, "greater than 0, got 0"),
        (["--data", "pairs.jsonl", "--set", "batch_size=many"], 2, "batch_size"),
        (["--data", "pairs.jsonl", "--set", "lr"], 2, "--set takes key=value"),
        (["--data", "pairs.jsonl", "--dtype", "int8"], 2, "use auto, bfloat16 or float32"),
        (["--data", "pairs.jsonl", "--device", "tpu9"], 2, "use auto, cpu"),
        (["nope.yaml", "--data", "pairs.jsonl"], 2, "no such run file: nope.yaml"),
        (["sft.yaml", "--data", "pairs.jsonl"], 2, "prefloop train sft sft.yaml"),
        (["typo.yaml", "--data", "pairs.jsonl"], 2, "did you mean 'beta'?"),
    ],
)
def test_bad_input_to_training(
    call: Call, pairs: Path, tiny_model: Path, folder: Path, arguments: list[str], code: int, words: str
) -> None:
    (folder / "wrong.jsonl").write_text('{"prompt": "a", "chosen": "b"}\n' * 4)
    (folder / "broken.jsonl").write_text(pairs.read_text() + '{"prompt": \n' * 8)
    (folder / "sft.yaml").write_text("method: sft\n")
    (folder / "typo.yaml").write_text("betaa: 0.1\n")
    before = sorted(folder.iterdir())
    policy = [] if "--policy" in arguments else ["--policy", tiny_model]
    ended, out, err = call("train", "dpo", *arguments, *policy, "--out", "out")
    assert (ended, out) == (code, ""), err
    assert words in err
    assert "Traceback" not in err
    assert "out" not in {path.name for path in folder.iterdir()} - {path.name for path in before}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["import", "nope.jsonl", "--as", "comparisons"], "no such file: nope.jsonl"),
        (["import", "pairs.jsonl", "--as", "comparision"], "did you mean 'comparisons'?"),
        (["import", "pairs.txt", "--as", "comparisons"], "pairs.txt"),
        (["snapshot", "--as", "comparisons"], "prefloop import FILE --as comparisons"),
        (["snapshot", "--as", "rankings"], "prefloop import FILE --as rankings"),
        (["snapshot", "--as", "chats"], "comparisons, rankings"),
        (["export", "--as", "trl", "--out", "x"], "trl-preference"),
        (["lineage", "nope"], "there is: none"),
        (["label", "--by", "simulated:nobody"], "panel"),
        (["label", "--by", "people"], "simulated:PROFILE"),
        (["train", "sfft"], "did you mean 'sft'?"),
        (["train"], "prefloop train --list"),
        (["train", "sft"], "give --data FILE"),
        (["evaluate", "x"], "--comparisons"),
        (["sample", "--policy", "builtin", "--ask", "comparison"], "--per-prompt 2"),
        (["runs", "--stop", "nope"], "no running run is named 'nope'; there is: none"),
        (["report"], "prefloop demo"),
    ],
)
def test_bad_input_to_a_workspace(call: Call, pairs: Path, arguments: list[str], words: str) -> None:
    pairs.with_suffix(".txt").write_text("no rows\n")
    assert call("init")[0] == 0
    code, out, err = call(*arguments)
    assert (code, out) == (2, ""), err
    assert words in err
    assert err.startswith("prefloop: error: ")
    assert err.count("\n") == 1


def test_outside_a_workspace_every_verb_says_how_to_make_one(call: Call) -> None:
    for arguments in (
        ["snapshot"],
        ["import", "x", "--as", "prompts"],
        ["runs"],
        ["label"],
        ["export", "--as", "jsonl", "--out", "x"],
    ):
        code, _, err = call(*arguments)
        assert code == 2
        assert "prefloop init" in err


def test_what_a_model_says_does_not_steer_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    from prefloop.cli.streams import log, printable

    assert printable("a\x1b[2Jb\r\n\tc\ud800") == "a\ufffd[2Jb\ufffd\n\tc\ufffd"
    log("[bold]\x1b]0;title\x07")
    assert capfd.readouterr().err == "[bold]\ufffd]0;title\ufffd\n"
