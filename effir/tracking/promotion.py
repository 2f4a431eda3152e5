"""Which version serves: `champion`, its challenger, and the way back."""

from collections.abc import Mapping
from dataclasses import dataclass

from effir.errors import EffirError
from effir.tracking import Store, is_loss, open_store, reaching
from effir.tracking.claim import claimed
from effir.tracking.figures import read_recorded
from effir.tracking.gate import Candidate, Gate, refusals
from effir.tracking.registry import CHAMPION, PREVIOUS
from effir.tracking.runs import known_run

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
    """A registered version: its aliases, tags, and the metrics of the pipeline run that made it, if it is there."""

    version: int
    aliases: list[str]
    tags: dict[str, str]
    metrics: dict[str, float]


@reaching()
def promote(name: str, which: str, gate: Gate, force_reason: str | None = None) -> Promotion:
    """Let version ``which`` of model ``name``, a number or an alias, be champion if the gate has nothing against it.

    With ``force_reason`` it is in any case, and keeps the reason as a tag. The old champion becomes ``previous``. Of
    two promotions at once, from whatever machine, the later one is refused: it was judged against a champion that is
    none any more. EffirError where there is no such version, or it is champion already.
    """
    store = open_store()
    aliases = _aliases(store, name)
    version, champion = _number(store, name, which, aliases), aliases.get(CHAMPION)
    if version == champion:
        raise EffirError(f"version {version} of {name} is the champion already: register another one to promote")
    opponent = None if champion is None else _candidate(store, name, champion)
    reasons = refusals(_candidate(store, name, version), opponent, gate)
    if reasons and force_reason is None:
        return Promotion(version, champion, reasons, promoted=False)
    with claimed(store, name) as still_held:
        now = _aliases(store, name).get(CHAMPION)
        if now != champion or not still_held():
            return Promotion(version, now, [_overtaken(now)], promoted=False)
        if force_reason is not None:
            store.client.set_model_version_tag(name, str(version), FORCED, force_reason)
        store.client.set_registered_model_alias(name, CHAMPION, str(version))
        if champion is not None:
            store.client.set_registered_model_alias(name, PREVIOUS, str(champion))
        return Promotion(version, champion, reasons, promoted=True)


@reaching()
def rollback(name: str) -> Promotion:
    """Give ``previous`` its place as champion back, and take its alias away; EffirError where there is none.

    It is refused where another promotion or rollback was quicker.
    """
    store = open_store()
    before = _aliases(store, name)
    if PREVIOUS not in before:
        raise EffirError(f"{name} has no version with the alias {PREVIOUS!r}: there is nothing to roll back to")
    version, champion = before[PREVIOUS], before.get(CHAMPION)
    with claimed(store, name) as still_held:
        now = _aliases(store, name)
        if any(now.get(alias) != before.get(alias) for alias in (CHAMPION, PREVIOUS)) or not still_held():
            return Promotion(version, now.get(CHAMPION), [_overtaken(now.get(CHAMPION))], promoted=False)
        store.client.set_registered_model_alias(name, CHAMPION, str(version))
        store.client.delete_registered_model_alias(name, PREVIOUS)
        return Promotion(version, champion, [], promoted=True)


@reaching()
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
            _metrics(store, version.run_id),
        )
        for version in store.client.search_model_versions(f"name = '{name}'")
    ]
    return sorted(found, key=lambda version: -version.version)


def _metrics(store: Store, run_id: str | None) -> dict[str, float]:
    """Return the metrics of a version's run; none where it was registered without one, or the run is gone."""
    run = known_run(store, run_id) if run_id else None
    return dict(run.data.metrics) if run else {}


def version_named(store: Store, name: str, which: str) -> int:
    """Return the number of the version that a number or an alias means; EffirError where there is none."""
    return _number(store, name, which, _aliases(store, name))


def _number(store: Store, name: str, which: str, aliases: Mapping[str, int]) -> int:
    """Return the number of the version that a number or an alias means; EffirError where there is none."""
    if which in aliases:
        return aliases[which]
    if not which.isdecimal():
        raise EffirError(f"{name} has no version with the alias {which!r}: run `dvc repro` to register one")
    if not store.client.search_model_versions(f"name = '{name}' and version_number = {int(which)}"):
        raise EffirError(f"{name} has no version {which}: `effir models` lists them")
    return int(which)


def _overtaken(champion: int | None) -> str:
    now = "no version is champion any more" if champion is None else f"version {champion} became champion meanwhile"
    return f"{now}: look at `effir models`, then try again"


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
        if is_loss(error):
            raise
        raise EffirError(
            f"version {version} of {name} lacks figures that the gate needs ({str(error).splitlines()[0]}): "
            "run `dvc repro` to register one with them"
        ) from None


def _read_candidate(store: Store, name: str, version: int) -> Candidate:
    run_id = store.client.get_model_version(name, str(version)).run_id
    if not run_id:
        raise KeyError("it was registered without a run")
    found = read_recorded(store, run_id)
    for set_ in found.sets:
        if set_ not in found.scores:
            raise FileNotFoundError(f"its run keeps no reports/{set_}-queries.json")
    return Candidate(
        version=version,
        scores={set_: found.scores[set_] for set_ in found.sets},
        data={set_: found.data[set_] for set_ in found.sets},
        speedup=found.figures["cost"]["document_speedup"],
        kept_share=found.figures["cost"]["kept_share"],
    )
