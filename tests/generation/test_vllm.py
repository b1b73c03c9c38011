"""Sampling with a server: against one of our own that speaks vLLM's protocol, not against vLLM."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import T5Config, T5ForConditionalGeneration

from prefloop.errors import InputError, RunError
from prefloop.generation import vllm, vllm_server
from prefloop.generation.choice import Sampling
from prefloop.generation.sampler import Sample, Sampler
from prefloop.generation.vllm import ServedSampler, VllmSettings
from prefloop.models.adapters import add_lora
from prefloop.models.load import load_policy
from prefloop.models.template import Template
from prefloop.training import online
from prefloop.training.rollout import make_rollout
from prefloop.training.run import read_metrics
from prefloop.workflows.training import train
from tests.small import build, settings_of, write_inputs
from tests.tiny import write_tiny_model
from tests.vllm_stub import Cut, VllmStub, serving

PROMPTS = [[1, 20, 30], [1, 40], [1, 50, 60, 70, 80]]


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the same shape with other weights."""
    return write_tiny_model(tmp_path_factory.mktemp("other"), seed=5)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm, "PROBES", 3)
    monkeypatch.setattr(vllm, "PROBE_TOKENS", 6)
    monkeypatch.setattr(vllm_server, "PAUSE_SECONDS", 0.01)


@pytest.fixture
def stub(other: Path) -> Iterator[VllmStub]:
    """It was started with other weights than the policy's."""
    with serving(other) as made:
        yield made


@pytest.fixture
def policy(tiny_model: Path) -> Any:
    """Not as it was made: then all its tokens are about as likely, and log-probabilities tell nothing."""
    model = load_policy(tiny_model, torch.float32, torch.device("cpu"))
    move(model, 0.15)
    return model


def served(
    policy: Any, template: Template, stub: VllmStub, folder: Path, log: Callable[[str], None] = print, **more: Any
) -> ServedSampler:
    given = {"url": stub.url, "folder": str(folder / "weights"), "timeout": 60.0, "max_gap": 0.01, **more}
    return ServedSampler(policy, template, VllmSettings(**given), log)


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@torch.no_grad()
def whole(model: Any, prompt: list[int], sample: Sample, temperature: float) -> Tensor:
    """log pi of each of a sample's tokens, from one plain forward pass."""
    ids = torch.tensor([[*prompt, *sample.ids]])
    logits = model(ids).logits[0, len(prompt) - 1 : -1].float() / (temperature or 1.0)
    return logits.log_softmax(-1).gather(1, ids[0, len(prompt) :, None])[:, 0]


def are_the_policys(model: Any, groups: list[list[Sample]], temperature: float = 1.0) -> bool:
    for prompt, group in zip(PROMPTS, groups, strict=True):
        for sample in group:
            own = whole(model, prompt, sample, temperature)
            if not torch.allclose(torch.tensor(sample.logprobs), own, atol=1e-4):
                return False
    return True


def move(model: Any, by: float = 0.05) -> None:
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(by * torch.randn_like(parameter))


@pytest.mark.parametrize("temperature", [1.0, 0.6, 0.0])
def test_log_probabilities_are_those_of_the_policy(
    policy: Any, template: Template, stub: VllmStub, tmp_path: Path, temperature: float
) -> None:
    sampler = served(policy, template, stub, tmp_path)
    sampler.update(4)
    sampling = Sampling(max_new_tokens=6, temperature=temperature)
    counted: list[int] = []
    heard: list[int] = []
    groups = sampler(
        PROMPTS,
        2,
        sampling,
        stream(),
        counted.append,
        limits=[6, 3, 4],
        told=lambda i, sample: heard.append(len(sample.ids)),
    )
    assert [len(group) for group in groups] == [2, 2, 2]
    assert are_the_policys(policy, groups, temperature)
    samples = [sample for group in groups for sample in group]
    assert {sample.weight_version for sample in samples} == {4}
    for sample, limit in zip(samples, [6, 6, 3, 3, 4, 4], strict=True):
        assert sample.terminated or len(sample.ids) == limit
        assert sample.entropies == []
    assert sum(counted) == 6
    assert len(heard) == sum(len(sample.ids) for sample in samples)


def test_a_seed_decides_a_sample(policy: Any, template: Template, stub: VllmStub, tmp_path: Path) -> None:
    sampler, sampling = served(policy, template, stub, tmp_path), Sampling(max_new_tokens=6)
    sampler.update(0)
    one, again = (sampler(PROMPTS, 2, sampling, stream(7)) for _ in range(2))
    assert one == again
    seeded = sampler(PROMPTS, 2, sampling, stream(), seeds=[10, 20, 30])
    (alone,) = sampler(PROMPTS[1:2], 1, sampling, stream(), seeds=[21])
    assert alone == [seeded[1][1]]
    assert seeded[1][0] != seeded[1][1]
    assert sampler([], 2, sampling, stream()) == []


def test_a_completion_ends_where_a_sampler_ends_it(
    policy: Any, template: Template, stub: VllmStub, tmp_path: Path
) -> None:
    """Greedily both write the same; so they do up to a stop string, and up to a token that ends the text."""
    sampler, sampling = served(policy, template, stub, tmp_path), Sampling(max_new_tokens=8, temperature=0)
    own = Sampler(policy, template)
    sampler.update(0)
    free = sampler(PROMPTS, 1, sampling, stream())
    assert [g[0].ids for g in free] == [g[0].ids for g in own(PROMPTS, 1, sampling, stream())]
    text = template.decode(free[0][0].ids)
    stop = next(text[i : i + 2] for i in range(2, len(text)) if len(text[i : i + 2].strip("\ufffd")) == 2)
    stopping = Sampling(max_new_tokens=8, temperature=0, stop=(stop,))
    (found,) = sampler(PROMPTS[:1], 1, stopping, stream())
    (right,) = own(PROMPTS[:1], 1, stopping, stream())
    assert (found[0].ids, found[0].terminated) == (right[0].ids, True)
    assert len(found[0].ids) < 8
    end = free[1][0].ids[1]
    policy.generation_config.eos_token_id = [policy.config.eos_token_id, end]
    sampler, own = served(policy, template, stub, tmp_path), Sampler(policy, template)
    for each in (sampler, own):
        each.update(0)
    (found,) = sampler(PROMPTS[1:2], 1, sampling, stream())
    (right,) = own(PROMPTS[1:2], 1, sampling, stream())
    assert (found[0].ids, found[0].terminated, found[0].weight_version) == (right[0].ids, True, right[0].weight_version)
    assert len(found[0].ids) <= 2


def test_an_update_gives_the_server_the_weights_of_now(
    policy: Any, template: Template, stub: VllmStub, tmp_path: Path
) -> None:
    """Also a server that holds newer ones, as it does after a kill; the policy stays what it is, to the bit."""
    sampler, sampling = served(policy, template, stub, tmp_path), Sampling(max_new_tokens=5)
    sampler.update(0)
    first = sampler(PROMPTS, 1, sampling, stream())
    before = copy.deepcopy(policy)
    move(policy)
    kept = copy.deepcopy(policy.state_dict())
    sampler.update(0)  # the same number: nothing is sent
    assert len(stub.paths("/collective_rpc")) == 1
    sampler.update(1)
    second = sampler(PROMPTS, 1, sampling, stream())
    assert are_the_policys(before, first)
    assert are_the_policys(policy, second)
    assert not are_the_policys(before, second)
    assert {sample.weight_version for group in second for sample in group} == {1}
    assert all(torch.equal(kept[name], value) for name, value in policy.state_dict().items())
    handed = [Path(body["kwargs"]["weights_path"]) for body in stub.paths("/collective_rpc")]
    assert [path.name.split("-")[:2] for path in handed] == [["weights", "0"], ["weights", "1"]]
    assert list((tmp_path / "weights").iterdir()) == [handed[1]]
    assert not [file for file in handed[1].iterdir() if file.suffix not in (".safetensors", ".json")]
    assert len(stub.paths("/reset_prefix_cache")) == 2
    resumed = served(before, template, stub, tmp_path)
    resumed.update(0)
    assert are_the_policys(before, resumed(PROMPTS, 1, sampling, stream()))


def test_an_adapter_is_merged_for_the_server_alone(
    policy: Any, template: Template, stub: VllmStub, tmp_path: Path
) -> None:
    adapted = add_lora(policy, rank=4, alpha=8, dropout=0.0, targets="all-linear", seed=0, task="policy").eval()
    move(adapted, 0.3)
    kept = {name: value.clone() for name, value in adapted.state_dict().items()}
    sampler = served(adapted, template, stub, tmp_path)
    sampler.update(0)
    groups = sampler(PROMPTS, 1, Sampling(max_new_tokens=5), stream())
    assert are_the_policys(adapted, groups)
    with adapted.disable_adapter():
        assert not are_the_policys(adapted, groups)
    assert kept.keys() == adapted.state_dict().keys()
    assert all(torch.equal(value, adapted.state_dict()[name]) for name, value in kept.items())


def keeps(path: str, body: Any) -> tuple[int, Any] | None:
    """A server that says it has loaded the weights, and has not."""
    return (200, {"results": [None]}) if path == "/collective_rpc" else None


def test_a_server_that_takes_no_weights_is_found(
    policy: Any, template: Template, stub: VllmStub, tmp_path: Path
) -> None:
    stub.before = keeps
    with pytest.raises(RunError, match="nats per token from those of the policy whose weights it was given"):
        served(policy, template, stub, tmp_path).update(0)


def test_a_server_that_stays_behind_is_found(policy: Any, template: Template, stub: VllmStub, tmp_path: Path) -> None:
    """By far less than max_gap: the policy's log-probabilities move, and the server's do not."""
    sampler = served(policy, template, stub, tmp_path, max_gap=10.0)
    sampler.update(0)
    for version in (1, 2):
        move(policy, 0.003)
        sampler.update(version)
    stub.before = keeps
    move(policy, 0.003)
    with pytest.raises(RunError, match="does not have the weights that it was given") as failed:
        sampler.update(3)
    assert float(str(failed.value).split("moved by ")[1].split()[0]) < 0.2
    with pytest.raises(RunError, match="`update` comes first"):
        sampler(PROMPTS, 1, Sampling(), stream())


@pytest.mark.parametrize("by", [0.002, 0.02, 0.2])
def test_rounding_is_no_false_alarm(policy: Any, template: Template, stub: VllmStub, tmp_path: Path, by: float) -> None:
    """A server in bfloat16 follows a policy in float32, by small steps and large; where it stays behind is found."""
    stub.model.bfloat16()
    sampler = served(policy, template, stub, tmp_path, max_gap=0.5)
    done = 0

    def go_on(steps: int) -> None:
        nonlocal done
        for _ in range(steps):
            done += 1
            move(policy, by)
            sampler.update(done)

    go_on(8)
    stub.before = keeps
    with pytest.raises(RunError, match="does not have the weights that it was given"):
        go_on(100)
    assert done <= 8 + max(1, 0.04 / by)


def test_a_server_that_dies_half_way_loses_nothing(
    policy: Any, template: Template, stub: VllmStub, tmp_path: Path
) -> None:
    """It comes back with the weights that it was started with, and gets the policy's again before it goes on."""
    said: list[str] = []
    sampler, sampling = served(policy, template, stub, tmp_path, said.append, in_flight=2), Sampling(max_new_tokens=6)
    sampler.update(2)
    undisturbed = sampler(PROMPTS, 4, sampling, stream(5))
    left = [5]

    def dies(path: str, body: Any) -> tuple[int, Any] | None:
        if path == "/v1/completions" and "seed" in body:
            left[0] -= 1
            if left[0] == 0:
                stub.restart()
                raise Cut
        return None

    stub.before = dies
    counted: list[int] = []
    groups = sampler(PROMPTS, 4, sampling, stream(5), counted.append)
    assert are_the_policys(policy, groups)
    assert groups == undisturbed
    assert sum(counted) == 12
    assert len(stub.paths("/collective_rpc")) == 2
    (words,) = said
    assert words.startswith("the vLLM server lost")
    assert "RemoteDisconnected" in words


def test_a_server_whose_weights_change_meanwhile_is_found(
    policy: Any, template: Template, stub: VllmStub, tmp_path: Path
) -> None:
    """Somebody else gives it others while a rollout is sampled: no such mixture is returned."""
    sampler = served(policy, template, stub, tmp_path, max_gap=10.0)
    sampler.update(0)

    def changes(path: str, body: Any) -> None:
        if body.get("seed") and len(stub.paths("/v1/completions")) % 2:
            stub.begin()

    stub.before = changes
    with pytest.raises(RunError, match="does not have the weights that it was given"):
        sampler(PROMPTS, 2, Sampling(max_new_tokens=3), stream())


def test_an_answer_that_takes_too_long_is_asked_for_again(
    policy: Any, template: Template, stub: VllmStub, tmp_path: Path
) -> None:
    said: list[str] = []
    sampler = served(policy, template, stub, tmp_path, said.append, in_flight=1)
    sampler.update(0)
    sampler.server.timeout = 1.5
    naps = [1.7]
    stub.before = lambda path, body: time.sleep(naps.pop()) if "seed" in body and naps else None
    assert are_the_policys(policy, sampler(PROMPTS, 1, Sampling(max_new_tokens=3), stream()))
    assert "TimeoutError" in said[0]


def test_a_server_that_stays_away_is_an_error(policy: Any, template: Template, stub: VllmStub, tmp_path: Path) -> None:
    sampler = served(policy, template, stub, tmp_path)
    sampler.update(0)
    sampler.server.timeout = 0.1

    def gone(path: str, body: Any) -> tuple[int, Any] | None:
        raise Cut

    stub.before = gone
    with pytest.raises(RunError, match="is gone .* was not back after 0.1 seconds; start it, and go on with --resume"):
        sampler(PROMPTS, 1, Sampling(max_new_tokens=3), stream())
    sampler.server.timeout = 60.0
    stub.before = lambda path, body: (503, {"error": "no room"}) if body.get("seed") else None
    with pytest.raises(RunError, match="gave no answer, 3 times .*status 503, no room"):
        sampler(PROMPTS, 1, Sampling(max_new_tokens=3), stream())


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda choice: choice.pop("token_ids"), "no token_ids or no token_logprobs"),
        (lambda choice: choice.pop("logprobs"), "no token_ids or no token_logprobs"),
        (lambda choice: choice["logprobs"]["token_logprobs"].pop(), "gave 3, with 2 log-probabilities"),
        (lambda choice: choice["token_ids"].extend([5, 5]), "asked for 1 to 3 tokens and gave 5"),
        (lambda choice: choice["token_ids"].clear(), "asked for 1 to 3 tokens and gave 0"),
        (lambda choice: choice["logprobs"]["token_logprobs"].__setitem__(1, math.nan), "gave nan as"),
        (lambda choice: choice["logprobs"]["token_logprobs"].__setitem__(1, None), "gave None as"),
        (lambda choice: choice["logprobs"]["token_logprobs"].__setitem__(1, -9999.0), "gave -9999.0 as"),
        (lambda choice: choice["logprobs"]["token_logprobs"].__setitem__(1, 2.5), "gave 2.5 as"),
        (lambda choice: choice.update(prompt_token_ids=[1]), "another prompt"),
        (lambda choice: [choice[k].pop() for k in ("token_ids",)] + [choice["logprobs"]["token_logprobs"].pop()],
         "cut a completion off after 2 tokens where 3 were allowed; start it with --generation-config vllm"),
        (lambda choice: choice.update(finish_reason="abort"), "gave no answer, 3 times .*ended with 'abort'"),
    ],
)  # fmt: skip
def test_wrong_answers_are_errors(
    policy: Any, template: Template, stub: VllmStub, tmp_path: Path, spoil: Any, words: str
) -> None:
    sampler = served(policy, template, stub, tmp_path)
    sampler.update(0)

    def after(path: str, answer: Any) -> None:
        if path == "/v1/completions" and "prompt_logprobs" not in answer["choices"][0]:
            spoil(answer["choices"][0])

    stub.after = after
    with pytest.raises(RunError, match=words):
        sampler(PROMPTS[:1], 1, Sampling(max_new_tokens=3), stream(1))


def test_what_was_started_otherwise_is_refused(policy: Any, template: Template, other: Path, tmp_path: Path) -> None:
    wrong = [
        ({"mode": "raw_logprobs"}, "start it with --logprobs-mode processed_logprobs"),
        ({"dev": False}, "has no /collective_rpc: start vLLM with VLLM_SERVER_DEV_MODE=1"),
    ]
    for how, words in wrong:
        with serving(other, **how) as stub, pytest.raises(InputError, match=words):
            served(policy, template, stub, tmp_path).update(0)
    with pytest.raises(InputError, match="no vLLM server answers at"):
        served(policy, template, stub, tmp_path)  # it is gone now
    with serving(other) as stub:
        sampler = served(policy, template, stub, tmp_path)

        def busy(path: str, body: Any) -> tuple[int, Any] | None:
            sampler.server.timeout = 0.3
            return (200, {"success": False}) if path == "/reset_prefix_cache" else None

        stub.before = busy
        with pytest.raises(RunError, match="does not empty its prefix cache"):
            sampler.update(0)
        sampler.server.timeout = 60.0
        stub.before = lambda path, body: (500, {"detail": "no such file"}) if path == "/collective_rpc" else None
        with pytest.raises(RunError, match="could not load the policy's weights .*no such file.* under that path"):
            sampler.update(0)
        stub.before = lambda path, body: (200, {"data": []}) if path == "/v1/models" else None
        with pytest.raises(InputError, match="is no vLLM server"):
            served(policy, template, stub, tmp_path)


def test_what_a_server_cannot_do_is_refused(policy: Any, template: Template, stub: VllmStub, tmp_path: Path) -> None:
    stub.max_model_len = 40
    sampler = served(policy, template, stub, tmp_path)
    with pytest.raises(RunError, match="`update` comes first"):
        sampler(PROMPTS, 1, Sampling(), stream())
    sampler.update(0)
    with pytest.raises(InputError, match="gives no entropies"):
        sampler(PROMPTS, 1, Sampling(), stream(), entropy=True)
    for narrow in ({"top_k": 5}, {"top_p": 0.9}, {"min_p": 0.1}):
        with pytest.raises(InputError, match="need a Sampler"):
            sampler(PROMPTS, 1, Sampling(**narrow), stream())  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no temperature between 0 and 0.01"):
        sampler(PROMPTS, 1, Sampling(temperature=0.001), stream())
    with pytest.raises(InputError, match="a prompt has 40 tokens; this model takes 40"):
        sampler([[1] * 40], 1, Sampling(), stream())
    (group,) = sampler([[1] * 38], 1, Sampling(max_new_tokens=9), stream())
    assert len(group[0].ids) <= 2
    stub.before = lambda path, body: (400, {"error": {"message": "not this one"}}) if "seed" in body else None
    with pytest.raises(InputError, match="refuses /v1/completions with status 400: not this one"):
        sampler(PROMPTS, 1, Sampling(max_new_tokens=2), stream())
    with pytest.raises(InputError, match="folder must be a whole path"):
        ServedSampler(policy, template, VllmSettings(url=stub.url, folder="weights"))
    with pytest.raises(InputError, match="url must be an address"):
        ServedSampler(policy, template, VllmSettings(url="localhost", folder=str(tmp_path)))
    t5 = T5ForConditionalGeneration(T5Config(d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, vocab_size=16))
    with pytest.raises(InputError, match="has an encoder, which vLLM does not serve"):
        ServedSampler(t5, template, VllmSettings(url=stub.url, folder=str(tmp_path)))


def test_a_rollout_is_of_one_version() -> None:
    device = torch.device("cpu")
    mixed = [Sample([5], [-1.0], weight_version=3), Sample([6], [-1.0], weight_version=2)]
    with pytest.raises(RunError, match="rollout 4 is for weights that had 3 rollouts, but .* those of 2"):
        make_rollout([[1], [1]], mixed, [0.0, 0.0], 0, 3, device)
    assert make_rollout([[1]], [Sample([5], [-1.0])], [0.0], 0, 3, device).weight_version == 3


@pytest.mark.parametrize(("method", "more"), [("rloo", {}), ("ppo", {"lora": {"rank": 2}})])
def test_a_run_with_a_server(tmp_path: Path, method: str, more: dict[str, Any]) -> None:
    """The gauge says of each rollout that server and trainer are one."""
    inputs = write_inputs(tmp_path / "inputs")
    with serving(inputs / "policy") as stub:
        place = {"url": stub.url, "folder": str(tmp_path / "weights")}
        algorithm, run = build(
            method, inputs, tmp_path / "run", steps=3, log_every=1, lr=1e-2, temperature=0.8, vllm=place, **more
        )
        start = copy.deepcopy(algorithm.roles.policy.state_dict())
        online.train_online(algorithm, run)
        assert len(stub.paths("/collective_rpc")) == 3
    assert len(run.metrics) == 3
    assert all(row["sampler/logprob_gap_max"] < 1e-4 for row in run.metrics)
    assert any(not torch.equal(start[name], value) for name, value in algorithm.roles.policy.state_dict().items())


def test_a_run_that_was_cut_off_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server then holds weights that the resumed policy does not have any more."""
    inputs, honest = write_inputs(tmp_path / "inputs"), online.sample_rollout

    def cut(roles: Any, sampler: Any, prompts: Any, run: Any, step: int) -> Any:
        if step == 2:
            raise KeyboardInterrupt
        return honest(roles, sampler, prompts, run, step)

    with serving(inputs / "policy") as stub:
        place = {"url": stub.url, "folder": str(tmp_path / "weights")}
        more = {"steps": 4, "log_every": 1, "lr": 1e-2, "vllm": place, "checkpoint_seconds": 0}
        given = settings_of("rloo", inputs, **more)
        monkeypatch.setattr(online, "sample_rollout", cut)
        with pytest.raises(KeyboardInterrupt):
            train("rloo", out=tmp_path / "run", overrides=given, log=print)
        monkeypatch.setattr(online, "sample_rollout", honest)
        stub.begin()
        made = train("rloo", out=tmp_path / "run", overrides=given, log=print, resume=True)
        handed = [Path(body["kwargs"]["weights_path"]).name for body in stub.paths("/collective_rpc")]
    assert [name.split("-")[1] for name in handed] == ["0", "1", "2", "2", "3"]
    rows = read_metrics(Path(made["artifact"]) / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert all(row["sampler/logprob_gap_max"] < 1e-4 for row in rows)


def test_a_mask_policy_is_refused(tmp_path: Path, stub: VllmStub) -> None:
    place = {"url": stub.url, "folder": str(tmp_path / "weights")}
    algorithm, run = build("nlpo", write_inputs(tmp_path / "inputs"), tmp_path / "run", vllm=place)
    with pytest.raises(InputError, match="a vLLM server does not ask it: leave out vllm, or use"):
        online.train_online(algorithm, run)
