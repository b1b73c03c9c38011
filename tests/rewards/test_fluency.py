"""Fluency and coherence against plain forward passes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from prefloop.models.load import load_policy
from prefloop.models.template import Template
from prefloop.records import as_messages
from prefloop.rewards.fluency import ReferenceModel, coherence, fluency


def test_fluency_is_the_mean_logprob_and_coherence_its_gain_from_the_prompt(tiny_model: Path) -> None:
    options = {"device": "cpu", "dtype": "float32"}
    prompts = [as_messages("What is 2 + 2?"), as_messages("Say hello.")]
    texts = ["It is 4.", "Hello to you, and to all of you."]
    model = load_policy(tiny_model, torch.float32, torch.device("cpu"))
    template: Template = ReferenceModel(str(tiny_model), **options).template

    def mean_logprob(prompt: str, text: str) -> float:
        row = template.encode(as_messages(prompt), text, 512)
        with torch.no_grad():
            logp = model(input_ids=torch.tensor([row.ids])).logits[0].log_softmax(-1)
        values = [logp[t - 1, row.ids[t]].item() for t in range(row.prompt_length, row.length)]
        return sum(values) / len(values)

    alone = [mean_logprob(p[0]["content"], t) for p, t in zip(prompts, texts, strict=True)]
    assert fluency(str(tiny_model), **options)(prompts, texts) == pytest.approx(alone, abs=1e-4)
    gain = [value - mean_logprob("", text) for value, text in zip(alone, texts, strict=True)]
    assert coherence(str(tiny_model), **options)(prompts, texts) == pytest.approx(gain, abs=1e-4)
    assert max(abs(value) for value in gain) > 1e-3
