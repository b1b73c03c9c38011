"""What an online run takes, told before it starts: its models, its largest micro-batch, and what it samples at once."""

from __future__ import annotations

from peft import PeftModel
from torch import nn

from prefloop.datasets.collate import text_batches
from prefloop.generation.sampler import SLOTS
from prefloop.models.encoder_decoder import has_encoder
from prefloop.models.heads import CompletionLogprobs, ScoreHead
from prefloop.models.load import base_of
from prefloop.models.shared import shares_with, trained_on
from prefloop.models.template import Encoded
from prefloop.training.memory import kept_bytes, mebibytes, model_bytes, token_bytes
from prefloop.training.online_roles import Roles, prompt_room
from prefloop.training.reward import models_of
from prefloop.training.run import RunSettings


def online_memory(roles: Roles, run: RunSettings) -> str:
    """All of it in words."""
    said = [mebibytes("the models take", role_bytes(roles))]
    if copies := trunk_bytes(roles):
        choice, more = ("separate", "more") if roles.settings.trunk == "shared" else ("shared", "less")
        said.append(f"with trunk: {choice} {copies / 2**20:.0f} MiB {more}")
    kept = batch_bytes(roles, run)
    if kept is not None:
        said.append(mebibytes("a full micro-batch keeps for its backward pass", kept))
    if (pool := pool_bytes(roles, run)) is not None:
        said.append(f"{pool_size(run)} answers that are sampled at once keep up to {pool / 2**20:.0f} MiB")
    return "; ".join(said)


def role_bytes(roles: Roles) -> dict[str, int]:
    """What each model takes; shared weights count once, where they come first."""
    judges = models_of(roles.reward)
    frozen: dict[str, nn.Module] = {} if roles.reference is None else {"reference": roles.reference}
    frozen |= {f"reward model {i}" if len(judges) > 1 else "reward model": m for i, m in enumerate(judges, 1)}
    if roles.adviser is not None:
        frozen["mask policy"] = roles.adviser.model
    return model_bytes({"policy": roles.policy, **roles.beside}, frozen)


def trunk_bytes(roles: Roles) -> int:
    """The copies of the policy's frozen trunk that `trunk: shared` saves here, or would save."""
    if not isinstance(roles.policy, PeftModel) or has_encoder(roles.policy):
        return 0
    base, judges = base_of(roles.policy), models_of(roles.reward)
    body = getattr(base, base.base_model_prefix)
    if roles.settings.trunk == "shared":
        copies = sum(shares_with(model, body) for model in [*roles.beside.values(), *judges])
    else:
        copies = len(roles.beside) + sum(trained_on(model, base.name_or_path) for model in judges)
    size: int = sum(p.numel() * p.element_size() for p in body.parameters() if not p.requires_grad)
    return copies * size


def batch_bytes(roles: Roles, run: RunSettings) -> dict[str, int] | None:
    """What the largest micro-batch that there can be keeps for its backward pass, by role; None where nobody can tell.

    Of the policy what the log-probabilities of its answers take: an entropy bonus, and trpo, keep the logits of the
    whole vocabulary on top.
    """
    texts = full_micro_batch(roles, run)
    found = {"policy": kept_bytes(CompletionLogprobs(roles.policy), texts)}
    found |= {name: kept_bytes(ScoreHead(model), texts) for name, model in roles.beside.items()}
    known = {name: size for name, size in found.items() if size is not None}
    return known if len(known) == len(found) else None


def full_micro_batch(roles: Roles, run: RunSettings) -> list[Encoded]:
    """The longest prompt, and answers that all go on to the end, as many as `micro_batch_tokens` and a minibatch hold.

    The ids are any: prompts differ, and answers to one prompt differ from their first token on.
    """
    s, size = roles.settings, roles.settings.group_size
    prompt, answer = longest_prompt(roles, run), s.max_new_tokens
    rows = range(-(-run.batch_size // s.minibatches))
    texts = [Encoded([row // size, *[0] * (prompt - 1), row % size, *[0] * (answer - 1)], prompt) for row in rows]
    return [texts[i] for i in max(text_batches(texts, run.micro_batch_tokens), key=len)]


def pool_bytes(roles: Roles, run: RunSettings) -> int | None:
    """Keys and values of a full pool, all with the longest prompt and all on their last token.

    None for an encoder-decoder, a server, and where nobody can tell.
    """
    if has_encoder(roles.policy) or roles.settings.vllm is not None:
        return None
    token = token_bytes(base_of(roles.policy))
    models = 1 if roles.adviser is None else 2
    each = longest_prompt(roles, run) + roles.settings.max_new_tokens
    return None if token is None else pool_size(run) * each * token * models


def pool_size(run: RunSettings) -> int:
    """Answers that are sampled at once."""
    return min(SLOTS, run.batch_size)


def longest_prompt(roles: Roles, run: RunSettings) -> int:
    """Its tokens, cut to what an answer leaves of `max_length`; that room where there is no prompt."""
    room = prompt_room(run.max_length, roles.settings.max_new_tokens)
    longest = sorted(roles.prompts, key=lambda prompt: sum(len(message["content"]) for message in prompt))[-1:]
    return max((len(roles.template.fit(roles.template.prompt(p), room)) for p in longest), default=room)
