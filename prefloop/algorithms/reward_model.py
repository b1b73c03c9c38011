"""A reward model: one score per answer, such that what people said is likely. Bradley, Terry 1952; Ziegler et al. 2019

The offline loop over feedback of any kind. Each kind has its likelihood given the scores (training/likelihoods.py), and
its few thresholds are trained along. Afterwards gain and bias are set so that the scores of the sampled completions
have mean 0 and std 1, and a temperature is fitted to held-out pairs.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from prefloop.artifacts.files import write_json
from prefloop.datasets.collate import micro_batches
from prefloop.datasets.feedback import Compared, FeedbackRow, feedback_rows, sample_groups
from prefloop.datasets.rows import demonstration_rows
from prefloop.errors import InputError
from prefloop.functional.calibration import temperature
from prefloop.functional.feedback import difference_spread
from prefloop.models.adapters import save_trained
from prefloop.models.device import pick_device
from prefloop.models.feedback import ANSWERS_KEY, HEADS_KEY, MEMBER, TEMPERATURE_KEY, Answers, Heads, moved, width_of
from prefloop.models.heads import ScoreHead
from prefloop.models.load import BIAS_KEY, base_of, load_tokenizer
from prefloop.models.template import Encoded, Template
from prefloop.models.trees import tokens_of
from prefloop.records import QUESTION_KINDS, Ledger
from prefloop.settings import check_choice
from prefloop.training.likelihoods import Likelihoods, said_about_each_score, said_so_far
from prefloop.training.meta import MetaSettings, ascended
from prefloop.training.method import Inputs
from prefloop.training.offline import Loss
from prefloop.training.probe import fold_of, solve
from prefloop.training.reading import Reading
from prefloop.training.roles import has_score, trained_reward_model
from prefloop.training.run import Run, Share, generator

DEFAULTS: dict[str, Any] = {"lr": 1e-5, "epochs": 1.0, "schedule": "linear"}
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
    """Criteria that get a score of their own, a head on the same trunk, beside those that a reward model which is gone
    on with has already; answers about others are about the score itself."""
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
        reading.require(self.train_rows)
        scorer = trained_reward_model(inputs.policy, s, self.template.pad_id)
        self.head = ScoreHead(scorer, run.log)
        stored = base_of(scorer).config
        members = [f"{MEMBER}{m}" for m in range(config.members)] if config.members > 1 else []
        kept: dict[str, Any] = getattr(stored, HEADS_KEY, None) or {}
        names = list(dict.fromkeys([*members, *config.criteria, *(n for n in kept if not n.startswith(MEMBER))]))
        self.wide = _reads_answers(config, kept)
        width = stored.get_text_config().hidden_size * (4 if self.wide else 1)
        if kept and width_of(stored, kept) != width:
            what, how = (
                ("last token", "reads: last") if self.wide else ("whole answer", "freeze: true and reads: answer")
            )
            raise InputError(f"the heads of {s.policy} read the {what}: go on with {how}")
        self.heads = Heads(names, width, s.seed, kept)
        self.members = self.heads.members
        self.answers = Answers(*said_so_far(self.train_rows, config.ties == "davidson"))
        for part in (self.heads, self.answers):
            part.to(self.device)
        self.model = nn.ModuleDict({"scorer": scorer, "heads": self.heads, "answers": self.answers})
        self.likelihoods = Likelihoods(
            self.heads,
            self.answers,
            seed=s.seed,
            margin=config.margin,
            center=config.center,
            rankings=config.rankings,
            label_noise=config.label_noise,
        )
        self.mixed = len({row.kind for row in self.train_rows}) > 1
        self.said = said_about_each_score(self.heads, self.train_rows, self.weight)
        self.heat: dict[str, float] = {}
        self.questions: dict[str, Any] = {}
        own = set(members) <= set(kept) if members else has_score(inputs.policy) and bool(self.head.weight.any())
        self._keep_what_nothing_is_said_about({*kept, *([""] if own else [])})
        self.known: dict[tuple[int, ...], Tensor] = {}
        if config.freeze:
            self._read_once(scorer, run)
        self.head.final.requires_grad_(not members)  # it becomes the mean of the members
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
            scales = self._normalise()
            self.before = scales[""]
            self._scale_what_stays(scales)

    def length(self, row: FeedbackRow) -> int:
        return row.length

    def weight(self, row: FeedbackRow) -> float:
        return row.weight * self.config.kinds.get(row.kind, 1.0)

    def identity(self, row: FeedbackRow) -> str:
        return row.identity

    def loss(self, rows: Sequence[FeedbackRow]) -> Loss:
        """One value per row, in nats; accuracy counts the pairs that people did not call a tie."""
        found = self._likelihood(rows, self.scores([text for row in rows for text in row.texts]))
        by_kind = {}
        for kind in sorted({row.kind for row in rows}) if self.mixed else ():
            here = torch.tensor([row.kind == kind for row in rows], device=found.values.device)
            by_kind[f"loss/{kind}"] = (found.values[here].detach(), found.weights[here])
        return replace(found, metrics={**found.metrics, **by_kind})

    def _likelihood(self, rows: Sequence[FeedbackRow], scores: Float[Tensor, "n heads"]) -> Loss:
        return self.likelihoods(rows, scores, torch.tensor([self.weight(row) for row in rows], device=scores.device))

    def scores(self, texts: Sequence[Encoded]) -> Float[Tensor, "n heads"]:
        """The scores of encoded texts, in one forward pass: the main one, then those of the further heads."""
        return self._scored(self._states(texts))

    def _scored(self, states: Float[Tensor, "n d"]) -> Float[Tensor, "n heads"]:
        further = self.heads(states)
        own = states[:, : self.head.weight.shape[0]]
        main = further[:, self.members].mean(dim=1) if self.members else self.head.score(own)
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
        number_format = self.head.final.weight.dtype
        for weight in weights:
            scaled = weight.float() * spread[: weight.shape[1]]
            weight.data = scaled.detach()  # in float32: a line search in bfloat16 ends anywhere
        with torch.no_grad():
            for column in self._learned:
                self._weight(column).zero_()
        self.model.train()

        def mean_loss(picked: Sequence[int]) -> Tensor:
            some = [rows[i] for i in picked]
            at = [k for i in picked for k in range(ends[i] - len(rows[i].texts), ends[i])]
            loss = self._likelihood(some, self._scored(states[at]))
            return (loss.values * loss.weights).sum() / loss.weights.sum()

        folds = [fold_of(row.texts[0].ids[: row.texts[0].prompt_length]) for row in rows]
        strength, left = solve(mean_loss, folds, [*weights, *rest], self._size, self.log)
        with torch.no_grad():
            for weight in weights:
                weight /= spread[: weight.shape[1]].to(weight)
        self.head.final.to(number_format)
        return {"penalty": strength} | ({} if left is None else {"cross_validated_loss": left})

    @property
    def _learned(self) -> list[int]:
        """Columns of `scores` that something was said about."""
        return [column for column, shares in enumerate(self.said) if shares]

    def _weight(self, column: int) -> Float[Tensor, "d"]:
        return self.heads.weight[column - 1] if column else self.head.final.weight[0]

    def _size(self) -> Float[Tensor, ""]:
        """The squared norm of each score's weights times its questions' slope, in the mean over what was said of it.

        The slope belongs to it: a steep one would let the weights vanish, and the penalty with them.
        """
        total = torch.zeros((), device=self.device)
        for column in self._learned:
            slopes = {q: 1.0 if q is None else self.answers.slope(q).square() for q in self.said[column]}
            steep = sum(share * slopes[question] for question, share in self.said[column].items())
            total = total + self._weight(column).square().sum() * steep
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
                self.head.final.weight.copy_(self.heads.weight[self.members].mean(0, keepdim=True))
                if self.head.final.bias is not None:
                    self.head.final.bias.zero_()
            setattr(base.config, BIAS_KEY, float(self.heads.bias[self.members].mean()))
        scales = self._normalise()
        self._scale_what_stays(scales)
        heat = {name: self._temperature(name, self.heat.get(name, gain)) for name, (gain, _) in scales.items()}
        calibrated = heat.pop("")
        setattr(base.config, TEMPERATURE_KEY, calibrated["temperature"])
        answers = self.answers.as_config()
        answers["questions"] = self.questions | moved(answers["questions"], scales)
        setattr(base.config, ANSWERS_KEY, answers)
        if self.heads.names:
            temperatures = {name: found["temperature"] for name, found in heat.items()}
            setattr(base.config, HEADS_KEY, self.heads.as_config(temperatures))
        save_trained(self.model["scorer"], self.tokenizer, folder)
        gain, bias = scales[""]
        normalised: dict[str, Any] = {"gain": gain, "bias": bias, "completions": self.config.normalise}
        if self.before is not None:
            was = dict(zip(("gain", "bias"), self.before, strict=True))
            normalised |= {"on": "the reference policy's samples", "before": was}
        write_json(folder / "normalisation.json", normalised)
        write_json(folder / "calibration.json", calibrated | ({"criteria": heat} if heat else {}))

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

    # --- scores that no row is about --------------------------------------------------------------------------------

    @torch.no_grad()
    def _keep_what_nothing_is_said_about(self, learned: set[str]) -> None:
        """Such a score stays what it is if it was `learned` before ("" is the score itself); a new one is 0.

        Raises InputError for a criterion that is new, too.
        """
        config = base_of(self.model["scorer"]).config
        stored = getattr(config, HEADS_KEY, None) or {}
        own = float(getattr(config, TEMPERATURE_KEY, 1.0))
        columns = {"": self.heads.main, **{name: self.heads.columns_of(name) for name in self.heads.criteria}}
        silent = [name for name, places in columns.items() if not any(self.said[column] for column in places)]
        for name in silent:
            what = f"the score of {name}" if name else "the score itself"
            if name in learned:
                self.heat[name] = float(stored.get(name, {}).get("temperature", own))
                beware = (
                    "" if self.config.freeze else "; what it reads moves: give some of its old rows, too, or freeze"
                )
                self.log(f"no row is about {what}: it stays as it was learned before{beware}")
            elif name:
                there = sorted({row.criterion for row in self.train_rows if row.criterion is not None})
                raise InputError(
                    f"criteria: no row is about {name!r}; rows are about {', '.join(there) or 'no criterion'}"
                )
            else:
                self.log(f"every row is about one of {', '.join(self.heads.criteria)}: {what} learns nothing")
                for column in {0, *self.heads.main}:
                    self._weight(column).zero_()
        for name, question in (getattr(config, ANSWERS_KEY, None) or {"questions": {}})["questions"].items():
            criterion = name.partition(":")[2]
            if (criterion if criterion in self.heads.criteria else "") in silent:
                self.questions[name] = question

    def _scale_what_stays(self, scales: Mapping[str, tuple[float, float]]) -> None:
        """The temperatures and thresholds of `_keep_what_nothing_is_said_about`, where the scores were scaled."""
        self.heat = {name: scales[name][0] * heat for name, heat in self.heat.items()}
        self.questions = moved(self.questions, scales)

    # --- afterwards -------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _normalise(self) -> dict[str, tuple[float, float]]:
        """Mean 0 and std 1 on the first `normalise` completions; the members as their mean, each criterion by itself.

        Returns (gain, bias) of the score under "" and of each criterion.
        """
        if not self.config.normalise:
            return dict.fromkeys(["", *self.heads.criteria], (1.0, 0.0))
        sample, taken = [], 0
        for texts in self.reference or [row.texts for row in self.train_rows]:
            if taken < self.config.normalise:
                sample.append(texts)
                taken += len(texts)
        scores = self._all_scores(sample)
        before = self.head.bias
        gain, bias = self.head.normalise(scores[:, 0])
        self.heads.scale(self.members, gain, bias - gain * before)
        scales = {"": (gain, bias - gain * before)}
        for name in self.heads.criteria:
            place = self.heads.names.index(name)
            own = scores[:, 1 + place].cpu().double()
            std = float(own.std(correction=0))
            factor = 1 / std if std > 1e-6 else 1.0
            scales[name] = (factor, -factor * float(own.mean()))
            self.heads.scale([place], *scales[name])
        return scales

    @torch.no_grad()
    def _temperature(self, criterion: str, otherwise: float) -> dict[str, Any]:
        """Of a criterion's score, or ("") of the score itself: fitted to its held-out pairs, with their soft labels."""
        pairs = [row for row in self.eval_rows if isinstance(row.said, Compared) and row.said.label != 0.5]
        pairs = [row for row in pairs if self.heads.columns_of(row.criterion) == self.heads.columns_of(criterion)]
        if len(pairs) < ENOUGH_PAIRS:
            return {"temperature": otherwise, "held_out_pairs": 0}
        column = self.heads.columns_of(criterion)[0] if criterion else 0
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


def _reads_answers(config: RewardModelConfig, criteria: Collection[str]) -> bool:
    """Raises InputError for wishes that go against each other. `criteria`: those of the model that is gone on with."""
    if config.freeze and config.meta is not None:
        raise InputError("freeze leaves the model as it is, meta moves it: leave one of them out")
    if config.reads == "last":
        return False
    if not config.freeze:
        raise InputError("reads: answer is for heads on a model that stays as it is: give freeze: true, too")
    if config.members > 1 or not (config.criteria or criteria):
        raise InputError(
            "reads: answer is for the heads of criteria, and the score itself, or an ensemble of it, reads the last "
            "token: name the rows' criteria, and leave members out"
        )
    return True


def _beside(file: str, base: Path) -> Path:
    """A file as it is named, or beside the run file."""
    return Path(file) if Path(file).is_file() else base / file
