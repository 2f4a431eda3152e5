"""Read the variants that DVC keeps in git: the working tree, an experiment, a commit."""

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
from effir.lab.pipeline import stage_that_makes
from effir.params import PARAMS, Scalar, flatten, same_text

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
    """List the DVC experiments of all commits by name; empty outside a git repository."""
    lines = _git("for-each-ref", "--format=%(objectname) %(refname)", "refs/exps") or ""
    found = filter(None, map(_EXPERIMENT.fullmatch, lines.splitlines()))
    return sorted((Experiment(m["name"], m["commit"], m["a"] + m["b"]) for m in found), key=lambda one: one.name)


def experiments_of_head() -> list[Experiment]:
    """List the DVC experiments that started from the current commit."""
    head = commit_of("HEAD")
    return [one for one in experiments() if one.baseline == head]


def experiment_named(name: str) -> Experiment | None:
    """Find an experiment. Of several with one name the current commit's is meant; EffirError if it has none."""
    found = [one for one in experiments() if one.name == name]
    ours = [one for one in found if one.baseline == commit_of("HEAD")] if len(found) > 1 else found
    if found and not ours:
        listed = ", ".join(f"git:{one.commit[:10]} (from {one.baseline[:7]})" for one in found)
        raise EffirError(f"{len(found)} commits have an experiment {name!r}: name one of {listed}")
    return ours[0] if ours else None


def commit_of(revision: str) -> str | None:
    """Resolve a branch, tag or commit to a full commit id; None for other names, or outside a git repository."""
    found = _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    return found.strip() if found else None


def read_workspace() -> Variant:
    """Read the working tree; EffirError names the stage that makes a missing file."""
    return _read(_Tree("workspace", None), "the working tree")


def read_experiment(experiment: Experiment, name: str | None = None) -> Variant:
    """Read a DVC experiment, shown as ``name``; EffirError if it has no metrics."""
    source = f"commit {experiment.commit}, DVC experiment {experiment.name}"
    return _read(_Tree(name or experiment.name, experiment.commit), source)


def read_commit(commit: str, name: str) -> Variant:
    """Read a commit, shown as ``name``; EffirError if it has no metrics."""
    return _read(_Tree(name, commit), f"commit {commit}")


@dataclass(frozen=True)
class _Tree:
    """The files of a commit, or of the working tree if ``commit`` is None."""

    name: str
    commit: str | None

    def text(self, path: str | Path) -> str | None:
        if self.commit is not None:
            return _git("cat-file", "blob", f"{self.commit}:./{path}")
        return Path(path).read_text(encoding="utf-8") if Path(path).is_file() else None

    def json(self, path: str) -> Any:
        text, stage = self.text(path), stage_that_makes(Path(path))
        command = f"run `dvc repro {stage}`" if stage else "run `dvc repro`"
        if text is None and self.commit is None:
            raise EffirError(f"{path} is missing: {command}")
        if text is None:
            raise EffirError(f"{self.name} has no {path}: check it out, {command} and commit the file")
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            raise EffirError(f"{path} of {self.name} is not JSON ({error}): {command}") from None

    def kept(self, path: str) -> Any:
        """Parse JSON; None if the file was not kept."""
        return None if self.text(path) is None else self.json(path)

    def yaml(self, path: str | Path) -> dict[str, Any]:
        """Parse a mapping; empty if the file is missing."""
        try:
            value = yaml.load(self.text(path) or "{}", _LOADER)
        except yaml.YAMLError as error:
            said = " ".join(str(error).split())
            raise EffirError(f"{path} of {self.name} is not YAML ({said}): name another revision") from None
        return value if isinstance(value, dict) else {}


def _read(tree: _Tree, source: str) -> Variant:
    params = tree.yaml(PARAMS)
    sets, flat = _sets(params, tree.name), flatten(params)
    locked = tree.yaml("dvc.lock").get("stages") or {}  # DVC keeps the stages of removed sets there
    stages = [stage for key, stage in locked.items() if key.partition("@")[2] in ("", *sets)]
    hashes = {out["path"]: out.get("md5", "") for stage in stages for out in stage.get("outs", [])}
    scores = {name: tree.kept(f"reports/{name}-queries.json") or {} for name in sets}
    losses = {stage: tree.kept(f"reports/{stage}_loss.json") for stage in TRAINED}
    return Variant(
        name=tree.name,
        params=flat,
        quality={name: tree.json(f"metrics/{name}.json") for name in sets},
        scores={name: {query: row["ndcg_at_10"] for query, row in rows.items()} for name, rows in scores.items()},
        cost=tree.json("metrics/cost.json"),
        data={name: hashes.get(f"data/eval/{name}", "") for name in sets},
        layers=_layers(tree, flat),
        losses={stage: [(row["step"], row["loss"]) for row in rows] for stage, rows in losses.items() if rows},
        source=source,
        notes=tuple(_outdated(tree.name, flat, stages)),
    )


def _sets(params: Mapping[str, Any], name: str) -> list[str]:
    """Name the configured sets. The folder metrics may hold more: those of sets that were removed."""
    sets = data.get("eval") if isinstance(data := params.get("data"), dict) else None
    if not isinstance(sets, list) or not sets:
        raise EffirError(f"{name} has no {PARAMS} with data.eval: name a revision with metrics of this pipeline")
    return [str(one) for one in sets]


def _layers(tree: _Tree, params: Mapping[str, Scalar]) -> dict[str, Any]:
    """Read the dropped sublayers and the widths; empty for a revision that did not keep them."""
    order = tree.kept("reports/drop_order.json")
    if order is None:
        return {}
    dropped = [[each["sublayer"], each["layer"]] for each in order[: int(params.get("prune.depth", 0))]]
    return {"dropped": dropped, "widths": tree.json("reports/slimming.json")["widths"]}


def _outdated(name: str, params: Mapping[str, Scalar], stages: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield a note if the params are not those in dvc.lock, which made the metrics."""
    made = [flatten(stage.get("params", {}).get(str(PARAMS), {})) for stage in stages]
    changed = {
        f"{key} {params[key]} (made with {value})": None
        for locked in made
        for key, value in locked.items()
        if key in params and same_text(params[key]) != same_text(value)
    }
    if changed:
        yield f"the metrics of {name} are older than its params, {', '.join(changed)}: run `dvc repro`"


def _git(*arguments: str) -> str | None:
    """Run git here; None if it fails or is not installed."""
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.decode("utf-8", errors="replace")
