"""`train` as a whole: killed and resumed, refused with a reason, and what it hands back."""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import prefloop
from prefloop.algorithms import METHODS
from prefloop.artifacts.folder import read_artifact
from prefloop.errors import InputError, RunError
from prefloop.workflows.training import train
from tests.small import settings_of, weights_of, write_inputs, write_pairs

ROOT = Path(__file__).resolve().parents[2]
LORA = {"lora": {"rank": 2, "dropout": 0.1}}
JOBS: dict[str, tuple[str, dict[str, Any]]] = {
    **{method: (method, {}) for method in METHODS},
    "dpo with lora": ("dpo", LORA),
    "ppo with lora": ("ppo", LORA),
    "iqlearn with its own answers": ("iqlearn", {"own": 0.3, "max_new_tokens": 6}),
    "dpo with a reference that is renewed": ("dpo", {"renewal": {"every": 2}}),
}

# Processes that are made of one in which everything is loaded, and nothing was computed, begin at once.
SPAWN = multiprocessing.get_context("forkserver")
SPAWN.set_forkserver_preload(["prefloop.workflows.training", "tests.workflows.test_training"])


def die_at(method: str, out: Path, settings: dict[str, Any], resume: bool, at: int, delay: float) -> None:
    """Train in a process that is killed at its `at`-th write to disk, or so many seconds after it."""
    torch.set_num_threads(1)
    honest, calls = os.fsync, [0]

    def counted(handle: int) -> None:
        honest(handle)
        calls[0] += 1
        if calls[0] == at:
            if delay == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL)).start()

    os.fsync = counted
    train(method, out=out, overrides=settings, resume=resume, log=lambda words: None)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return write_inputs(tmp_path_factory.mktemp("inputs"))


def trained(method: str, inputs: Path, out: Path, *, resume: bool = False, **changes: Any) -> dict[str, Any]:
    return train(
        method, out=out, overrides=settings_of(method, inputs, **changes), resume=resume, log=lambda words: None
    )


def killed(method: str, out: Path, settings: dict[str, Any], resume: bool, at: int, delay: float) -> bool:
    """Run `method` in a process of its own that dies at a point of our choosing, by SIGKILL.

    False when it came to its end first.
    """
    process = SPAWN.Process(target=die_at, args=(method, out, settings, resume, at, delay))
    process.start()
    process.join(240)
    assert process.exitcode in (0, -signal.SIGKILL), f"exit code {process.exitcode}; its words are above"
    return process.exitcode != 0


def writes_of(run: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> int:
    """How often a run writes to disk for good."""
    honest, calls = os.fsync, [0]

    def counted(handle: int) -> None:
        honest(handle)
        calls[0] += 1

    monkeypatch.setattr(os, "fsync", counted)
    run()
    monkeypatch.undo()
    return calls[0]


def survives_kills(job: str, inputs: Path, folder: Path, kills: int, seed: int, patch: pytest.MonkeyPatch) -> None:
    """Kill a run `kills` times at random points, each time going on from what is there; the last one ends alike."""
    method, changes = JOBS[job]
    settings = settings_of(method, inputs, checkpoint_seconds=0, **changes)
    writes = writes_of(lambda: train(method, out=folder / "whole", overrides=settings, log=lambda w: None), patch)
    assert writes > 30
    chance = random.Random(seed)
    for kill in range(kills):
        at = chance.randint(2, writes * 3 // 4) if kill == 0 else chance.randint(2, max(3, writes // 4))
        delay = chance.choice([0.0, chance.uniform(0, 0.01)])
        print(f"{job}, seed {seed}: kill {kill + 1} at write {at} of {writes}, after {delay:.4f} s")
        died = killed(method, folder / "cut", settings, kill > 0, at, delay)
        assert died or kill > 0
        if (folder / "cut").exists():
            # What is there is whole: it came to its end, or was killed after its last write.
            assert read_artifact(folder / "cut").hash == read_artifact(folder / "whole").hash
            break
    result = train(method, out=folder / "cut", overrides=settings, resume=True, log=lambda words: None)
    assert weights_of(folder / "cut") == weights_of(folder / "whole")
    assert result["hash"] == read_artifact(folder / "whole").hash
    assert [p.name for p in folder.iterdir() if not p.name.startswith(".")] in (["cut", "whole"], ["whole", "cut"])
    assert not (folder / ".cut.run").exists()


@pytest.mark.parametrize("job", JOBS)
def test_killed_and_resumed_a_run_ends_with_the_same_bits(
    job: str, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """kill -9 at a random write or shortly after it, in a checkpoint or between two; the seed is in the output."""
    survives_kills(job, inputs, tmp_path, 1, random.SystemRandom().randrange(10**6), monkeypatch)


@pytest.mark.prove
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("job", JOBS)
def test_killed_again_and_again(
    job: str, seed: int, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five runs of each method, each killed up to five times in a row."""
    survives_kills(job, inputs, tmp_path, 5, seed, monkeypatch)


def stopped(method: str, inputs: Path, out: Path, patch: pytest.MonkeyPatch, **changes: Any) -> Path:
    """A run that was stopped after its third step, every step saved; returns its folder of checkpoints."""
    asked = iter([False, False, True])
    patch.setattr("prefloop.training.run_lock.was_asked_to_stop", lambda folder: next(asked, False))
    with pytest.raises(RunError, match="as asked"):
        trained(method, inputs, out, checkpoint_seconds=0, **changes)
    patch.undo()
    return out.with_name(f".{out.name}.run") / "checkpoints"


def test_a_torn_checkpoint_is_set_aside_and_the_one_before_it_used(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained("sft", inputs, tmp_path / "whole", checkpoint_seconds=0)
    checkpoints = stopped("sft", inputs, tmp_path / "cut", monkeypatch)
    assert sorted(p.name for p in checkpoints.iterdir()) == ["step-00000002", "step-00000003"]
    torn = checkpoints / "step-00000003" / "tensors.safetensors"
    torn.write_bytes(torn.read_bytes()[:-100])
    said: list[str] = []
    settings = settings_of("sft", inputs, checkpoint_seconds=0)
    train("sft", out=tmp_path / "cut", overrides=settings, resume=True, log=said.append)
    assert "set aside a damaged checkpoint: step-00000003" in said
    assert "resuming after step 2" in said
    assert weights_of(tmp_path / "cut") == weights_of(tmp_path / "whole")


def test_an_unfinished_run_is_not_trampled_on(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped("sft", inputs, tmp_path / "out", monkeypatch)
    with pytest.raises(InputError, match=r"an unfinished run is in .*\.out\.run; add --resume"):
        trained("sft", inputs, tmp_path / "out", checkpoint_seconds=0)


def test_resume_takes_no_other_settings(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped("sft", inputs, tmp_path / "out", monkeypatch)
    with pytest.raises(InputError, match=r"cannot resume with other settings: lr was 0\.001, now 0\.002"):
        trained("sft", inputs, tmp_path / "out", checkpoint_seconds=0, resume=True, lr=2e-3)


def test_resuming_a_finished_run_returns_it(inputs: Path, tmp_path: Path) -> None:
    first = trained("sft", inputs, tmp_path / "out")
    (tmp_path / ".out.run" / "checkpoints").mkdir(parents=True)  # as a kill after the last rename would leave it
    again = trained("sft", inputs, tmp_path / "out", resume=True)
    assert {**again, "seconds": 0} == {**first, "seconds": 0}
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_resume_where_nothing_was_begun_begins(inputs: Path, tmp_path: Path) -> None:
    said: list[str] = []
    train("sft", out=tmp_path / "out", overrides=settings_of("sft", inputs), resume=True, log=said.append)
    assert "nothing to resume: starting from the beginning" in said
    assert weights_of(tmp_path / "out")


def test_the_result(inputs: Path, tmp_path: Path) -> None:
    """DPO from a file of pairs to a folder, without any workspace."""
    result = trained("dpo", inputs, tmp_path / "out", test_share=0.3)
    assert set(result) == {"artifact", "hash", "steps", "seconds", "metrics", "ledger"}
    assert result["artifact"] == str(tmp_path / "out")
    assert result["ledger"]["rows"] == result["ledger"]["used"] == 12
    assert {"loss", "rewards/accuracies", "grad_norm", "lr", "eval_loss"} <= set(result["metrics"])
    made = read_artifact(tmp_path / "out")
    assert (made.kind, made.hash, made.manifest["seeds"]) == ("policy", result["hash"], {"seed": 0})
    assert made.manifest["settings"]["lr"] == 1e-3
    assert json.loads((tmp_path / "out" / "ledger.json").read_text()) == result["ledger"]
    steps = [json.loads(line)["step"] for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert max(steps) == result["steps"]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_without_a_workspace_no_workspace_is_needed_or_made(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(inputs / "pairs.jsonl", tmp_path)
    result = train(
        "dpo",
        data="pairs.jsonl",
        policy=inputs / "policy",
        out="new",
        device="cpu",
        overrides=["steps=1", "batch_size=2", "max_length=64"],
        log=lambda words: None,
    )
    assert result["steps"] == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["new", "pairs.jsonl"]


def test_dropped_and_cut_rows_are_in_the_ledger(inputs: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (inputs / "pairs.jsonl").read_text().splitlines()]
    rows += [
        {"prompt": "Q", "chosen": "same", "rejected": "same"},
        {"prompt": "R", "chosen": "y" * 90, "rejected": "z"},
    ]
    rows += [{"prompt": "S", "chosen": "y" * 90 + "a", "rejected": "y" * 90 + "b"}]
    (tmp_path / "some.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = str(tmp_path / "some.jsonl")
    for method in ("reward_model", "dpo"):
        ledger = trained(method, inputs, tmp_path / method, data=data, max_dropped=0.2)["ledger"]
        assert (ledger["rows"], ledger["used"]) == (15, 13)
        assert ledger["dropped"] == {"identical": 1, "truncated to identical": 1}
        assert ledger["notes"] == {"truncated": 1}
    with pytest.raises(RunError, match=r"2 of 15 rows would be dropped .*truncated to identical: 1"):
        trained("dpo", inputs, tmp_path / "no", data=data, max_dropped=0.1)
    assert not (tmp_path / "no").exists()


def test_a_prompt_that_rollouts_must_cut_is_in_the_ledger(inputs: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (inputs / "pairs.jsonl").read_text().splitlines()]
    rows.append({"prompt": "long " * 60 + "?", "chosen": "a", "rejected": "b"})
    (tmp_path / "some.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = trained("ppo", inputs, tmp_path / "out", data=str(tmp_path / "some.jsonl"), steps=1)
    assert result["ledger"]["notes"]["prompt truncated"] == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": "nowhere.jsonl"}, r"no data file 'nowhere\.jsonl'"),
        ({"policy": "./nowhere"}, r"no model at '\./nowhere'"),
        ({"leraning_rate": 1}, r"unknown setting 'leraning_rate'; did you mean"),
        ({"batchsize": 1}, r"unknown setting 'batchsize'; did you mean 'batch_size'\?"),
        ({"lora": {"rnk": 1}}, r"unknown setting 'rnk'; did you mean 'rank'\?"),
        ({"lora": {"targets": ["no_such_layer"]}}, r"lora\.targets"),
        ({"batch_size": 0}, r"batch_size: .*got 0"),
        ({"lr": "fast"}, r"lr: .*got 'fast'"),
        ({"label_smoothing": 0.7}, r"label_smoothing: .*got 0\.7"),
        ({"beta": -1}, r"beta: .*got -1"),
        ({"device": "cuda:99"}, "device"),
        ({"dtype": "float8"}, "unknown dtype 'float8'"),
    ],
)
def test_what_is_wrong_with_the_input_is_said(
    changes: dict[str, Any], message: str, inputs: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        trained("dpo", inputs, tmp_path / "out", **changes)
    assert list(tmp_path.glob("out*")) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"minibatches": 0},
        {"rollout_epochs": 0},
        {"max_new_tokens": 0},
        {"temperature": 0.0},
        {"clip_range": 0.0},
        {"gamma": 1.5},
        {"gae_lambda": -0.1},
        {"beta": -0.1},
        {"kl_target": 0.0},
        {"value_coef": -1.0},
    ],
)
def test_ppo_refuses_settings_without_meaning(changes: dict[str, Any], inputs: Path, tmp_path: Path) -> None:
    (key,) = changes
    with pytest.raises(InputError, match=key):
        trained("ppo", inputs, tmp_path / "out", **changes)


def test_ppo_needs_a_reward_model_and_no_policy(inputs: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="it is a policy, not a reward model"):
        trained("ppo", inputs, tmp_path / "out", reward_model=str(inputs / "policy"))


def damaged(inputs: Path, folder: Path, what: str) -> Path:
    policy = Path(shutil.copytree(inputs / "policy", folder / "policy"))
    if what == "tokenizer":
        (policy / "tokenizer.json").unlink()
    elif what == "pickle":
        (policy / "model.safetensors").rename(policy / "pytorch_model.bin")
    else:
        config = json.loads((policy / "config.json").read_text())
        (policy / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoConfig": "x.Y"}}))
    return policy


@pytest.mark.parametrize(
    ("what", "message"), [("tokenizer", "has no tokenizer"), ("pickle", "pickled weights"), ("code", "auto_map")]
)
@pytest.mark.parametrize("method", ["sft", "ppo"])
def test_a_model_that_cannot_be_taken(method: str, what: str, message: str, inputs: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        trained(method, inputs, tmp_path / "out", policy=str(damaged(inputs, tmp_path, what)))
    assert list(tmp_path.glob("*out*")) == []


def test_an_output_folder_that_is_taken(inputs: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("keep me")
    with pytest.raises(InputError, match="exists and is not empty"):
        trained("sft", inputs, tmp_path / "out")
    assert (tmp_path / "out" / "mine.txt").read_text() == "keep me"


def test_a_method_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'dop'; did you mean 'dpo'\?"):
        train("dop", out=tmp_path / "out")


def test_a_run_file_of_another_method(inputs: Path, tmp_path: Path) -> None:
    run = tmp_path / "run.yaml"
    run.write_text("method: dpo\nlr: 1e-3\n")
    with pytest.raises(InputError, match=r"is a run of 'dpo', not of 'sft'; use: prefloop train dpo"):
        train("sft", run, out=tmp_path / "out")


def test_paths_in_a_run_file_are_the_files_own(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    write_pairs(tmp_path / "mine.jsonl")
    shutil.copytree(inputs / "policy", tmp_path / "model")
    run = tmp_path / "run.yaml"
    run.write_text("policy: model\ndata: mine.jsonl\nsteps: 1\nmax_length: 64\ndevice: cpu\n")
    assert train("sft", run, out=tmp_path / "out", log=lambda words: None)["ledger"]["used"] == 12


def test_a_full_disk_leaves_nothing_half_written(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk fills while the result is written: nothing is at its place, and the run can go on later."""
    import errno

    trained("sft", inputs, tmp_path / "whole", checkpoint_seconds=0)

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("prefloop.algorithms.sft.save_trained", full)
    with pytest.raises(RunError, match="the disk is full"):
        trained("sft", inputs, tmp_path / "out", checkpoint_seconds=0)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".out.run", "whole"]
    monkeypatch.undo()
    trained("sft", inputs, tmp_path / "out", checkpoint_seconds=0, resume=True)
    assert weights_of(tmp_path / "out") == weights_of(tmp_path / "whole")


def test_a_disk_that_is_really_full(inputs: Path, tmp_path: Path) -> None:
    """On a file system of 300 kB a run fails with one message, and the artifact is not there."""
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(small)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("only root may mount a small file system")
    try:
        with pytest.raises(RunError, match="the disk is full"):
            trained("dpo", inputs, small / "out", checkpoint_seconds=0)
        assert not (small / "out").exists()
    finally:
        gc.collect()
        subprocess.run(["umount", str(small)], check=False)


@pytest.mark.parametrize("method", ["sft", "ppo"])
def test_with_lora_the_base_is_merged_and_the_adapter_kept(method: str, inputs: Path, tmp_path: Path) -> None:
    trained(method, inputs, tmp_path / "out", **LORA)
    merged = load_file(tmp_path / "out" / "model.safetensors")
    before = load_file(inputs / "policy" / "model.safetensors")
    assert set(merged) == set(before)
    changed = {name for name in before if not torch.equal(merged[name], before[name].bfloat16())}
    assert changed
    assert all("proj" in name for name in changed)
    assert (tmp_path / "out" / "adapter" / "adapter_model.safetensors").is_file()


def test_keep_best_returns_the_lowest_held_out_loss(inputs: Path, tmp_path: Path) -> None:
    """At a learning rate that only makes things worse the best step is an early one, and patience ends the run."""
    result = trained(
        "sft", inputs, tmp_path / "out", test_share=0.4, epochs=20, lr=0.3, eval_every=1, keep_best=True, patience=2
    )
    rows = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    held_out = {row["step"]: row["eval_loss"] for row in rows if "eval_loss" in row}
    best = min(held_out, key=held_out.__getitem__)
    assert result["metrics"]["best_step"] == best
    assert max(held_out) == best + 2
    again = trained("sft", inputs, tmp_path / "again", test_share=0.4, epochs=20, lr=0.3, eval_every=1, stop_at=best)
    assert weights_of(tmp_path / "again")
    assert again["steps"] == best


def test_in_a_workspace_the_newest_snapshot_is_a_parent(inputs: Path, tmp_path: Path) -> None:
    workspace = prefloop.init(tmp_path / "place")
    prefloop.import_data(inputs / "pairs.jsonl", "comparisons", workspace=workspace)
    made = prefloop.snapshot("comparisons", workspace=workspace)
    settings = {k: v for k, v in settings_of("dpo", inputs).items() if k != "data"}
    result = train("dpo", overrides=settings, workspace=workspace, log=lambda words: None)
    artifact = read_artifact(Path(result["artifact"]))
    assert artifact.parents == [made.artifact.hash]
    assert artifact.path.parent == workspace.artifacts / "policy"
    rewards = train("reward_model", overrides=settings, workspace=workspace, log=lambda words: None)
    ppo = {k: v for k, v in settings_of("ppo", inputs, steps=1).items() if k not in ("data", "reward_model")}
    ended = train("ppo", overrides=ppo, workspace=workspace, log=lambda words: None)
    parents = read_artifact(Path(ended["artifact"])).parents
    assert sorted(parents) == sorted([made.artifact.hash, rewards["hash"]])


def test_peoples_ratings_weigh_what_is_cloned(inputs: Path, tmp_path: Path) -> None:
    """Where no log is given, the workspace's ratings are the rewards: `filter` keeps the share that was rated best."""
    workspace = prefloop.init(tmp_path / "place")
    rows = [
        {"prompt": f"Which, {i}?", "completion": "apple", "scores": {"overall": 1 + i % 5}, "annotator": "ann"}
        for i in range(10)
    ]
    (tmp_path / "ratings.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {k: v for k, v in settings_of("awr", inputs, weighting="filter", share=0.4).items() if k != "data"}
    with pytest.raises(InputError, match="holds no rewards; bring some with: prefloop import FILE --as ratings"):
        train("awr", overrides=settings, workspace=workspace, log=lambda words: None)
    prefloop.import_data(tmp_path / "ratings.jsonl", "ratings", workspace=workspace)
    result = train("awr", overrides=settings, workspace=workspace, log=lambda words: None)
    (parent,) = read_artifact(Path(result["artifact"])).parents
    (snapshot,) = (workspace.artifacts / "snapshot").iterdir()
    assert read_artifact(snapshot).hash == parent
    train_rows = len((snapshot / "train.jsonl").read_text().splitlines())
    test_rows = 10 - train_rows
    best = round(0.4 * train_rows) + (max(1, round(0.4 * test_rows)) if test_rows else 0)
    assert result["ledger"]["dropped"] == {"filtered out": 10 - best}


def test_rows_are_cut_at_what_the_model_takes(inputs: Path, tmp_path: Path) -> None:
    """256 positions: a longer max_length would end in an index error in models with learned positions."""
    rows = [json.loads(line) for line in (inputs / "pairs.jsonl").read_text().splitlines()]
    rows.append({"prompt": "long " * 200, "chosen": "a", "rejected": "b"})
    (tmp_path / "some.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    said: list[str] = []
    settings = settings_of("sft", inputs, data=str(tmp_path / "some.jsonl"), max_length=512, steps=1)
    result = train("sft", out=tmp_path / "out", overrides=settings, log=said.append)
    assert result["ledger"]["notes"] == {"prompt truncated": 1}
    assert any("max_length is 512, but this model takes 256 tokens" in line for line in said)


def test_a_reward_model_with_another_tokenizer_leaves_the_critic_to_the_policy(inputs: Path, tmp_path: Path) -> None:
    """The critic reads the policy's ids, which mean nothing to a model with other ones."""
    other = Path(shutil.copytree(inputs / "rm", tmp_path / "rm"))
    words = (other / "tokenizer.json").read_text(encoding="utf-8")
    (other / "tokenizer.json").write_text(words.replace('"<system>"', '"<other>"'), encoding="utf-8")
    config = json.loads((other / "tokenizer_config.json").read_text())
    named = json.loads(json.dumps(config).replace("<system>", "<other>"))
    (other / "tokenizer_config.json").write_text(json.dumps(named))
    said: list[str] = []
    settings = settings_of("ppo", inputs, reward_model=str(other), steps=1)
    train("ppo", out=tmp_path / "out", overrides=settings, log=said.append)
    assert any("the critic starts as the policy" in line for line in said)
    with pytest.raises(InputError, match="has another tokenizer than the policy"):
        trained("ppo", inputs, tmp_path / "no", reference=str(other))
