"""IQLearn is maximum likelihood and one term more, which is the square of the reward that the logits imply."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.small import build, write_inputs


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return write_inputs(tmp_path_factory.mktemp("inputs"))


def test_without_the_chi_squared_term_it_is_maximum_likelihood(inputs: Path, tmp_path: Path) -> None:
    """Values and gradients, token by token."""
    ours, _ = build("iqlearn", inputs, tmp_path / "iq", chi=0.0, gamma=0.7)
    sft, _ = build("sft", inputs, tmp_path / "sft")
    rows = ours.train_rows[:4]
    mine, theirs = ours.loss(rows), sft.loss(rows)
    torch.testing.assert_close(mine.values, theirs.values, atol=1e-5, rtol=1e-5)
    (mine.values * mine.weights).sum().backward()
    (theirs.values * theirs.weights).sum().backward()
    for one, other in zip(ours.model.parameters(), sft.model.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("gamma", [0.0, 0.9])
def test_the_loss_as_garg_et_al_write_it(gamma: float, inputs: Path, tmp_path: Path) -> None:
    """-E[r] + E[V - gamma V'] + E[r^2] / (4 alpha) with r = Q - gamma (1 - done) V', so chi = 1 / (4 alpha); and
    V + log pi = Q, which makes it Wulfmeier et al.'s form too."""
    alpha = 0.5
    algorithm, _ = build("iqlearn", inputs, tmp_path / "run", chi=1 / (4 * alpha), gamma=gamma)
    rows = algorithm.train_rows[:3]
    found = algorithm.loss(rows)
    garg, wulfmeier, rewards = [], [], []
    for row in rows:
        ids, first = torch.tensor(row.text.ids), row.text.prompt_length
        with torch.no_grad():
            q_all = algorithm.model(input_ids=ids[None]).logits[0, first - 1 : -1].double()
        v = q_all.exp().sum(-1).log()
        q = q_all[torch.arange(len(v)), ids[first:]]
        following = torch.cat([v[1:], torch.zeros(1, dtype=torch.double)])
        r = q - gamma * following
        log_pi = q_all.log_softmax(-1)[torch.arange(len(v)), ids[first:]]
        garg += (-r + (v - gamma * following) + r**2 / (4 * alpha)).tolist()
        wulfmeier += (1 / (4 * alpha) * (v + log_pi - gamma * following) ** 2 - log_pi).tolist()
        rewards += r.tolist()
    assert found.values.tolist() == pytest.approx(garg, abs=1e-4)
    assert found.values.tolist() == pytest.approx(wulfmeier, abs=1e-4)
    assert found.metrics["rewards/implied"].tolist() == pytest.approx(rewards, abs=1e-4)


def test_the_gradient_reaches_the_value_of_the_next_state(inputs: Path, tmp_path: Path) -> None:
    """Adding a constant to all logits moves no policy, but every implied reward: c (1 - gamma), and c at the end."""
    algorithm, _ = build("iqlearn", inputs, tmp_path / "run", chi=1.0, gamma=0.9)
    row = algorithm.train_rows[0]
    shift = torch.zeros((), requires_grad=True)
    honest = algorithm.states.of

    def shifted(texts: Any) -> tuple[torch.Tensor, ...]:
        hidden, logits, actions, valid = honest(texts)
        return hidden, logits + shift, actions, valid

    algorithm.states.of = shifted
    loss = algorithm.loss([row])
    (slope,) = torch.autograd.grad(loss.values.sum(), shift)
    r = loss.metrics["rewards/implied"]
    assert slope.item() == pytest.approx(float(2 * (0.1 * r[:-1].sum() + r[-1])), rel=1e-4)


def test_its_own_answers_take_part_in_what_is_not_about_peoples_tokens(inputs: Path, tmp_path: Path) -> None:
    """-E[r] of people, and (1 - a) times people's mean of V - gamma V' + chi r^2 plus a times the policy's own."""
    share, chi, gamma = 0.3, 0.2, 0.9
    settings = {"own": share, "chi": chi, "gamma": gamma, "max_new_tokens": 6}
    algorithm, _ = build("iqlearn", inputs, tmp_path / "run", **settings)
    rows = algorithm.train_rows[:5]
    algorithm.model.train()
    algorithm.prepare(rows)
    assert algorithm.model.training
    own = [algorithm._own[id(row)][0] for row in rows if id(row) in algorithm._own]
    assert len(own) == 2  # 30 % of five rows, rounded up
    assert [a.ids[: a.prompt_length] for a in own] == [r.text.ids[: r.text.prompt_length] for r in rows[:2]]

    def terms(texts: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """(implied rewards, V - gamma V' + chi r^2) of every completion token."""
        rewards, rest = [], []
        for text in texts:
            with torch.no_grad():
                logits = algorithm.model(input_ids=torch.tensor([text.ids])).logits[0, text.prompt_length - 1 : -1]
            v = logits.double().logsumexp(-1)
            q = logits.double()[torch.arange(len(v)), text.ids[text.prompt_length :]]
            ahead = gamma * torch.cat([v[1:], v.new_zeros(1)])
            rewards.append(q - ahead)
            rest.append(v - ahead + chi * (q - ahead) ** 2)
        return torch.cat(rewards), torch.cat(rest)

    (people, rest), (_, own_rest) = terms([row.text for row in rows]), terms(own)
    expected = -people.mean() + (1 - share) * rest.mean() + share * own_rest.mean()
    loss = algorithm.loss(rows)
    found = (loss.values * loss.weights).sum() / sum(algorithm.weight(row) for row in rows)
    assert found.item() == pytest.approx(expected.item(), abs=1e-4)
    pieces = [algorithm.loss([row]) for row in rows]
    again = sum((p.values * p.weights).sum() for p in pieces) / sum(algorithm.weight(row) for row in rows)
    assert float(again.detach()) == pytest.approx(expected.item(), abs=1e-4)
    before = [answer.ids for answer in own]
    algorithm.prepare(rows)
    assert [answer.ids for answer, _ in algorithm._own.values()] == before  # a function of weights, seed and batch
