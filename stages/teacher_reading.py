"""What teacher_scores and self_teacher_scores share."""

from pathlib import Path

from effir.data.examples import load_examples
from effir.files import read_json, require
from effir.model.plain_decoder import unsupported
from effir.model.precision import decision
from effir.params import Params
from effir.resume import resumable
from effir.training.hard_negatives import draw_examples
from effir.training.teacher_cache import cache_teacher_scores
from stages.paths import TRAIN


def score_training_texts(params: Params, source: str, folder: Path, into: Path) -> None:
    """Score the training queries that are used, with their positives and hard negatives, by the model in ``folder``."""
    count, max_tokens = params.training.examples, params.training.max_tokens
    examples = draw_examples(load_examples(require(TRAIN), "train", params.mined_negatives), count)
    ours = (folder / "modules.json").is_file() and not unsupported(folder)  # or sentence-transformers encodes
    computes = decision("auto", read_json(folder / "config.json")).arithmetic if ours else "float32"
    identity = {"max_tokens": max_tokens, "examples": count, "computes": computes}
    with resumable(into.name, identity, [folder, TRAIN, Path(__file__)]) as work:
        cache_teacher_scores(source, folder, examples, into, max_tokens=max_tokens, work=work)
