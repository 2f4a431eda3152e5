import pytest
import torch
from torch import nn
from torch.nn.functional import rms_norm
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from effir.cpu.norm_kernel import NormKernel, norms_before_products


def norm_of(size: int) -> LlamaRMSNorm:
    norm = LlamaRMSNorm(size, eps=1e-3)
    nn.init.normal_(norm.weight)
    return norm.requires_grad_(False)


@pytest.mark.parametrize(("dtype", "near"), [(torch.float32, 1e-6), (torch.bfloat16, 2**-7)])
def test_values_and_gradients_are_those_of_pytorch(dtype: torch.dtype, near: float) -> None:
    torch.manual_seed(0)
    norm, inputs = norm_of(24), torch.randn(3, 5, 24, requires_grad=True)
    expected, found = rms_norm(inputs, (24,), norm.weight, eps=1e-3), NormKernel(norm, dtype)(inputs)
    assert found.dtype == dtype
    gradient = torch.randn_like(expected)
    (wanted,), (given,) = (
        torch.autograd.grad(outputs, inputs, gradient.to(outputs.dtype)) for outputs in (expected, found)
    )
    assert given.dtype == inputs.dtype
    for one, other in ((found, expected), (given, wanted)):
        torch.testing.assert_close(one.float(), other, atol=2 * near * other.abs().max().item(), rtol=near)


def test_norms_that_train_and_gemmas_keep_their_own_forward() -> None:
    layer = nn.Module()
    layer.input_layernorm, layer.post_attention_layernorm = norm_of(4), norm_of(4).requires_grad_(True)
    layer.q_norm = norm_of(4)
    assert norms_before_products(layer) == {layer.input_layernorm}
    layer.input_layernorm = GemmaRMSNorm(4).requires_grad_(False)
    assert norms_before_products(layer) == set()
