"""QLoRA: what is held in 4 bits, that the adapter alone is trained, and that what is saved is what was trained."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from prefloop.errors import InputError
from prefloop.models.heads import CompletionLogprobs, ScoreHead
from prefloop.models.load import load_policy, load_reward_model
from prefloop.models.template import Encoded
from prefloop.workflows.training import train
from tests.small import build, settings_of, write_inputs

FOUR_BIT: dict[str, Any] = {"lora": {"rank": 4, "four_bit": True}}
TEXTS = [Encoded([3, 4, 70, 71, 72, 73], 3), Encoded([3, 4, 70, 80, 81], 3), Encoded([3, 90, 91, 92], 2)]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return write_inputs(tmp_path_factory.mktemp("inputs"))


def test_without_the_library_it_says_what_to_install(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "bitsandbytes" else honest(name))
    with pytest.raises(InputError, match="need bitsandbytes, which is not installed: pip install bitsandbytes"):
        build("dpo", inputs, tmp_path / "run", **FOUR_BIT)


def test_what_is_saved_is_what_was_trained(inputs: Path, tmp_path: Path) -> None:
    """Merged in full: the weights that the 4 bits stand for, and the adapter's update on them."""
    pytest.importorskip("bitsandbytes")
    algorithm, _ = build("dpo", inputs, tmp_path / "run", **FOUR_BIT)
    base = algorithm.model.get_base_model()
    held = base.model.layers[0].mlp.up_proj.base_layer.weight
    assert (held.dtype, held.numel()) == (torch.uint8, 64 * 32 // 2)
    trained = {name for name, p in algorithm.model.named_parameters() if p.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)
    start = CompletionLogprobs(load_policy(inputs / "policy", torch.float32, torch.device("cpu"))).of(TEXTS)[0]
    with torch.no_grad():
        rounded = CompletionLogprobs(algorithm.model).of(TEXTS)[0]
        for name, parameter in algorithm.model.named_parameters():
            if name in trained:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))))
        moved = CompletionLogprobs(algorithm.model).of(TEXTS)[0]
    algorithm.save(tmp_path / "saved")
    again = load_policy(tmp_path / "saved", torch.float32, torch.device("cpu"))
    with torch.no_grad():
        found = CompletionLogprobs(again).of(TEXTS)[0]
    assert 1e-4 < (rounded - start).abs().max() < 0.1
    assert (moved - rounded).abs().max() > 0.1
    # honest: weights are stored in bfloat16, eight bits
    torch.testing.assert_close(found, moved, atol=0.05, rtol=0)
    assert "quantization_config" not in json.loads((tmp_path / "saved" / "config.json").read_text())
    assert (tmp_path / "saved" / "adapter" / "adapter_model.safetensors").is_file()


def test_a_reward_model_keeps_its_trained_head(inputs: Path, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    algorithm, _ = build("reward_model", inputs, tmp_path / "run", normalise=0, **FOUR_BIT)
    head = algorithm.head
    assert isinstance(head, ScoreHead)
    with torch.no_grad():
        head.final.weight.add_(1.0)
        expected = head.of(TEXTS)
    algorithm.save(tmp_path / "saved")
    again = load_reward_model(tmp_path / "saved", torch.float32, torch.device("cpu"))
    with torch.no_grad():
        found = ScoreHead(again).of(TEXTS)
    # honest: weights are stored in bfloat16, eight bits
    torch.testing.assert_close(found, expected, atol=0.1, rtol=0.02)


@pytest.mark.parametrize("method", ["sft", "ppo"])
def test_a_run_learns_and_its_seed_decides_everything(method: str, inputs: Path, tmp_path: Path) -> None:
    """Offline and online; of the online run, the policy with its adapter off is the reference."""
    pytest.importorskip("bitsandbytes")
    results = [
        train(method, out=tmp_path / name, overrides=settings_of(method, inputs, **FOUR_BIT), log=lambda words: None)
        for name in ("a", "b")
    ]
    assert results[0]["hash"] == results[1]["hash"]
    again = load_policy(tmp_path / "a", torch.float32, torch.device("cpu"))
    assert not any(isinstance(p, nn.Parameter) and p.dtype == torch.uint8 for p in again.parameters())
