"""Models from directories: what is loaded, and what is refused with a clear message."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from prefloop.errors import InputError
from prefloop.models.load import load_policy, load_reward_model, load_tokenizer, resolve, save_model

CPU = torch.device("cpu")


@pytest.fixture
def copy(tiny_model: Path, tmp_path: Path) -> Path:
    """A model directory that a test may damage."""
    return Path(shutil.copytree(tiny_model, tmp_path / "copy"))


def edit_config(folder: Path, **values: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def test_a_policy_is_loaded_for_use(tiny_model: Path) -> None:
    model = load_policy(tiny_model, torch.bfloat16, CPU)
    assert model.dtype == torch.bfloat16
    assert not model.training


def test_saving_and_loading_keeps_the_weights(tiny_model: Path, tmp_path: Path) -> None:
    model = load_policy(tiny_model, torch.bfloat16, CPU)
    save_model(model, load_tokenizer(tiny_model), tmp_path / "saved")
    again = load_policy(tmp_path / "saved", torch.bfloat16, CPU)
    expected = dict(model.named_parameters())
    assert {name for name, _ in again.named_parameters()} == set(expected)
    assert all(torch.equal(p, expected[name]) for name, p in again.named_parameters())
    assert load_tokenizer(tmp_path / "saved").chat_template == load_tokenizer(tiny_model).chat_template
    stored = load_file(tmp_path / "saved" / "model.safetensors")
    assert {t.dtype for t in stored.values()} == {torch.bfloat16}
    assert not list((tmp_path / "saved").glob("*.bin"))


def test_saving_leaves_a_float32_model_in_float32(tiny_model: Path, tmp_path: Path) -> None:
    model = load_policy(tiny_model, torch.float32, CPU)
    save_model(model, load_tokenizer(tiny_model), tmp_path / "saved")
    assert model.dtype == torch.float32


def test_a_hub_id_is_left_to_the_library() -> None:
    assert resolve("owner/name") == "owner/name"
    with pytest.raises(InputError, match="owner/name could not be loaded"):
        load_tokenizer("owner/name")


@pytest.mark.parametrize("ref", ["nowhere", "./nowhere/model", "a/b/c"])
def test_a_place_that_is_not_there(ref: str) -> None:
    with pytest.raises(InputError, match=f"no model at '{ref}'.*builtin"):
        resolve(ref)


def test_a_file_is_no_model(tiny_model: Path) -> None:
    with pytest.raises(InputError, match="is a file"):
        resolve(tiny_model / "config.json")


def test_without_config(copy: Path) -> None:
    (copy / "config.json").unlink()
    with pytest.raises(InputError, match=r"no config\.json"):
        resolve(copy)


def test_with_a_broken_config(copy: Path) -> None:
    (copy / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config\.json is not JSON"):
        resolve(copy)


def test_without_tokenizer(copy: Path) -> None:
    (copy / "tokenizer.json").unlink()
    with pytest.raises(InputError, match=r"has no tokenizer \(tokenizer\.json\)"):
        resolve(copy)


def test_a_tokenizer_without_eos(copy: Path) -> None:
    file = copy / "tokenizer_config.json"
    file.write_text(json.dumps({k: v for k, v in json.loads(file.read_text()).items() if k != "eos_token"}))
    with pytest.raises(InputError, match="no eos token"):
        load_tokenizer(copy)


def test_pickled_weights_are_refused(copy: Path) -> None:
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"pickled weights \(pytorch_model\.bin\).*convert them to safetensors"):
        resolve(copy)


def test_without_weights(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"no \*\.safetensors weights"):
        resolve(copy)


def test_code_of_its_own_is_refused_and_not_run(copy: Path) -> None:
    edit_config(copy, auto_map={"AutoModelForCausalLM": "evil.Model"}, model_type="evil")
    (copy / "evil.py").write_text("from pathlib import Path\nPath(__file__).with_name('ran').touch()\n")
    with pytest.raises(InputError, match="needs code of its own"):
        load_policy(copy, torch.float32, CPU)
    assert not (copy / "ran").exists()


def test_torn_weights(copy: Path) -> None:
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(InputError, match="could not be loaded"):
        load_policy(copy, torch.float32, CPU)


@pytest.mark.parametrize(
    "values", [{"num_attention_heads": "many"}, {"model_type": "no_such_model"}, {"vocab_size": 7}, {"hidden_size": 33}]
)
def test_a_config_that_cannot_be(copy: Path, values: dict[str, object]) -> None:
    edit_config(copy, **values)
    with pytest.raises(InputError, match="could not be loaded"):
        load_policy(copy, torch.float32, CPU)


def test_weights_that_are_missing_are_not_made_up(copy: Path) -> None:
    """The library would fill them with random numbers and say nothing."""
    weights = load_file(copy / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"lacks weights.*up_proj"):
        load_policy(copy, torch.float32, CPU)
    with pytest.raises(InputError, match=r"lacks weights.*up_proj"):
        load_reward_model(copy, torch.float32, CPU, new_head=True)


def test_a_policy_is_no_reward_model(tiny_model: Path) -> None:
    """Its score head would be random numbers, and so would every score."""
    with pytest.raises(InputError, match="it is a policy, not a reward model"):
        load_reward_model(tiny_model, torch.float32, CPU)
    assert load_reward_model(tiny_model, torch.float32, CPU, new_head=True).config.num_labels == 1
