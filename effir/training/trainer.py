"""The trainer that restoring, slimming and healing share."""

import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from datasets import DatasetDict
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from torch import Tensor, nn
from transformers import TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME, TrainerState
from transformers.trainer_utils import get_last_checkpoint

from effir.cpu.lora_kernel import lora_products
from effir.cpu.precision import Precision, arithmetic, uses_bfloat16
from effir.data.examples import Example
from effir.errors import EffirError
from effir.training.columns import by_part
from effir.training.losses import TeacherTerm, ranking_loss

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
TRAINED = "trained.safetensors"

Log = Callable[[int, dict[str, float]], None]


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train; ``warmup`` is a share of ``steps``, ``max_tokens`` cuts training texts."""

    steps: int
    batch_size: int
    learning_rate: float
    warmup: float
    decay: Literal["cosine", "constant_with_warmup"]
    max_tokens: int
    precision: Precision
    checkpoint_every: int
    seed: int


@dataclass(frozen=True)
class Adapters:
    """LoRA: W + alpha / rank · B A, with B (out, rank) and A (rank, in)."""

    rank: int
    alpha: float
    dropout: float


def finetune(
    model: SentenceTransformer,
    examples: Sequence[Example],
    *,
    adapters: Adapters,
    temperature: float,
    schedule: Schedule,
    checkpoints: Path,
    log: Log,
    teacher_term: TeacherTerm | None = None,
    mini_batch: int = 0,
) -> list[dict[str, float]]:
    """Fine-tune a cut model with LoRA and InfoNCE, in place, and fold the adapters in (EffiR, sec. 3).

    ``teacher_term`` and ``mini_batch`` are :func:`effir.training.losses.ranking_loss`'s. Returns the loss curve, rows of
    ``step``, ``loss`` and ``learning_rate``; with 0 steps, none and an unhealed model.
    """
    loss = ranking_loss(model, temperature, teacher_term, mini_batch)
    return fit_adapters(model, examples, loss, adapters, schedule, checkpoints, log)


def fit_adapters(
    model: SentenceTransformer,
    examples: Sequence[Example],
    loss: nn.Module,
    adapters: Adapters,
    schedule: Schedule,
    checkpoints: Path,
    log: Log,
) -> list[dict[str, float]]:
    """Train adapters towards ``loss`` and fold them in; with 0 steps, which to the trainer are no limit, do nothing."""
    if schedule.steps == 0:
        return []
    add_adapters(model, adapters, schedule.seed)
    curve = fit(model, examples, loss, schedule, checkpoints, log)
    merge_adapters(model)
    return curve


def fit(
    model: SentenceTransformer,
    examples: Sequence[Example],
    loss: nn.Module,
    schedule: Schedule,
    checkpoints: Path,
    log: Log,
) -> list[dict[str, float]]:
    """Train what requires a gradient, in place; a killed run goes on from its last checkpoint in ``checkpoints``.

    The caller keys ``checkpoints`` by everything that decides the outcome, and removes it once the model is saved
    (:func:`effir.files.resumable`). Returns the loss curve, the part before a kill included. Every batch
    is of one part of a mixture, parts in proportion to their examples: documents of another kind are no negatives to
    learn from.
    """
    parts, logging = by_part(examples, schedule.batch_size), _Logging(log)
    with _prepared(model, schedule.max_tokens), lora_products(model, arithmetic(schedule.precision)):
        trainer = RetrieverTrainer(
            model=model,
            args=_arguments(model, schedule, checkpoints),
            train_dataset=DatasetDict(parts) if len(parts) > 1 else parts.popitem()[1],
            loss=loss,
            callbacks=[logging],
        )
        last = _last_whole(checkpoints)
        if last and trainer.takes(last):
            logging.on_train_begin(trainer.args, trainer.state, trainer.control)
        else:
            trainer.train(resume_from_checkpoint=last)
    return [_loss_row(row["step"], row) for row in trainer.state.log_history if "loss" in row]


def add_adapters(model: SentenceTransformer, adapters: Adapters, seed: int) -> None:
    """Put LoRA on q/k/v/o and gate/up/down of every sublayer that is left; nothing else trains (EffiR, sec. 3)."""
    torch.manual_seed(seed)
    present = {name.rsplit(".", 1)[-1] for name, _ in model[0].model.named_modules()}
    config = LoraConfig(
        r=adapters.rank,
        lora_alpha=adapters.alpha,
        lora_dropout=adapters.dropout,
        target_modules=[name for name in PROJECTIONS if name in present],
        task_type="FEATURE_EXTRACTION",
    )
    model[0].model = get_peft_model(model[0].model, config)


def merge_adapters(model: SentenceTransformer) -> None:
    """Fold the adapters into the weights: W + scale · B A. The model is plain again, in inference mode."""
    model[0].model = model[0].model.merge_and_unload()
    model.eval()


class RetrieverTrainer(SentenceTransformerTrainer):
    """The sentence-transformers trainer, whose checkpoints hold only what trains: adapters or gates."""

    def takes(self, checkpoint: str) -> bool:
        """Take over a checkpoint of the last step, from which ``train`` would go one too far; tell if it is one."""
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
        """Do without sentence-transformers' model card: it tokenises the whole training set to describe it."""


@contextmanager
def _prepared(model: SentenceTransformer, max_tokens: int) -> Iterator[None]:
    """Cut texts at the training length, and leave in inference mode, as it was."""
    decoder, length = model[0].model, model.max_seq_length
    attention = decoder.config._attn_implementation
    model.max_seq_length = max_tokens
    if attention == "sdpa" and not torch.accelerator.is_available():
        # On CPUs the backward of fused attention takes a fifth of a step at 100 tokens; the plain one hardly any.
        decoder.set_attn_implementation("eager")
    try:
        yield
    finally:
        decoder.set_attn_implementation(attention)
        model.max_seq_length = length
        model.eval()


def _last_whole(checkpoints: Path) -> str | None:
    """Find the newest checkpoint, if any, and remove what a kill left half written: its state would have come last."""
    for folder in checkpoints.glob("checkpoint-*"):
        try:
            json.loads((folder / TRAINER_STATE_NAME).read_bytes())
        except (OSError, ValueError):
            shutil.rmtree(folder)
    return get_last_checkpoint(str(checkpoints)) if checkpoints.exists() else None


class _Logging(TrainerCallback):
    def __init__(self, log: Log) -> None:
        self.log = log

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        for row in state.log_history:  # not empty where a killed run goes on
            self.on_log(args, state, control, row)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        if logs and "loss" in logs:
            row = _loss_row(logs.get("step", state.global_step), logs)
            self.log(int(row.pop("step")), row)


def _loss_row(step: float, logs: Mapping[str, float]) -> dict[str, float]:
    return {"step": step, "loss": float(logs["loss"]), "learning_rate": float(logs["learning_rate"])}


def _trained(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


def _arguments(
    model: SentenceTransformer, schedule: Schedule, checkpoints: Path
) -> SentenceTransformerTrainingArguments:
    prompts = model.prompts
    return SentenceTransformerTrainingArguments(
        output_dir=str(checkpoints),
        max_steps=schedule.steps,
        per_device_train_batch_size=schedule.batch_size,
        learning_rate=schedule.learning_rate,
        lr_scheduler_type=schedule.decay,
        warmup_steps=round(schedule.warmup * schedule.steps),
        bf16=uses_bfloat16(schedule.precision),
        use_cpu=not torch.accelerator.is_available(),
        batch_sampler="no_duplicates",
        prompts={"query": prompts["query"], "positive": prompts["document"]}
        | {f"negative_{i + 1}": prompts["document"] for i in range(32)},
        seed=schedule.seed,
        logging_steps=math.gcd(5, schedule.checkpoint_every),  # a mean over steps never straddles a checkpoint
        save_steps=schedule.checkpoint_every,
        save_total_limit=1,
        dataloader_pin_memory=False,
        report_to=[],
    )
