"""Train adapters, weights or gates: the loop that full fine-tuning, distillation, slimming and fine-tuning share."""

import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from datasets import Dataset, DatasetDict
from peft import LoraConfig, PeftModel, get_peft_model
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainingArguments
from torch import nn
from transformers import TrainerCallback

from effir.cpu.lora_kernel import lora_products
from effir.data.examples import Example
from effir.errors import EffirError
from effir.model.precision import TrainingPrecision, arithmetic, uses_bfloat16
from effir.training.checkpoints import ResumableTrainer, Sealing, last_checkpoint

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

STEPS_THAT_TELL = 40
"""A shorter training does not tell whether its loss falls."""

Log = Callable[[int, dict[str, float]], None]
Decay = Literal["cosine", "constant_with_warmup"]
Curve = list[dict[str, float]]
"""Rows of ``step``, ``loss`` and ``learning_rate``."""


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train; ``warmup`` is a share of ``steps``, ``max_tokens`` truncates training texts."""

    steps: int
    batch_size: int
    learning_rate: float
    warmup: float
    decay: Decay
    max_tokens: int
    precision: TrainingPrecision
    checkpoint_every: int
    seed: int


@dataclass(frozen=True)
class Adapters:
    """LoRA: W + alpha / rank · B A, with B (out, rank) and A (rank, in). With rank 0 the weights themselves train."""

    rank: int
    alpha: float
    dropout: float


@dataclass(frozen=True)
class Job:
    """A schedule, the folder of its checkpoints, and where each row of the loss curve is logged.

    ``checkpoints`` is named by all that decides the result, and removed after saving (:func:`effir.resume.resumable`).
    """

    schedule: Schedule
    checkpoints: Path
    log: Log


def fit_adapters(
    model: SentenceTransformer, examples: Sequence[Example], loss: nn.Module, adapters: Adapters, job: Job
) -> Curve:
    """Train adapters on ``loss`` and merge them, in place; return the loss curve, empty with 0 steps.

    With rank 0 there are no adapters: all weights but the token embeddings train.
    """
    if job.schedule.steps == 0:  # which the trainer takes as no limit
        return []
    add_adapters(model, adapters, job.schedule.seed)
    curve = fit(model, examples, loss, job)
    merge_adapters(model)
    return curve


def fit(model: SentenceTransformer, examples: Sequence[Example], loss: nn.Module, job: Job) -> Curve:
    """Train the parameters that require a gradient, in place, from the last checkpoint of ``job`` if it was killed.

    Returns the loss curve, the part before a kill included. Every batch comes from one part of a mixture, because
    documents of another kind are too easy as negatives. Parts are drawn in proportion to their examples. Prints a
    warning if the loss did not fall; EffirError if the loss or a weight is not finite.
    """
    schedule, logging = job.schedule, _Logging(job.log, job.schedule)
    parts = by_part(examples, schedule.batch_size)
    dtype = arithmetic(schedule.precision, model[0].model.config)
    with _training_settings(model, schedule.max_tokens), lora_products(model, dtype):
        data, args = DatasetDict(parts) if len(parts) > 1 else parts.popitem()[1], _arguments(model, job)
        callbacks: list[TrainerCallback] = [logging, Sealing()]
        trainer = ResumableTrainer(model=model, args=args, train_dataset=data, loss=loss, callbacks=callbacks)
        last = last_checkpoint(job.checkpoints)
        if last and trainer.load_finished(last):
            logging.on_train_begin(trainer.args, trainer.state, trainer.control)
        else:
            trainer.train(resume_from_checkpoint=last)
    curve = [_loss_row(row["step"], row) for row in trainer.state.log_history if "loss" in row]
    if not all(bool(p.isfinite().all()) for p in model.parameters() if p.requires_grad):
        raise EffirError(f"a weight is not finite after {schedule.steps} steps: {_slower(schedule)}")
    if stood_still(curve):
        ends = f"{curve[0]['loss']:.3g} to {curve[-1]['loss']:.3g}"
        print(f"the loss did not fall ({ends}): try another learning_rate or seed", file=sys.stderr)
    return curve


def _slower(schedule: Schedule) -> str:
    return f"lower the learning_rate of this training from {schedule.learning_rate:g}"


def stood_still(curve: Curve) -> bool:
    """Tell whether the mean loss of a curve's last quarter is not below that of its first; a short curve tells nothing.

    >>> rows = [{"step": 10.0 * i, "loss": loss, "learning_rate": 0.1} for i, loss in enumerate([3, 3, 3, 3, 3, 2])]
    >>> stood_still(rows), stood_still(rows[:5]), stood_still(rows[:4])
    (False, True, False)
    """
    losses, count = [row["loss"] for row in curve], max(1, len(curve) // 4)
    return bool(curve) and curve[-1]["step"] >= STEPS_THAT_TELL and sum(losses[-count:]) >= sum(losses[:count])


def by_part(examples: Sequence[Example], batch_size: int) -> dict[str, Dataset]:
    """Return the table of each part of a mixture, by name; without a mixture, of the part ``""``.

    EffirError for a part that cannot fill a batch, by its examples or by their different texts.
    """
    rows: dict[str, list[int]] = {}
    for row, example in enumerate(examples):
        rows.setdefault(example.part, []).append(row)
    for name, chosen in (rows or {"": []}).items():
        if len(chosen) < batch_size:
            more = f", raise training.examples, or give {name} more weight" if name else ""
            few = f"{len(chosen)} training examples{' of ' + name if name else ''}"
            raise EffirError(f"{few} cannot fill a batch of {batch_size}: lower batch_size{more}")
        _require_different([examples[row] for row in chosen], batch_size, name)
    table = as_columns(examples)
    return {name: table.select(chosen) for name, chosen in rows.items()} if len(rows) > 1 else {"": table}


def _require_different(examples: Sequence[Example], batch_size: int, part: str) -> None:
    """Refuse examples that cannot fill one batch, say how large batches are on average if they are smaller.

    A batch holds each text once (``no_duplicates``), so examples that share an answer go to different batches.
    """
    of = f" of {part}" if part else ""
    for kind, texts in (("queries", [e.query for e in examples]), ("answers", [e.positive for e in examples])):
        times = Counter(texts).most_common()
        if len(times) < batch_size:
            few = f"{len(examples)} training examples{of} have only {len(times)} different {kind}"
            raise EffirError(f"{few}, and a batch holds each once: lower batch_size from {batch_size}, or add {kind}")
        if (mean := len(examples) / times[0][1]) < batch_size:
            said = f"{times[0][1]:,} of {len(examples):,} training examples{of} have the same text among their {kind}"
            print(f"{said}: batches hold {mean:.1f} on average, not {batch_size}", file=sys.stderr)


def as_columns(examples: Sequence[Example]) -> Dataset:
    """Return a table with the columns query, positive, negative_1, negative_2, ..., and label, the row number."""
    columns: dict[str, list[Any]] = {"query": [e.query for e in examples], "positive": [e.positive for e in examples]}
    columns |= {f"negative_{i + 1}": [e.negatives[i] for e in examples] for i in range(len(examples[0].negatives))}
    return Dataset.from_dict(columns | {"label": list(range(len(examples)))})


def add_adapters(model: SentenceTransformer, adapters: Adapters, seed: int) -> None:
    """Put LoRA on the q/k/v/o and gate/up/down projections of every remaining sublayer (EffiR, sec. 3).

    With rank 0 all weights but the token embeddings train instead.
    """
    torch.manual_seed(seed)
    if adapters.rank == 0:
        model.requires_grad_(True)
        model[0].model.get_input_embeddings().requires_grad_(False)
        return
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
    """Merge the adapters if there are any, W + scale · B A, and leave a plain model in inference mode."""
    if isinstance(model[0].model, PeftModel):
        model[0].model = model[0].model.merge_and_unload()
    model.requires_grad_(False)
    model.eval()


@contextmanager
def _training_settings(model: SentenceTransformer, max_tokens: int) -> Iterator[None]:
    """Truncate texts at the training length until the block ends; leave the model in inference mode."""
    decoder, length = model[0].model, model.max_seq_length
    attention = decoder.config._attn_implementation
    model.max_seq_length = max_tokens
    if attention == "sdpa" and not torch.accelerator.is_available():
        # On CPUs the backward of fused attention takes a fifth of a step at 100 tokens, that of plain attention little.
        decoder.set_attn_implementation("eager")
    try:
        yield
    finally:
        decoder.set_attn_implementation(attention)
        model.max_seq_length = length
        model.eval()


class _Logging(TrainerCallback):
    def __init__(self, log: Log, schedule: Schedule) -> None:
        self.log, self.schedule = log, schedule

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        for row in state.log_history:  # not empty after a kill
            self.on_log(args, state, control, row)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        if logs and "loss" in logs:
            row = _loss_row(logs.get("step", state.global_step), logs)
            step = int(row.pop("step"))
            if not math.isfinite(row["loss"]):
                raise EffirError(f"the loss is {row['loss']} at step {step}: {_slower(self.schedule)}")
            self.log(step, row)


def _loss_row(step: float, logs: Mapping[str, float]) -> dict[str, float]:
    return {"step": step, "loss": float(logs["loss"]), "learning_rate": float(logs["learning_rate"])}


def _arguments(model: SentenceTransformer, job: Job) -> SentenceTransformerTrainingArguments:
    schedule = job.schedule
    query, document = model.prompts["query"], model.prompts["document"]
    return SentenceTransformerTrainingArguments(
        output_dir=str(job.checkpoints),
        max_steps=schedule.steps,
        per_device_train_batch_size=schedule.batch_size,
        learning_rate=schedule.learning_rate,
        lr_scheduler_type=schedule.decay,
        warmup_steps=round(schedule.warmup * schedule.steps),
        bf16=uses_bfloat16(schedule.precision, model[0].model.config),
        use_cpu=not torch.accelerator.is_available(),
        batch_sampler="no_duplicates",
        prompts={"query": query, "positive": document} | {f"negative_{i + 1}": document for i in range(32)},
        seed=schedule.seed,
        logging_nan_inf_filter=False,
        logging_steps=math.gcd(5, schedule.checkpoint_every),  # so that no mean over steps spans a checkpoint
        save_steps=schedule.checkpoint_every,
        dataloader_pin_memory=False,
        report_to=[],
    )
