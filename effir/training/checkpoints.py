"""Checkpoints of a training: only what trains is saved, and a killed run continues to bit-identical results."""

import json
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformerTrainer
from torch import Tensor, nn
from transformers.trainer import TRAINER_STATE_NAME, TrainerState
from transformers.trainer_utils import get_last_checkpoint

from effir.errors import EffirError

TRAINED = "trained.safetensors"


class ResumableTrainer(SentenceTransformerTrainer):
    """The sentence-transformers trainer with checkpoints of the adapters or gates alone."""

    def load_finished(self, checkpoint: str) -> bool:
        """Load a checkpoint of the last step, and tell whether it is one: ``train`` would add a step to it."""
        state = TrainerState.load_from_json(str(Path(checkpoint) / TRAINER_STATE_NAME))
        if state.global_step < self.args.max_steps:
            return False
        self._load_from_checkpoint(checkpoint)
        self.state = state
        return True

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        save_file(_trained(self.model), folder / TRAINED)

    def _load_from_checkpoint(self, checkpoint_path: str) -> None:
        saved = load_file(Path(checkpoint_path) / TRAINED)
        own = _trained(self.model)
        if own.keys() != saved.keys():
            raise EffirError(f"{checkpoint_path} does not fit this model: remove it and run again")
        for name, tensor in own.items():
            tensor.copy_(saved[name])

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """Skip the model card of sentence-transformers, which tokenises all training texts."""


def last_checkpoint(checkpoints: Path) -> str | None:
    """Find the newest checkpoint, and remove incomplete ones: the state of the trainer is written last."""
    for folder in checkpoints.glob("checkpoint-*"):
        try:
            json.loads((folder / TRAINER_STATE_NAME).read_bytes())
        except (OSError, ValueError):
            shutil.rmtree(folder)
    return get_last_checkpoint(str(checkpoints)) if checkpoints.exists() else None


def _trained(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
