"""A reward model: one score per answer, such that what people said is likely. Bradley, Terry 1952; Ziegler et al. 2019

The offline loop over feedback of any kind. Each kind has its likelihood given the scores (functional/feedback.py), and
its few thresholds are trained along: comparisons, with Davidson's ties; rankings, best-of-K, edits and demonstrations
as Plackett-Luce's choices; ratings as an ordinal logit; approvals and flags as a logistic. Afterwards gain and bias are
set so that the scores of the sampled completions have mean 0 and std 1, and a temperature is fitted to held-out pairs.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from prefloop.artifacts.files import write_json
from prefloop.datasets.collate import micro_batches
from prefloop.datasets.feedback import Compared, FeedbackRow, Judged, Ranked, Rated, feedback_rows, sample_groups
from prefloop.datasets.rows import demonstration_rows
from prefloop.errors import InputError
from prefloop.functional.calibration import temperature
from prefloop.functional.feedback import (
    MARGINS,
    all_pairs,
    comparison_logprobs,
    cross_entropy,
    difference_spread,
    plackett_luce,
)
from prefloop.models.adapters import save_trained
from prefloop.models.device import pick_device
from prefloop.models.feedback import ANSWERS_KEY, HEADS_KEY, MEMBER, TEMPERATURE_KEY, Answers, Heads, width_of
from prefloop.models.heads import ScoreHead
from prefloop.models.load import BIAS_KEY, base_of, load_tokenizer
from prefloop.models.template import Encoded, Template
from prefloop.models.trees import tokens_of
from prefloop.records import QUESTION_KINDS, Ledger
from prefloop.settings import check_choice
from prefloop.training.meta import MetaSettings, ascended
from prefloop.training.method import Inputs
from prefloop.training.offline import Loss
from prefloop.training.probe import fold_of, solve
from prefloop.training.reading import Reading
from prefloop.training.roles import trained_reward_model
from prefloop.training.run import Run, Share, generator

DEFAULTS: dict[str, Any] = {"lr": 1e-5, "epochs": 1.0, "schedule": "linear"}
LEVELS = 5
"""Of a rating."""
Said = dict[str | None, float]
"""How much was said about a score in answer to each question of `Answers`; None compares texts."""
ENOUGH_PAIRS = 30
"""Held-out pairs from which on a temperature is fitted to them; with fewer it stays the training's own."""


@dataclass(frozen=True, kw_only=True)
class RewardModelConfig:
    """Settings of `train reward_model`, beside those every run has."""

    center: NonNegativeFloat = 0.0
    """Weight of (score of chosen + score of rejected)^2, which keeps the scores near 0; 0.01 is usual when used."""
    margin: bool | Literal["small", "large"] = False
    """Clear preferences must win by more (Llama 2): true subtracts the row's `margin` column, small (up to 1) and large
    (up to 3) a margin that grows with the `strength` that people stated."""
    ties: Literal["half", "davidson"] = "davidson"
    """A tie is half a win for each side, or an answer of its own, whose frequency is fitted (Davidson)."""
    rankings: Literal["plackett_luce", "pairs"] = "plackett_luce"
    """A ranking is a row of choices, or the mean of its pairs (InstructGPT); either way one element of a batch."""
    label_noise: Share = 0.0
    """Share of the answers that are supposed to be given blindly; 0.1 is usual when used."""
    kinds: dict[str, PositiveFloat] = field(default_factory=dict)
    """Weight of each kind of feedback in the loss, 1 where not named: `{rating: 0.5}`."""
    criteria: list[str] = field(default_factory=list)
    """Criteria that get a score of their own, a head on the same trunk; ratings and comparisons of others are about
    the score itself."""
    learn_from: Literal["train", "held_out"] = "train"
    """held_out learns from the rows that other runs hold out, and is measured on as many of theirs: a guard's reward
    model, which must have seen other answers than the one that a policy is trained on."""
    freeze: bool = False
    """Train the heads only, on the states that the model as it is has for each text (a linear probe): for a few
    thousand answers, which a whole model learns by heart. It is solved, with the penalty on the weights that does best
    on prompts left out; lr, epochs, batch_size, eval_every and weight_decay are not used."""
    reads: Literal["last", "answer"] = "last"
    """With freeze, what the heads of criteria read: the state of the last token, or (answer) also its mean over the
    answer, each half-way up the layers too. The score itself reads the last, as every other program does."""
    members: PositiveInt = 1
    """Heads that form an ensemble: each is drawn anew and sees a bootstrap of the rows; their mean is the score."""
    meta: MetaSettings | None = None
    """Take each step so that the policy's own new completions can still be told apart (MetaRM)."""
    normalise: NonNegativeInt = 512
    """Completions on which gain and bias are set to mean 0, std 1 after training; 0 leaves the scores raw."""
    reference_samples: str | None = None
    """A file of the reference policy's own completions: gain and bias are set on them, before training too; without it
    on those of training rows, and afterwards only."""


class RewardModel:
    """Rows are feedback about the completions of one prompt; the loss has one value per row."""

    name = "reward_model"

    def __init__(self, config: RewardModelConfig, run: Run, inputs: Inputs) -> None:
        s = run.settings
        self.config, self.settings, self.device, self.log = config, s, pick_device(s.device), run.log
        for kind in config.kinds:
            check_choice("kinds", kind, QUESTION_KINDS)
        self.tokenizer = load_tokenizer(inputs.policy)
        self.template = Template(self.tokenizer)
        reading = Reading(run, inputs, self.template)
        self.train_rows, self.eval_rows = reading.feedback(feedback_rows)
        if config.learn_from == "held_out":
            if not self.eval_rows:
                raise InputError(
                    f"learn_from: held_out, but none of the {len(self.train_rows)} rows is held out: "
                    "give test_share, or freeze the answers with one"
                )
            self.train_rows, self.eval_rows = self.eval_rows, self.train_rows[: len(self.eval_rows)]
        scorer = trained_reward_model(inputs.policy, s, self.template.pad_id)
        self.head = ScoreHead(scorer, run.log)
        stored = base_of(scorer).config
        names = [f"{MEMBER}{m}" for m in range(config.members)] if config.members > 1 else []
        self.members = range(len(names))
        self.wide = _reads_answers(config)
        kept = {} if self.wide else getattr(stored, HEADS_KEY, None) or {}
        width = stored.get_text_config().hidden_size * (4 if self.wide else 1)
        if kept and width_of(stored, kept) != width:
            raise InputError(
                f"the heads of {s.policy} read the whole answer: go on with freeze: true and reads: answer"
            )
        self.heads = Heads([*names, *config.criteria], width, s.seed, kept)
        self.answers = Answers(*_said_so_far(self.train_rows, config.ties == "davidson"))
        for part in (self.heads, self.answers):
            part.to(self.device)
        self.model = nn.ModuleDict({"scorer": scorer, "heads": self.heads, "answers": self.answers})
        self.known: dict[tuple[int, ...], Tensor] = {}
        if self.train_rows and all(row.criterion in config.criteria for row in self.train_rows):
            run.log(f"every row is about one of {', '.join(config.criteria)}: the score itself learns nothing")
        if config.freeze:
            self._read_once(scorer, run)
        self.head.final.requires_grad_(not names)  # it becomes the mean of the members
        self.samples: list[tuple[Encoded, ...]] = []
        if config.meta is not None:
            self.samples = sample_groups(_beside(config.meta.samples, inputs.base), self.template, reading.longest)
        self.reference: list[tuple[Encoded, ...]] = []
        self.before: tuple[float, float] | None = None
        if config.reference_samples is not None:
            file = _beside(config.reference_samples, inputs.base)
            said, _ = demonstration_rows(
                file, self.template, reading.longest, Ledger(), test_share=0.0, max_dropped=s.max_dropped
            )
            self.reference = [(row.text,) for row in said]
            self.model.eval()
            self.before = self._normalise()[""] if config.normalise else None

    def length(self, row: FeedbackRow) -> int:
        return row.length

    def weight(self, row: FeedbackRow) -> float:
        return row.weight * self.config.kinds.get(row.kind, 1.0)

    def identity(self, row: FeedbackRow) -> str:
        return row.identity

    def loss(self, rows: Sequence[FeedbackRow]) -> Loss:
        """One value per row, in nats; accuracy counts the pairs that people did not call a tie."""
        return self._likelihood(rows, self.scores([text for row in rows for text in row.texts]))

    def _likelihood(self, rows: Sequence[FeedbackRow], scores: Float[Tensor, "n heads"]) -> Loss:
        """`scores` of all texts of the rows, one row after another."""
        ends = torch.tensor([len(row.texts) for row in rows], device=scores.device).cumsum(0)
        first = torch.cat([ends.new_zeros(1), ends[:-1]])
        values = torch.zeros(len(rows), device=scores.device)
        metrics: dict[str, Tensor | tuple[Tensor, Tensor]] = {}
        weights = torch.tensor([self.weight(row) for row in rows], device=scores.device)
        for said, likelihood in (
            (Compared, self._compared),
            (Ranked, self._ranked),
            (Rated, self._rated),
            (Judged, self._judged),
        ):
            places = [i for i, row in enumerate(rows) if isinstance(row.said, said)]
            if places:
                here = torch.tensor(places, device=scores.device)
                found, logged = likelihood([rows[i] for i in places], scores, first[here])
                values = values.index_put((here,), found)
                metrics |= {name: (value, weights[here]) for name, value in logged.items()}
        kinds = [row.kind for row in rows]
        if len({row.kind for row in self.train_rows}) > 1:
            for kind in sorted(set(kinds)):
                here = torch.tensor([k == kind for k in kinds], device=scores.device)
                metrics[f"loss/{kind}"] = (values[here].detach(), weights[here])
        return Loss(values, weights, metrics)

    def scores(self, texts: Sequence[Encoded]) -> Float[Tensor, "n heads"]:
        """The scores of encoded texts, in one forward pass: the main one, then those of the further heads."""
        return self._scored(self._states(texts))

    def _scored(self, states: Float[Tensor, "n d"]) -> Float[Tensor, "n heads"]:
        further = self.heads(states)
        own = states[:, : self.head.weight.shape[0]]
        main = further[:, list(self.members)].mean(dim=1) if self.members else self.head.score(own)
        return torch.cat([main[:, None], further], dim=1)

    def solve(self) -> dict[str, float] | None:
        """With `freeze`, the heads' weights and the answers' thresholds at their optimum; else None."""
        if not self.known:
            return None
        rows = self.train_rows
        states = self._states([text for row in rows for text in row.texts]).float()
        spread = states.std(0)
        spread = spread.clamp_min(1e-6 * float(spread.max()))
        states /= spread
        ends = list(itertools.accumulate(len(row.texts) for row in rows))
        weights = [p for p in (self.heads.weight, self.head.final.weight) if p.requires_grad]
        rest = [p for p in self.model.parameters() if p.requires_grad and all(p is not w for w in weights)]
        said = self._said_about_each_score()
        number_format = self.head.final.weight.dtype
        for weight in weights:
            weight.data = torch.zeros_like(weight, dtype=torch.float32)  # a line search in bfloat16 ends anywhere
        self.model.train()

        def mean_loss(picked: Sequence[int]) -> Tensor:
            some = [rows[i] for i in picked]
            at = [k for i in picked for k in range(ends[i] - len(rows[i].texts), ends[i])]
            loss = self._likelihood(some, self._scored(states[at]))
            return (loss.values * loss.weights).sum() / loss.weights.sum()

        folds = [fold_of(row.texts[0].ids[: row.texts[0].prompt_length]) for row in rows]
        strength, left = solve(mean_loss, folds, [*weights, *rest], lambda: self._size(said), self.log)
        with torch.no_grad():
            for weight in weights:
                weight /= spread[: weight.shape[1]].to(weight)
        self.head.final.to(number_format)
        return {"penalty": strength} | ({} if left is None else {"cross_validated_loss": left})

    def _said_about_each_score(self) -> list[Said]:
        """For each column of `scores`."""
        said: list[Said] = [defaultdict(float) for _ in range(1 + len(self.heads.names))]
        for row in self.train_rows:
            questions: list[tuple[str | None, str | None]] = [(row.criterion, None)]
            if isinstance(row.said, Rated):
                questions = [(criterion, f"rating:{criterion}") for criterion in row.said.scores]
            elif isinstance(row.said, Judged):
                questions = [(row.criterion, row.kind)]
            for criterion, question in questions:
                for column in self._columns_of(criterion):
                    said[column][question] += self.weight(row)
        return said

    def _size(self, said: Sequence[Said]) -> Float[Tensor, ""]:
        """The squared norm of each score's weights times its questions' slope, in the mean over what was said of it.

        The slope belongs to it: a steep one would let the weights vanish, and the penalty with them.
        """
        total = torch.zeros((), device=self.device)
        for column in [column for column, asked in enumerate(said) if asked]:
            weight = self.heads.weight[column - 1] if column else self.head.final.weight
            total = total + weight.square().sum() * sum(
                share * (1.0 if question is None else self.answers.slope(question).square())
                for question, share in said[column].items()
            ) / sum(said[column].values())
        return total

    def shifted(self, step: int) -> AbstractContextManager[None]:
        """Inside, the weights stand where the policy's own completions are told apart a little better."""
        meta = self.config.meta
        if meta is None or meta.eta == 0.0:
            return nullcontext()
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        order = torch.randperm(len(self.samples), generator=generator(self.settings.seed, "meta", step)).tolist()
        picked = [self.samples[i][: meta.completions] for i in order[: meta.prompts]]
        return ascended(parameters, lambda: self._towards_spread(picked, parameters), meta.eta)

    def _towards_spread(self, groups: Sequence[Sequence[Encoded]], parameters: Sequence[nn.Parameter]) -> list[Tensor]:
        """The gradient of the mean over prompts of J (MetaRM)."""
        total = [torch.zeros_like(p) for p in parameters]
        for group in groups:
            spread = difference_spread(self.scores(group)[None, :, 0]).sum() / len(groups)
            found = torch.autograd.grad(spread, list(parameters), allow_unused=True)
            for one, gradient in zip(total, found, strict=True):
                if gradient is not None:
                    one += gradient
        return total

    def save(self, folder: Path) -> None:
        """Normalise and calibrate, then write the model with its head's gain folded in, the rest in its config."""
        self.model.eval()
        base = base_of(self.model["scorer"])
        if self.members:
            with torch.no_grad():
                self.head.final.weight.copy_(self.heads.weight[list(self.members)].mean(0, keepdim=True))
                if self.head.final.bias is not None:
                    self.head.final.bias.zero_()
            setattr(base.config, BIAS_KEY, float(self.heads.bias[list(self.members)].mean()))
        moved = self._normalise() if self.config.normalise else {}
        gain, bias = moved.get("", (1.0, 0.0))
        calibrated = self._temperature(None, gain)
        setattr(base.config, TEMPERATURE_KEY, calibrated["temperature"])
        by_name = {name: self._temperature(name, moved.get(name, (1.0, 0.0))[0]) for name in self.config.criteria}
        by_criterion = {name: moved[name] for name in self.config.criteria if moved}
        setattr(base.config, ANSWERS_KEY, self.answers.as_config(by_criterion, (gain, bias)))
        if self.heads.names:
            setattr(
                base.config,
                HEADS_KEY,
                self.heads.as_config({name: found["temperature"] for name, found in by_name.items()}),
            )
        save_trained(self.model["scorer"], self.tokenizer, folder)
        normalised: dict[str, Any] = {"gain": gain, "bias": bias, "completions": self.config.normalise}
        if self.before is not None:
            was = dict(zip(("gain", "bias"), self.before, strict=True))
            normalised |= {"on": "the reference policy's samples", "before": was}
        write_json(folder / "normalisation.json", normalised)
        write_json(folder / "calibration.json", calibrated | ({"criteria": by_name} if by_name else {}))

    # --- a model that stays as it is --------------------------------------------------------------------------------

    def _states(self, texts: Sequence[Encoded]) -> Float[Tensor, "n d"]:
        """What the heads read of each text."""
        if self.known and all(tuple(text.ids) in self.known for text in texts):
            return torch.stack([self.known[tuple(text.ids)] for text in texts]).to(self.device)
        return self.head.wide_states(texts) if self.wide else self.head.states(texts)

    @torch.no_grad()
    def _read_once(self, scorer: nn.Module, run: Run) -> None:
        """Keep the states of all texts; in the rows' order, so that a resumed run has the same bits."""
        if run.settings.lora is not None:
            raise InputError("freeze trains the heads alone, lora an adapter too: leave one of them out")
        scorer.requires_grad_(False)
        scorer.eval()
        seen: set[tuple[int, ...]] = set()
        groups: list[list[Encoded]] = []
        for row in [*self.train_rows, *self.eval_rows]:
            groups.append([text for text in row.texts if tuple(text.ids) not in seen])
            seen.update(tuple(text.ids) for text in groups[-1])
        groups = [group for group in groups if group]
        for micro in micro_batches(range(len(groups)), lambda i: tokens_of(groups[i]), run.settings.micro_batch_tokens):
            texts = [text for i in micro for text in groups[i]]
            before = len(self.known) * 10 // len(seen)
            for text, state in zip(texts, self._states(texts).cpu(), strict=True):
                self.known[tuple(text.ids)] = state
            if len(self.known) * 10 // len(seen) > before:
                run.log(f"freeze: {len(self.known)} of {len(seen)} texts are read")

    # --- one likelihood per kind: (one value per row, what to log) -------------------------------------------------

    def _compared(
        self, rows: Sequence[FeedbackRow], scores: Float[Tensor, "n heads"], first: Int[Tensor, "m"]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        chosen, rejected = (self._about(rows, scores, first + side) for side in (0, 1))
        said: list[Compared] = [row.said for row in rows if isinstance(row.said, Compared)]
        label, ties, margin, strength = (
            torch.tensor([getattr(one, name) for one in said], device=chosen.device)
            for name in ("label", "ties", "margin", "strength")
        )
        if isinstance(self.config.margin, str):
            margin = MARGINS[self.config.margin] * strength
        difference = chosen - rejected - margin[:, None] * bool(self.config.margin)
        log_ties = self.answers.log_ties
        ties = ties * (log_ties is not None)
        shares = torch.stack([label - ties / 2, 1 - label - ties / 2, ties], dim=1)[:, : 2 if log_ties is None else 3]
        each = [
            cross_entropy(comparison_logprobs(one, log_ties), shares, self.config.label_noise)
            + self.config.center * total.square()
            for one, total in zip(difference.unbind(1), (chosen + rejected).unbind(1), strict=True)
        ]
        return self._together(rows, torch.stack(each, dim=1)), _preferences(chosen.mean(1), rejected.mean(1), label)

    def _ranked(
        self, rows: Sequence[FeedbackRow], scores: Float[Tensor, "n heads"], first: Int[Tensor, "m"]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        most = max(len(row.texts) for row in rows)
        said = [row.said.ranks for row in rows if isinstance(row.said, Ranked)]
        ranks = torch.tensor([[*one, *[0] * (most - len(one))] for one in said], device=scores.device)
        valid = ranks > 0
        padded = scores.new_zeros(*valid.shape, scores.shape[1])
        padded[valid] = scores[(first[:, None] + torch.arange(most, device=first.device))[valid]]
        likelihood = plackett_luce if self.config.rankings == "plackett_luce" else all_pairs
        each = [
            likelihood(one, ranks.float(), valid, self.config.label_noise)
            + self.config.center * (2 * (one * valid).sum(1) / valid.sum(1)).square()
            for one in (padded[..., c] for c in self._columns)
        ]
        main = padded[..., 0].detach()
        better = (ranks[:, :, None] < ranks[:, None, :]) & valid[:, :, None] & valid[:, None, :]
        right = ((main[:, :, None] > main[:, None, :]) & better).sum((1, 2)) / better.sum((1, 2))
        return self._together(rows, torch.stack(each, dim=1)), {"rewards/ranking_accuracies": right}

    def _rated(
        self, rows: Sequence[FeedbackRow], scores: Float[Tensor, "n heads"], first: Int[Tensor, "m"]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        said = [row.said.scores for row in rows if isinstance(row.said, Rated)]
        losses = scores.new_zeros(len(rows), len(self._columns))
        for criterion in dict.fromkeys(name for one in said for name in one):
            here = torch.tensor([i for i, one in enumerate(said) if criterion in one], device=scores.device)
            levels = torch.tensor([one[criterion] - 1 for one in said if criterion in one], device=scores.device)
            level = nn.functional.one_hot(levels, LEVELS).float()
            each = [
                cross_entropy(
                    self.answers.logprobs(f"rating:{criterion}", scores[first[here], column]),
                    level,
                    self.config.label_noise,
                )
                for column in self._columns_of(criterion)
            ]
            losses = losses.index_add(0, here, torch.stack(each, dim=1))
        return self._together(rows, losses), {}

    def _judged(
        self, rows: Sequence[FeedbackRow], scores: Float[Tensor, "n heads"], first: Int[Tensor, "m"]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        main = self._about(rows, scores, first)
        good = torch.tensor([row.said.good for row in rows if isinstance(row.said, Judged)], device=main.device)
        said = nn.functional.one_hot(good.long(), 2).float()
        losses, right = torch.zeros_like(main), torch.zeros_like(main[:, 0])
        for kind in sorted({row.kind for row in rows}):
            here = torch.tensor([row.kind == kind for row in rows], device=main.device)
            for column in range(main.shape[1]):
                logprobs = self.answers.logprobs(kind, main[here, column])
                losses[here, column] = cross_entropy(logprobs, said[here], self.config.label_noise)
            logprobs = self.answers.logprobs(kind, main[here].mean(1)).detach()
            right[here] = ((logprobs[:, 1] > logprobs[:, 0]) == good[here]).float()
        return self._together(rows, losses), {"rewards/approval_accuracies": right}

    # --- which score a row is about ---------------------------------------------------------------------------------

    @property
    def _columns(self) -> list[int]:
        """Columns of `scores` that the main score is learned through: itself, or the members."""
        return [1 + m for m in self.members] or [0]

    def _columns_of(self, criterion: str | None) -> list[int]:
        """Those of a row about a criterion: its head's, once for each of the main score's."""
        if criterion in self.config.criteria:
            return [1 + self.heads.names.index(criterion)] * len(self._columns)
        return self._columns

    def _about(
        self, rows: Sequence[FeedbackRow], scores: Float[Tensor, "n heads"], at: Int[Tensor, "m"]
    ) -> Float[Tensor, "m columns"]:
        """The scores that each row is about, of its text at place `at`."""
        columns = torch.tensor([self._columns_of(row.criterion) for row in rows], device=at.device)
        about: Tensor = scores[at[:, None], columns]
        return about

    def _together(self, rows: Sequence[FeedbackRow], each: Float[Tensor, "n columns"]) -> Float[Tensor, "n"]:
        """Mean over the members, each at the number of times that its bootstrap drew the row: Poisson with mean 1."""
        if not self.members:
            return each[:, 0]
        if not self.model.training:
            return each.mean(dim=1)
        ones, seed = torch.ones(len(self.members)), self.settings.seed
        drawn = torch.stack([torch.poisson(ones, generator(seed, "bootstrap", row.key)) for row in rows])
        return (each * drawn.to(each.device)).mean(dim=1)

    # --- afterwards -------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _normalise(self) -> dict[str, tuple[float, float]]:
        """Mean 0 and std 1 on the first `normalise` completions; the members as their mean, each criterion by itself.

        Returns (gain, bias) of the score under "" and of each criterion.
        """
        sample, taken = [], 0
        for texts in self.reference or [row.texts for row in self.train_rows]:
            if taken < self.config.normalise:
                sample.append(texts)
                taken += len(texts)
        scores = self._all_scores(sample)
        before = self.head.bias
        gain, bias = self.head.normalise(scores[:, 0])
        self.heads.scale(list(self.members), gain, bias - gain * before)
        moved = {"": (gain, bias - gain * before)}
        for place, name in list(enumerate(self.heads.names))[len(self.members) :]:
            own = scores[:, 1 + place].cpu().double()
            std = float(own.std(correction=0))
            factor = 1 / std if std > 1e-6 else 1.0
            moved[name] = (factor, -factor * float(own.mean()))
            self.heads.scale([place], *moved[name])
        return moved

    @torch.no_grad()
    def _temperature(self, criterion: str | None, otherwise: float) -> dict[str, Any]:
        """Of a criterion's score, or of the score itself: fitted to its held-out pairs, with their soft labels."""
        pairs = [row for row in self.eval_rows if isinstance(row.said, Compared) and row.said.label != 0.5]
        pairs = [row for row in pairs if self._columns_of(row.criterion) == self._columns_of(criterion)]
        if len(pairs) < ENOUGH_PAIRS:
            return {"temperature": otherwise, "held_out_pairs": 0}
        column = 0 if criterion is None else 1 + self.heads.names.index(criterion)
        scores = self._all_scores([row.texts for row in pairs])[:, column].view(-1, 2)
        labels = torch.tensor([row.said.label for row in pairs if isinstance(row.said, Compared)])
        return {"temperature": temperature(scores[:, 0] - scores[:, 1], labels), "held_out_pairs": len(pairs)}

    def _all_scores(self, groups: Sequence[Sequence[Encoded]]) -> Float[Tensor, "n heads"]:
        """Scores of all texts of all prompts, in their order, on the CPU."""
        result: list[Tensor] = [torch.empty(0)] * len(groups)
        budget = self.settings.micro_batch_tokens
        for micro in micro_batches(range(len(groups)), lambda i: tokens_of(groups[i]), budget):
            scores = self.scores([text for i in micro for text in groups[i]]).float().cpu()
            for i, part in zip(micro, scores.split([len(groups[i]) for i in micro]), strict=True):
                result[i] = part
        return torch.cat(result)


def _reads_answers(config: RewardModelConfig) -> bool:
    """Raises InputError for wishes that go against each other."""
    if config.freeze and config.meta is not None:
        raise InputError("freeze leaves the model as it is, meta moves it: leave one of them out")
    if config.reads == "last":
        return False
    if not config.freeze:
        raise InputError("reads: answer is for heads on a model that stays as it is: give freeze: true, too")
    if config.members > 1 or not config.criteria:
        raise InputError(
            "reads: answer is for the heads of criteria, and the score itself, or an ensemble of it, reads the last "
            "token: name the rows' criteria, and leave members out"
        )
    return True


def _beside(file: str, base: Path) -> Path:
    """A file as it is named, or beside the run file."""
    return Path(file) if Path(file).is_file() else base / file


def _preferences(
    chosen: Float[Tensor, "n"], rejected: Float[Tensor, "n"], label: Float[Tensor, "n"]
) -> dict[str, Tensor]:
    """TRL's metrics of pairs; a tie counts half."""
    chosen, rejected = chosen.detach(), rejected.detach()
    right = ((chosen > rejected) == (label > 0.5)).float()
    return {
        "rewards/accuracies": right.where(label != 0.5, torch.full_like(right, 0.5)),
        "rewards/margins": chosen - rejected,
        "rewards/chosen": chosen,
        "rewards/rejected": rejected,
    }


def _said_so_far(rows: Sequence[FeedbackRow], davidson: bool) -> tuple[dict[str, list[float]], float]:
    """How often each level of each question was said, and the share of ties."""
    levels: dict[str, Counter[int]] = {}
    ties = total = 0.0
    for row in rows:
        if isinstance(row.said, Rated):
            for criterion, level in row.said.scores.items():
                levels.setdefault(f"rating:{criterion}", Counter())[level - 1] += 1
        elif isinstance(row.said, Judged):
            levels.setdefault(row.kind, Counter())[int(row.said.good)] += 1
        elif isinstance(row.said, Compared):
            ties, total = ties + row.weight * row.said.ties, total + row.weight
    counts = {
        name: [float(count[level]) for level in range(LEVELS if name.startswith("rating:") else 2)]
        for name, count in levels.items()
    }
    return counts, ties / total if davidson and total else 0.0
