"""`prefloop chat`: talk to a policy, one line at a time."""

from __future__ import annotations

import sys
from collections.abc import Callable

from prefloop.generation.policy import Policy
from prefloop.generation.sampler import Sampling
from prefloop.records import Messages
from prefloop.workflows.places import Place, workspace_or_none
from prefloop.workflows.references import model_at


def chat(
    policy: str,
    *,
    temperature: float = 0.7,
    max_new_tokens: int = 256,
    seed: int = 0,
    device: str = "auto",
    dtype: str = "auto",
    workspace: Place = None,
    log: Callable[[str], None] | None = None,
) -> Messages:
    """Answer each line of standard input on standard error, until an empty line or the end; returns the talk.

    Raises InputError for a model that cannot be loaded or a conversation that has outgrown it.
    """
    say = log or (lambda words: print(words, file=sys.stderr, flush=True))
    actor = Policy(model_at(policy, "policy", workspace_or_none(workspace)), device=device, dtype=dtype)
    sampling = Sampling(max_new_tokens=max_new_tokens, temperature=temperature)
    messages: Messages = []
    while True:
        if sys.stdin.isatty():
            sys.stderr.write("> ")
            sys.stderr.flush()
        line = sys.stdin.readline()
        if not line.strip():
            return messages
        messages.append({"role": "user", "content": line.strip()})
        answer = actor.answer([messages], 1, sampling, seed=seed + len(messages))[0][0]
        messages.append({"role": "assistant", "content": answer.text})
        say(answer.text + ("" if answer.terminated else " […]"))
