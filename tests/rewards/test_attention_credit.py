"""Credit by attention against attention worked out by hand; credit by marks on texts that can be counted."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from prefloop.errors import InputError
from prefloop.models.heads import ScoreHead
from prefloop.models.load import load_reward_model
from prefloop.models.template import Encoded
from prefloop.rewards.attention_credit import CreditSettings, attention, credit_of, earned, touched
from tests.small import write_reward_model

VALID = torch.tensor([[True, True, True, True, True], [True, True, True, False, False]])
STARTS = torch.tensor([3, 2])
IDS = torch.tensor([[1, 40, 50, 60, 61, 62, 63, 2], [1, 70, 80, 81, 2, 0, 0, 0]])


@pytest.fixture(scope="module")
def head(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> ScoreHead:
    folder = write_reward_model(tiny_model, tmp_path_factory.mktemp("rm") / "rm")
    return ScoreHead(load_reward_model(folder, torch.float32, torch.device("cpu")))


@torch.no_grad()
def by_hand(head: ScoreHead, ids: list[int], start: int) -> list[float]:
    """softmax(q k / sqrt(d)) of the last layer, from its own projections and rotary positions, for the last token."""
    states = head.trunk.body(input_ids=torch.tensor([ids]), use_cache=False, output_hidden_states=True).hidden_states
    layer = head.trunk.body.layers[-1]
    x = layer.input_layernorm(states[-2])
    q, k = (p(x).view(len(ids), 2, 16).transpose(0, 1) for p in (layer.self_attn.q_proj, layer.self_attn.k_proj))
    cos, sin = head.trunk.body.rotary_emb(x, torch.arange(len(ids))[None])

    def turned(v: torch.Tensor) -> torch.Tensor:
        half = torch.cat([-v[..., 8:], v[..., :8]], -1)
        return v * cos + half * sin

    scores = (turned(q)[:, -1:] @ turned(k).transpose(1, 2) / math.sqrt(16)).softmax(-1)[:, 0].mean(0)
    kept = scores[start:]
    return (kept / kept.sum()).tolist()


def test_it_is_the_last_layers_attention_from_the_last_token(head: ScoreHead) -> None:
    shares = attention(head)(IDS, STARTS, VALID, torch.ones(2), [[], []])
    assert shares[0].tolist() == pytest.approx(by_hand(head, IDS[0].tolist(), 3), abs=1e-5)
    assert shares[1, :3].tolist() == pytest.approx(by_hand(head, IDS[1, :5].tolist(), 2), abs=1e-5)
    assert shares[1, 3:].tolist() == [0.0, 0.0]
    assert shares.sum(1).tolist() == pytest.approx([1.0, 1.0])
    assert shares[0].std() > 3e-4


@pytest.mark.parametrize("by", ["end", "evenly", "attention", "marks"])
@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_every_rule_sums_to_one(head: ScoreHead, by: str, beta: float) -> None:
    rule = credit_of(CreditSettings(by=by, beta=beta, good=["b"], bad=["a"]), head)  # type: ignore[arg-type]
    shares = rule(IDS, STARTS, VALID, torch.tensor([1.0, -1.0]), [["a", "b", "c", "d", ""], ["a", "b", ""]])
    assert shares.sum(1).tolist() == pytest.approx([1.0, 1.0])
    assert (shares[~VALID] == 0).all()
    if beta == 0:
        assert shares.tolist() == [[0, 0, 0, 0, 1], [0, 0, 1, 0, 0]]


def test_good_marks_earn_and_bad_marks_bear() -> None:
    rule = credit_of(CreditSettings(by="marks", beta=1.0, good=["thank you"], bad=["Stupid"]), None)
    pieces = [["Tha", "nk", " you", ", stu", "pid"]] * 2
    valid = torch.ones(2, 5, dtype=torch.bool)
    shares = rule(IDS[:, :5], STARTS, valid, torch.tensor([2.0, -2.0]), pieces)
    assert shares[0].tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0, 0])
    assert shares[1].tolist() == pytest.approx([0, 0, 0, 0.5, 0.5])
    unmarked = rule(IDS[:, :5], STARTS, valid, torch.tensor([2.0, -2.0]), [["x"] * 5] * 2)
    assert unmarked.flatten().tolist() == pytest.approx([0.2] * 10)


def test_phrases_that_overlap_and_repeat() -> None:
    assert touched(["aa", "a", "b"], ["aa"]) == [1.0, 1.0, 0.0]
    assert touched(["x", "y"], ["", "z"]) == [0.0, 0.0]


def test_what_is_wrong_is_said() -> None:
    with pytest.raises(InputError, match="needs a reward model whose attention"):
        credit_of(CreditSettings(by="attention"), None)
    with pytest.raises(InputError, match="needs phrases"):
        credit_of(CreditSettings(by="marks"), None)


def test_what_the_tokens_earned_adds_up_to_the_score(head: ScoreHead) -> None:
    texts = [Encoded(IDS[0].tolist(), 3), Encoded(IDS[1, :5].tolist(), 2)]
    first, second = earned(head, texts, [2.0, -1.0])
    assert first == pytest.approx([2.0 * share for share in by_hand(head, IDS[0].tolist(), 3)], abs=1e-5)
    assert second == pytest.approx([-share for share in by_hand(head, IDS[1, :5].tolist(), 2)], abs=1e-5)
    assert (sum(first), sum(second)) == pytest.approx((2.0, -1.0), abs=1e-5)
