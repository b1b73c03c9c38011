"""The reference's log-probabilities: computed once for the same weights and ids, and never for others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from prefloop.artifacts.folder import list_artifacts
from prefloop.models.heads import CompletionLogprobs
from prefloop.models.load import load_policy
from prefloop.models.template import Encoded
from prefloop.records import Ledger
from prefloop.training import reference
from prefloop.training.method import Inputs
from prefloop.training.reference import reference_logprobs
from prefloop.training.run import Run, RunSettings

TEXTS = [Encoded([1, 7, 8, 9, 2], 2), Encoded([1, 5, 6, 2], 3), Encoded([1, 7, 8, 4], 2)]


class Watched:
    """A run that writes down what it logs, and how many texts the model was asked for."""

    def __init__(self, folder: Path, model: Path, monkeypatch: pytest.MonkeyPatch, store: Path | None) -> None:
        torch.set_num_threads(1)
        self.said: list[str] = []
        self.asked: list[int] = []
        self.run = Run(folder / "run", "dpo", RunSettings(micro_batch_tokens=8), {"parents": ["aa"]}, self.said.append)
        self.inputs = Inputs(str(model), None, lambda ref, kind: ref, folder, {}, Ledger(), artifacts=store)
        self.measure = CompletionLogprobs(load_policy(model, torch.float32, torch.device("cpu")))
        honest = self.measure.of

        def counted(texts: list[Encoded]) -> Any:
            self.asked.append(len(texts))
            return honest(texts)

        monkeypatch.setattr(self.measure, "of", counted)

    def __call__(self, texts: list[Encoded] = TEXTS) -> list[torch.Tensor]:
        self.asked.clear()
        return reference_logprobs(self.measure, texts, self.run, self.inputs)


@pytest.fixture
def watched(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Watched:
    return Watched(tmp_path, tiny_model, monkeypatch, tmp_path / "artifacts")


def test_each_text_has_its_own_tokens_log_probabilities(watched: Watched) -> None:
    found = watched()
    assert sorted(watched.asked) == [1, 2]  # the two with one prompt together
    for text, logprobs in zip(TEXTS, found, strict=True):
        logp = watched.measure.full(input_ids=torch.tensor([text.ids])).logits[0].log_softmax(-1)
        expected = [logp[t - 1, text.ids[t]].item() for t in range(text.prompt_length, text.length)]
        assert logprobs.tolist() == pytest.approx(expected, abs=1e-5)


def test_the_same_again_is_read_and_not_computed(watched: Watched, tmp_path: Path) -> None:
    first = watched()
    again = watched()
    assert watched.asked == []
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    (kept,) = list_artifacts(tmp_path / "artifacts", reference.KIND)
    assert kept.parents == ["aa"]
    assert kept.path.name in watched.said[-1]


def test_other_weights_or_other_ids_are_another_key(watched: Watched) -> None:
    watched()
    watched([TEXTS[0], TEXTS[2], TEXTS[1]])
    assert watched.asked
    watched([replace(TEXTS[0], prompt_length=3), *TEXTS[1:]])
    assert watched.asked
    with torch.no_grad():
        next(watched.measure.full.parameters())[9, 0] += 1e-3
    moved = watched()
    assert watched.asked
    assert len(list_artifacts(watched.inputs.artifacts or Path(), reference.KIND)) == 4
    assert torch.equal(torch.cat(watched()), torch.cat(moved))
    assert watched.asked == []


def test_damaged_numbers_are_set_aside_and_computed_again(watched: Watched, tmp_path: Path) -> None:
    first = watched()
    (kept,) = list_artifacts(tmp_path / "artifacts", reference.KIND)
    file = kept.path / reference.FILE
    file.write_bytes(file.read_bytes()[:-1] + b"\x00")
    again = watched()
    assert watched.asked
    assert any("does not match" in words for words in watched.said)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    watched()
    assert watched.asked == []


def test_without_a_workspace_a_run_that_goes_on_finds_them(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = Watched(tmp_path, tiny_model, monkeypatch, None)
    first = one()
    resumed = Watched(tmp_path, tiny_model, monkeypatch, None)
    again = resumed()
    assert resumed.asked == []
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
