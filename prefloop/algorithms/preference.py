"""Direct preference methods: the policy learns from people's judgements itself, without a reward model or sampling.

All of them are DPO (Rafailov et al. 2023, https://arxiv.org/abs/2305.18290) with another reward of a completion, or
another loss of two rewards; both are functions of a few lines in functional/preference.py. The reward is mostly
beta * log(pi / reference): a reward model and a policy in one. The reference is the policy at the start, and its
log-probabilities are computed once.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from prefloop.datasets.collate import micro_batches, pad
from prefloop.datasets.feedback import Compared, FeedbackRow, Judged, Ranked, feedback_rows
from prefloop.datasets.rows import PairRow, comparison_rows
from prefloop.errors import InputError
from prefloop.functional import preference as losses
from prefloop.functional.feedback import plackett_luce
from prefloop.functional.logprobs import token_collision, token_logprobs
from prefloop.models.adapters import save_trained
from prefloop.models.device import pick_device
from prefloop.models.heads import CompletionLogprobs
from prefloop.models.load import load_tokenizer
from prefloop.models.template import Encoded, Template
from prefloop.records import Ledger
from prefloop.training.method import Inputs
from prefloop.training.offline import Loss
from prefloop.training.reading import Reading
from prefloop.training.reference import reference_logprobs
from prefloop.training.roles import trained_policy
from prefloop.training.run import Run

DEFAULTS: dict[str, Any] = {"lr": 5e-6, "epochs": 1.0, "schedule": "linear"}
REFERENCE_FREE: dict[str, Any] = {**DEFAULTS, "lr": 1e-6}
ErrorShare = Annotated[float, Field(ge=0, lt=0.5)]


@dataclass(frozen=True, kw_only=True)
class Renewal:
    """Let the reference follow the policy (TR-DPO, Gorbatovski et al. 2024, https://arxiv.org/abs/2404.09656)."""

    every: PositiveInt = 512
    """Optimizer steps between two renewals."""
    mix: Annotated[float, Field(gt=0, le=1)] = 0.6
    """reference = mix * policy + (1 - mix) * reference; 1 replaces it."""


@dataclass(frozen=True, kw_only=True)
class DPOConfig:
    """Settings of `train dpo`, beside those every run has."""

    beta: PositiveFloat = 0.1
    """How dear it is to leave the reference: small follows the preferences, large stays close."""
    label_smoothing: ErrorShare = 0.0
    """Share of answers taken to be wrong (conservative DPO): labels p become (1 - e) p + e (1 - p)."""
    robust: bool = False
    """Take that share out of the labels instead (robust DPO): p becomes (p - e) / (1 - 2 e)."""
    loss: Literal["sigmoid", "hinge", "exo", "discopop"] = "sigmoid"
    """What the difference of two rewards costs; exo needs label_smoothing above 0."""
    divergence: Annotated[float, Field(ge=0)] | Literal["js"] = 0.0
    """From the reference: alpha of the alpha-divergence (0 reverse KL, 1 forward KL), or js (Jensen-Shannon)."""
    per_token: bool = False
    """Divide each reward by the completion's tokens (length-normalised DPO); beta then wants to be larger."""
    nll: NonNegativeFloat = 0.0
    """Weight of the chosen completion's negative log-likelihood per token (RPO); keeps it from falling."""
    on_policy_weights: bool = False
    """Weigh each pair by how likely the policy would write it (WPO); costs one more forward pass."""
    renewal: Renewal | None = None
    """Let the reference follow the policy (TR-DPO)."""


@dataclass(frozen=True, kw_only=True)
class IPOConfig:
    """Settings of `train ipo`, beside those every run has."""

    tau: PositiveFloat = 0.1
    """How dear it is to leave the reference: a clear preference is followed up to a margin of 1 / (2 tau) nats."""
    per_token: bool = True
    """Compare means per token (its authors' own runs, and TRL), not sums (the DPO authors' code)."""
    renewal: Renewal | None = None
    """Let the reference follow the policy (TR-IPO)."""


@dataclass(frozen=True, kw_only=True)
class APOConfig:
    """Settings of `train apo`, beside those every run has."""

    beta: PositiveFloat = 0.1
    """How dear it is to leave the reference."""
    variant: Literal["zero", "down", "nca", "bco", "sppo"] = "zero"
    """zero: chosen up, rejected down; down: both down, rejected further; the others are relatives."""
    renewal: Renewal | None = None
    """Let the reference follow the policy."""


@dataclass(frozen=True, kw_only=True)
class SimPOConfig:
    """Settings of `train simpo`, beside those every run has."""

    beta: PositiveFloat = 2.0
    """Scale of the mean log-probability per token; 2 to 10 were best in the paper."""
    gamma: NonNegativeFloat = 1.0
    """Margin by which the chosen reward should be ahead; a quarter to a half of beta."""
    nll: NonNegativeFloat = 0.0
    """Weight of the chosen completion's negative log-likelihood per token (CPO-SimPO)."""


@dataclass(frozen=True, kw_only=True)
class ORPOConfig:
    """Settings of `train orpo`, beside those every run has."""

    odds_weight: PositiveFloat = 0.1
    """Lambda: weight of the odds-ratio term beside the negative log-likelihood."""


@dataclass(frozen=True, kw_only=True)
class KTOConfig:
    """Settings of `train kto`, beside those every run has."""

    beta: PositiveFloat = 0.1
    """How dear it is to leave the reference."""
    desirable_weight: NonNegativeFloat = 1.0
    """Weight of approved completions; with so many more disapproved ones that the two sides should count alike."""
    undesirable_weight: NonNegativeFloat = 1.0
    """Weight of disapproved completions."""
    renewal: Renewal | None = None
    """Let the reference follow the policy (TR-KTO)."""


@dataclass(frozen=True, kw_only=True)
class RankedDPOConfig:
    """Settings of `train ranked_dpo`, beside those every run has."""

    beta: PositiveFloat = 0.1
    """How dear it is to leave the reference."""
    renewal: Renewal | None = None
    """Let the reference follow the policy."""


@dataclass(frozen=True)
class Measured:
    """Completions under policy and reference."""

    logprobs: Float[Tensor, "n"]
    """log pi of the whole completion, EOS included."""
    reference: Float[Tensor, "n"] | None
    tokens: Float[Tensor, "n"]
    alignment: Float[Tensor, "n"] | None = None
    """Mean over tokens of log pi(token) - log sum_v pi(v)^2; measured where it is asked for."""

    @property
    def ratios(self) -> Float[Tensor, "n"]:
        """h = log pi - log reference."""
        assert self.reference is not None
        return self.logprobs - self.reference

    @property
    def means(self) -> Float[Tensor, "n"]:
        """log pi per token."""
        return self.logprobs / self.tokens


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What tells one method from the other."""

    name: str
    reward: Callable[[Measured], Tensor]
    """Of each completion."""
    loss: Callable[[Tensor, Tensor, Tensor], Tensor]
    """(rewards of the chosen, of the rejected, labels) -> one value per pair."""
    nll: float = 0.0
    on_policy_weights: bool = False
    has_reference: bool = True
    renewal: Renewal | None = None
    said: str = ""
    """What a user should know before the run."""

    def of_pairs(self, measured: Measured, label: Float[Tensor, "n"]) -> tuple[Tensor, dict[str, Tensor]]:
        """Losses of pairs, whose completions are measured one after the other (chosen, rejected, ...), and metrics."""
        chosen, rejected = _two(self.reward(measured))
        values = self.loss(chosen, rejected, label)
        right = ((chosen > rejected) == (label > 0.5)).float()
        logps = _two(measured.logprobs.detach())
        metrics = {
            "rewards/accuracies": right.where(label != 0.5, torch.full_like(right, 0.5)),
            "rewards/margins": (chosen - rejected).detach(),
            "rewards/chosen": chosen.detach(),
            "rewards/rejected": rejected.detach(),
            "logps/chosen": logps[0],
            "logps/rejected": logps[1],
        }
        if self.on_policy_weights:
            assert measured.alignment is not None
            weights = measured.alignment.unflatten(0, (-1, 2)).sum(1).exp()
            metrics["wpo/weights"] = weights
            values = weights * values
        if self.nll > 0:
            nll = losses.expected(lambda good, other: -good, *_two(measured.means), label)
            metrics["nll_loss"] = nll.detach()
            values = values + self.nll * nll
        return values, metrics


class Scorer:
    """A policy and its reference: measures completions."""

    def __init__(self, run: Run, inputs: Inputs, template: Template, renewal: Renewal | None = None) -> None:
        s = run.settings
        self.template, self.device, self.run, self.inputs = template, pick_device(s.device), run, inputs
        self.model = trained_policy(inputs.policy, s)
        self.logprobs = CompletionLogprobs(self.model, run.log)
        self.renewal, self._known = renewal, dict[int, Tensor]()
        # A reference that is renewed has weights of its own; one that stays is known by its log-probabilities.
        self.copy = copy.deepcopy(self.model).eval().requires_grad_(False) if renewal is not None else None
        self._copied = CompletionLogprobs(self.copy) if self.copy is not None else None

    @torch.no_grad()
    def remember(self, texts: Sequence[Encoded]) -> None:
        """Keep the log-probabilities of `texts` under the policy as it is now: it is the reference."""
        if self.copy is not None:
            return
        found = reference_logprobs(self.logprobs, texts, self.run, self.inputs)
        self._known |= {id(text): logprobs.sum() for text, logprobs in zip(texts, found, strict=True)}

    def measure(self, texts: Sequence[Encoded], *, aligned: bool = False) -> Measured:
        """Completions under the policy, and under the reference as far as it was remembered."""
        tokens = torch.tensor([float(t.length - t.prompt_length) for t in texts], device=self.device)
        alignment = self._alignment(texts) if aligned else None
        return Measured(self._sums(self.logprobs, texts), self._reference(texts), tokens, alignment)

    @torch.no_grad()
    def _alignment(self, texts: Sequence[Encoded]) -> Float[Tensor, "n"]:
        """How much likelier each completion's tokens are than ones that the policy would draw, mean log per token."""
        logits = self.model(input_ids=pad([t.ids for t in texts], self.template.pad_id).to(self.device)).logits
        found = []
        for row, text in zip(logits, texts, strict=True):
            at = slice(text.prompt_length - 1, text.length - 1)
            tokens = torch.tensor(text.ids[text.prompt_length :], device=self.device)
            found.append((token_logprobs(row[at], tokens) - token_collision(row[at])).mean())
        return torch.stack(found)

    def _reference(self, texts: Sequence[Encoded]) -> Tensor | None:
        if self._copied is not None:
            with torch.no_grad():
                return self._sums(self._copied, texts)
        return torch.stack([self._known[id(text)] for text in texts]).to(self.device) if self._known else None

    def _sums(self, logprobs: CompletionLogprobs, texts: Sequence[Encoded]) -> Float[Tensor, "n"]:
        """log-probabilities summed over the completion's tokens."""
        return logprobs.of(texts)[0].sum(1)

    def followers(self) -> dict[str, Tensor]:
        """The reference's weights where it is renewed: a checkpoint keeps them."""
        own = {} if self.copy is None else dict(self.copy.named_parameters())
        return {name: own[name] for name, p in self.model.named_parameters() if p.requires_grad and name in own}

    @torch.no_grad()
    def follow(self, step: int) -> None:
        """Renew the reference when it is time."""
        if self.renewal is not None and step % self.renewal.every == 0:
            trained = dict(self.model.named_parameters())
            for name, reference in self.followers().items():
                reference.lerp_(trained[name], self.renewal.mix)


class PairPreference:
    """Rows are pairs; the loss has one value per pair."""

    def __init__(self, objective: Objective, run: Run, inputs: Inputs) -> None:
        s = run.settings
        self.objective, self.name, self.device = objective, objective.name, pick_device(s.device)
        self.tokenizer = load_tokenizer(inputs.policy)
        self.template = Template(self.tokenizer)
        self.train_rows, self.eval_rows = Reading(run, inputs, self.template).rows(comparison_rows)
        self.scorer = Scorer(run, inputs, self.template, objective.renewal)
        self.model: nn.Module = self.scorer.model
        self.followers, self.follow = self.scorer.followers, self.scorer.follow
        if objective.said:
            run.log(objective.said)
        if objective.has_reference:
            self.scorer.remember([text for row in (*self.train_rows, *self.eval_rows) for text in sides(row)])

    def length(self, row: PairRow) -> int:
        return row.length

    def weight(self, row: PairRow) -> float:
        return row.weight

    def identity(self, row: PairRow) -> str:
        return row.identity

    def loss(self, rows: Sequence[PairRow]) -> Loss:
        """One value per pair, the consensus as a soft label."""
        texts = [text for row in rows for text in sides(row)]
        measured = self.scorer.measure(texts, aligned=self.objective.on_policy_weights)
        label, weight = (torch.tensor([getattr(r, n) for r in rows], device=self.device) for n in ("label", "weight"))
        values, metrics = self.objective.of_pairs(measured, label)
        return Loss(values, weight, metrics)

    def save(self, folder: Path) -> None:
        save_trained(self.model, self.tokenizer, folder)


@dataclass(frozen=True)
class ApprovalRow:
    """A completion that was judged by itself, and its prompt with the completion of another one."""

    text: Encoded
    other: Encoded
    label: float
    """Probability that it is approved."""
    weight: float
    identity: str

    @property
    def length(self) -> int:
        return self.text.length


class KTO:
    """Rows are single completions that were approved or not; gains and losses count from the KL of the policy.

    The KL z0 is estimated for each batch on mismatched pairs: prompts with the completions of other prompts. Each row's
    is chosen once, so that the reference's log-probabilities are known before the first step.
    """

    name = "kto"

    def __init__(self, config: KTOConfig, run: Run, inputs: Inputs) -> None:
        s = run.settings
        self.config, self.device, self.budget = config, pick_device(s.device), s.micro_batch_tokens
        self.tokenizer = load_tokenizer(inputs.policy)
        self.template = Template(self.tokenizer)
        reading = Reading(run, inputs, self.template)
        sides = reading.feedback(feedback_rows)
        self.train_rows, self.eval_rows = (approval_rows(side, reading.longest, inputs.ledger) for side in sides)
        run.log(_balance(self.train_rows, config))
        self.scorer = Scorer(run, inputs, self.template, config.renewal)
        self.model: nn.Module = self.scorer.model
        self.followers, self.follow = self.scorer.followers, self.scorer.follow
        rows = [*self.train_rows, *self.eval_rows]
        self.scorer.remember([text for row in rows for text in (row.text, row.other)])
        self.zero = torch.zeros((), device=self.device)

    def length(self, row: ApprovalRow) -> int:
        return row.length

    def weight(self, row: ApprovalRow) -> float:
        return row.weight

    def identity(self, row: ApprovalRow) -> str:
        return row.identity

    def prepare(self, rows: Sequence[ApprovalRow]) -> None:
        """z0 = max(0, mean of h over the batch's mismatched pairs)."""
        if rows:
            others = [row.other for row in rows]
            parts = micro_batches(others, lambda text: text.length, self.budget)
            self.zero = torch.cat([self.scorer.measure(part).ratios for part in parts]).mean().clamp(min=0)

    def loss(self, rows: Sequence[ApprovalRow]) -> Loss:
        """Equation 8 of Ethayarajh et al., one value per completion."""
        c = self.config
        measured = self.scorer.measure([row.text for row in rows])
        label, weight = (torch.tensor([getattr(r, n) for r in rows], device=self.device) for n in ("label", "weight"))
        reward = c.beta * measured.ratios
        values = losses.kto(reward, c.beta * self.zero, label, c.desirable_weight, c.undesirable_weight)
        metrics = {"kl": self.zero[None]}
        for side, mask in (("chosen", label > 0.5), ("rejected", label < 0.5)):
            if mask.any():
                metrics[f"rewards/{side}"] = reward.detach()[mask]
                metrics[f"logps/{side}"] = measured.logprobs.detach()[mask]
        return Loss(values, weight, metrics)

    def save(self, folder: Path) -> None:
        save_trained(self.model, self.tokenizer, folder)


def approval_rows(rows: Sequence[FeedbackRow], longest: int, ledger: Ledger) -> list[ApprovalRow]:
    """Approvals as they are, comparisons as two; each with the completion of the next row that has another prompt.

    What is neither is dropped as "no approval".
    """
    single: list[tuple[Encoded, float, FeedbackRow]] = []
    for row in rows:
        if isinstance(row.said, Judged):
            single.append((row.texts[0], float(row.said.good), row))
        elif isinstance(row.said, Compared):
            single += [(row.texts[0], row.said.label, row), (row.texts[1], 1 - row.said.label, row)]
            ledger.note("pair taken as two approvals")
        else:
            ledger.drop("no approval")
    prompts = [text.ids[: text.prompt_length] for text, _, _ in single]
    found = []
    for i, (text, label, row) in enumerate(single):
        turned = (*range(i + 1, len(single)), *range(i))
        j = next((j for j in turned if prompts[j] != prompts[i]), i)
        other = single[j][0]
        ids = [*prompts[i], *other.ids[other.prompt_length :]][:longest]
        found.append(ApprovalRow(text, Encoded(ids, len(prompts[i])), label, row.weight, row.identity))
    return found


def _balance(rows: Sequence[ApprovalRow], config: KTOConfig) -> str:
    """What the weights make of the numbers of both sides; the paper advises a ratio of 1 to 4/3."""
    good = sum(row.label * row.weight for row in rows)
    bad = sum((1 - row.label) * row.weight for row in rows)
    if not good or not bad or not config.undesirable_weight:
        return f"kto: {good:g} approved and {bad:g} disapproved completions: one side has nothing to say"
    ratio = config.desirable_weight * good / (config.undesirable_weight * bad)
    advice = (
        "" if 1 <= ratio <= 4 / 3 + 1e-9 else "; from 1 to 1.33 is advised, by desirable_weight or undesirable_weight"
    )
    return f"kto: {good:g} approved and {bad:g} disapproved completions, which count {ratio:.2f} to 1{advice}"


class RankedDPO:
    """Rows are rankings of the completions of one prompt; the loss has one value per ranking."""

    name = "ranked_dpo"

    def __init__(self, config: RankedDPOConfig, run: Run, inputs: Inputs) -> None:
        s = run.settings
        self.config, self.device = config, pick_device(s.device)
        self.tokenizer = load_tokenizer(inputs.policy)
        self.template = Template(self.tokenizer)
        sides = Reading(run, inputs, self.template).feedback(feedback_rows)
        self.train_rows, self.eval_rows = (ranked_rows(side, inputs.ledger) for side in sides)
        self.scorer = Scorer(run, inputs, self.template, config.renewal)
        self.model: nn.Module = self.scorer.model
        self.followers, self.follow = self.scorer.followers, self.scorer.follow
        self.scorer.remember([text for row in (*self.train_rows, *self.eval_rows) for text in row.texts])

    def length(self, row: FeedbackRow) -> int:
        return row.length

    def weight(self, row: FeedbackRow) -> float:
        return row.weight

    def identity(self, row: FeedbackRow) -> str:
        return row.identity

    def loss(self, rows: Sequence[FeedbackRow]) -> Loss:
        """Equation 20 of Rafailov et al.: Plackett-Luce of the rewards, ties as in functional/feedback.py."""
        measured = self.scorer.measure([text for row in rows for text in row.texts])
        most = max(len(row.texts) for row in rows)
        valid = torch.tensor([[i < len(row.texts) for i in range(most)] for row in rows], device=self.device)
        padded = [[*row.said.ranks, *[0] * (most - len(row.texts))] for row in rows if isinstance(row.said, Ranked)]
        ranks = torch.tensor(padded, dtype=torch.float32, device=self.device)
        rewards = torch.zeros_like(ranks).masked_scatter(valid, self.config.beta * measured.ratios)
        better = (ranks[:, :, None] < ranks[:, None, :]) & valid[:, :, None] & valid[:, None, :]
        differences = (rewards[:, :, None] - rewards[:, None, :]).detach()[better]
        metrics = {"rewards/accuracies": (differences > 0).float(), "rewards/margins": differences}
        weight = torch.tensor([row.weight for row in rows], device=self.device)
        return Loss(plackett_luce(rewards, ranks, valid), weight, metrics)

    def save(self, folder: Path) -> None:
        save_trained(self.model, self.tokenizer, folder)


def ranked_rows(rows: Sequence[FeedbackRow], ledger: Ledger) -> list[FeedbackRow]:
    """Rankings as they are, clear comparisons as rankings of two; what is neither is dropped as "no ranking"."""
    found = []
    for row in rows:
        if isinstance(row.said, Compared) and row.said.label in (0.0, 1.0):
            row = replace(row, said=Ranked((1, 2) if row.said.label == 1.0 else (2, 1)))
        if isinstance(row.said, Ranked):
            found.append(row)
        else:
            ledger.drop("no ranking")
    return found


def sides(row: PairRow) -> tuple[Encoded, Encoded]:
    """Chosen, rejected."""
    return row.chosen, row.rejected


def on_pairs(objective: Callable[[Any], Objective]) -> Callable[[Any, Run, Inputs], PairPreference]:
    """How a method that learns from comparisons is put together."""
    return lambda config, run, inputs: PairPreference(objective(config), run, inputs)


def dpo(c: DPOConfig) -> Objective:
    """Equation 7 of Rafailov et al., with the consensus as a soft label."""
    if c.loss == "exo" and (c.label_smoothing == 0 or c.robust):
        raise InputError("loss exo needs label_smoothing above 0 (its paper: 0.001) and no robust: no label is certain")
    known = losses.unsmoothed if c.robust else losses.smoothed
    of_pair = {"sigmoid": losses.logistic, "hinge": losses.hinge, "discopop": losses.discopop}

    def reward(measured: Measured) -> Tensor:
        h = measured.ratios
        score = losses.js_score(h) if c.divergence == "js" else losses.alpha_score(h, float(c.divergence))
        return c.beta * (score / measured.tokens if c.per_token else score)

    def loss(chosen: Tensor, rejected: Tensor, label: Tensor) -> Tensor:
        label = known(label, c.label_smoothing)
        if c.loss == "exo":
            return losses.exo(chosen, rejected, label)
        return losses.expected(of_pair[c.loss], chosen, rejected, label)

    weighed = c.on_policy_weights
    return Objective(name="dpo", reward=reward, loss=loss, nll=c.nll, on_policy_weights=weighed, renewal=c.renewal)


def ipo(c: IPOConfig) -> Objective:
    """Azar et al. 2023, eq. 17: a regression of the margin, which stops where a logistic loss would run away."""
    unit = "token" if c.per_token else "sequence"

    def reward(measured: Measured) -> Tensor:
        return c.tau * (measured.ratios / measured.tokens if c.per_token else measured.ratios)

    return Objective(
        name="ipo",
        reward=reward,
        loss=partial(losses.expected, partial(losses.ipo, tau=c.tau)),
        renewal=c.renewal,
        said=f"ipo: margins in nats per {unit}; a clear preference is followed up to {1 / (2 * c.tau):g}",
    )


def apo(c: APOConfig) -> Objective:
    """D'Oosterlinck et al. 2024: each completion is judged against the reference, not only against the other."""
    of_pair: dict[str, losses.PairLoss] = {
        "zero": losses.apo_zero,
        "down": losses.apo_down,
        "nca": losses.nca,
        "bco": losses.bco,
        "sppo": partial(losses.sppo, beta=c.beta),
    }
    loss = partial(losses.expected, of_pair[c.variant])
    return Objective(name="apo", reward=lambda m: c.beta * m.ratios, loss=loss, renewal=c.renewal)


def simpo(c: SimPOConfig) -> Objective:
    """Meng et al. 2024, eq. 6: the mean log-probability per token is the reward, and there is no reference."""

    def ahead(chosen: Tensor, rejected: Tensor) -> Tensor:
        return losses.logistic(chosen - c.gamma, rejected)

    loss = partial(losses.expected, ahead)
    return Objective(name="simpo", reward=lambda m: c.beta * m.means, loss=loss, nll=c.nll, has_reference=False)


def orpo(c: ORPOConfig) -> Objective:
    """Hong et al. 2024, eq. 6: supervised learning of the chosen side, and odds that favour it; no reference."""

    def loss(chosen: Tensor, rejected: Tensor, label: Tensor) -> Tensor:
        return c.odds_weight * losses.expected(losses.logistic, chosen, rejected, label)

    reward: Callable[[Measured], Tensor] = lambda m: losses.log_odds(m.means)  # noqa: E731
    return Objective(name="orpo", reward=reward, loss=loss, nll=1.0, has_reference=False)


def _two(values: Float[Tensor, "m"]) -> tuple[Tensor, Tensor]:
    """(of the chosen, of the rejected)."""
    chosen, rejected = values.unflatten(0, (-1, 2)).unbind(1)
    return chosen, rejected
