"""Checks before the work: of settings when any stage starts, of files as soon as DVC has made them.

What a stage would refuse after half an hour of training is refused by the first one. Nothing here decides what is
written, so no stage depends on this module. Imports are late: together they take a second, which most stages need not.
"""

from collections import defaultdict
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

from effir.data.beir import CORPUS, Collection
from effir.errors import EffirError
from effir.files import require, state_dir, text_digest
from effir.params import Params
from stages.paths import BASE, CALIBRATION, EVAL, TRAIN


def check_settings(params: Params) -> None:
    """Refuse settings that a later stage would refuse, once for the same settings."""
    kept = state_dir("checked") / text_digest(params.model_dump_json())[:16]
    if not kept.exists():
        _check_names(params)
        if params.retriever.backend == "openvino" and find_spec("openvino") is None:
            raise EffirError(
                "retriever.backend is openvino, which is not installed: pip install openvino nncf, or torch"
            )
        kept.touch()


def check_files(stage: str, params: Params) -> None:
    """Refuse settings that do not fit the files on which ``stage`` depends: DVC has just brought them up to date."""
    if stage.startswith("baselines@"):
        _check_size(EVAL / stage.partition("@")[2], params.index.factory)
    if stage in ("teacher_scores", "finetune_full"):
        _check_batches(Collection(require(TRAIN)), params)
    if stage == "finetune_full":
        _check_model(params)


def _check_names(params: Params) -> None:
    """Refuse an index that faiss does not know, a set that nobody knows, and a source of no known form."""
    from effir.data.catalog import EVALUATION, TRAINING, source_of
    from effir.data.sources import parse_source
    from effir.index.factory import check_factory

    check_factory(params.index.factory)

    data, known = params.data, params.data.collections
    train = [data.train] if isinstance(data.train, str) else list(data.train)
    sets = [(name, TRAINING) for name in train] + [(name, EVALUATION) for name in (data.dev, *data.eval)]
    sources = [source_of(name, data.mirror, known) for name, embedded in sets if name not in embedded]
    texts = [known.get(data.calibration, data.calibration)] if data.calibration != "train" else []
    teacher = [params.training.teacher] if params.training.teacher else []
    for source in (params.model.base, *sources, *texts, *teacher):
        parse_source(source)
    for name, source in params.evaluate.baselines.items():
        _check_baseline(name, source)


def _check_baseline(name: str, source: str) -> None:
    """Refuse an encoder of no known form of source, or of a path at which there is nothing."""
    from effir.data.sources import fetch, parse_source
    from stages.baseline_encoders import naming

    with naming(name):
        if parse_source(source).kind == "path":
            fetch(source, state_dir("downloads"))


def _check_size(folder: Path, factory: str) -> None:
    """Refuse an index that needs more vectors for its training than the corpus has documents."""
    from effir.index.factory import vectors_needed

    wanted = vectors_needed(factory)
    with require(folder / CORPUS).open("rb") as lines:
        count = sum(1 for _ in islice(filter(bytes.strip, lines), wanted))
    if count < wanted:
        few = f"index.factory {factory!r} needs {wanted:,} documents to train on, and {folder.name} has {count:,}"
        raise EffirError(f"{few}: use fewer clusters, or Flat")


def _check_batches(train: Collection, params: Params) -> None:
    """Refuse a training whose batches the collection cannot fill: a batch holds each query and each answer once."""
    from effir.data.examples import MIXTURE, highest

    training, batch = _largest_batch(params)
    mixed = (train.folder / MIXTURE).exists()
    different: dict[tuple[str, str], set[str]] = defaultdict(set)
    for query, grades in train.qrels("train").items():
        of = f" of {query.partition('/')[0]}" if mixed else ""  # a batch comes from one part of a mixture
        different["queries", of].add(query)
        different["answers", of].update(highest(grades))
    for (kind, of), found in different.items():
        if len(found) < batch:
            few = f"{training}.batch_size is {batch}, but data.train has {len(found)} different {kind}{of}"
            raise EffirError(f"{few}: lower it, or add {kind}")


def _largest_batch(params: Params) -> tuple[str, int]:
    """Return the training with the largest batches among those that run, and their size; 0 if none runs."""
    runs = {
        "finetune_full": True,
        "distill": params.prune.depth > 0,
        "prune": params.prune.method == "slimming" and params.prune.width < 1,
        "finetune": True,
    }
    sections = {name: getattr(params, name) for name, does_run in runs.items() if does_run}
    sizes = {name: section.batch_size if section.steps else 0 for name, section in sections.items()}
    return max(sizes.items(), key=lambda each: each[1])


def _check_model(params: Params) -> None:
    """Refuse a depth beyond the base model's, too few calibration texts, an index for other vectors."""
    from effir.compress.drop_order import KINDS
    from effir.data.calibration import load_calibration
    from effir.index.factory import new_index
    from effir.model.shape import shape_of

    shape, analyze, depth = shape_of(require(BASE)), params.analyze, params.prune.depth
    load_calibration(require(CALIBRATION), analyze.texts)
    new_index(shape.cost.final_norm, params.index.factory)
    kinds = KINDS[analyze.sublayer]
    there = sum(len(shape.having(kind)) for kind in kinds)
    ranked = round(analyze.drop_share * there) if analyze.criterion == "greedy" else there
    if depth > ranked:
        fix = ", or raise analyze.drop_share" if ranked < there else ""
        raise EffirError(f"prune.depth is {depth}, but {ranked} sublayers are ranked: choose 0 to {ranked}{fix}")
    if depth == there and analyze.sublayer in ("block", "attention_or_mlp"):
        raise EffirError(f"prune.depth is {depth}, which leaves neither attention nor MLP: choose less")
