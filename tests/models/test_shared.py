"""Models on one trunk: the numbers of models of their own, from the same weights, which saving leaves alone."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from prefloop.errors import InputError
from prefloop.models.adapters import add_lora, save_trained
from prefloop.models.heads import ScoreHead
from prefloop.models.load import load_policy, load_reward_model, load_tokenizer
from prefloop.models.shared import adapter_on, classifier_on
from prefloop.models.template import Encoded
from prefloop.rewards.learned import LearnedReward
from prefloop.rewards.shared_trunk import SharedTrunk
from prefloop.workflows.training import train
from tests.encoders_decoders import model_of
from tests.small import settings_of, write_inputs_with_adapter
from tests.tiny import write_tiny_model

CPU = torch.device("cpu")
TEXTS = [Encoded([3, 4, 70, 71, 72, 73], 3), Encoded([3, 4, 70, 80, 81], 3), Encoded([3, 90, 91, 92], 2)]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return write_inputs_with_adapter(tmp_path_factory.mktemp("inputs"), rank=4)


def policy_of(inputs: Path) -> PreTrainedModel:
    return load_policy(inputs / "policy", torch.float32, CPU)


def adapted(model: PreTrainedModel) -> PeftModel:
    return add_lora(model, rank=2, alpha=4.0, dropout=0.0, targets="all-linear", seed=0, task="reward_model")


def bytes_of(model: torch.nn.Module) -> str:
    digest = hashlib.sha256()
    for parameter in model.parameters():
        digest.update(parameter.detach().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def test_an_adapter_of_zeros_says_what_a_model_of_its_own_says(inputs: Path) -> None:
    policy = policy_of(inputs)
    weights = {id(p) for p in policy.parameters()}
    alone = ScoreHead(load_reward_model(inputs / "policy", torch.float32, CPU, new_head=True))
    alone.initialise(5)
    whole = classifier_on(policy)
    together = ScoreHead(whole)
    together.initialise(5)
    own = [name for name, p in whole.named_parameters() if id(p) not in weights]
    assert own == ["score.weight"]
    with torch.no_grad():
        expected = alone.of(TEXTS)
        assert torch.equal(together.of(TEXTS), expected)
        assert torch.equal(ScoreHead(adapted(whole)).of(TEXTS), expected)
    assert expected.abs().max() > 0.1


def test_a_reward_model_says_the_same_on_the_policys_trunk(inputs: Path) -> None:
    """As on the base that it was trained on, to the bit; as its merged weights, which were rounded."""
    folder = inputs / "adapter"
    asked = [[{"role": "user", "content": "Which fruit?"}]] * 3
    said = ["apple", "lime please", "nut"]
    policy = policy_of(inputs)
    together = LearnedReward(folder, torch.float32, CPU, trunk=policy)
    assert together(asked, said) == SharedTrunk([folder], torch.float32, CPU)(asked, said)
    alone = LearnedReward(folder, torch.float32, CPU)
    # honest: the file of the merged weights holds eight bits of each
    assert together(asked, said) == pytest.approx(alone(asked, said), abs=0.1, rel=0.05)
    assert together.temperature == alone.temperature
    shared = {id(p) for p in policy.parameters()} & {id(p) for p in together.head.model.parameters()}
    assert len(shared) == sum(1 for _ in policy.model.parameters())


def test_what_cannot_be_on_this_trunk_is_said(inputs: Path, tmp_path: Path) -> None:
    policy = policy_of(inputs)
    with pytest.raises(InputError, match="has no adapter/: it was not trained with lora"):
        adapter_on(policy, inputs / "rm")
    write_tiny_model(tmp_path / "other", seed=1)
    with pytest.raises(InputError, match="an adapter of other weights than the policy's: it was trained on .*policy"):
        adapter_on(load_policy(tmp_path / "other", torch.float32, CPU), inputs / "adapter")
    smaller = load_policy(inputs / "policy", torch.float32, CPU)
    smaller.model.layers = smaller.model.layers[:1]
    with pytest.raises(InputError, match="an adapter of other weights"):
        adapter_on(smaller, inputs / "adapter")
    with pytest.raises(InputError, match="T5ForConditionalGeneration has no score or critic on its own trunk"):
        classifier_on(model_of("t5", 40))


def test_one_weight_of_another_base_is_enough(inputs: Path, tmp_path: Path) -> None:
    """Two per cent of a single weight; under the adapter, where the embeddings tell nothing."""
    shutil.copytree(inputs / "policy", tmp_path / "near")
    file = tmp_path / "near" / "model.safetensors"
    weights = load_file(file)
    weights["model.layers.1.mlp.up_proj.weight"][3, 5] = 1.0
    save_file(weights, file, metadata={"format": "pt"})
    base = load_policy(tmp_path / "near", torch.float32, CPU)
    settings = settings_of("reward_model", inputs, policy=str(tmp_path / "near"), lora={"rank": 2}, steps=1)
    train("reward_model", out=tmp_path / "adapter", overrides=settings, log=lambda words: None)
    adapter_on(base, tmp_path / "adapter")
    with torch.no_grad():
        base.model.layers[1].mlp.up_proj.weight[3, 5] = 1.02
    with pytest.raises(InputError, match="an adapter of other weights"):
        adapter_on(base, tmp_path / "adapter")


def test_saving_one_role_leaves_the_trunk_to_the_others(inputs: Path, tmp_path: Path) -> None:
    """The file is the one that merging in place gives, and the shared weights are what they were."""
    tokenizer = load_tokenizer(inputs / "policy")
    policy = policy_of(inputs)
    critic = adapted(classifier_on(policy))
    with torch.no_grad():
        for parameter in critic.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05)
    before = bytes_of(policy)
    save_trained(critic, tokenizer, tmp_path / "shared", shared=True)
    assert bytes_of(policy) == before
    with torch.no_grad():
        expected = ScoreHead(critic).of(TEXTS)
        critic.merge_adapter()
        assert bytes_of(policy) != before  # what merging in place does to the others
        critic.unmerge_adapter()
    save_trained(critic, tokenizer, tmp_path / "alone")
    found = ScoreHead(load_reward_model(tmp_path / "shared", torch.float32, CPU))
    with torch.no_grad():
        # honest: weights are stored in bfloat16, eight bits
        torch.testing.assert_close(found.of(TEXTS), expected, atol=0.05, rtol=0.05)
    files = sorted(str(p.relative_to(tmp_path / "shared")) for p in (tmp_path / "shared").rglob("*") if p.is_file())
    assert "adapter/adapter_model.safetensors" in files
    assert files == sorted(
        str(p.relative_to(tmp_path / "alone")) for p in (tmp_path / "alone").rglob("*") if p.is_file()
    )
