"""Which version serves: `champion`, its challenger, and the way back. The rules are plain numbers in, reasons out."""

from collections.abc import Mapping
from dataclasses import dataclass

from effir.errors import EffirError
from effir.evaluation.significance import SIGNIFICANT, PairedTest, holm, paired_test
from effir.evaluation.variant import Variant
from effir.tracking.registry import CHAMPION, PREVIOUS
from effir.tracking.run_metrics import read_run
from effir.tracking.store import Store, StoreError, open_store, reaching
from effir.tracking.versions import aliases_of, number_of

FORCED = "effir.promoted_by_force"


@dataclass(frozen=True)
class PromotionRules:
    """Limits: ``max_drop`` in points of nDCG@10 (0 to 1) below the champion, on each set."""

    max_drop: float
    min_speedup: float
    max_kept_share: float


@dataclass(frozen=True)
class Promotion:
    """What happened: ``version`` serves now unless ``reasons`` refused it; ``previous`` served before."""

    version: int
    previous: int | None
    reasons: list[str]
    promoted: bool


@reaching()
def promote(name: str, which: str, rules: PromotionRules, force_reason: str | None = None) -> Promotion:
    """Make version ``which`` of model ``name``, a number or an alias, the champion if ``rules`` allow it.

    With ``force_reason`` it becomes champion in any case, and keeps the reason as a tag. The old champion becomes
    ``previous``. If someone else changes the champion meanwhile, that is said in the reasons. EffirError if there is
    no such version, or it is the champion already.
    """
    store = open_store()
    version, champion = number_of(store, name, which), aliases_of(store, name).get(CHAMPION)
    if version == champion:
        raise EffirError(f"version {version} of {name} is the champion already: register another one to promote")
    opponent = None if champion is None else _candidate(store, name, champion)
    reasons = refusals(_candidate(store, name, version), opponent, rules)
    if reasons and force_reason is None:
        return Promotion(version, champion, reasons, promoted=False)
    if (now := aliases_of(store, name).get(CHAMPION)) != champion:
        return _overtaken(version, now)
    if force_reason is not None:
        store.client.set_model_version_tag(name, str(version), FORCED, force_reason)
    if champion is not None:  # first: a kill in between must not lose which version served before
        store.client.set_registered_model_alias(name, PREVIOUS, str(champion))
    store.client.set_registered_model_alias(name, CHAMPION, str(version))
    return _checked(store, name, Promotion(version, champion, reasons, promoted=True))


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


def refusals(challenger: Variant, champion: Variant | None, rules: PromotionRules) -> list[str]:
    """Name each reason not to promote ``challenger``, a sentence each; an empty list if it may pass.

    The variants are named by the numbers of their versions.

    A set counts against it if it loses more than ``rules.max_drop`` to the champion, significantly at 5 % by a paired
    test over queries, corrected for the number of sets (Holm, 1979). Without a champion only the limits count.
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
    tests = {name: _drop(challenger.scores[name], champion.scores[name], rules.max_drop) for name in comparable}
    for name, p in holm({name: test.p for name, test in tests.items()}).items():
        beyond = tests[name].difference
        if beyond < 0 and p <= SIGNIFICANT:
            found.append(
                f"{name}: nDCG@10 is {rules.max_drop - beyond:.3f} below version {champion.name}'s, "
                f"significantly more than register.max_drop = {rules.max_drop:g} "
                f"(p = {p:.2g}, {tests[name].queries} queries)"
            )
    return found


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


def _drop(challenger: Mapping[str, float], champion: Mapping[str, float], allowed: float) -> PairedTest:
    """Test whether the challenger, raised by the allowed loss, still differs from the champion."""
    return paired_test({query: score + allowed for query, score in challenger.items()}, champion)
