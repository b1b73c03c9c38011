"""`prefloop chat`: talk to a policy, one line at a time."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from prefloop.generation.policy import Policy
from prefloop.generation.sampler import Sampling
from prefloop.records import Messages
from prefloop.workflows.places import Place, workspace_or_none
from prefloop.workflows.references import model_at


def chat(
    policy: str,
    *,
    temperature: float = 0.7,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    stop: Sequence[str] = (),
    max_new_tokens: int = 256,
    seed: int = 0,
    device: str = "auto",
    dtype: str = "auto",
    workspace: Place = None,
    say: Callable[[str], None] | None = None,
) -> Messages:
    """Answer each line of standard input on standard error, until an empty line or the end; returns the talk.

    `say` is given the answers piece by piece, as they come, in place of standard error.

    Raises InputError for a model that cannot be loaded or a conversation that has outgrown it.
    """
    say = say or (lambda words: print(words, end="", file=sys.stderr, flush=True))
    place = model_at(policy, "policy", workspace_or_none(workspace))
    actor = Policy(place, device=device, dtype=dtype, log=lambda words: print(words, file=sys.stderr, flush=True))
    sampling = Sampling(
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        stop=tuple(stop),
    )
    sampling.check()
    messages: Messages = []
    while True:
        if sys.stdin.isatty():
            sys.stderr.write("> ")
            sys.stderr.flush()
        line = sys.stdin.readline()
        if not line.strip():
            return messages
        messages.append({"role": "user", "content": line.strip()})
        answer = actor.answer([messages], 1, sampling, seed=seed + len(messages), said=say)[0][0]
        messages.append({"role": "assistant", "content": answer.text})
        say("\n" if answer.terminated else " […]\n")
