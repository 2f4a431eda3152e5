"""How each training runs: its section of params.yaml, and the section training that all share."""

from effir.params import Params
from effir.training.trainer import Adapters, Schedule


def finetune_schedule(params: Params) -> Schedule:
    """Say how the adapters of the cut model train."""
    finetune = params.finetune
    return _schedule(params, finetune.steps, finetune.batch_size, finetune.learning_rate, order=0)


def distill_schedule(params: Params) -> Schedule:
    """Say how the adapters train towards the hidden states of the uncompressed model."""
    distill = params.distill
    return _schedule(params, distill.steps, distill.batch_size, distill.learning_rate, order=2)


def finetune_full_schedule(params: Params) -> Schedule:
    """Say how the uncompressed model becomes a retriever."""
    full = params.finetune_full
    return _schedule(params, full.steps, full.batch_size, full.learning_rate, order=3)


def gate_schedule(params: Params) -> Schedule:
    """Say how the gates train: on other batches than the adapters, which would overfit to the gates' examples."""
    prune, training = params.prune, params.training
    return Schedule(
        steps=prune.steps,
        batch_size=prune.batch_size,
        learning_rate=prune.learning_rate,
        warmup=0,
        decay="constant_with_warmup",
        max_tokens=training.max_tokens,
        precision=training.precision,
        checkpoint_every=training.checkpoint_every,
        seed=training.seed + 1,
    )


def _schedule(params: Params, steps: int, batch_size: int, learning_rate: float, order: int) -> Schedule:
    """Say how adapters train, wherever they do; ``order`` shuffles the examples differently for each training."""
    training = params.training
    return Schedule(
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        warmup=training.warmup,
        decay="cosine",
        max_tokens=training.max_tokens,
        precision=training.precision,
        checkpoint_every=training.checkpoint_every,
        seed=training.seed + order,
    )


def adapters_of(params: Params, rank: int) -> Adapters:
    """Say what trains: adapters of each training's own rank, with one scaling for all."""
    training = params.training
    return Adapters(rank, training.lora_scaling * rank, training.lora_dropout)
