"""What finetune_full and finetune share: their examples, their teacher, their adapters."""

from dataclasses import asdict, dataclass
from pathlib import Path

from effir.data.examples import load_examples
from effir.files import require
from effir.model.retriever import build_retriever, save_retriever
from effir.params import Params
from effir.resume import resumable
from effir.training.hard_negatives import draw_examples, with_hard_negatives
from effir.training.losses import TeacherTerm, ranking_loss
from effir.training.teacher import BiEncoderOutputs
from effir.training.trainer import Curve, Job, Log, Schedule, fit_adapters
from stages.paths import SELF_TEACHER, TEACHER, TRAIN
from stages.schedules import adapters_of
from stages.settings import retriever_settings


@dataclass(frozen=True)
class CachedTeacher:
    """Where a teacher's scores lie, what they are divided by, and the weight of its vectors."""

    folder: Path
    temperature: float
    vector_weight: float


def outside_teacher(params: Params) -> CachedTeacher:
    """Distil the scores of training.teacher, if there is one; its vectors have another dimension."""
    return CachedTeacher(require(TEACHER), params.training.teacher_temperature, vector_weight=0.0)


def self_teacher(params: Params) -> CachedTeacher:
    """Distil the uncompressed model: its scores at the temperature of its own training, and its vectors."""
    return CachedTeacher(require(SELF_TEACHER), params.training.temperature, params.finetune.vector_weight)


def train_retriever(
    params: Params, source: Path, into: Path, rank: int, schedule: Schedule, teacher: CachedTeacher, log: Log
) -> Curve:
    """Train the checkpoint ``source`` by adapters of ``rank`` as a retriever, ``into``, and return the loss curve."""
    training, adapters = params.training, adapters_of(params, rank)
    mined = draw_examples(load_examples(require(TRAIN), "train", params.mined_negatives), training.examples)
    chosen = training.teacher_margin, training.negatives, training.miner
    examples, scores = with_hard_negatives(teacher.folder, mined, *chosen)
    similarities = training.similarity_weight if isinstance(scores, BiEncoderOutputs) else 0.0
    weights = {"weight": training.teacher_weight, "temperature": teacher.temperature}
    weights |= {"similarities": similarities, "vectors": teacher.vector_weight}
    settings = retriever_settings(params)
    identity = {**settings, **asdict(schedule), **asdict(adapters), "teacher": weights, "chosen": chosen}
    identity |= {"loss": training.temperature, "examples": training.examples}
    model = build_retriever(source, **settings)
    with resumable(into.name, identity, [source, TRAIN, teacher.folder, Path(__file__)]) as checkpoints:
        term = TeacherTerm(scores, **weights) if scores else None
        loss = ranking_loss(model, training.temperature, term, training.mini_batch)
        curve = fit_adapters(model, examples, loss, adapters, Job(schedule, checkpoints, log))
        save_retriever(model, into)
    return curve
