import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from effir.cpu.attention_kernel import attention

BATCH, HEADS, GROUPS, TOKENS, SIZE = 3, 6, 2, 7, 8


def heads(count: int, dtype: torch.dtype) -> Tensor:
    """Return heads as models make them: a transposed view of (batch, tokens, heads, size)."""
    return torch.randn(BATCH, TOKENS, count, SIZE).to(dtype).transpose(1, 2).requires_grad_()


@pytest.mark.parametrize(("dtype", "near"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
def test_values_and_gradients_are_those_of_pytorch(dtype: torch.dtype, near: float) -> None:
    torch.manual_seed(0)
    query, key, value = heads(HEADS, torch.float32), heads(GROUPS, torch.float32), heads(GROUPS, dtype)
    mask = torch.full((TOKENS, TOKENS), torch.finfo(torch.float32).min).triu(1).repeat(BATCH, 1, 1, 1)
    mask[0, :, :, 5:] = torch.finfo(torch.float32).min  # padding
    repeated = [each.float().repeat_interleave(HEADS // GROUPS, dim=1) for each in (key, value)]
    expected = scaled_dot_product_attention(query, *repeated, attn_mask=mask, scale=0.3).transpose(1, 2)
    found, _ = attention(nn.Identity(), query, key, value, mask, 0.3)
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), expected, atol=near, rtol=near)
    gradient = torch.randn_like(expected)
    wanted = torch.autograd.grad(expected, (query, key, value), gradient)
    given = torch.autograd.grad(found, (query, key, value), gradient.to(dtype))
    for one, other in zip(given, wanted, strict=True):
        assert one.dtype == other.dtype
        torch.testing.assert_close(one.float(), other.float(), atol=near * other.abs().max().item(), rtol=near)
