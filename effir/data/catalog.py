"""Which name of ``data.train`` and ``data.eval`` means which collection, and which of its splits."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from effir.data.apidocs import Part, install_apidocs
from effir.data.beir import Collection, install_collection
from effir.data.examples import write_negatives
from effir.data.mixture import mix
from effir.errors import EffirError

TRAINING: Mapping[str, Part] = {"apidocs": "train", "apidocs-small": "small-train"}
EVALUATION: Mapping[str, Part] = {"apidocs": "test", "apidocs-dev": "dev", "apidocs-small": "small-dev"}


def install_training(
    wanted: str | Mapping[str, float],
    into: Path,
    *,
    negatives: int,
    mirror: str,
    collections: Mapping[str, str],
    cache: Path,
) -> Collection:
    """Bring the training collection, or mix several by weight, and mine ``negatives`` hard negatives for each query."""

    def bring(name: str, folder: Path) -> Collection:
        if name in TRAINING:
            return install_apidocs(TRAINING[name], folder, cache)
        return install_collection(name, folder, mirror=mirror, collections=collections, cache=cache)

    if isinstance(wanted, str):
        collection = bring(wanted, into)
    else:
        parts = cache / "parts"  # a killed run's are removed by the next
        shutil.rmtree(parts, ignore_errors=True)
        collection = mix({name: bring(name, parts / name) for name in wanted}, wanted, into)
        shutil.rmtree(parts)
    if "train" not in collection.splits:
        raise EffirError(
            f"data.train: {wanted} has no train split, only {', '.join(collection.splits)}: name another set"
        )
    write_negatives(collection, "train", negatives)
    return collection


def install_evaluation(
    name: str, into: Path, *, mirror: str, collections: Mapping[str, str], cache: Path
) -> Collection:
    """Bring one set to evaluate on."""
    if name in EVALUATION:
        return install_apidocs(EVALUATION[name], into, cache)
    return install_collection(name, into, mirror=mirror, collections=collections, cache=cache)
