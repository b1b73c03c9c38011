"""The methods, one file each. This is their table of contents."""

from prefloop.algorithms import dpo, ppo, pretrain, reward_model, sft
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
        dpo.DPOConfig, dpo.DEFAULTS, "policy", "comparisons", "offline", dpo.DPO, "follow the comparisons directly"
    ),
}
