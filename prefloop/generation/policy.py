"""A policy ready to answer: model, template and sampler in one; prompts as messages in, completions as text out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from prefloop.errors import InputError
from prefloop.generation.sampler import SLOTS, Sample, Sampler, Sampling
from prefloop.models.device import pick_device, pick_dtype
from prefloop.models.heads import CompletionLogprobs
from prefloop.models.load import load_policy, load_tokenizer, resolve
from prefloop.models.template import Template
from prefloop.models.value_heads import Perturbed, load_value_heads
from prefloop.records import Message


@dataclass(frozen=True)
class Completion:
    """What a policy answered."""

    text: str
    terminated: bool
    """It ended by itself; False when the length limit cut it off."""
    sample: Sample


class Policy:
    """Loaded once, asked often. One with value heads beside it (ILQL's) samples and is measured as they move it."""

    def __init__(
        self,
        ref: str | Path,
        *,
        device: str = "auto",
        dtype: str = "auto",
        slots: int = SLOTS,
        beta: float | None = None,
        log: Callable[[str], None] = lambda words: None,
    ) -> None:
        """`beta` overrides how far value heads move the log-probabilities; 0 is the cloned policy by itself. `log` is
        told when the model is sampled in a slower way than others, and why."""
        place = pick_device(device)
        self.template = Template(load_tokenizer(ref))
        model = load_policy(ref, pick_dtype(dtype, place), place)
        heads = load_value_heads(resolve(ref), place)
        if heads is not None:
            heads.beta = heads.beta if beta is None else float(beta)
        elif beta is not None:
            raise InputError(f"{ref} has no value heads for beta to weigh; they come from: prefloop train ilql")
        self.model: Any = model if heads is None else Perturbed(model, heads)
        self.sampler = Sampler(self.model, self.template, slots, log=log)

    def has_room(self, prompt: Sequence[Message], max_new_tokens: int) -> bool:
        """Whether the model's positions hold the prompt and an answer of so many tokens."""
        return len(self.template.prompt(prompt)) + max_new_tokens <= self.sampler.positions

    def answer(
        self,
        prompts: Sequence[Sequence[Message]],
        per_prompt: int = 1,
        sampling: Sampling | None = None,
        *,
        seed: int = 0,
        progress: Callable[[int], None] | None = None,
        said: Callable[[str], None] | None = None,
    ) -> list[list[Completion]]:
        """`per_prompt` completions of each prompt, in the prompts' order. The same seed gives the same answers.

        `said` is given the text as it comes, piece by piece; together the pieces are the completions' texts, so it is
        for one completion at a time.
        """
        sampling = sampling or Sampling()
        ids = [self.template.prompt(prompt) for prompt in prompts]
        stream = torch.Generator().manual_seed(seed)
        done = 0

        def told(prompt: int, sample: Sample) -> None:
            nonlocal done
            text = self._text(sample, sampling)
            ready = len(text) if sample.terminated else len(text) - unsure(text, sampling.stop)
            if said is not None and ready > done:
                said(text[done:ready])
                done = ready

        drawn = self.sampler(ids, per_prompt, sampling, stream, progress, told=told if said is not None else None)
        answers = [[Completion(self._text(s, sampling), s.terminated, s) for s in group] for group in drawn]
        if said is not None and (rest := "".join(c.text for group in answers for c in group)[done:]):
            said(rest)
        return answers

    def _text(self, sample: Sample, sampling: Sampling) -> str:
        """What was said before the first stop string."""
        text = self.template.decode(sample.ids)
        return text[: min((at for words in sampling.stop if (at := text.find(words)) >= 0), default=len(text))]

    def logprobs(
        self, prompts: Sequence[Sequence[Message]], samples: Sequence[Sample], batch: int = 16
    ) -> Float[Tensor, "n"]:
        """log pi(completion | prompt) of sampled ids, summed over tokens, in nats."""
        measure = CompletionLogprobs(self.model)
        sums = torch.zeros(len(samples))
        for first in range(0, len(samples), batch):
            rows = range(first, min(first + batch, len(samples)))
            heads = [self.template.prompt(prompts[i]) for i in rows]
            whole = [torch.tensor([*head, *samples[i].ids]) for head, i in zip(heads, rows, strict=True)]
            ids = pad_sequence(whole, batch_first=True, padding_value=self.template.pad_id)
            lengths = torch.tensor([len(samples[i].ids) for i in rows])
            valid = torch.arange(int(lengths.max())) < lengths[:, None]
            starts = torch.tensor([len(head) for head in heads])
            device = self.model.device
            with torch.no_grad():
                found, _ = measure(ids.to(device), starts.to(device), valid.to(device))
            sums[rows.start : rows.stop] = found.sum(1).cpu()
        return sums


def unsure(text: str, stop: Sequence[str]) -> int:
    """How many characters at the end may still change: half a character's bytes, or the beginning of a stop string."""
    broken = len(text) - len(text.rstrip("\ufffd"))
    begun = [n for words in stop for n in range(1, len(words)) if text.endswith(words[:n])]
    return max([broken, *begun])
