"""Sections of params.yaml as the arguments that library functions take."""

from dataclasses import asdict
from typing import Any

from effir.compress.scoring import Scoring
from effir.errors import EffirError
from effir.files import require
from effir.model.prompt_config import habits_of
from effir.params import Params
from effir.training.trainer import Adapters, Schedule
from stages.paths import BASE


def retriever_settings(params: Params) -> dict[str, Any]:
    """Keyword arguments of ``build_retriever``, the base model's own ones where params.yaml leaves them to it."""
    retriever = params.retriever
    said = {
        "pooling": None if retriever.pooling == "base" else retriever.pooling,
        "query_prompt": retriever.query_prompt,
        "document_prompt": retriever.document_prompt,
    }
    if None in said.values():
        habits = habits_of(require(BASE, made_by="download"))
        said |= {name: asdict(habits)[name] for name, value in said.items() if value is None}
        if said["query_prompt"] is None:
            raise EffirError(
                f"none of the base model's prompts ({', '.join(habits.prompts)}) is named query: set "
                "retriever.query_prompt to the text of one"
            )
    return {**said, "max_tokens": retriever.max_tokens, "eos": retriever.pooling != "base"}


def restoring_schedule(params: Params) -> Schedule:
    """Say how the adapters train towards the whole model's hidden states; on batches of their own, as the gates do."""
    restore = params.restore
    return _schedule(params, restore.steps, restore.batch_size, restore.learning_rate, batches=2)


def tuning_schedule(params: Params) -> Schedule:
    """Say how the full-size model becomes a retriever: as the cut one is healed, on batches of its own."""
    tune = params.tune
    return _schedule(params, tune.steps, tune.batch_size, tune.learning_rate, batches=3)


def gate_schedule(params: Params) -> Schedule:
    """Say how the gates train; on other batches than the adapters, which would else learn what gates know by heart."""
    prune, finetune = params.prune, params.finetune
    return Schedule(
        steps=prune.steps,
        batch_size=prune.batch_size,
        learning_rate=prune.learning_rate,
        warmup=0,
        decay="constant_with_warmup",
        max_tokens=finetune.max_tokens,
        precision=finetune.precision,
        checkpoint_every=finetune.checkpoint_every,
        seed=finetune.seed + 1,
    )


def gate_scoring(params: Params) -> Scoring:
    """Say how channels are scored."""
    prune = params.prune
    return Scoring(prune.method, params.finetune.temperature, prune.l0_weight, prune.sharpness)


def healing_schedule(params: Params) -> Schedule:
    """Say how the adapters train."""
    finetune = params.finetune
    return _schedule(params, finetune.steps, finetune.batch_size, finetune.learning_rate, batches=0)


def _schedule(params: Params, steps: int, batch_size: int, learning_rate: float, batches: int) -> Schedule:
    """Say how adapters train, wherever they do; ``batches`` sets the order of the examples apart."""
    finetune = params.finetune
    return Schedule(
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        warmup=finetune.warmup,
        decay="cosine",
        max_tokens=finetune.max_tokens,
        precision=finetune.precision,
        checkpoint_every=finetune.checkpoint_every,
        seed=finetune.seed + batches,
    )


def adapters_of(params: Params, rank: int) -> Adapters:
    """Say what trains: adapters of a rank, each stage's own, of one scaling for all."""
    finetune = params.finetune
    return Adapters(rank, finetune.lora_scaling * rank, finetune.lora_dropout)
