import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from effir.cpu.lora_kernel import lora_products

pytestmark = pytest.mark.usefixtures("one_thread")


def model_of(*layers: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(*layers)
    model.requires_grad_(False)
    return model


def output_and_gradient(model: nn.Module, inputs: Tensor) -> tuple[Tensor, Tensor]:
    leaf = inputs.clone().requires_grad_()
    found = model(leaf)
    found.float().square().sum().backward()
    assert leaf.grad is not None
    return found.detach(), leaf.grad


@pytest.mark.parametrize("bias", [True, False])
def test_output_and_gradient_are_those_of_the_plain_layer(bias: bool) -> None:
    model = model_of(nn.Linear(24, 40, bias=bias), nn.SiLU(), nn.Linear(40, 8, bias=bias))
    inputs = torch.randn(3, 5, 24)
    expected = output_and_gradient(model, inputs)
    with lora_products(model, torch.float32):
        found = output_and_gradient(model, inputs)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_bfloat16_is_what_autocast_computes() -> None:
    model, inputs = model_of(nn.Linear(64, 96)), torch.randn(7, 64)
    with torch.autocast("cpu", torch.bfloat16):
        expected = output_and_gradient(model, inputs)
        with lora_products(model, torch.bfloat16):
            found = output_and_gradient(model, inputs)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        torch.testing.assert_close(one, other, atol=1e-2, rtol=2**-7)  # of 8 bits, one may round otherwise


def test_layers_that_train_are_not_changed_and_get_their_gradient() -> None:
    fixed, training = nn.Linear(4, 4), nn.Linear(4, 4)
    model = model_of(fixed, training)
    training.requires_grad_(True)
    with lora_products(model, torch.float32):
        assert "forward" in vars(fixed)
        assert "forward" not in vars(training)
        model(torch.randn(2, 4)).sum().backward()
    assert fixed.weight.grad is None
    assert training.weight.grad is not None


def test_hooks_parameters_and_names_stay_and_leaving_undoes_it_even_after_an_exception() -> None:
    model = model_of(nn.Linear(4, 4))
    model[0].register_forward_pre_hook(lambda _, args: (args[0] * 2,))
    names, inputs = [name for name, _ in model.named_modules()], torch.randn(2, 4)
    doubled = model(inputs)

    def fail_inside() -> None:
        with lora_products(model, torch.float32):
            assert "forward" in vars(model[0])
            torch.testing.assert_close(model(inputs), doubled)
            assert [name for name, _ in model.named_modules()] == names
            assert set(model.state_dict()) == {"0.weight", "0.bias"}
            raise KeyError

    with pytest.raises(KeyError):
        fail_inside()
    assert "forward" not in vars(model[0])
    assert torch.equal(model(inputs), doubled)


def adapted(dropout: float = 0.0) -> nn.Module:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(24, 40), nn.Linear(40, 8, bias=False)

        def forward(self, inputs: Tensor) -> Tensor:
            found: Tensor = self.second(torch.tanh(self.first(inputs)))
            return found

    torch.manual_seed(0)
    config = LoraConfig(r=4, lora_alpha=6, lora_dropout=dropout, target_modules=["first", "second"])
    model = get_peft_model(Pair(), config)  # type: ignore[arg-type]
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # which begins as zero
            nn.init.normal_(parameter, std=0.2)
    return model


def all_gradients(model: nn.Module, inputs: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    found, gradient = output_and_gradient(model, inputs)
    trained = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {"output": found, "inputs": gradient, **trained}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_adapters_output_and_gradients_are_those_of_peft(dtype: torch.dtype) -> None:
    model, inputs = adapted(), torch.randn(3, 5, 24)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        expected = all_gradients(model, inputs)
        with lora_products(model, dtype):
            found = all_gradients(model, inputs)
            prepacked = [name for name, module in model.named_modules() if "forward" in vars(module)]
    assert prepacked == ["base_model.model.first", "base_model.model.second"]  # and their base layers not once more
    assert found.keys() == expected.keys()
    assert sum("lora_" in name for name in found) == 4
    for name, value in expected.items():
        assert found[name].dtype == value.dtype
        close = 1e-5 if dtype == torch.float32 else 2**-6 * value.float().abs().max().item()
        torch.testing.assert_close(found[name], value, atol=close, rtol=close, msg=name)


def test_peft_computes_adapters_that_are_switched_off() -> None:
    model, inputs = adapted().eval(), torch.randn(3, 24)
    with model.disable_adapter():
        expected = model(inputs)
        with lora_products(model, torch.float32):
            torch.testing.assert_close(model(inputs), expected, atol=1e-5, rtol=1e-5)


def test_with_dropout_the_adapter_stays_peft_s_and_its_base_is_prepacked() -> None:
    model = adapted(dropout=0.5).eval()
    layer = model.base_model.model.first
    with lora_products(model, torch.float32):
        assert "forward" not in vars(layer)
        assert "forward" in vars(layer.base_layer)


def test_without_the_private_operators_peft_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("effir.cpu.prepacked_linear.missing_operators", lambda: ["_linear_pointwise"])
    model, inputs = adapted(), torch.randn(3, 5, 24)
    expected = all_gradients(model, inputs)
    with lora_products(model, torch.float32):
        assert not [name for name, module in model.named_modules() if "forward" in vars(module)]
        found = all_gradients(model, inputs)
    assert all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.mark.parametrize("fused", [False, True])  # a fused one changes values without a new version (findings/)
def test_a_step_of_the_optimiser_changes_the_outputs(fused: bool) -> None:
    model, inputs = adapted(), torch.randn(2, 24)
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1, fused=fused)
    with lora_products(model, torch.bfloat16):
        before = model(inputs)
        before.float().sum().backward()
        optimiser.step()
        after = model(inputs).detach()
    assert not torch.equal(before, after)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(after, model(inputs), atol=5e-2, rtol=5e-2)
