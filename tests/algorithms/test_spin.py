"""SPIN: its loss by hand, its rounds in closed form, and a language whose demonstrations it comes to write."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from prefloop.functional.preference import bradley_terry
from prefloop.training.offline import train_offline
from tests.small import build, write_inputs

DATA = torch.tensor([0.5, 0.2, 0.1, 0.15, 0.05], dtype=torch.double)
START = torch.tensor([0.3, 0.3, 0.2, 0.1, 0.1], dtype=torch.double)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return write_inputs(tmp_path_factory.mktemp("inputs"))


def sums_of(model: Any, texts: Any) -> list[float]:
    """log pi of each completion, from plain forward passes."""
    found = []
    for text in texts:
        with torch.no_grad():
            logp = model(input_ids=torch.tensor([text.ids])).logits[0].double().log_softmax(-1)
        found.append(sum(float(logp[t - 1, text.ids[t]]) for t in range(text.prompt_length, text.length)))
    return found


def test_the_loss_by_hand(inputs: Path, tmp_path: Path) -> None:
    """log 2 against oneself; after a move, softplus of minus beta times the difference of the two log-ratios."""
    algorithm, _ = build("spin", inputs, tmp_path / "run", beta=0.7)
    rows = algorithm.train_rows[:4]
    assert algorithm.loss(rows).values.tolist() == pytest.approx([0.6931472] * 4, abs=1e-5)
    own = [algorithm._answers[id(row)][0] for row in rows]
    assert all(
        answer.ids[: answer.prompt_length] == row.text.ids[: row.text.prompt_length]
        for row, answer in zip(rows, own, strict=True)
    )
    stream = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in algorithm.model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=stream))
    texts = [[row.text for row in rows], own]
    (now, then), (now_own, then_own) = (
        [torch.tensor(sums_of(model, side)) for model in (algorithm.model, algorithm.opponent)] for side in texts
    )
    expected = torch.nn.functional.softplus(-0.7 * ((now - then) - (now_own - then_own)))
    assert (expected - 0.6931).abs().max() > 0.05
    assert algorithm.loss(rows).values.tolist() == pytest.approx(expected.tolist(), abs=1e-4)


def test_a_round_ends_when_the_policy_becomes_its_own_opponent(inputs: Path, tmp_path: Path) -> None:
    """12 rows, batches of 4, two epochs: 6 steps, 3 rounds of 2. What is held out does not begin the next round."""
    algorithm, run = build("spin", inputs, tmp_path / "run", epochs=2, rounds=3, eval_every=1)
    algorithm.eval_rows = algorithm.train_rows[:2]
    honest, rounds, renewed = algorithm._play, [], []

    def played() -> None:
        rounds.append((int(algorithm.step), int(algorithm.round)))
        trained = dict(algorithm.model.named_parameters())
        renewed.append(all(torch.equal(p, trained[name]) for name, p in algorithm.opponent.named_parameters()))
        honest()

    algorithm._play = played
    train_offline(algorithm, run)
    assert rounds == [(0, 0), (2, 1), (4, 2)]
    assert renewed == [True, True, True]


def one_round(opponent: Tensor, beta: float) -> Tensor:
    """The policy that minimises the expected loss against `opponent`, solved exactly, as probabilities."""
    logits = opponent.log().clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [logits], max_iter=2000, tolerance_grad=1e-14, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        h = beta * (logits.log_softmax(0) - opponent.log())
        written, own = (each.flatten() for each in torch.meshgrid(h, h, indexing="ij"))
        loss = torch.outer(DATA, opponent).flatten() @ bradley_terry(written - own, torch.ones_like(own))
        loss.backward()
        return loss

    optimizer.step(closure)
    return logits.detach().softmax(0)


def errors(beta: float, rounds: int) -> list[float]:
    """The largest distance of log p from log p_data, up to a constant, after each round."""
    policy, found = START, []
    for _ in range(rounds):
        policy = one_round(policy, beta)
        difference = policy.log() - DATA.log()
        found.append(float((difference - difference.mean()).abs().max()))
    return found


@pytest.mark.parametrize("beta", [0.4, 0.5, 0.7, 1.0, 2.0])
def test_the_optimum_of_a_round(beta: float) -> None:
    """p_next is proportional to p (p_data / p)^(1 / beta)."""
    tilted = START * (DATA / START) ** (1 / beta)
    assert (one_round(START, beta) - tilted / tilted.sum()).abs().max().item() < 1e-6


def test_what_people_write_is_the_fixed_point() -> None:
    """Against p_data itself the loss is log 2 and its gradient 0, whatever beta."""
    assert (one_round(DATA, 0.1) - DATA).abs().max().item() < 1e-9


def test_rounds_converge_above_one_half_and_diverge_below() -> None:
    """The error is multiplied by 1 - 1 / beta in each round: 0 at 1, -3/7 at 0.7, -1 at 1/2, -3/2 at 0.4."""
    first = START.log() - DATA.log()
    start = float((first - first.mean()).abs().max())
    assert errors(1.0, 1)[0] < 1e-4
    assert errors(0.7, 3) == pytest.approx([start * (3 / 7) ** n for n in (1, 2, 3)], rel=1e-3)
    assert errors(0.5, 4) == pytest.approx([start] * 4, rel=1e-3)
    assert errors(0.4, 3) == pytest.approx([start * 1.5**n for n in (1, 2, 3)], rel=1e-3)


WORDS = [1, 2, 3]
OUTPUTS = [[0], *([w, 0] for w in WORDS), *(list(pair) for pair in itertools.product(WORDS, WORDS))]


@torch.no_grad()
def distribution(model: Any) -> Tensor:
    """Probabilities of the 13 outputs of at most two tokens: nothing, a word, or two words."""
    found = []
    for output in OUTPUTS:
        logp = model(input_ids=torch.tensor([[3, *output]])).logits[0].double().log_softmax(-1)
        found.append(sum(logp[i, token] for i, token in enumerate(output)))
    return torch.stack([torch.as_tensor(value) for value in found]).exp()


def test_it_comes_to_write_what_people_wrote(tmp_path: Path) -> None:
    """600 demonstrations in a language of 13 outputs; the policy starts with other habits. Four rounds at beta 1."""
    torch.set_num_threads(1)
    backend = Tokenizer(models.WordLevel({"<eos>": 0, "a": 1, "b": 2, "c": 3}, unk_token="c"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>")
    tokenizer.chat_template = "{{ 'c' }}"
    torch.manual_seed(1)
    shape = {"vocab_size": 4, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 8}
    still = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "eos_token_id": 0, "bos_token_id": 0}
    model = GPT2LMHeadModel(GPT2Config(**shape, **still))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(8.0)
    model.save_pretrained(tmp_path / "policy")
    tokenizer.save_pretrained(tmp_path / "policy")
    people = torch.tensor([2.0, 4, 1, 1, 6, 2, 1, 3, 1, 2, 1, 1, 1])
    drawn = torch.multinomial(people, 600, replacement=True, generator=torch.Generator().manual_seed(5)).tolist()
    rows = [
        {"prompt": "c", "completion": " ".join("?abc"[t] for t in OUTPUTS[i] if t), "number": n}
        for n, i in enumerate(i for i in drawn if OUTPUTS[i] != [0])
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    algorithm, run = build(
        "spin",
        tmp_path,
        tmp_path / "run",
        max_dropped=1.0,
        beta=1.0,
        rounds=4,
        steps=160,
        batch_size=200,
        lr=2e-2,
        schedule="linear",
        max_new_tokens=2,
        micro_batch_tokens=10**6,
        log_every=1000,
    )
    # Repeats are dropped from a file of demonstrations; here how often something was written is the point.
    kinds = {algorithm.template.decode(r.text.ids[r.text.prompt_length :]): r for r in algorithm.train_rows}
    said = [row["completion"] for row in rows]
    algorithm.train_rows = [type(kinds[text])(kinds[text].text, 1.0, text) for text in said]
    share = torch.tensor([said.count(" ".join("?abc"[t] for t in output if t)) for output in OUTPUTS]).double()
    share = share / share.sum()
    before = distribution(algorithm.model)
    train_offline(algorithm, run)
    after = distribution(algorithm.model)
    far, near = ((p - share).abs().sum().item() / 2 for p in (before, after))
    # honest: 600 samples of the opponent each round leave a total variation of about 0.05
    assert far > 0.3
    assert near < 0.12
