"""On an output space that can be listed, methods with the KL in the reward approach ref * exp(r / beta) / Z.

DPO reaches it, and GRPO, whose KL stands in the loss, approaches a fixed point of its own, which is computed here.

Four tokens, at most two of them: EOS at once, one of three words and EOS, or two words: 1 + 3 + 9 = 13 outputs, whose
probabilities sum to 1 under any policy. The methods run as they are; only the model, the reward and the rows are ours:
a small GPT-2 where it must be sampled from; for DPO a table of logits, whose reach the optimum is within.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import GPT2Config, GPT2ForSequenceClassification, GPT2LMHeadModel, PreTrainedTokenizerFast

from prefloop.algorithms.a2c import A2C, A2CConfig
from prefloop.algorithms.grpo import GRPO, GRPOConfig
from prefloop.algorithms.online_dpo import OnlineDPO, OnlineDPOConfig
from prefloop.algorithms.ppo import PPO, PPOConfig
from prefloop.algorithms.preference import sides
from prefloop.algorithms.q_learning import DQN, DQNConfig
from prefloop.algorithms.reinforce import Reinforce, ReinforceConfig
from prefloop.algorithms.rloo import RLOO, RLOOConfig
from prefloop.datasets.rows import PairRow
from prefloop.models.heads import CompletionLogprobs, ScoreHead
from prefloop.models.load import load_policy, load_tokenizer
from prefloop.models.template import Encoded, Template
from prefloop.training.offline import train_offline
from prefloop.training.online import train_online
from prefloop.training.online_roles import Roles
from prefloop.training.online_settings import OnlineSettings
from prefloop.training.replay import Replay
from prefloop.training.run import Run, RunSettings
from tests.small import build, write_pairs

WORDS, EOS, PROMPT = [1, 2, 3], 0, [3]
OUTPUTS = [[EOS], *([w, EOS] for w in WORDS), *(list(pair) for pair in itertools.product(WORDS, WORDS))]
BETA = 0.5
SHAPE = {
    "vocab_size": 4,
    "n_embd": 16,
    "n_layer": 1,
    "n_head": 2,
    "n_positions": 8,
    "eos_token_id": EOS,
    "bos_token_id": EOS,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
}
"""GPT-2's learned positions tell `c` from `c c`; a Llama, which has relative ones only, cannot."""


def reward(text: str) -> float:
    """Every `a` is worth 1, a `b` costs 1/2, and two different words together are worth 1/2 more."""
    words = text.split()
    return words.count("a") - 0.5 * words.count("b") + 0.5 * (len(set(words)) == 2)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A policy with opinions of its own, and pairs so that DPO has something to begin with."""
    torch.set_num_threads(1)
    backend = Tokenizer(models.WordLevel({"<eos>": EOS, "a": 1, "b": 2, "c": 3}, unk_token="c"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>")
    tokenizer.chat_template = "{{ 'c' }}"
    torch.manual_seed(1)
    model = GPT2LMHeadModel(GPT2Config(**SHAPE))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(8.0)
    model.save_pretrained(tmp_path / "policy")
    tokenizer.save_pretrained(tmp_path / "policy")
    write_pairs(tmp_path / "pairs.jsonl", 4)
    return tmp_path


@torch.no_grad()
def distribution(model: torch.nn.Module) -> Tensor:
    """Probabilities of the 13 outputs, in float64, from plain forward passes."""
    result = []
    for output in OUTPUTS:
        ids = torch.tensor([[*PROMPT, *output]])
        logp = model(input_ids=ids).logits[0].double().log_softmax(-1)
        result.append(sum(logp[len(PROMPT) - 1 + i, token] for i, token in enumerate(output)))
    return torch.stack([torch.as_tensor(value) for value in result]).exp()


def optimum(reference: Tensor, template: Template) -> Tensor:
    scores = torch.tensor([reward(template.decode(output)) for output in OUTPUTS], dtype=torch.double)
    weighted = reference * (scores / BETA).exp()
    return weighted / weighted.sum()


def divergence(p: Tensor, q: Tensor) -> float:
    """KL(p || q), in nats."""
    return float((p * (p / q).log()).sum())


def toy(folder: Path, method: str, *, lr: float, steps: int, group: int = 1, passes: int = 1, **changes: Any) -> Any:
    """A method on the toy language: (algorithm, run)."""
    cpu = torch.device("cpu")
    policy, reference = (load_policy(folder / "policy", torch.float32, cpu) for _ in range(2))
    critic = None
    if method in ("ppo", "a2c"):
        torch.manual_seed(2)
        critic = GPT2ForSequenceClassification(GPT2Config(**SHAPE, num_labels=1))
        ScoreHead(critic).initialise(0)
    online = OnlineSettings(
        beta=BETA,
        max_new_tokens=2,
        missing_eos_score=None,
        group_size=group,
        rollout_epochs=passes,
        minibatches=passes,
    )
    settings = RunSettings(
        steps=steps, batch_size=512, lr=lr, schedule="linear", device="cpu", dtype="float32", micro_batch_tokens=10**6
    )
    template = Template(load_tokenizer(folder / "policy"))
    ids = template.prompt([{"role": "user", "content": "c"}])
    template.prompt = lambda messages: ids  # type: ignore[method-assign]  # there is one prompt, and it is asked often
    roles = Roles(
        online,
        policy=policy,
        critic=critic,
        reference=reference.requires_grad_(False),
        reward=lambda prompts, completions, **columns: [reward(text) for text in completions],
        prompts=[[{"role": "user", "content": "c"}]],
        template=template,
    )
    config, make = METHODS_OF[method]
    run = Run(folder / "run", method, settings, {}, log=lambda words: None)
    run.begin(False)
    return make(config(**changes), roles), run


METHODS_OF: dict[str, tuple[Any, Any]] = {
    "ppo": (PPOConfig, PPO),
    "a2c": (A2CConfig, A2C),
    "reinforce": (ReinforceConfig, Reinforce),
    "rloo": (RLOOConfig, RLOO),
    "grpo": (GRPOConfig, GRPO),
    "online_dpo": (OnlineDPOConfig, OnlineDPO),
    "dqn": (DQNConfig, lambda config, roles: DQN(config, roles, Replay(1024, 4, 2, 0))),
}


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("ppo", {"lr": 1e-2, "steps": 60, "passes": 2, "value_coef": 0.5, "gae_lambda": 1.0}),
        ("a2c", {"lr": 1e-2, "steps": 80, "value_coef": 0.25, "gae_lambda": 1.0}),
        ("reinforce", {"lr": 1e-2, "steps": 80}),
        ("rloo", {"lr": 1e-2, "steps": 80, "group": 4}),
        ("online_dpo", {"lr": 1e-2, "steps": 120, "group": 2, "soft": True}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_with_the_kl_in_the_reward_the_optimum_is_approached(
    folder: Path, method: str, settings: dict[str, Any]
) -> None:
    """And by online DPO, whose soft labels are those of a Bradley-Terry model of the reward."""
    algorithm, run = toy(folder, method, **settings)
    policy, reference = algorithm.roles.policy, algorithm.roles.reference
    start = distribution(policy)
    best = optimum(start, algorithm.roles.template)
    assert start.sum().item() == pytest.approx(1.0, abs=1e-6)
    assert divergence(start, best) > 0.3
    train_online(algorithm, run)
    end = distribution(policy)
    assert torch.equal(distribution(reference), start)
    assert divergence(end, best) <= 0.02
    # The KL that was logged, summed over a sequence's tokens, is an estimate of the true one over 512 samples.
    logged = run.metrics[-1]["objective/kl"]
    # honest: the logged KL is a mean over 512 samples whose standard error is about 0.03
    assert logged == pytest.approx(divergence(end, start), abs=0.15)


def test_a_very_dear_kl_holds_the_policy_at_its_reference(folder: Path) -> None:
    """beta towards infinity: whatever the reward says, a policy that has left its reference goes back to it."""
    # Returns of this size would fill the clipped gradient with the critic's.
    settings: dict[str, Any] = {"steps": 40, "passes": 2, "value_coef": 1e-4, "gae_lambda": 1.0}
    algorithm, run = toy(folder, "ppo", lr=1e-2, **settings)
    algorithm.roles.settings = replace(algorithm.roles.settings, beta=100.0)
    policy, reference = algorithm.roles.policy, distribution(algorithm.roles.reference)
    stream = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.15 * torch.randn(parameter.shape, generator=stream))
    assert divergence(distribution(policy), reference) > 0.1
    train_online(algorithm, run)
    assert divergence(distribution(policy), reference) <= 0.02


def test_dqn_finds_the_values_of_its_tokens(folder: Path) -> None:
    """Value iteration by hand, without KL: `a` first and then `a` is worth 2, the best after `b` 1, after `c` 1.5."""
    settings: dict[str, Any] = {"lr": 1e-2, "steps": 90, "passes": 2}
    algorithm, run = toy(folder, "dqn", **settings, gamma=1.0, per_nat=0.5, renew_every=2)
    algorithm.roles.settings = replace(algorithm.roles.settings, beta=0.0)
    train_online(algorithm, run)
    policy, network = algorithm.roles.policy, algorithm.appraisal.live
    found = []
    for state in (PROMPT, [*PROMPT, 1]):
        with torch.no_grad():
            out = policy(input_ids=torch.tensor([state]), output_hidden_states=True)
            found.append(network.q_values(out.hidden_states[-1][0, -1:], out.logits[0, -1:])[0].tolist())
    # honest: the rarest token was tried some hundred times in 90 rollouts
    assert found[0] == pytest.approx([0.0, 2.0, 1.0, 1.5], abs=0.25)
    # honest: as above
    assert found[1] == pytest.approx([1.0, 2.0, 1.0, 1.5], abs=0.25)
    assert len(algorithm.replay) == 1024


GROUP = 4


def fixed_point(reference: Tensor, scores: Tensor, *, scale: bool, estimator: str) -> Tensor:
    """Where GRPO's expected gradient is 0, for groups of 4 and the mean over each completion's tokens.

    A table of logits (at the start, and after each word) follows that gradient, which is exact: the advantage of an
    output is averaged over all 13^3 groups that it can be in.
    """
    table = torch.zeros(4, 4, dtype=torch.double, requires_grad=True)
    others = torch.cartesian_prod(*[torch.arange(13)] * (GROUP - 1))
    groups = torch.cat([torch.arange(13).repeat_interleave(len(others))[:, None], others.repeat(13, 1)], dim=1)
    centred = scores[groups] - scores[groups].mean(1, keepdim=True)
    advantages = centred[:, 0] / (scores[groups].std(1) + 1e-4) if scale else centred[:, 0]

    def tokens(logits: Tensor) -> list[Tensor]:
        """log pi of each token of each output."""
        logp = logits.log_softmax(1)
        return [torch.stack([logp[0, y[0]], *(logp[y[0], t] for t in y[1:])]) for y in OUTPUTS]

    conditional = torch.zeros(4, 4, dtype=torch.double)
    for output, p in zip(OUTPUTS, reference, strict=True):
        conditional[0, output[0]] += p
        if len(output) == 2:
            conditional[output[0], output[1]] = p
    conditional[1:] /= conditional[0, 1:, None]
    held = [x.detach() for x in tokens(conditional.log())]
    optimizer = torch.optim.Adam([table], lr=0.05)
    for step in range(1500):
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / 1500)
        logp = tokens(table)
        p = torch.stack([x.sum() for x in logp]).exp().detach()
        expected = (advantages * p[groups[:, 1:]].prod(1)).view(13, -1).sum(1)
        loss = torch.zeros((), dtype=torch.double)
        for y in range(13):
            d = logp[y] - held[y]
            kl = torch.expm1(-d) + d if estimator == "k3" else 0.5 * d.square()
            loss = loss + p[y] * (-expected[y] * logp[y] + BETA * kl).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert table.grad is not None
    assert table.grad.abs().max().item() < 1e-3
    return torch.stack([x.sum() for x in tokens(table)]).exp().detach()


@pytest.mark.parametrize(("scale", "estimator"), [(True, "k3"), (False, "k3"), (False, "k2")])
def test_grpo_approaches_its_own_fixed_point(folder: Path, scale: bool, estimator: str) -> None:
    """Which is further from ref * exp(r / beta) / Z than training ends from it."""
    algorithm, run = toy(folder, "grpo", lr=1e-2, steps=80, group=GROUP, scale=scale, kl_estimator=estimator)
    start = distribution(algorithm.roles.policy)
    scores = torch.tensor([reward(algorithm.roles.template.decode(y)) for y in OUTPUTS], dtype=torch.double)
    fixed = fixed_point(start, scores, scale=scale, estimator=estimator)
    best = optimum(start, algorithm.roles.template)
    assert fixed.sum().item() == pytest.approx(1.0, abs=1e-6)
    train_online(algorithm, run)
    end = distribution(algorithm.roles.policy)
    assert divergence(end, fixed) <= 0.02
    assert divergence(fixed, best) > 0.03


class Table(torch.nn.Module):
    """A policy with one row of logits for each state: after the prompt, and after each word. As a language model it is
    made of what the log-probabilities need: a trunk, an output layer, and both in one."""

    base_model_prefix = "trunk"

    def __init__(self) -> None:
        super().__init__()
        self.head = torch.nn.Linear(5, 4, bias=False)
        self.config = GPT2Config(**SHAPE)
        self.device = torch.device("cpu")

    def trunk(self, input_ids: Tensor, use_cache: bool) -> SimpleNamespace:
        state = input_ids.clone()
        state[:, 0] = 4
        return SimpleNamespace(last_hidden_state=torch.nn.functional.one_hot(state, 5).float())

    def get_output_embeddings(self) -> torch.nn.Module:
        return self.head

    def forward(self, input_ids: Tensor, use_cache: bool = False) -> SimpleNamespace:
        return SimpleNamespace(logits=self.head(self.trunk(input_ids, use_cache).last_hidden_state))


def test_dpo_reaches_the_optimum(folder: Path) -> None:
    """All 78 pairs, each with its true Bradley-Terry probability as its label."""
    algorithm, run = build(
        "dpo",
        folder,
        folder / "run",
        beta=BETA,
        steps=500,
        batch_size=78,
        lr=0.1,
        schedule="cosine",
        micro_batch_tokens=10**6,
        max_length=8,
        log_every=100,
    )
    torch.manual_seed(4)
    algorithm.model = algorithm.scorer.model = Table()
    algorithm.scorer.logprobs = CompletionLogprobs(algorithm.model)
    template = algorithm.template
    rows = []
    for first, second in itertools.combinations(OUTPUTS, 2):
        difference = reward(template.decode(first)) - reward(template.decode(second))
        texts = [Encoded([*PROMPT, *output], len(PROMPT)) for output in (first, second)]
        rows.append(PairRow(*texts, 1 / (1 + math.exp(-difference)), 1.0, 0.0, repr((first, second))))
    assert len(rows) == 78
    algorithm.train_rows = rows
    algorithm.scorer.remember([text for row in rows for text in sides(row)])
    start = distribution(algorithm.model)
    best = optimum(start, template)
    assert start.sum().item() == pytest.approx(1.0, abs=1e-6)
    assert (start - best).abs().max().item() > 0.05
    train_offline(algorithm, run)
    assert (distribution(algorithm.model) - best).abs().max().item() < 1e-3
