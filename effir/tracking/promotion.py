"""Which version serves: `champion`, its challenger, and the way back."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effir.errors import EffirError
from effir.files import read_json
from effir.tracking import Store, open_store, store_lock
from effir.tracking.gate import Candidate, Gate, refusals

CHAMPION, PREVIOUS = "champion", "previous"
FORCED = "effir.promoted_by_force"


@dataclass(frozen=True)
class Promotion:
    """What happened: ``version`` serves now unless ``reasons`` refused it; ``previous`` served before."""

    version: int
    previous: int | None
    reasons: list[str]
    promoted: bool


@dataclass(frozen=True)
class ModelVersion:
    """A registered version: its aliases, tags, and the metrics of the pipeline run that made it."""

    version: int
    aliases: list[str]
    tags: dict[str, str]
    metrics: dict[str, float]


def promote(name: str, alias: str, gate: Gate, force_reason: str | None = None) -> Promotion:
    """Let the version with ``alias`` of model ``name`` take the champion's place if the gate has nothing against it.

    With ``force_reason`` it takes it in any case, and keeps the reason as a tag. The old champion becomes ``previous``.
    Two at once come one after the other. EffirError where there is no such version, or it is champion already.
    """
    store = open_store()
    with store_lock():
        aliases = _aliases(store, name)
        if alias not in aliases:
            raise EffirError(f"{name} has no version with the alias {alias!r}: run `dvc repro` to register one")
        version, champion = aliases[alias], aliases.get(CHAMPION)
        if version == champion:
            raise EffirError(f"version {version} of {name} is the champion already: register another one to promote")
        opponent = None if champion is None else _candidate(store, name, champion)
        reasons = refusals(_candidate(store, name, version), opponent, gate)
        if reasons and force_reason is None:
            return Promotion(version, champion, reasons, promoted=False)
        if force_reason is not None:
            store.client.set_model_version_tag(name, str(version), FORCED, force_reason)
        if champion is not None:
            store.client.set_registered_model_alias(name, PREVIOUS, str(champion))
        store.client.set_registered_model_alias(name, CHAMPION, str(version))
        return Promotion(version, champion, reasons, promoted=True)


def rollback(name: str) -> Promotion:
    """Give ``previous`` its place as champion back, and take its alias away; EffirError where there is none."""
    store = open_store()
    with store_lock():
        aliases = _aliases(store, name)
        if PREVIOUS not in aliases:
            raise EffirError(f"{name} has no version with the alias {PREVIOUS!r}: there is nothing to roll back to")
        store.client.set_registered_model_alias(name, CHAMPION, str(aliases[PREVIOUS]))
        store.client.delete_registered_model_alias(name, PREVIOUS)
        return Promotion(aliases[PREVIOUS], aliases.get(CHAMPION), [], promoted=True)


def model_versions(name: str) -> list[ModelVersion]:
    """List the versions of model ``name``, the newest first; none where it is not registered."""
    store = open_store()
    by_version: dict[int, list[str]] = {}
    for alias, version in (_aliases(store, name) if _known(store, name) else {}).items():
        by_version.setdefault(version, []).append(alias)
    found = [
        ModelVersion(
            int(version.version),
            sorted(by_version.get(int(version.version), [])),
            dict(version.tags),
            dict(store.client.get_run(version.run_id).data.metrics),
        )
        for version in store.client.search_model_versions(f"name = '{name}'")
    ]
    return sorted(found, key=lambda version: -version.version)


def _known(store: Store, name: str) -> bool:
    return bool(store.client.search_registered_models(f"name = '{name}'"))


def _aliases(store: Store, name: str) -> dict[str, int]:
    """Alias to version; EffirError where the model is not registered."""
    if not _known(store, name):
        raise EffirError(f"no model {name} is registered: run `dvc repro`, or mend register.name")
    return {alias: int(version) for alias, version in store.client.get_registered_model(name).aliases.items()}


def _candidate(store: Store, name: str, version: int) -> Candidate:
    """Read what the gate looks at from the version's pipeline run; EffirError where that has not all of it."""
    from mlflow.exceptions import MlflowException

    try:
        return _read_candidate(store, name, version)
    except (KeyError, OSError, MlflowException) as error:
        raise EffirError(
            f"version {version} of {name} lacks figures that the gate needs ({str(error).splitlines()[0]}): "
            "run `dvc repro` to register one with them"
        ) from None


def _read_candidate(store: Store, name: str, version: int) -> Candidate:
    run_id = store.client.get_model_version(name, str(version)).run_id
    metrics = store.client.get_run(run_id).data.metrics
    sets = sorted(key.removesuffix("/ndcg_at_10") for key in metrics if key.endswith("/ndcg_at_10"))
    with tempfile.TemporaryDirectory() as folder:
        hashes = _artifact(store, run_id, "dvc.lock.json", folder)
        scores = {set_: _artifact(store, run_id, f"reports/{set_}-queries.json", folder) for set_ in sets}
    return Candidate(
        version=version,
        scores={set_: {query: row["ndcg_at_10"] for query, row in rows.items()} for set_, rows in scores.items()},
        data={set_: hashes[f"data/eval/{set_}"] for set_ in sets},
        speedup=metrics["cost/document_speedup"],
        kept_share=metrics["cost/kept_share"],
    )


def _artifact(store: Store, run_id: str, path: str, folder: str) -> Any:
    return read_json(Path(store.client.download_artifacts(run_id, path, folder)), made_by="register")
