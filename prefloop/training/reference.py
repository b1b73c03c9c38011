"""Log-probabilities under a reference that stays as it is: computed once, kept as an artifact, found again by content.

The key is a hash of the reference's weights, of the ids and of what else decides the numbers. A second run on the same
data from the same model reads them, as do all runs of a sweep; so does a run that was killed and goes on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor

from prefloop.artifacts.folder import list_artifacts, read_artifact, write_artifact
from prefloop.datasets.collate import text_batches
from prefloop.errors import RunError
from prefloop.models.heads import CompletionLogprobs
from prefloop.models.load import disk_errors
from prefloop.models.template import Encoded
from prefloop.records import content_hash
from prefloop.training.method import Inputs
from prefloop.training.progress import progress
from prefloop.training.run import Run

KIND, FILE = "reference_logprobs", "logprobs.safetensors"
FORMAT = 1
"""Raised when the numbers come out otherwise than before; the old ones are then not found any more."""


def reference_logprobs(
    measure: CompletionLogprobs, texts: Sequence[Encoded], run: Run, inputs: Inputs
) -> list[Float[Tensor, "c"]]:
    """log reference(token) of each completion token of each text, in nats, in float32 on the CPU.

    `measure` holds the reference. They are kept in the workspace, or without one in the run's folder while it runs.
    """
    key = _key(measure, texts)
    root = inputs.artifacts if inputs.artifacts is not None else run.folder
    found = _kept(root, key, run)
    if found is None:
        run.log(f"reference log-probabilities of {len(texts)} completions")
        found = torch.cat(measured_logprobs(measure, texts, run.settings.micro_batch_tokens))

        def fill(folder: Path) -> None:
            with disk_errors():
                save_file({"logprobs": found}, folder / FILE, metadata={"key": key})

        write_artifact(
            root,
            KIND,
            KIND,
            fill,
            settings={"key": key},
            parents=run.resolved.get("parents", []),
            seeds={},
            metrics={},
        )
    return list(found.split([text.completion_length for text in texts]))


def _key(measure: CompletionLogprobs, texts: Sequence[Encoded]) -> str:
    weights, ids = hashlib.sha256(), hashlib.sha256()
    for name, tensor in sorted(measure.full.state_dict().items()):
        weights.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        weights.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    for text in texts:
        ids.update(np.array([text.prompt_length, text.length, *text.ids], dtype=np.int64).tobytes())
    return content_hash([FORMAT, weights.hexdigest(), ids.hexdigest(), measure.full.device.type])


def _kept(root: Path, key: str, run: Run) -> Tensor | None:
    for artifact in list_artifacts(root, KIND):
        if artifact.manifest["settings"].get("key") != key:
            continue
        try:
            read_artifact(artifact.path)
        except RunError as error:
            run.log(f"computing the reference's log-probabilities again: {error}")
            # Moved, not deleted: a person may want to look; left in place it would be found again.
            artifact.path.rename(artifact.path.with_name(f".bad-{artifact.path.name}"))
            continue
        run.log(f"reference log-probabilities: {artifact.path.name}")
        logprobs: Tensor = load_file(artifact.path / FILE)["logprobs"]
        return logprobs
    return None


@torch.no_grad()
def measured_logprobs(measure: CompletionLogprobs, texts: Sequence[Encoded], budget: int) -> list[Float[Tensor, "c"]]:
    """log pi(token) of each completion token of each text, in nats, in float32 on the CPU, `budget` tokens at once."""
    measure.full.eval()
    found: list[Tensor] = [torch.empty(0)] * len(texts)
    parts = text_batches(texts, budget)
    with progress("reference", len(parts), 0) as advance:
        for done, part in enumerate(parts, 1):
            logprobs, valid = measure.of([texts[i] for i in part])
            for i, row, real in zip(part, logprobs.cpu(), valid.cpu(), strict=True):
                found[i] = row[real]
            advance(done, "")
    return found
