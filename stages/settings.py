"""Sections of params.yaml as the arguments that library functions take."""

from typing import Any

from effir.compress.scoring import Scoring
from effir.params import Params
from effir.training import Adapters, Schedule


def retriever_settings(params: Params) -> dict[str, Any]:
    """Keyword arguments of ``build_retriever``."""
    retriever = params.retriever
    return {
        "pooling": retriever.pooling,
        "query_prompt": retriever.query_prompt,
        "document_prompt": retriever.document_prompt,
        "max_tokens": retriever.max_tokens,
    }


def restoring_schedule(params: Params) -> Schedule:
    """Say how the adapters train towards the whole model's hidden states; on batches of their own, as the gates do."""
    restore, finetune = params.restore, params.finetune
    return Schedule(
        steps=restore.steps,
        batch_size=restore.batch_size,
        learning_rate=restore.learning_rate,
        warmup=finetune.warmup,
        decay="cosine",
        max_tokens=finetune.max_tokens,
        precision=finetune.precision,
        checkpoint_every=finetune.checkpoint_every,
        seed=finetune.seed + 2,
    )


def tuning_schedule(params: Params) -> Schedule:
    """Say how the full-size model becomes a retriever: as the cut one is healed, on batches of its own."""
    tune, finetune = params.tune, params.finetune
    return Schedule(
        steps=tune.steps,
        batch_size=tune.batch_size,
        learning_rate=tune.learning_rate,
        warmup=finetune.warmup,
        decay="cosine",
        max_tokens=finetune.max_tokens,
        precision=finetune.precision,
        checkpoint_every=finetune.checkpoint_every,
        seed=finetune.seed + 3,
    )


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
    return Schedule(
        steps=finetune.steps,
        batch_size=finetune.batch_size,
        learning_rate=finetune.learning_rate,
        warmup=finetune.warmup,
        decay="cosine",
        max_tokens=finetune.max_tokens,
        precision=finetune.precision,
        checkpoint_every=finetune.checkpoint_every,
        seed=finetune.seed,
    )


def healing_adapters(params: Params) -> Adapters:
    """Say what the healing trains."""
    return Adapters(params.finetune.lora_rank, params.finetune.lora_alpha, params.finetune.lora_dropout)
