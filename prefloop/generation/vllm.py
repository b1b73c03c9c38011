"""Sample with a vLLM server: a process, an environment and often a GPU of its own, behind the interface of `Sampler`.

The policy's weights go there as files. A server that keeps what it had is found out: what it gives as log-probabilities
of a few texts must move as the policy's do. Each sample bears the number of the weights that it was made with.
"""

from __future__ import annotations

import shutil
import threading
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import torch
from jaxtyping import Float
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn

from prefloop.artifacts.files import write_folder
from prefloop.errors import InputError, RunError
from prefloop.generation.choice import Sampling
from prefloop.generation.sampler import Ends, Request, Sample, requests, stops_of
from prefloop.generation.vllm_server import Lost, Server, Written
from prefloop.models.adapters import write_weights
from prefloop.models.encoder_decoder import has_encoder
from prefloop.models.heads import CompletionLogprobs
from prefloop.models.load import base_of, positions_of
from prefloop.models.template import Encoded, Template

COLDEST = 0.01
"""vLLM takes a lower temperature for this one, unless it is 0."""
PROBES = 8
PROBE_TOKENS = 32
"""So many texts, of so many tokens at most, are compared after each update."""
ROUNDING = 1e-3
"""Nats per token that are never more than that."""


@dataclass(frozen=True, kw_only=True)
class VllmSettings:
    """Where the server is, and how it gets the weights."""

    url: str
    """The server's address, such as http://127.0.0.1:8000."""
    folder: str
    """A whole path to a folder for this alone, which the server sees too: the weights are handed over in it."""
    in_flight: PositiveInt = 256
    """Completions that are asked for at once; the server's --max-num-seqs is a good number."""
    timeout: PositiveFloat = 600.0
    """Seconds in which a completion is there, and in which a server that went away is back."""
    max_gap: PositiveFloat = 0.25
    """An error where server and policy begin with log-probabilities further apart than this on average, in nats."""


@dataclass(frozen=True)
class Measured:
    """log p of each token of the probes, at temperature 1, in nats, as server and policy have it."""

    served: Float[Tensor, "n"]
    trained: Float[Tensor, "n"]

    @property
    def gap(self) -> float:
        return apart(self.served, self.trained)


class ServedSampler:
    """Draws completions of the policy's weights as they were at the last `update`."""

    def __init__(
        self,
        policy: nn.Module,
        template: Template,
        settings: VllmSettings,
        log: Callable[[str], None] = lambda words: None,
    ) -> None:
        """Raises InputError without a server, for a policy with an encoder, or a folder that is no whole path."""
        model, self.folder = base_of(policy), Path(settings.folder)
        if has_encoder(model):
            raise InputError(f"{type(model).__name__} has an encoder, which vLLM does not serve: leave out vllm")
        if not self.folder.is_absolute():
            raise InputError(f"vllm: folder must be a whole path, the same for the server, got {settings.folder!r}")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"vllm: folder {settings.folder} cannot be made: {error.strerror}") from None
        self.policy, self.template, self.settings, self.log = policy, template, settings, log
        self.stops = stops_of(model, template)
        self.server = Server(settings.url, settings.timeout)
        self.positions = min(positions_of(model.config), self.server.open())
        self.weight_version: int | None = None
        self._measure = CompletionLogprobs(policy)
        self._weights = self.folder
        self._probes: list[Encoded] = []
        self._known: Measured | None = None

    def update(self, weight_version: int) -> None:
        """From now on samples are of the policy's weights as they are, which have this number.

        Raises RunError when the server does not take them, and InputError when it was not started for this.
        """
        if weight_version == self.weight_version:
            return
        self.weight_version = None
        # A folder of a new name each time: nothing that remembers a path can take it for an old one.
        self._weights = self.folder / f"weights-{weight_version}-{uuid.uuid4().hex[:8]}"
        write_folder(self._weights, partial(write_weights, self.policy))
        self._hand_over()
        self.weight_version = weight_version
        for other in (*self.folder.glob("weights-*"), *self.folder.glob(".weights-*.part")):
            if other != self._weights:
                shutil.rmtree(other, ignore_errors=True)

    def __call__(
        self,
        prompts: Sequence[Sequence[int]],
        per_prompt: int,
        sampling: Sampling,
        generator: torch.Generator,
        progress: Callable[[int], None] | None = None,
        *,
        limits: Sequence[int] | None = None,
        seeds: Sequence[int] | None = None,
        entropy: bool = False,
        told: Callable[[int, Sample], None] | None = None,
    ) -> list[list[Sample]]:
        """What `Sampler.__call__` returns; `told` is called token by token once a sample is there.

        The same seeds draw other samples than a `Sampler`, and the same ones again as far as the server's own rounding
        lets them. What no answer came for is asked again. Raises InputError for what a server does not give, entropies
        and the whole distribution's log-probabilities of a narrowed choice, and RunError when it stays away.
        """
        self._check(sampling, entropy)
        results = [[Sample(weight_version=self.weight_version) for _ in range(per_prompt)] for _ in prompts]
        waiting = requests(prompts, results, sampling, generator, self.positions, limits, seeds)
        before = False

        def ask() -> None:
            nonlocal waiting, before
            if before:
                # The server may have been started again, with the weights that it began with.
                self._hand_over()
            before = True
            waiting, why = self._ask_for(waiting, sampling, progress, told)
            if waiting:
                self.log(f"the vLLM server lost {len(waiting)} samples ({why}); they are asked for again")
                raise Lost(why)

        self.server.patiently(ask)
        self._confirm()  # once more: nobody has given it others meanwhile
        return results

    def _check(self, sampling: Sampling, entropy: bool) -> None:
        if self.weight_version is None:
            raise RunError("a served sampler has no weights yet: `update` comes first")
        if entropy:
            raise InputError("a vLLM server gives no entropies: measure them with the policy, as the online loop does")
        if sampling.narrows:
            raise InputError(
                "top_k, top_p and min_p need a Sampler: a vLLM server gives log-probabilities of what is left of the "
                "choice, and not of the whole distribution"
            )
        if 0 < sampling.temperature < COLDEST:
            raise InputError(f"vLLM samples at no temperature between 0 and {COLDEST}, got {sampling.temperature}")

    def _ask_for(
        self,
        wanted: Sequence[Request],
        sampling: Sampling,
        progress: Callable[[int], None] | None = None,
        told: Callable[[int, Sample], None] | None = None,
    ) -> tuple[list[Request], str]:
        """Fill the samples of the requests, many at once; returns those that were lost, and why.

        After the first that is lost nothing more is sent, and nothing that still comes is taken: it could be of the
        server that was started instead.
        """
        waiting, stop = iter(wanted), threading.Event()
        answers: SimpleQueue[tuple[Request, Written | BaseException | None]] = SimpleQueue()
        fields, turn = self._fields(sampling), threading.Lock()

        def work() -> None:
            while True:
                with turn:
                    request = next(waiting, None)
                if request is None:
                    return
                found: Written | BaseException | None = None
                if not stop.is_set():
                    try:
                        written = self.server.complete(request.ids, request.limit, {**fields, "seed": request.seed})
                        found = None if stop.is_set() else written
                    except BaseException as error:  # whatever it is belongs to the thread that waits for it
                        stop.set()
                        found = error
                answers.put((request, found))

        # Daemons, so that an interruption does not wait for answers that take minutes.
        for _ in range(min(self.settings.in_flight, len(wanted))):
            threading.Thread(target=work, daemon=True).start()
        lost: list[Request] = []
        why = ""
        ends = Ends(self.template, self.stops, sampling.stop)
        try:
            for _ in wanted:
                request, found = answers.get()
                if isinstance(found, Written):
                    self._take(request, found, ends, told)
                    if progress is not None:
                        progress(1)
                elif found is None or isinstance(found, Lost):
                    lost.append(request)
                    why = why or str(found or "")
                else:
                    raise found
        finally:
            stop.set()
        return lost, why

    def _fields(self, sampling: Sampling) -> dict[str, Any]:
        """A request's sampling, all of it: the server would take what is left out from the model's files. Where a
        completion ends is said by the token, and judged once more here, as a `Sampler` does."""
        return {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "min_p": sampling.min_p,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "stop": list(sampling.stop),
            "stop_token_ids": sorted(self.stops),
            "ignore_eos": True,
        }

    def _take(self, request: Request, written: Written, ends: Ends, told: Callable[[int, Sample], None] | None) -> None:
        sample = request.sample
        for token, logprob in zip(written.ids, written.logprobs, strict=True):
            sample.ids.append(token)
            sample.logprobs.append(logprob)
            sample.terminated = ends(sample.ids)
            if told is not None:
                told(request.prompt, sample)
            if sample.terminated:
                return
        if len(sample.ids) < request.limit:
            raise RunError(
                f"the vLLM server cut a completion off after {len(sample.ids)} tokens where {request.limit} were "
                "allowed; start it with --generation-config vllm"
            )

    def _hand_over(self) -> None:
        """Have the server take the weights in `_weights`, and see that it did."""
        self.server.patiently(partial(self.server.load, self._weights))
        if not self._probes:
            self.server.patiently(self._check_mode)
            self.server.patiently(self._draw_probes)
        self._confirm()

    def _confirm(self) -> None:
        """Raises RunError where the server has other weights than it was given."""
        now = self.server.patiently(self._measured)
        if self._known is None and now.gap > self.settings.max_gap:
            raise RunError(
                f"the vLLM server's log-probabilities are {now.gap:.3f} nats per token from those of the policy whose "
                f"weights it was given (max_gap is {self.settings.max_gap:g}): it serves another model, or in another "
                "number format, or did not take the weights"
            )
        before = self._known or now
        moved, off = apart(now.trained, before.trained), apart(now.served - now.trained, before.served - before.trained)
        noise = max(4 * before.gap, ROUNDING)
        # One that stands still is off by what the policy moved.
        if off > max(noise, moved / 2):
            raise RunError(
                f"the vLLM server does not have the weights that it was given: of the same texts the policy's "
                f"log-probabilities moved by {moved:.4f} nats per token, and the server's are off that by {off:.4f}. "
                "Another version of vLLM may do better (https://github.com/vllm-project/vllm/issues/32718), and nobody "
                "else can give this server weights"
            )
        if self._known is None or moved > noise:
            self._known = now

    def _check_mode(self) -> None:
        """A token that is the only one to be drawn has probability 1 there, if log-probabilities are what they must be.
        Raises InputError otherwise."""
        fields = {**self._fields(Sampling()), "top_k": 1, "seed": 0}
        (logprob,) = self.server.complete(self._probe_prompt, 1, fields).logprobs
        if logprob < -ROUNDING:
            raise InputError(
                "the vLLM server's log-probabilities are not those of what is drawn from, temperature included: start "
                "it with --logprobs-mode processed_logprobs"
            )

    @property
    def _probe_prompt(self) -> list[int]:
        return self.template.prompt([{"role": "user", "content": "Say something."}])

    def _draw_probes(self) -> None:
        """Texts of the server's own, by which it is compared from now on."""
        prompt = self._probe_prompt
        samples = [[Sample() for _ in range(PROBES)]]
        sampling = Sampling(max_new_tokens=PROBE_TOKENS)
        # One position less: measured, a text needs room for the one token that the server must always write.
        wanted = requests([prompt], samples, sampling, torch.Generator(), self.positions - 1, None, [0])
        lost, why = self._ask_for(wanted, sampling)
        if lost:
            raise Lost(why)
        self._probes = [Encoded([*prompt, *sample.ids], len(prompt)) for sample in samples[0]]

    @torch.no_grad()
    def _measured(self) -> Measured:
        served = [score for text in self._probes for score in self.server.scores(text.ids, text.prompt_length)]
        logprobs, valid = self._measure.of(self._probes)
        return Measured(torch.tensor(served, dtype=torch.double), logprobs[valid].double().cpu())


def apart(one: Float[Tensor, "n"], other: Float[Tensor, "n"]) -> float:
    """Mean distance, in nats per token."""
    return float((one - other).abs().mean())
