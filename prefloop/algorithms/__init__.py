"""The methods, one file each. This is their table of contents."""

from prefloop.algorithms import ppo, preference, pretrain, reward_model, sft
from prefloop.training.method import Method

METHODS: dict[str, Method] = {
    "pretrain": Method(
        pretrain.PretrainConfig,
        pretrain.DEFAULTS,
        "policy",
        "text",
        "offline",
        pretrain.build,
        "a base model from text",
    ),
    "sft": Method(
        sft.SFTConfig, sft.DEFAULTS, "policy", "demonstrations", "offline", sft.SFT, "write what people wrote"
    ),
    "reward_model": Method(
        reward_model.RewardModelConfig,
        reward_model.DEFAULTS,
        "reward_model",
        "comparisons",
        "offline",
        reward_model.RewardModel,
        "one score per answer, such that people's choices are likely",
    ),
    "ppo": Method(
        ppo.PPOConfig,
        ppo.DEFAULTS,
        "policy",
        "prompts",
        "online",
        ppo.build,
        "sample, score, and make good answers likelier",
    ),
    "dpo": Method(
        preference.DPOConfig,
        preference.DEFAULTS,
        "policy",
        "comparisons",
        "offline",
        preference.on_pairs(preference.dpo),
        "follow the comparisons directly",
    ),
    "ipo": Method(
        preference.IPOConfig,
        preference.DEFAULTS,
        "policy",
        "comparisons",
        "offline",
        preference.on_pairs(preference.ipo),
        "follow the comparisons up to a margin, however one-sided they are",
    ),
    "apo": Method(
        preference.APOConfig,
        preference.DEFAULTS,
        "policy",
        "comparisons",
        "offline",
        preference.on_pairs(preference.apo),
        "follow the comparisons, and say whether the chosen side should become likelier",
    ),
    "simpo": Method(
        preference.SimPOConfig,
        preference.REFERENCE_FREE,
        "policy",
        "comparisons",
        "offline",
        preference.on_pairs(preference.simpo),
        "follow the comparisons by mean log-probability, without a reference",
    ),
    "orpo": Method(
        preference.ORPOConfig,
        preference.REFERENCE_FREE,
        "policy",
        "comparisons",
        "offline",
        preference.on_pairs(preference.orpo),
        "imitate the chosen side and make the rejected one unlikelier, in one step from a base model",
    ),
}
