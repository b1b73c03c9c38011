"""The methods, one file each. This is their table of contents."""

from prefloop.algorithms import pretrain
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
}
