"""On an output space that can be listed, PPO approaches ref * exp(r / beta) / Z and DPO reaches it.

Four tokens, at most two of them: EOS at once, one of three words and EOS, or two words: 1 + 3 + 9 = 13 outputs, whose
probabilities sum to 1 under any policy. Both methods run as they are; only the model, the reward and the rows are ours:
for PPO a small GPT-2, because it must be sampled from; for DPO a table of logits, whose reach the optimum is within.
"""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import GPT2Config, GPT2ForSequenceClassification, GPT2LMHeadModel, PreTrainedTokenizerFast

from prefloop.algorithms.ppo import PPO, PPOConfig
from prefloop.algorithms.preference import sides
from prefloop.datasets.rows import PairRow
from prefloop.models.heads import CompletionLogprobs, ScoreHead
from prefloop.models.load import load_policy, load_tokenizer
from prefloop.models.template import Encoded, Template
from prefloop.training.offline import train_offline
from prefloop.training.online import train_online
from prefloop.training.online_roles import Roles
from prefloop.training.online_settings import OnlineSettings
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


def test_ppo_approaches_the_optimum(folder: Path) -> None:
    cpu = torch.device("cpu")
    policy, reference = (load_policy(folder / "policy", torch.float32, cpu) for _ in range(2))
    template = Template(load_tokenizer(folder / "policy"))
    torch.manual_seed(2)
    critic = GPT2ForSequenceClassification(GPT2Config(**SHAPE, num_labels=1))
    ScoreHead(critic).initialise(0)
    online = OnlineSettings(beta=BETA, max_new_tokens=2, missing_eos_score=None, rollout_epochs=2, minibatches=2)
    settings = RunSettings(
        steps=60, batch_size=512, lr=1e-2, schedule="linear", device="cpu", dtype="float32", micro_batch_tokens=10**6
    )
    roles = Roles(
        online,
        policy=policy,
        critic=critic,
        reference=reference.requires_grad_(False),
        reward=lambda prompts, texts: [reward(text) for text in texts],
        prompts=[[{"role": "user", "content": "c"}]],
        template=template,
    )
    algorithm = PPO(PPOConfig(value_coef=0.5, gae_lambda=1.0), roles)
    run = Run(folder / "run", "ppo", settings, {}, log=lambda words: None)
    run.begin(False)
    start = distribution(policy)
    best = optimum(start, template)
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
