from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaMLP

from effir.cpu.prepacked_linear import OPERATORS, PrepackedLinear, PrepackedMLP, missing_operators, prepack

pytestmark = pytest.mark.usefixtures("one_thread")


def mlp(activation: str, bias: bool = False) -> nn.Module:
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=24, intermediate_size=56, hidden_act=activation, mlp_bias=bias, num_attention_heads=2
    )
    return nn.Sequential(LlamaMLP(config)).requires_grad_(False)


@pytest.mark.parametrize(("activation", "bias"), [("silu", False), ("silu", True), ("gelu", False)])
@pytest.mark.parametrize("shape", [(24,), (1, 24), (3, 5, 24)])
def test_a_prepacked_mlp_computes_the_same(activation: str, bias: bool, shape: tuple[int, ...]) -> None:
    model = mlp(activation, bias)
    inputs = torch.randn(shape)
    expected = model(inputs)
    prepack(model, torch.float32)
    fused = isinstance(model[0], PrepackedMLP)
    assert fused == (activation == "silu")
    assert fused or isinstance(model[0].up_proj, PrepackedLinear)
    torch.testing.assert_close(model(inputs), expected, atol=1e-5, rtol=1e-5)


def test_bfloat16_keeps_the_type_of_its_inputs_and_rounds() -> None:
    model, inputs = mlp("silu"), torch.randn(4, 24)
    expected = model(inputs)
    prepack(model, torch.bfloat16)
    found = model(inputs)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=0.02, rtol=0.05)
    assert not torch.equal(found, expected)


def test_nothing_is_prepacked_without_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends, "mkldnn", SimpleNamespace(is_available=lambda: False))
    model = mlp("silu")
    prepack(model, torch.float32)
    assert isinstance(model[0], LlamaMLP)


def test_the_installed_pytorch_has_the_private_operators() -> None:
    gone = missing_operators()
    assert not gone, (
        f"PyTorch {torch.__version__} has no torch.ops.mkldnn {', '.join(gone)}: effir computes with plain linear "
        "layers, slower on CPUs. Find their successors or remove them: docs/decisions/0018-private-operators.md"
    )


@pytest.mark.parametrize("gone", OPERATORS)
def test_without_a_private_operator_the_plain_layers_compute(gone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class WithoutOne:
        """The operators of PyTorch, except one."""

        def __getattr__(self, name: str) -> Any:
            if name == gone:
                raise AttributeError(name)
            overloads = [each for each in getattr(mkldnn, name).overloads() if f"{name}.{each}" != gone]
            return SimpleNamespace(overloads=lambda: overloads)

    mkldnn, model, inputs = torch.ops.mkldnn, mlp("silu", bias=True), torch.randn(3, 24)
    expected = model(inputs)
    monkeypatch.setattr(torch.ops, "mkldnn", WithoutOne())
    assert missing_operators()[0] == gone
    prepack(model, torch.float32)
    assert isinstance(model[0], LlamaMLP)
    assert torch.equal(model(inputs), expected)
