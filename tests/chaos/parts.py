"""The parts of the harness by name: each yields the trials that were not made yet."""

import importlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from tests.chaos.commands import Add, Build, Delete, Export, Promote, Rollback
from tests.chaos.pipeline import killed, two_experiments
from tests.chaos.scenario import Scenario, Trial, trials
from tests.chaos.stages import ORDER, stage_scenarios
from tests.chaos.surroundings import disk_scenarios, full_disk, killed_service, lost_server, twins
from tests.serve.conftest import tiny_retriever

Done = Mapping[str, set[int]]
Part = Callable[[Path, int, int, Done], Iterator[Trial]]


def preload() -> None:
    """Import what the commands import, so that a fork begins with its work: most seconds of a command are imports."""
    names = """datasets faiss mlflow.entities mlflow.pyfunc mlflow.store.tracking.sqlalchemy_store openvino peft
    sentence_transformers sqlalchemy torch transformers.trainer effir.data.catalog effir.encoding.openvino
    effir.export.openvino_graph effir.serve.documents effir.serve.texts effir.tracking.promotion
    effir.tracking.versions effir.training.trainer""".split()
    for name in [*names, *(f"stages.{stage}" for stage in ORDER)]:
        importlib.import_module(name)


def model_in(work: Path) -> Path:
    """Make the tiny retriever once."""
    if not (work / "model/retriever/modules.json").exists():
        tiny_retriever(work / "model", query_prompt="w60 ")
    return work / "model/retriever"


def run_all(scenarios: Iterable[Scenario], work: Path, seed: int, count: int, done: Done) -> Iterator[Trial]:
    """Run ``count`` trials of each scenario."""
    for scenario in scenarios:
        yield from trials(scenario, work, seed, count, done.get(scenario.name, set()))


def index(work: Path, seed: int, count: int, done: Done) -> Iterator[Trial]:
    """Kill `effir index build`, `add` and `delete`."""
    model = model_in(work)
    yield from run_all([Build(model), Add(model), Delete(model)], work, seed, count, done)


def promote(work: Path, seed: int, count: int, done: Done) -> Iterator[Trial]:
    """Kill `effir promote` and `rollback`."""
    yield from run_all([Promote(work), Rollback(work)], work, seed, count, done)


def export(work: Path, seed: int, count: int, done: Done) -> Iterator[Trial]:
    """Kill `effir export`."""
    yield from run_all([Export(model_in(work))], work, seed, count, done)


def stages(work: Path, seed: int, count: int, done: Done) -> Iterator[Trial]:
    """Kill the programs of the stages; each gets a tenth of the trials, at least one."""
    yield from run_all(stage_scenarios(work), work, seed, max(1, count // 10), done)


def disk(work: Path, seed: int, count: int, done: Done) -> Iterator[Trial]:
    """Fill the disk under a command; skipped where a small disk cannot be mounted."""
    for scenario in disk_scenarios(model_in(work), work):
        own = done.get(f"full disk: {scenario.name}", set())
        try:
            yield from full_disk(scenario, work, seed, max(1, count // 10), own)
        except OSError as refused:
            print(f"full disk: {scenario.name} is skipped: {refused}", file=sys.stderr)


def server(work: Path, seed: int, count: int, done: Done) -> Iterator[Trial]:
    """Let the tracking server die under `effir promote`."""
    yield from lost_server(work, seed, max(1, count // 10), done.get("tracking server dies in promote", set()))


def serve(work: Path, seed: int, count: int, done: Done) -> Iterator[Trial]:
    """Kill `effir serve`."""
    yield from killed_service(model_in(work), work, seed, max(1, count // 10), done.get("serve", set()))


def twice(work: Path, seed: int, count: int, done: Done) -> Iterator[Trial]:
    """Run two equal trainings at once, and two pipelines."""
    yield from twins(work, seed, max(1, count // 20), done.get("two equal trainings at once", set()))
    yield from two_experiments(work, seed, max(1, count // 200), done.get("two pipelines at once", set()))


def pipeline(work: Path, seed: int, count: int, done: Done) -> Iterator[Trial]:
    """Kill `dvc repro`."""
    yield from killed(work, seed, count, done.get("dvc repro", set()))


def damage(work: Path, seed: int, count: int, done: Done) -> Iterator[Trial]:
    """Damage files, ten times as often as others are killed."""
    from tests.chaos.damage import damaged

    yield from damaged(work, seed, 10 * count, dict(done))


PARTS: dict[str, Part] = {
    "index": index,
    "promote": promote,
    "export": export,
    "stages": stages,
    "disk": disk,
    "server": server,
    "serve": serve,
    "damage": damage,
    "twice": twice,
    "pipeline": pipeline,
}
