"""Which version serves: `champion`, its challenger, and the way back. The rules are plain numbers in, reasons out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from effir.errors import EffirError
from effir.evaluation.significance import LEAST_QUERIES, NonInferiority, non_inferiority
from effir.evaluation.variant import Variant
from effir.tracking.registry import CHAMPION, PREVIOUS
from effir.tracking.run_metrics import read_run
from effir.tracking.runs import known_run
from effir.tracking.store import Store, StoreError, open_store, reaching
from effir.tracking.versions import aliases_of, number_of

FORCED = "effir.promoted_by_force"
SEED = "training.seed"
ELSEWHERE = (SEED, "register.", "cost.")  # params that do not change the recipe of a model


@dataclass(frozen=True)
class PromotionRules:
    """Limits: ``max_drop`` in points of nDCG@10 (0 to 1) below the champion, on each set."""

    max_drop: float
    min_speedup: float
    max_kept_share: float


@dataclass(frozen=True)
class Promotion:
    """What happened: ``version`` serves now unless ``reasons`` refused it; ``previous`` served before.

    ``notes`` say what the comparison does not cover.
    """

    version: int
    previous: int | None
    reasons: list[str]
    promoted: bool
    notes: list[str] = field(default_factory=list)


@reaching()
def promote(
    name: str, which: str, rules: PromotionRules, force_reason: str | None = None, *, seeds: bool = False
) -> Promotion:
    """Make version ``which`` of model ``name``, a number or an alias, the champion if ``rules`` allow it.

    With ``seeds`` each side's score of a query is the mean over the registered versions of its recipe, which differ in
    ``training.seed``. With ``force_reason`` it becomes champion in any case, and keeps the reason as a tag. The old
    champion becomes ``previous``. If someone else changes the champion meanwhile, that is said in the reasons.
    EffirError if there is no such version, or it is the champion already, or no other seed for ``seeds``.
    """
    store = open_store()
    version, champion = number_of(store, name, which), aliases_of(store, name).get(CHAMPION)
    if version == champion:
        raise EffirError(f"version {version} of {name} is the champion already: register another one to promote")
    read = _seeds_of if seeds else _alone
    ours, theirs = read(store, name, version), [] if champion is None else read(store, name, champion)
    reasons = refusals(_joined(ours), _joined(theirs) if theirs else None, rules)
    notes = _notes(ours, theirs, seeds)
    if reasons and force_reason is None:
        return Promotion(version, champion, reasons, promoted=False, notes=notes)
    if (now := aliases_of(store, name).get(CHAMPION)) != champion:
        return _overtaken(version, now)
    if force_reason is not None:
        store.client.set_model_version_tag(name, str(version), FORCED, force_reason)
    if champion is not None:  # first: a kill in between must not lose which version served before
        store.client.set_registered_model_alias(name, PREVIOUS, str(champion))
    store.client.set_registered_model_alias(name, CHAMPION, str(version))
    return _checked(store, name, Promotion(version, champion, reasons, promoted=True, notes=notes))


@reaching()
def rollback(name: str) -> Promotion:
    """Make ``previous`` the champion again and remove its alias, as :func:`promote` does; EffirError: there is none."""
    store = open_store()
    aliases = aliases_of(store, name)
    if PREVIOUS not in aliases:
        raise EffirError(f"{name} has no version with the alias {PREVIOUS!r}: there is nothing to roll back to")
    version = aliases[PREVIOUS]
    store.client.set_registered_model_alias(name, CHAMPION, str(version))
    store.client.delete_registered_model_alias(name, PREVIOUS)
    return _checked(store, name, Promotion(version, aliases.get(CHAMPION), [], promoted=True))


def _checked(store: Store, name: str, done: Promotion) -> Promotion:
    """Read the champion again: MLflow has no lock, and of two promotions at once the later one holds."""
    now = aliases_of(store, name).get(CHAMPION)
    return done if now == done.version else _overtaken(done.version, now)


def _overtaken(version: int, now: int | None) -> Promotion:
    what = "no version is champion any more" if now is None else f"version {now} became champion meanwhile"
    return Promotion(version, now, [f"{what}: look at `effir models`, then try again"], promoted=False)


def _candidate(store: Store, name: str, version: int) -> Variant:
    """Read what the rules look at from the version's pipeline run; EffirError if that lacks some of it."""
    run_id = store.client.get_model_version(name, str(version)).run_id
    try:
        if not run_id:
            raise EffirError("it was registered without a run")
        found = read_run(run_id, str(version))
        lacking = [f"cost/{key}" for key in ("document_speedup", "kept_share") if key not in found.cost]
        lacking += [f"reports/{set_}-queries.json" for set_ in found.quality if not found.scores.get(set_)]
        lacking += [f"the hash of data/eval/{set_}" for set_ in found.quality if set_ not in found.data]
        if lacking:
            raise EffirError(f"its run keeps no {lacking[0]}")
    except StoreError:
        raise
    except EffirError as error:
        raise EffirError(
            f"version {version} of {name} lacks metrics that the promotion rules need ({error}): "
            "register a version whose pipeline run is complete"
        ) from None
    return found


def _alone(store: Store, name: str, version: int) -> list[Variant]:
    return [_candidate(store, name, version)]


def _seeds_of(store: Store, name: str, version: int) -> list[Variant]:
    """Read a version, and one for each other seed of its recipe that was evaluated on the same data."""
    own = _candidate(store, name, version)
    found = {own.params.get(SEED): own}
    for other in store.client.search_model_versions(f"name = '{name}'"):
        run = known_run(store, other.run_id) if other.run_id else None
        seed = run.data.params.get(SEED) if run else None
        if run and seed not in found and _recipe(run.data.params) == _recipe(own.params):
            variant = _candidate(store, name, int(other.version))
            found |= {seed: variant} if variant.data == own.data else {}
    return list(found.values())


def _recipe(params: Mapping[str, object]) -> dict[str, str]:
    return {key: str(value) for key, value in params.items() if not key.startswith(ELSEWHERE)}


def _joined(seeds: Sequence[Variant]) -> Variant:
    """Return the first with the mean of each query's scores."""
    first, count = seeds[0], len(seeds)
    means = {
        name: {query: sum(one.scores[name][query] for one in seeds) / count for query in queries}
        for name, queries in first.scores.items()
    }
    return replace(first, scores=means)


def _notes(ours: Sequence[Variant], theirs: Sequence[Variant], seeds: bool) -> list[str]:
    """Say how many seeds were compared; EffirError if ``seeds`` were asked for and each side has one."""
    if not theirs:
        return []
    if not seeds:
        return [
            "one seed was compared with one seed, and another training.seed changes nDCG@10 too: run both recipes with "
            "other seeds, then promote with --seeds"
        ]
    names, counts = (ours[0].name, theirs[0].name), (len(ours), len(theirs))
    if max(counts) == 1:
        raise EffirError(
            f"versions {names[0]} and {names[1]} have no other seed registered: run their recipes with another "
            "training.seed first, or leave out --seeds"
        )
    return [f"means over seeds were compared: {counts[0]} of version {names[0]}, {counts[1]} of version {names[1]}"]


def refusals(challenger: Variant, champion: Variant | None, rules: PromotionRules) -> list[str]:
    """Name each reason not to promote ``challenger``, a sentence each; an empty list if it may pass.

    The variants are named by the numbers of their versions.

    A set counts for it only if it is shown that the loss to the champion is less than ``rules.max_drop``, at 95 %,
    corrected for the number of sets (:func:`non_inferiority`). Without a champion only the limits count.
    """
    found = _beyond_limits(challenger, rules)
    if champion is None:
        return found
    comparable = []
    for name in sorted(champion.scores):
        if name not in challenger.scores:
            found.append(f"{name}: version {challenger.name} was not evaluated on it, version {champion.name} was")
        elif challenger.data[name] != champion.data[name]:
            found.append(f"{name}: versions {challenger.name} and {champion.name} were evaluated on different data")
        else:
            comparable.append(name)
    for name in comparable:
        scores, theirs = challenger.scores[name], champion.scores[name]
        test = non_inferiority(scores, theirs, rules.max_drop, tests=len(comparable))
        if not test.shown:
            found.append(f"{name}: {_not_shown(test, champion.name)}")
    return found


def _not_shown(test: NonInferiority, champion: str) -> str:
    """Say why a set does not count for the challenger, and how many queries would."""
    limit, where = f"register.max_drop = {test.margin:g}", "below" if test.difference < 0 else "above"
    differs = f"nDCG@10 is {abs(test.difference):.3f} {where} version {champion}'s"
    differs = differs if test.difference else f"nDCG@10 is that of version {champion}"
    if test.needed is None:
        return f"{differs}, which is not less than {limit} ({test.queries} queries)"
    if test.queries < LEAST_QUERIES and test.needed == LEAST_QUERIES:
        return f"{differs}, but {test.queries} queries show nothing: evaluate on {LEAST_QUERIES} at least"
    return (
        f"{differs}, but {test.queries} queries do not show that the loss is less than {limit}: it may be "
        f"{-test.low:.3f} (95 %); about {test.needed:,} queries like these would show it, if the difference stays"
    )


def _beyond_limits(challenger: Variant, rules: PromotionRules) -> list[str]:
    found, speedup, kept = [], challenger.cost["document_speedup"], challenger.cost["kept_share"]
    if speedup < rules.min_speedup:
        found.append(
            f"it encodes documents {speedup:.2f} times as fast as the base model, "
            f"less than register.min_speedup = {rules.min_speedup:g}"
        )
    if kept > rules.max_kept_share:
        found.append(
            f"it keeps {kept:.1%} of the base model's non-embedding parameters, "
            f"more than register.max_kept_share = {rules.max_kept_share:g}"
        )
    return found
