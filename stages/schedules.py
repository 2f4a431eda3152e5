"""How each training runs: its section of params.yaml, and the section training that all share."""

from effir.files import read_json, require
from effir.model.precision import decision
from effir.params import Params
from effir.training.trainer import Adapters, Decay, Schedule
from stages.paths import BASE

Run = tuple[int, int, float]  # steps, batch size, learning rate


def finetune_schedule(params: Params) -> Schedule:
    """Say how the adapters of the cut model train."""
    finetune = params.finetune
    run = finetune.steps, finetune.batch_size, finetune.learning_rate
    return _schedule(params, run, 0, params.training.warmup)


def distill_schedule(params: Params) -> Schedule:
    """Say how the adapters train towards the hidden states of the uncompressed model."""
    distill = params.distill
    run = distill.steps, distill.batch_size, distill.learning_rate
    return _schedule(params, run, 2, params.training.warmup)


def finetune_full_schedule(params: Params) -> Schedule:
    """Say how the uncompressed model becomes a retriever."""
    full = params.finetune_full
    run = full.steps, full.batch_size, full.learning_rate
    return _schedule(params, run, 3, params.training.warmup)


def gate_schedule(params: Params) -> Schedule:
    """Say how the gates train: on other batches than the adapters, which would overfit to the gates' examples."""
    prune = params.prune
    run = prune.steps, prune.batch_size, prune.learning_rate
    return _schedule(params, run, 1, warmup=0, decay="constant_with_warmup")


def _schedule(params: Params, run: Run, order: int, warmup: float, decay: Decay = "cosine") -> Schedule:
    """Add what all trainings share; ``order`` shuffles the examples differently for each training.

    ``auto`` is decided here, so that a training which continues on another machine does not mix two arithmetics.
    """
    shared = params.training
    every, seed = shared.checkpoint_every, shared.seed + order
    precision = decision(shared.precision, read_json(require(BASE) / "config.json")).arithmetic
    return Schedule(*run, warmup, decay, shared.max_tokens, precision, every, seed)


def adapters_of(params: Params, rank: int) -> Adapters:
    """Say what trains: adapters of each training's own rank, with one scaling for all."""
    training = params.training
    return Adapters(rank, training.lora_scaling * rank, training.lora_dropout)
