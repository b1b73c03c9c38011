"""Who takes part in an online run: policy, reference, critic, reward, and the prompts that they meet on.

A method is given its `Roles` ready made, and what a rollout is to each of them is measured here, once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from prefloop.datasets.collate import text_batches
from prefloop.datasets.rows import demonstration_rows, train_prompts
from prefloop.errors import InputError
from prefloop.generation.sampler import Sampler, Sampling
from prefloop.generation.twin import Adviser
from prefloop.generation.vllm import ServedSampler
from prefloop.models.adapters import save_trained
from prefloop.models.encoder_decoder import has_encoder
from prefloop.models.heads import CompletionLogprobs, ScoreHead
from prefloop.models.load import base_of, load_policy, load_tokenizer
from prefloop.models.template import Template
from prefloop.models.trees import texts_of
from prefloop.records import Ledger, Messages
from prefloop.rewards.attention_credit import Credit
from prefloop.rewards.composition import Reward
from prefloop.training.method import Inputs
from prefloop.training.mixture import Mixture
from prefloop.training.online_settings import OnlineSettings
from prefloop.training.reward import built_reward
from prefloop.training.roles import (
    critic_on,
    longest_row,
    made_trainable,
    place_of,
    start_policy,
    trained_reward_model,
)
from prefloop.training.rollout import Rollout
from prefloop.training.run import Run, RunSettings


class Roles:
    """The roles of one run, filled."""

    def __init__(
        self,
        settings: OnlineSettings,
        *,
        policy: nn.Module,
        reference: nn.Module | None,
        critic: nn.Module | None = None,
        reward: Reward,
        prompts: Sequence[Messages],
        template: Template,
        mixture: Mixture | None = None,
    ) -> None:
        """Without a `reference` it is the policy with its adapter off: one trunk for both."""
        self.settings = settings
        self.policy, self.reference, self.critic = policy, reference, critic
        self.reward, self.prompts, self.template, self.mixture = reward, prompts, template, mixture
        self.temperature = settings.temperature
        """Of the rollout at hand."""
        self.trained: list[nn.Module] = [policy] if critic is None else [policy, critic]
        self.beside: dict[str, nn.Module] = {} if critic is None else {"critic": critic}
        """Models that are saved in folders of these names beside the policy."""
        self.adviser: Adviser | None = None
        """Decides which tokens may be sampled; a method puts it here."""
        self._policy = CompletionLogprobs(policy)
        self._reference = self._policy if reference is None else CompletionLogprobs(reference)
        self._critic = None if critic is None else ScoreHead(critic)

    def cool(self, done: float) -> None:
        """The temperature of a rollout before which a share `done` of a run's rollouts lies, the last one's being 1."""
        first, last = self.settings.temperature, self.settings.temperature_end
        self.temperature = first if last is None else first + (last - first) * done

    @property
    def sampling(self) -> Sampling:
        """How completions are drawn now."""
        return Sampling(max_new_tokens=self.settings.max_new_tokens, temperature=self.temperature)

    def sampler(self, log: Callable[[str], None] = lambda words: None) -> Sampler | ServedSampler:
        """What rollouts are sampled with; `log` is told when that is slower than it is for other models, and why.

        Raises InputError where a server cannot do it.
        """
        if self.settings.vllm is None:
            return Sampler(base_of(self.policy), self.template, adviser=self.adviser, log=log)
        if self.adviser is not None:
            raise InputError(
                "a mask policy says for each token what may be sampled, and a vLLM server does not ask it: leave out "
                "vllm, or use a method without a mask policy, such as ppo"
            )
        return ServedSampler(self.policy, self.template, self.settings.vllm, log)

    def logprobs(self, part: Rollout) -> Float[Tensor, "n"]:
        """log pi of each valid decision at the sampling temperature, in nats."""
        return self._policy(part.ids, part.starts, part.valid, self.temperature)[0][part.valid]

    def logprobs_and_entropy(
        self, part: Rollout, *, wanted: bool = True, only: Bool[Tensor, "n V"] | None = None
    ) -> tuple[Float[Tensor, "n"], Float[Tensor, "n"] | float]:
        """log pi of each valid decision and the entropy of its distribution, from one pass; 0 if it is not wanted.

        With `only`, of the distribution over those tokens alone.
        """
        temperature = self.temperature
        logprobs, entropy = self._policy(part.ids, part.starts, part.valid, temperature, entropy=wanted, only=only)
        return logprobs[part.valid], 0.0 if entropy is None else entropy[part.valid]

    def distributions(self, part: Rollout) -> Float[Tensor, "n V"]:
        """log pi of every token of the vocabulary at each valid decision, at the sampling temperature.

        Raises InputError for a policy with an encoder.
        """
        if has_encoder(self.policy):
            raise InputError(f"{type(base_of(self.policy)).__name__} has an encoder; trpo is for decoders alone")
        row, column = part.valid.nonzero(as_tuple=True)
        whole: Tensor = base_of(self.policy)(input_ids=part.ids, use_cache=False).logits
        logits = whole[row, part.starts[row] + column - 1]
        return (logits.float() / self.temperature).log_softmax(-1)

    def mixed_in(self, update: int, episodes: int, budget: int) -> Iterator[tuple[Tensor, Tensor]]:
        """What optimizer step `update` learns beside the reward; see `Mixture.losses`."""
        return self.mixture.losses(self._policy, update, episodes, budget) if self.mixture else iter(())

    def values(self, part: Rollout) -> Float[Tensor, "n"]:
        """The critic's value of the state before each valid decision."""
        assert self._critic is not None
        return self._critic.each(part.ids, part.starts, part.valid)[part.valid]

    @torch.no_grad()
    def measured(self, rollout: Rollout, budget: int) -> Rollout:
        """The rollout with `logprobs` of the policy, its `entropy`, `reference` log-probabilities and, where there is a
        critic, its `values` added: [B, T] each, 0 where not valid. A completion without EOS has its fixed score."""
        temperature = self.temperature
        names = ["logprobs", "entropy", "reference", *(["values"] if self._critic else [])]
        results = torch.zeros(len(names), *rollout.valid.shape, device=rollout.ids.device)
        for micro in text_batches(texts_of(rollout.ids, rollout.starts, rollout.valid), budget):
            part = rollout.rows(micro)
            ids, starts, valid = part.ids, part.starts, part.valid
            logprobs, entropy = self._policy(ids, starts, valid, temperature, entropy=True)
            assert entropy is not None
            with self._as_reference():
                found = [logprobs, entropy, self._reference(ids, starts, valid, temperature)[0]]
            if self._critic:
                found.append(self._critic.each(ids, starts, valid))
            results[:, micro, : valid.shape[1]] = torch.stack(found)
        scores, fixed = rollout.scores, self.settings.missing_eos_score
        if fixed is not None:
            scores = scores.where(rollout.terminated, torch.full_like(scores, fixed))
        return replace(rollout, scores=scores, added={**rollout.added, **dict(zip(names, results, strict=True))})

    def _as_reference(self) -> AbstractContextManager[None]:
        if self.reference is not None:
            return nullcontext()
        adapted: Any = self.policy
        off: AbstractContextManager[None] = adapted.disable_adapter()
        return off

    def shares(self, credit: Credit, rollout: Rollout) -> Float[Tensor, "B T"]:
        """What share of its score each token of a rollout earned, by a rule of credit; rows sum to 1."""
        tokens = [self.template.pieces(row) for row in rollout.completions()]
        return credit(rollout.ids, rollout.starts, rollout.valid, rollout.scores, tokens)

    def save(self, folder: Path) -> None:
        """Write the policy, and the critic or whatever else was trained beside it."""
        shared = self.settings.trunk == "shared"
        save_trained(self.policy, self.template.tokenizer, folder, shared=shared)
        for name, model in self.beside.items():
            save_trained(model, self.template.tokenizer, folder / name, shared=shared)


def trunk_of(policy: PreTrainedModel, online: OnlineSettings, settings: RunSettings) -> PreTrainedModel | None:
    """Whose weights the other roles are put on: the `start_policy`'s with `trunk: shared`, or nobody's.

    Raises InputError for `trunk: shared` where the policy's own weights are trained.
    """
    if online.trunk == "separate":
        return None
    if settings.lora is None:
        raise InputError(
            "trunk: shared needs lora: the policy's own weights would move, and every role that reads them with it; "
            "add lora: {rank: 16}, or use trunk: separate"
        )
    return policy


def roles_of(run: Run, inputs: Inputs, *, critic: bool) -> Roles:
    """The roles that a run names. The reference is the policy at the start, the critic starts as the reward model.

    Raises InputError for a reference with another tokenizer than the policy, and for a batch that is not made of whole
    groups.
    """
    s, online = run.settings, inputs.online
    assert online is not None
    assert inputs.data is not None
    if online.curriculum and online.group_size < 2:
        raise InputError("curriculum goes by how the answers to a prompt differ: group_size 2 or more, got 1")
    if s.batch_size % online.group_size:
        raise InputError(
            f"batch_size must be a multiple of group_size, got {s.batch_size} and {online.group_size}; "
            f"try {-(-s.batch_size // online.group_size) * online.group_size}"
        )
    template = Template(load_tokenizer(inputs.policy))
    start = start_policy(inputs.policy, s)
    trunk = trunk_of(start, online, s)
    reward, rewarder = built_reward(online.reward_model, online.reward, inputs, s, trunk)
    reference = inputs.resolve(online.reference, "policy") if online.reference is not None else inputs.policy
    if online.reference is not None and not _same_tokens(template, reference):
        raise InputError(
            f"reference {online.reference!r} has another tokenizer than the policy; their KL has no meaning"
        )
    prompts = train_prompts(inputs.data, inputs.ledger, test_share=s.test_share, max_dropped=s.max_dropped)
    room = prompt_room(s.max_length, online.max_new_tokens)
    if cut := sum(len(template.prompt(prompt)) > room for prompt in prompts):
        inputs.ledger.note("prompt truncated", cut)
    valued = _critic(rewarder, trunk, run, inputs, template) if critic else None
    policy = made_trainable(start, s)  # after everybody who shares its weights as they are without an adapter
    # With an adapter the policy's own trunk is the reference: no second copy of it.
    shared = isinstance(policy, PeftModel) and online.reference is None
    return Roles(
        online,
        policy=policy,
        critic=valued,
        reference=None if shared else load_policy(reference, *place_of(s)).requires_grad_(False),
        reward=reward,
        prompts=prompts,
        template=template,
        mixture=_mixture(online, run, inputs, template),
    )


def _critic(
    rewarder: str | None, trunk: PreTrainedModel | None, run: Run, inputs: Inputs, template: Template
) -> nn.Module:
    """The critic, which starts as the reward model where that has its tokens and its trunk."""
    s, online = run.settings, inputs.online
    why = None
    if rewarder is None:
        why = "no reward model"
    elif not _same_tokens(template, rewarder):
        why = "the reward model has another tokenizer than the policy"
    elif trunk is not None and online is not None and online.reward is not None:
        why = "the reward model is not on the policy's trunk"
    if why is not None:
        run.log(f"{why}: the critic starts as the policy, its head new")
    start = rewarder if why is None else None
    critic: nn.Module
    if trunk is not None:
        critic = critic_on(trunk, s, template.pad_id, start)
    else:
        critic = trained_reward_model(start or inputs.policy, s, template.pad_id)
    return critic


def _mixture(online: OnlineSettings, run: Run, inputs: Inputs, template: Template) -> Mixture | None:
    if online.ptx_data is None:
        return None
    s, ledger = run.settings, Ledger()
    source = Path(inputs.resolve(online.ptx_data, "snapshot"))
    longest = longest_row(inputs.policy, s, run.log)
    rows, _ = demonstration_rows(source, template, longest, ledger, test_share=s.test_share, max_dropped=s.max_dropped)
    ledger.check(s.max_dropped, online.ptx_data)
    if not rows:
        raise InputError(f"ptx_data {online.ptx_data!r} has no demonstration to train on")
    run.log(f"mixed in: {len(rows)} demonstrations of {online.ptx_data} ({ledger.words()})")
    return Mixture(rows, online.ptx_coef, online.ptx_ratio, s.seed)


def prompt_room(max_length: int, max_new_tokens: int) -> int:
    """Tokens that a prompt may have in a rollout: what the answer leaves, and half of `max_length` at least."""
    return max(max_length // 2, max_length - max_new_tokens)


def _same_tokens(template: Template, ref: str) -> bool:
    return bool(load_tokenizer(ref).get_vocab() == template.tokenizer.get_vocab())
