from collections.abc import Callable
from pathlib import Path

import torch

from effir.compress.cut import cut_checkpoint
from effir.model.checkpoint import load_model, save_model
from effir.model.shape import shape_of


def test_a_trained_cut_model_is_saved_with_all_that_its_checkpoint_held(
    tiny_checkpoint: Callable[[bool], Path], tmp_path: Path
) -> None:
    whole, cut, saved = tiny_checkpoint(False), tmp_path / "cut", tmp_path / "saved"
    cut_checkpoint(whole, cut, shape_of(whole).without("block", [1]))
    (cut / "LICENSE").write_text("free")
    model, tokenizer = load_model(cut)
    with torch.no_grad():
        model.norm.weight.fill_(3.0)
    save_model(model, cut, saved)
    again, tokenizer_again = load_model(saved)
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    assert shape_of(saved) == shape_of(cut)
    assert tokenizer_again("a text") == tokenizer("a text")
    assert {path.name for path in cut.iterdir()} <= {path.name for path in saved.iterdir()}
    assert (saved / "modeling.py").read_bytes() == (cut / "modeling.py").read_bytes()
