"""What the stages that heal a retriever share: its examples, its teacher, its adapters."""

from dataclasses import asdict, dataclass
from pathlib import Path

from effir.data.examples import load_examples
from effir.files import require
from effir.model.retriever import build_retriever, save_retriever
from effir.params import Params
from effir.training.checkpoints import resumable
from effir.training.losses import Lesson
from effir.training.opinions import drawn
from effir.training.teacher import taught_examples
from effir.training.trainer import Log, Schedule, heal
from stages.paths import OWN_TEACHER, TEACHER, TRAIN
from stages.settings import adapters_of, retriever_settings


@dataclass(frozen=True)
class Opinion:
    """Where a teacher's opinion lies, what its scores are divided by, and the weight of its vectors."""

    folder: Path
    temperature: float
    vectors: float


def outside_opinion(params: Params) -> Opinion:
    """Ask finetune.teacher, if there is one: its preferences alone, as it has vectors of another kind."""
    return Opinion(require(TEACHER, made_by="teach"), params.finetune.teacher_temperature, vectors=0.0)


def own_opinion(params: Params) -> Opinion:
    """Ask the tuned model: its preferences at the temperature at which it was tuned, and its vectors."""
    return Opinion(require(OWN_TEACHER, made_by="teach_own"), params.finetune.temperature, params.finetune.own_vectors)


def heal_retriever(
    params: Params,
    source: Path,
    into: Path,
    *,
    rank: int,
    schedule: Schedule,
    opinion: Opinion,
    log: Log,
) -> list[dict[str, float]]:
    """Heal the checkpoint ``source`` by adapters of ``rank`` as a retriever, ``into``, and return the loss curve."""
    finetune, adapters = params.finetune, adapters_of(params, rank)
    mined = load_examples(require(TRAIN, made_by="download"), "train", params.mined_negatives)
    chosen = finetune.teacher_margin, finetune.negatives, finetune.miner
    examples, teacher = taught_examples(opinion.folder, drawn(mined, finetune.examples), *chosen)
    weights = {"weight": finetune.teacher_weight, "temperature": opinion.temperature, "vectors": opinion.vectors}
    settings = retriever_settings(params)
    identity = {**settings, **asdict(schedule), **asdict(adapters), "lesson": weights, "chosen": chosen}
    identity |= {"loss": finetune.temperature, "examples": finetune.examples}
    model = build_retriever(source, **settings)
    with resumable(into.name, identity, [source, TRAIN, opinion.folder]) as checkpoints:
        curve = heal(
            model,
            examples,
            adapters=adapters,
            temperature=finetune.temperature,
            schedule=schedule,
            checkpoints=checkpoints,
            log=log,
            lesson=Lesson(teacher, **weights) if teacher else None,
            mini_batch=finetune.mini_batch,
        )
        save_retriever(model, into)
    return curve
