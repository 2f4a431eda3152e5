"""A cut checkpoint is an ordinary Hugging Face checkpoint, with effir and without."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel

import effir.model.modeling as modeling
from effir.compress.cut import cut_checkpoint
from effir.model.modeling import FAMILIES
from effir.model.shape import shape_of

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]

OPEN = """
import sys
from pathlib import Path
{first}
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel
torch.set_num_threads(1)  # as in this process: another number of threads adds in another order
for folder in sorted(Path(sys.argv[1]).iterdir()):
    model = AutoModel.from_pretrained(folder{trust}).eval()
    with torch.inference_mode():
        save_file({{"states": model(**load_file(sys.argv[2])).last_hidden_state}}, folder / "states.safetensors")
    print(folder.name, type(model).__module__)
    if {resave}:
        model.save_pretrained(folder / "again")
"""
# `import effir` fails there even where effir is installed in the same environment.
WITHOUT_EFFIR = "sys.modules['effir'] = None"


def cut_everything(whole: Path, into: Path) -> Path:
    shape = shape_of(whole).without("mlp", [1]).without("attention", [0, 2]).with_mlp_widths([20, 0, 48, 9])
    cut_checkpoint(whole, into, shape, {0: range(20), 3: range(30, 39)})
    return into


def open_elsewhere(folder: Path, batch: Path, python: list[str], cwd: Path, **script: Any) -> dict[str, str]:
    """Open every checkpoint of ``folder`` in another interpreter; return where each model's class comes from."""
    code = OPEN.format(**{"trust": "", "resave": False, **script})
    variables = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"HF_HOME": str(cwd / "hf")}
    command = [sys.executable, *python, "-c", code, str(folder), str(batch)]
    done = subprocess.run(command, cwd=cwd, env=variables, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return dict(line.split() for line in done.stdout.splitlines())


@pytest.fixture
def checkpoints(tmp_path: Path, whole_checkpoint: Callable[[str], Path]) -> Path:
    for family in FAMILIES:
        cut_everything(whole_checkpoint(family), tmp_path / "models" / family)
    return tmp_path / "models"


@pytest.fixture
def batch_file(tmp_path: Path, batch: dict[str, torch.Tensor]) -> Path:
    save_file(batch, tmp_path / "batch.safetensors")
    return tmp_path / "batch.safetensors"


def assert_same_states(checkpoints: Path, batch: dict[str, torch.Tensor]) -> None:
    for folder in checkpoints.iterdir():
        with torch.inference_mode():
            here = AutoModel.from_pretrained(folder).eval()(**batch).last_hidden_state
        assert (load_file(folder / "states.safetensors")["states"] - here).abs().max().item() == 0.0


def test_it_opens_where_effir_is_not_installed(
    checkpoints: Path, batch: dict[str, torch.Tensor], batch_file: Path, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    trust = ", trust_remote_code=True"
    opened = open_elsewhere(checkpoints, batch_file, ["-I"], elsewhere, first=WITHOUT_EFFIR, trust=trust, resave=True)
    assert set(opened) == set(FAMILIES)
    assert all(module.startswith("transformers_modules.") for module in opened.values())
    assert_same_states(checkpoints, batch)
    for family in FAMILIES:  # saved there, it is an effir checkpoint again
        again = {path.name for path in (checkpoints / family / "again").iterdir()}
        assert again == {"config.json", "model.safetensors", "modeling.py"}
        assert shape_of(checkpoints / family / "again") == shape_of(checkpoints / family)


def test_after_importing_the_checkpoint_module_it_opens_without_trust(
    checkpoints: Path, batch: dict[str, torch.Tensor], batch_file: Path
) -> None:
    opened = open_elsewhere(checkpoints, batch_file, [], ROOT, first="import effir.model.checkpoint")
    assert set(opened.values()) == {"effir.model.modeling"}
    assert_same_states(checkpoints, batch)


def test_importing_effir_is_light() -> None:
    code = "import sys, effir; print([m for m in ('torch', 'transformers', 'numpy') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_the_travelling_file_is_short_and_needs_torch_and_transformers_only() -> None:
    lines = Path(modeling.__file__).read_text().splitlines()
    assert len(lines) < 150
    imports = {line.split()[1] for line in lines if line.startswith(("import ", "from "))}
    assert imports == {"copy", "dataclasses", "typing", "torch", "transformers"}


def test_dropping_both_sublayers_leaves_the_residual_stream_unchanged(
    whole: Path, tmp_path: Path, batch: dict[str, torch.Tensor]
) -> None:
    cut_checkpoint(whole, tmp_path / "cut", shape_of(whole).without("block", [1]))
    model = AutoModel.from_pretrained(tmp_path / "cut").eval()
    with torch.inference_mode():
        states = model(**batch, output_hidden_states=True).hidden_states
    assert len(states) == 5
    assert torch.equal(states[2], states[1])
    assert not torch.equal(states[1], states[0])
    assert not list(model.layers[1].parameters())


def test_sdpa_and_eager_attention_agree(
    family: str, whole: Path, tmp_path: Path, batch: dict[str, torch.Tensor]
) -> None:
    if not FAMILIES[family]._supports_sdpa:
        pytest.skip(f"transformers has no sdpa attention for {family}: its attention scores are capped")
    folder, real = cut_everything(whole, tmp_path / "cut"), batch["attention_mask"].bool()
    with torch.inference_mode():
        sdpa, eager = (
            AutoModel.from_pretrained(folder, attn_implementation=name).eval()(**batch).last_hidden_state[real]
            for name in ("sdpa", "eager")
        )
    torch.testing.assert_close(sdpa, eager, atol=1e-5, rtol=0)


def test_gradient_checkpointing_changes_no_gradient(
    whole: Path, tmp_path: Path, batch: dict[str, torch.Tensor]
) -> None:
    model = AutoModel.from_pretrained(cut_everything(whole, tmp_path / "cut")).train()
    gradients = []
    for checkpointing in (False, True):
        model.zero_grad()
        if checkpointing:
            model.activation_checkpointing_enable()
        model(**batch).last_hidden_state.square().sum().backward()
        gradients.append({name: parameter.grad.clone() for name, parameter in model.named_parameters()})
    assert all(gradient.abs().max() > 0 for gradient in gradients[0].values())
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)


def test_a_dropped_attention_refuses_a_cache_that_it_would_falsify(
    whole_checkpoint: Callable[[str], Path], tmp_path: Path, batch: dict[str, torch.Tensor]
) -> None:
    model = AutoModel.from_pretrained(cut_everything(whole_checkpoint("llama"), tmp_path / "cut"))
    assert model(**batch).past_key_values is None
    with pytest.raises(ValueError, match="call it with use_cache=False"):
        model(**batch, use_cache=True)


def test_a_config_that_contradicts_itself_is_refused(family: str) -> None:
    with pytest.raises(ValueError, match="mlp_widths has 1 layers, but num_hidden_layers is 3"):
        FAMILIES[family].config_class(num_hidden_layers=3, mlp_widths=[5])


def test_a_config_without_a_cut_is_the_uncut_model(family: str) -> None:
    config = FAMILIES[family].config_class(num_hidden_layers=2, intermediate_size=8)
    assert (config.mlp_widths, config.attention_kept, config.use_cache) == ([8, 8], [True, True], False)
