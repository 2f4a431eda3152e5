"""What the stages share that let a teacher read the training texts."""

from pathlib import Path

from effir.data.examples import load_examples
from effir.files import require
from effir.params import Params
from effir.training.checkpoints import checkpoints_for
from effir.training.opinions import drawn
from effir.training.teacher_cache import teach
from stages.paths import TRAIN


def keep_opinion(params: Params, source: str, folder: Path, into: Path) -> None:
    """Let the model in ``folder`` read the training queries that are used, with their positives and hard negatives."""
    count, max_tokens = params.finetune.examples, params.finetune.max_tokens
    examples = drawn(load_examples(require(TRAIN, made_by="download"), "train", params.mined_negatives), count)
    work = checkpoints_for(into.name, {"max_tokens": max_tokens, "examples": count}, [folder, TRAIN])
    teach(source, folder, examples, into, max_tokens=max_tokens, work=work)
