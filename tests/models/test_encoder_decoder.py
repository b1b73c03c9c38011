"""Policies with an encoder: log-probabilities and values, against the library's own passes, one text at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from prefloop.errors import InputError
from prefloop.models.adapters import add_lora
from prefloop.models.encoder_decoder import has_encoder
from prefloop.models.heads import CompletionLogprobs, ScoreHead
from prefloop.models.load import load_policy, load_reward_model
from prefloop.models.template import Encoded
from prefloop.models.value_heads import CompletionStates
from tests.encoders_decoders import KINDS, model_of, write_encoder_decoder

CPU = torch.device("cpu")
TEXTS = [
    Encoded([7, 8, 9, 20, 21, 22, 2], 3),
    Encoded([7, 8, 9, 20, 21, 30], 3),  # begins as the first one does
    Encoded([11, 12, 13, 14, 15, 25, 2], 5),
    Encoded([7, 8, 9, 2], 3),
]
"""Two prompts, one of them of three completions."""


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def plain(model: Any, text: Encoded) -> Tensor:
    """The logits behind each completion token's predecessor: the library's own pass over one prompt and completion."""
    prompt, answer = text.ids[: text.prompt_length], text.ids[text.prompt_length :]
    start = model.config.decoder_start_token_id
    logits: Tensor = model(
        input_ids=torch.tensor([prompt]), decoder_input_ids=torch.tensor([[start, *answer[:-1]]])
    ).logits[0]
    return logits


@pytest.mark.parametrize("kind", KINDS)
def test_log_probabilities_and_gradients_are_those_of_one_text_at_a_time(kind: str) -> None:
    model = model_of(kind, 40)
    found, valid = CompletionLogprobs(model).of(TEXTS, temperature=0.7)
    assert valid.sum(1).tolist() == [4, 3, 2, 1]
    found.sum().backward()
    gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    total = torch.zeros(())
    for row, real, text in zip(found, valid, TEXTS, strict=True):
        logp = (plain(model, text) / 0.7).log_softmax(-1)
        expected = logp[torch.arange(len(logp)), text.ids[text.prompt_length :]]
        torch.testing.assert_close(row[real], expected, atol=1e-5, rtol=1e-5)
        total = total + expected.sum()
    total.backward()
    others = [p.grad for p in model.parameters() if p.grad is not None]
    assert len(gradients) == len(others) > 10
    for one, other in zip(gradients, others, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_batches_of_tensors_with_entropy(kind: str) -> None:
    """What a rollout is measured by: padded rows, entropies of the whole distribution."""
    model = model_of(kind, 40)
    width = max(text.length for text in TEXTS)
    ids = torch.tensor([[*text.ids, *[0] * (width - text.length)] for text in TEXTS])
    starts = torch.tensor([text.prompt_length for text in TEXTS])
    valid = torch.arange(4) < torch.tensor([text.completion_length for text in TEXTS])[:, None]
    with torch.no_grad():
        logprobs, entropy = CompletionLogprobs(model)(ids, starts, valid, entropy=True)
        assert entropy is not None
        for row, text in enumerate(TEXTS):
            logp = plain(model, text).log_softmax(-1)
            count = text.completion_length
            expected = logp[torch.arange(count), text.ids[text.prompt_length :]]
            torch.testing.assert_close(logprobs[row, :count], expected, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(entropy[row, :count], -(logp.exp() * logp).sum(-1), atol=1e-5, rtol=1e-5)
    assert logprobs[~valid].tolist() == [0.0] * 6


def test_a_critic_has_a_value_before_each_token(tiny_model: Path, tmp_path: Path) -> None:
    """The library's own head on its decoder's states; the head is new, the body the policy's."""
    folder = write_encoder_decoder(tmp_path / "t5", tiny_model)
    critic: Any = load_reward_model(folder, torch.float32, CPU, new_head=True)
    head = ScoreHead(critic)
    head.initialise(3)
    policy: Any = load_policy(folder, torch.float32, CPU)
    assert torch.equal(critic.transformer.shared.weight, policy.shared.weight)
    ids = torch.tensor([TEXTS[0].ids, TEXTS[2].ids])
    with torch.no_grad():
        found = head.each(ids, torch.tensor([3, 5]), torch.tensor([[True] * 4, [True, True, False, False]]))
        for row, text in zip(found, (TEXTS[0], TEXTS[2]), strict=True):
            prompt, answer = text.ids[: text.prompt_length], text.ids[text.prompt_length :]
            states = critic.transformer(
                input_ids=torch.tensor([prompt]), decoder_input_ids=torch.tensor([[0, *answer[:-1]]])
            ).last_hidden_state[0]
            expected = critic.classification_head(states)[:, 0]
            torch.testing.assert_close(row[: len(answer)], expected, atol=1e-5, rtol=1e-5)
    with pytest.raises(InputError, match="an encoder-decoder, which serves as a policy or its critic"):
        head.of(TEXTS)


def test_what_needs_a_decoder_alone_says_so(tiny_model: Path, tmp_path: Path) -> None:
    folder = write_encoder_decoder(tmp_path / "t5", tiny_model)
    policy = load_policy(folder, torch.float32, CPU)
    assert has_encoder(policy)
    assert not has_encoder(load_policy(tiny_model, torch.float32, CPU))
    with pytest.raises(InputError, match="has an encoder; value heads are for decoders alone"):
        CompletionStates(policy)
    critic = load_reward_model(folder, torch.float32, CPU, new_head=True)
    with pytest.raises(InputError, match="leave out lora, or use a method without a critic"):
        add_lora(critic, rank=2, alpha=2.0, dropout=0.0, targets="all-linear", seed=0, task="reward_model")
    policy.config.decoder_start_token_id = None
    with pytest.raises(InputError, match="declares no decoder_start_token_id"):
        CompletionLogprobs(policy)
