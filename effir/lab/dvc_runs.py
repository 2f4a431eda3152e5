"""Variants that DVC keeps in git: the working tree, an experiment by its name, a commit."""

import json
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from effir.errors import EffirError
from effir.evaluation.variant import Variant
from effir.params import PARAMS, Scalar, flatten, same_text

LOCK = "dvc.lock"
TRAINED = ("finetune_full", "distill", "finetune")
# libyaml's loader where PyYAML was built with it: dvc.lock has thousands of lines.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_EXPERIMENT = re.compile(r"(?P<commit>[0-9a-f]{40}) refs/exps/(?P<a>[0-9a-f]{2})/(?P<b>[0-9a-f]{38})/(?P<name>[^/]+)")


@dataclass(frozen=True)
class Experiment:
    """A DVC experiment: its name, its commit, and the commit that it started from."""

    name: str
    commit: str
    baseline: str


def experiments() -> list[Experiment]:
    """List the DVC experiments of every baseline, by name; none outside a git repository."""
    lines = _git("for-each-ref", "--format=%(objectname) %(refname)", "refs/exps") or ""
    found = filter(None, map(_EXPERIMENT.fullmatch, lines.splitlines()))
    return sorted((Experiment(m["name"], m["commit"], m["a"] + m["b"]) for m in found), key=lambda one: one.name)


def experiments_of_head() -> list[Experiment]:
    """List the DVC experiments that started from the current commit."""
    head = commit_of("HEAD")
    return [one for one in experiments() if one.baseline == head]


def experiment_named(name: str) -> Experiment | None:
    """Find an experiment as DVC does: of several with one name, the current commit's; EffirError where none is."""
    found = [one for one in experiments() if one.name == name]
    if len(found) > 1:
        ours = [one for one in found if one.baseline == commit_of("HEAD")]
        if not ours:
            listed = ", ".join(f"git:{one.commit[:10]} (from {one.baseline[:7]})" for one in found)
            raise EffirError(f"{len(found)} commits have an experiment {name!r}: name one of {listed}")
        found = ours
    return found[0] if found else None


def commit_of(revision: str) -> str | None:
    """Resolve a branch, tag or commit to a full commit id; None where it is none, or outside a git repository."""
    found = _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    return found.strip() if found else None


def read_workspace() -> Variant:
    """Read the figures of the working tree; EffirError names the stage that makes what is missing."""
    return _read(_Tree("workspace", None), "the working tree")


def read_experiment(experiment: Experiment, name: str | None = None) -> Variant:
    """Read the figures of a DVC experiment, shown as ``name``; EffirError where it has none."""
    source = f"commit {experiment.commit}, DVC experiment {experiment.name}"
    return _read(_Tree(name or experiment.name, experiment.commit), source)


def read_commit(commit: str, name: str) -> Variant:
    """Read the figures of a commit, shown as ``name``; EffirError where it has none."""
    return _read(_Tree(name, commit), f"commit {commit}")


@dataclass(frozen=True)
class _Tree:
    """The files of a commit, or of the working tree where ``commit`` is None."""

    name: str
    commit: str | None

    def text(self, path: str) -> str | None:
        if self.commit is None:
            file = Path(path)
            return file.read_text(encoding="utf-8") if file.is_file() else None
        return _git("cat-file", "blob", f"{self.commit}:./{path}")

    def json(self, path: str, made_by: str) -> Any:
        text = self.text(path)
        if text is None and self.commit is None:
            raise EffirError(f"{path} is missing: run `dvc repro {made_by}`")
        if text is None:
            raise EffirError(f"{self.name} has no {path}: check it out, run `dvc repro {made_by}` and commit the file")
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            raise EffirError(f"{path} of {self.name} is not JSON ({error}): run `dvc repro {made_by}`") from None

    def yaml(self, path: str) -> dict[str, Any]:
        """Parse a mapping; empty where there is none."""
        try:
            value = yaml.load(self.text(path) or "{}", _LOADER)
        except yaml.YAMLError as error:
            said = " ".join(str(error).split())
            raise EffirError(f"{path} of {self.name} is not YAML ({said}): name another revision") from None
        return value if isinstance(value, dict) else {}


def _read(tree: _Tree, source: str) -> Variant:
    params, lock = tree.yaml(str(PARAMS)), tree.yaml(LOCK)
    sets, flat = _sets(params, tree.name), flatten(params)
    stages = _stages(lock, sets)
    hashes = {out["path"]: out.get("md5", "") for stage in stages.values() for out in stage.get("outs", [])}
    return Variant(
        name=tree.name,
        params=flat,
        quality={name: tree.json(f"metrics/{name}.json", made_by=f"evaluate@{name}") for name in sets},
        scores={name: _scores(tree, name) for name in sets},
        cost=tree.json("metrics/cost.json", made_by="measure_cost"),
        data={name: hashes.get(f"data/eval/{name}", "") for name in sets},
        layers=_layers(tree, flat),
        losses=_losses(tree),
        source=source,
        notes=tuple(_outdated(tree.name, flat, stages)),
    )


def _sets(params: Mapping[str, Any], name: str) -> list[str]:
    """Name the configured sets, never what happens to lie in metrics: removed sets stay there."""
    data = params.get("data")
    sets = data.get("eval") if isinstance(data, dict) else None
    if not isinstance(sets, list) or not sets:
        raise EffirError(
            f"{name} has no {PARAMS} that names data.eval: choose a revision with figures of this pipeline"
        )
    return [str(one) for one in sets]


def _scores(tree: _Tree, name: str) -> dict[str, float]:
    path = f"reports/{name}-queries.json"
    if tree.text(path) is None:  # of a revision from before they were kept
        return {}
    return {query: row["ndcg_at_10"] for query, row in tree.json(path, made_by=f"evaluate@{name}").items()}


def _layers(tree: _Tree, params: Mapping[str, Scalar]) -> dict[str, Any]:
    """Read what was cut where; empty for a revision from before the order of drops was kept."""
    if tree.text("reports/drop_order.json") is None:
        return {}
    order = tree.json("reports/drop_order.json", made_by="analyze")[: int(params.get("prune.depth", 0))]
    widths = tree.json("reports/slimming.json", made_by="prune_width")["widths"]
    return {"dropped": [[each["sublayer"], each["layer"]] for each in order], "widths": widths}


def _losses(tree: _Tree) -> dict[str, list[tuple[int, float]]]:
    """Read how the loss of each training fell; without those that had no step, or of whose revision it was not kept."""
    paths = {stage: f"reports/{stage}_loss.json" for stage in TRAINED}
    kept = {stage: tree.json(path, made_by=stage) for stage, path in paths.items() if tree.text(path) is not None}
    return {stage: [(each["step"], each["loss"]) for each in logged] for stage, logged in kept.items() if logged}


def _stages(lock: Mapping[str, Any], sets: Sequence[str]) -> dict[str, Any]:
    """Leave out the stages of sets that are no longer configured: dvc.lock keeps them."""
    stages = lock.get("stages") or {}
    return {key: stage for key, stage in stages.items() if key.partition("@")[2] in ("", *sets)}


def _outdated(name: str, params: Mapping[str, Scalar], stages: Mapping[str, Any]) -> Iterator[str]:
    """Say where the params are no longer those that made the figures, which dvc.lock keeps."""
    locked = [flatten(stage.get("params", {}).get(str(PARAMS), {})) for stage in stages.values()]
    changed = {
        f"{key} {params[key]} (made with {value})": None
        for made_with in locked
        for key, value in made_with.items()
        if key in params and same_text(params[key]) != same_text(value)
    }
    if changed:
        yield f"the figures of {name} are older than its params, {', '.join(changed)}: run `dvc repro`"


def _git(*arguments: str) -> str | None:
    """Run git here; None where it fails, or is not installed."""
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.decode("utf-8", errors="replace")
