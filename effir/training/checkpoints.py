"""Checkpoints of a training: only what trains is saved, and a killed run continues to bit-identical results."""

import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformerTrainer
from torch import Tensor, nn
from transformers import TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME, TrainerState
from transformers.trainer_utils import align_special_tokens, get_last_checkpoint

from effir.errors import EffirError
from effir.files import read_json, sha256_of, write_json

TRAINED = "trained.safetensors"
SEAL = "sha256.json"  # of all files of a checkpoint, written last


class ResumableTrainer(SentenceTransformerTrainer):
    """The sentence-transformers trainer with checkpoints of what trains alone."""

    def load_finished(self, checkpoint: str) -> bool:
        """Load a checkpoint of the last step, and tell whether it is one: ``train`` would add a step to it."""
        state = TrainerState.load_from_json(str(Path(checkpoint) / TRAINER_STATE_NAME))
        if state.global_step < self.args.max_steps:
            return False
        self._load_from_checkpoint(checkpoint)
        self.state = state
        # What `train` and its batches leave in the configuration and in the tokenizer: the saved files are the same.
        align_special_tokens(self.model, self.processing_class)
        self.model.preprocess(["text"])
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


class Sealing(TrainerCallback):
    """Seal every checkpoint that is complete; until then the one before counts."""

    def on_save(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Write the hash of each file, and remove older checkpoints; the trainer calls this after all else."""
        if state.is_world_process_zero:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            write_json(folder / SEAL, _hashes(folder))
            for older in folder.parent.glob("checkpoint-*"):
                if older != folder:
                    shutil.rmtree(older)


def last_checkpoint(checkpoints: Path) -> str | None:
    """Find the newest checkpoint, and remove those that are incomplete or damaged."""
    for folder in checkpoints.glob("checkpoint-*"):
        if not _is_sealed(folder):
            shutil.rmtree(folder)
    return get_last_checkpoint(str(checkpoints)) if checkpoints.exists() else None


def _is_sealed(folder: Path) -> bool:
    try:
        return bool(read_json(folder / SEAL) == _hashes(folder))
    except (EffirError, OSError):
        return False


def _hashes(folder: Path) -> dict[str, str]:
    return {path.name: sha256_of(path) for path in sorted(folder.iterdir()) if path.is_file() and path.name != SEAL}


def _trained(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
