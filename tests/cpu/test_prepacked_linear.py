from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaMLP

from effir.cpu.prepacked_linear import PackedLinear, PackedMLP, pack

pytestmark = pytest.mark.usefixtures("one_thread")


def mlp(activation: str, bias: bool = False) -> nn.Module:
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=24, intermediate_size=56, hidden_act=activation, mlp_bias=bias, num_attention_heads=2
    )
    return nn.Sequential(LlamaMLP(config)).requires_grad_(False)


@pytest.mark.parametrize(("activation", "bias"), [("silu", False), ("silu", True), ("gelu", False)])
@pytest.mark.parametrize("shape", [(24,), (1, 24), (3, 5, 24)])
def test_a_packed_mlp_computes_what_it_computed(activation: str, bias: bool, shape: tuple[int, ...]) -> None:
    model = mlp(activation, bias)
    inputs = torch.randn(shape)
    expected = model(inputs)
    pack(model, torch.float32)
    fused = isinstance(model[0], PackedMLP)
    assert fused == (activation == "silu")
    assert fused or isinstance(model[0].up_proj, PackedLinear)
    torch.testing.assert_close(model(inputs), expected, atol=1e-5, rtol=1e-5)


def test_bfloat16_keeps_the_type_of_its_inputs_and_rounds() -> None:
    model, inputs = mlp("silu"), torch.randn(4, 24)
    expected = model(inputs)
    pack(model, torch.bfloat16)
    found = model(inputs)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=0.02, rtol=0.05)
    assert not torch.equal(found, expected)


def test_nothing_is_packed_where_onednn_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends, "mkldnn", SimpleNamespace(is_available=lambda: False))
    model = mlp("silu")
    pack(model, torch.float32)
    assert isinstance(model[0], LlamaMLP)
