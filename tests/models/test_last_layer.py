"""What of the last layer nobody reads is not computed; what is read stays what it was, and so does every gradient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from prefloop.models import last_layer
from prefloop.models.adapters import add_lora
from prefloop.models.heads import CompletionLogprobs
from prefloop.models.last_layer import LastLayer
from prefloop.models.recompute import recompute_layers
from prefloop.models.trees import Trunk
from tests.models.test_trees import MODELS, alone, gradients, seeded, text

PROMPT, OTHER = [1, 9, 8, 7, 6, 5, 9, 8, 4, 3, 12, 14], [1, 30, 31, 32, 33, 34, 35]
TEXTS = [text(PROMPT, [11, 2]), text(PROMPT, [21, 22, 2]), text(OTHER, [2]), text(PROMPT, [11, 12])]
READ = 6
"""After the last token of each prompt, and each but the last token of a completion: the first and last begin alike."""
ALL = 12 + 7 + 3 + 3 + 1 + 1
LLAMA = {"post_attention_layernorm", "mlp", "self_attn.o_proj", "self_attn.q_proj"}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def names(trunk: Trunk) -> set[str]:
    of = {part: name for name, part in trunk.last.layer.named_modules()}
    return {of[part] for part in trunk.last.parts}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_a_layer_spares_is_found_by_trying(dtype: torch.dtype) -> None:
    """Keys, values and the norm before them are of every token; a model whose keys and queries are one product (GPT-2)
    spares less."""
    assert names(Trunk(seeded(MODELS["llama"]).to(dtype))) == LLAMA
    assert names(Trunk(seeded(MODELS["gpt2"]).to(dtype))) == {"attn.c_proj", "ln_2", "mlp"}


@pytest.mark.parametrize("again", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("name", MODELS)
def test_what_is_read_and_every_gradient_are_those_of_texts_alone(name: str, again: bool) -> None:
    model = seeded(MODELS[name])
    model.set_attn_implementation("eager")
    expected = torch.cat(alone(model, TEXTS))
    weights = torch.randn(len(expected), generator=torch.Generator().manual_seed(1))
    (expected * weights).sum().backward()
    before = gradients(model)
    model.zero_grad()

    measure = CompletionLogprobs(model)
    assert measure.trunk.last.parts
    widths: list[int] = []
    for part in measure.trunk.last.parts:
        part.register_forward_hook(lambda part, given, found: widths.append(given[0].shape[1]))
    if again:
        recompute_layers(model)
    logprobs, valid = measure.of(TEXTS)
    (logprobs[valid] * weights).sum().backward()
    assert set(widths) == {READ}
    torch.testing.assert_close(logprobs[valid], expected, atol=1e-5, rtol=0)
    after = gradients(model)
    assert after.keys() == before.keys()
    largest = max(float(g.abs().max()) for g in before.values())
    for parameter, gradient in before.items():
        torch.testing.assert_close(after[parameter], gradient, atol=1e-5 * max(1.0, largest), rtol=0, msg=parameter)


def test_second_derivatives_go_through() -> None:
    """Of the loss along its own gradient, as meta-learning needs them, against a pass that spares nothing."""
    model = seeded(MODELS["llama"])
    weight = model.model.layers[0].mlp.down_proj.weight

    def curvature(measure: CompletionLogprobs) -> Tensor:
        logprobs, _ = measure.of(TEXTS)
        (slope,) = torch.autograd.grad(logprobs.pow(2).sum(), weight, create_graph=True)
        (found,) = torch.autograd.grad(slope.pow(2).sum(), weight)
        return found

    measure = CompletionLogprobs(model)
    found = curvature(measure)
    measure.trunk.last.parts.clear()
    expected = curvature(measure)
    assert expected.abs().max() > 1
    torch.testing.assert_close(found, expected, atol=1e-5 * float(expected.abs().max()), rtol=1e-4)


def test_where_nearly_all_is_read_all_is_computed() -> None:
    last = Trunk(seeded(MODELS["llama"])).last
    read = last.rows(torch.tensor([4, 2, 4]), 10)
    assert read is not None
    assert read.tolist() == [2, 4]
    assert last.rows(torch.arange(9), 10) is None


class Mixing(nn.Module):
    """A row of its result is of the row before it, too."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(4))

    def forward(self, x: Tensor) -> Tensor:
        return (x + x.roll(1, 1)) @ self.weight


class Layer(GradientCheckpointingLayer):
    """What it says of a row depends on what `before` says of another one, and `mixing` looks at others itself."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.own, self.pair = nn.Linear(4, 4), nn.Linear(4, 4), nn.Bilinear(4, 4, 4)
        self.mixing = Mixing()

    def forward(self, x: Tensor) -> Tensor:
        seen = self.before(x).cumsum(1)
        found: Tensor = self.own(seen + self.mixing(x)) + self.pair(x, x)
        return found


def test_a_part_that_looks_at_other_rows_or_is_looked_at_by_them_is_not_spared() -> None:
    body = nn.Sequential(Layer())
    last = LastLayer(body)
    x = torch.randn(1, 6, 4)
    last.look(lambda: body(x), torch.tensor([1, 4]), 6)
    assert [part is body[0].own for part in last.parts] == [True]
    with last.only(torch.tensor([1, 4]), 6):
        found = body(x)
    torch.testing.assert_close(found[:, [1, 4]], body(x)[:, [1, 4]])


def test_a_model_without_such_layers_spares_nothing() -> None:
    body = nn.Sequential(nn.Linear(4, 4))
    last = LastLayer(body)
    last.look(lambda: body(torch.randn(1, 6, 4)), torch.tensor([1, 4]), 6)
    assert last.parts == []
    assert last.rows(torch.tensor([1]), 6) is None


def test_a_model_whose_layers_nobody_knows_shares_prompts_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(last_layer, "GradientCheckpointingLayer", Mixing)
    trunk = Trunk(seeded(MODELS["llama"]))
    assert trunk.shares
    assert trunk.last.parts == []


def test_adapters_are_spared_with_what_they_adapt() -> None:
    model = seeded(MODELS["llama"])
    adapted = add_lora(model, rank=2, alpha=2.0, dropout=0.0, targets="all-linear", seed=0, task="policy")
    assert names(Trunk(adapted)) == LLAMA
