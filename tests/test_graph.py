"""What dvc.yaml, params.yaml, README.md and the code say of each other, held by reading them: no stage runs here."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

import stages.paths
from effir.lab.pipeline import stage_that_makes, stages_in_order

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
CHECKS = "stages/preflight.py"  # decides nothing that is written, and so does nothing that it imports
# What no artifact depends on: names of files, the checking of params, errors, atomic writes, threads, MLflow.
PLUMBING = {
    "effir/cpu/threads.py",
    "effir/errors.py",
    "effir/files.py",
    "effir/lab/pipeline.py",
    "effir/lab/progress.py",
    "effir/params.py",
    "effir/process.py",
    "effir/progress.py",
    "effir/resume.py",
    "effir/sections.py",
    CHECKS,
    "stages/program.py",
    "stages/paths.py",
}
PIPELINE: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
PARAMS: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
STAGES = sorted(PIPELINE)
CODE = sorted(path for room in ("effir", "stages") for path in (ROOT / room).rglob("*.py"))
KEYS = {f"{section}.{key}" for section, values in PARAMS.items() for key in values}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def parsed(name: str) -> ast.Module:
    return ast.parse((ROOT / name).read_text(encoding="utf-8"))


def body(stage: str) -> dict[str, Any]:
    """The stage as dvc.yaml has it; of a ``foreach`` what it does for each item."""
    found: dict[str, Any] = PIPELINE[stage].get("do", PIPELINE[stage])
    return found


def paths(stage: str, *kinds: str) -> list[str]:
    """Paths listed under ``outs``, ``metrics`` or ``deps``, without their flags."""
    listed = [entry for kind in kinds for entry in body(stage).get(kind, [])]
    return [next(iter(entry)) if isinstance(entry, dict) else entry for entry in listed]


# --- imports


def imported(tree: ast.AST) -> Iterator[str]:
    """Every dotted name that an import statement may mean: ``from a import b`` is both ``a`` and ``a.b``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports here are absolute"
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def file_of(module: str) -> str | None:
    """The file of a module of this project."""
    stem = module.replace(".", "/")
    return next((f for f in (f"{stem}.py", f"{stem}/__init__.py") if (ROOT / f).is_file()), None)


@cache
def imports_of(name: str) -> frozenset[str]:
    """Files of this project that a file imports; inside functions too."""
    return frozenset(found for module in imported(parsed(name)) if (found := file_of(module)))


def reached(name: str) -> set[str]:
    """A file and all that it imports, directly or not."""
    seen, waiting = set(), [name]
    while waiting:
        if (here := waiting.pop()) not in seen:
            seen.add(here)
            waiting += imports_of(here) if here != CHECKS else ()
    return seen


def is_plumbing(name: str) -> bool:
    return name in PLUMBING or name.endswith("__init__.py") or name.startswith("effir/tracking/")


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_the_code_that_decides_what_it_writes(stage: str) -> None:
    needed = {room_of(name) for name in reached(f"stages/{stage}.py") if not is_plumbing(name)}
    listed = {path for path in paths(stage, "deps") if path.startswith(("stages/", "effir/"))}
    assert not needed - listed, f"dvc.yaml: add {', '.join(sorted(needed - listed))} to the deps of {stage}"
    assert not listed - needed, f"dvc.yaml: remove {', '.join(sorted(listed - needed))} from the deps of {stage}"


def room_of(name: str) -> str:
    """What dvc.yaml lists for a file: a stage program itself, a library module's package."""
    return name if name.startswith("stages/") else "/".join(name.split("/")[:2])


# --- layers


def house() -> dict[str, set[str]]:
    """Each room of effir and stages, a package or a module at the top, and the rooms that it imports."""
    found: dict[str, set[str]] = {}
    for name in map(name_of, CODE):
        room = top_of(name)
        found.setdefault(room, set()).update(top_of(other) for other in imports_of(name))
    return {room: others - {room, "effir/__init__.py"} for room, others in found.items() if room != "effir/__init__.py"}


def top_of(name: str) -> str:
    return "stages" if name.startswith("stages/") else "/".join(name.split("/")[:2])


def floors() -> list[set[str]]:
    """The rooms by floor, the lowest first: a room stands above all that it imports. A circle has no floors."""
    left, built = house(), list[set[str]]()
    while left:
        floor = {room for room, others in left.items() if not others & left.keys()}
        assert floor, f"these rooms import each other in a circle: {', '.join(sorted(left))}"
        built.append(floor)
        left = {room: others for room, others in left.items() if room not in floor}
    return built


def test_no_import_runs_up_and_the_house_stays_small() -> None:
    built = floors()
    assert len(built) <= 9, built
    assert sum(map(len, built)) <= 22, built


def test_experiments_import_the_library_and_never_the_reverse() -> None:
    above = {room for room, others in house().items() if "effir/lab" in others}
    assert above == {"effir/cli", "stages"}


def importers(package: str) -> set[str]:
    """Files of effir and stages that import a package, or something in it."""
    return {
        name
        for name in map(name_of, CODE)
        if any(module.partition(".")[0] == package for module in imported(parsed(name)))
    }


def test_only_tracking_imports_mlflow() -> None:
    assert importers("mlflow")
    assert all(name.startswith("effir/tracking/") for name in importers("mlflow"))


def test_only_the_index_imports_faiss() -> None:
    assert importers("faiss") == {f"effir/index/{name}.py" for name in ("factory", "faiss_index", "hnsw")}


def test_only_collections_and_quality_import_beir() -> None:
    doors = {"effir/data/beir.py", "effir/evaluation/metrics.py"}
    assert importers("beir") | importers("pytrec_eval") <= doors


def test_the_library_knows_nothing_of_the_programs() -> None:
    assert not {name for name in importers("stages") if name.startswith("effir/")}


def test_importing_effir_imports_neither_torch_nor_transformers() -> None:
    program = "import effir, sys; print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_modules_are_named_by_the_domain() -> None:
    vague = {"utils", "util", "common", "helpers", "helper", "manager", "misc"}
    assert not [name_of(path) for path in CODE if vague & {path.stem, *path.relative_to(ROOT).parts}]


# --- params


class Reading(ast.NodeVisitor):
    """Collects the keys of params.yaml that a function reads, following names such as ``prune = params.prune``."""

    def __init__(self, known: Mapping[str, tuple[str, ...]]) -> None:
        self.known = dict(known)
        self.read: set[str] = set()

    def path(self, node: ast.AST) -> tuple[str, ...] | None:
        """Where in params an expression points, () for all of them; None where elsewhere."""
        if isinstance(node, ast.Name):
            return self.known.get(node.id)
        if isinstance(node, ast.Attribute):
            if isinstance(node.value, ast.Name) and (node.value.id, node.attr) == ("stage", "params"):
                return ()
            above = self.path(node.value)
            return None if above is None else (*above, node.attr)
        return None

    def visit_Assign(self, node: ast.Assign) -> None:
        pairs = [(node.targets[0], node.value)]
        if isinstance(node.targets[0], ast.Tuple) and isinstance(node.value, ast.Tuple):
            pairs = list(zip(node.targets[0].elts, node.value.elts, strict=True))
        for name, meant in pairs:
            where = self.path(meant)
            if isinstance(name, ast.Name) and where is not None and len(where) < 2 and not PROPERTIES.keys() & where:
                self.known[name.id] = where
            else:
                self.visit(meant)

    def visit_With(self, node: ast.With) -> None:
        for item in node.items:
            if isinstance(item.optional_vars, ast.Name) and ast.unparse(item.context_expr) == "checked()":
                self.known[item.optional_vars.id] = ()
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        setting = SETTINGS.get(ast.unparse(node.func))
        if setting is not None and self.path(node.args[0]) == ():
            self.read |= keys_read(setting, {"params": ()})
            for other in [*node.args[1:], *node.keywords]:
                self.visit(other)
        else:
            self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Load):
            self.note(self.path(node))

    def visit_Attribute(self, node: ast.Attribute) -> None:
        where = self.path(node)
        if where is None:
            self.generic_visit(node)
        else:
            self.note(where)

    def note(self, where: tuple[str, ...] | None) -> None:
        if where is None:
            return
        if where and where[0] in PROPERTIES:
            self.read |= keys_read(PROPERTIES[where[0]], {"self": ()})
            return
        where = tuple(part.rstrip("_") for part in where if part != "model_dump")
        self.read |= covered(".".join(where[:2]))


def covered(name: str) -> set[str]:
    """Keys that a name of params.yaml stands for: itself, or all of a section; ``""`` for all."""
    return {key for key in KEYS if name in ("", key) or key.startswith(f"{name}.")} or {name}


def keys_read(function: ast.AST, known: Mapping[str, tuple[str, ...]]) -> set[str]:
    reading = Reading(known)
    reading.generic_visit(function)
    return reading.read


def functions(name: str) -> dict[str, ast.FunctionDef]:
    return {node.name: node for node in ast.walk(parsed(name)) if isinstance(node, ast.FunctionDef)}


SETTINGS = {
    k: v
    for name in ("settings", "schedules", "retriever_training", "teacher_reading")
    for k, v in functions(f"stages/{name}.py").items()
}
PROPERTIES = {name: functions("effir/params.py")[name] for name in ("variant", "self_distilled", "mined_negatives")}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_lists_the_params_that_it_reads(stage: str) -> None:
    read = keys_read(functions(f"stages/{stage}.py")["main"], {})
    listed = body(stage).get("params", [])
    missing = read - {key for name in listed for key in covered(name)}
    idle = [name for name in listed if not covered(name) & read]
    assert not missing, f"dvc.yaml: add {', '.join(sorted(missing))} to the params of {stage}, which reads them"
    assert not idle, f"dvc.yaml: remove {', '.join(idle)} from the params of {stage}, which does not read them"


def test_what_python_compiles_is_no_dependency() -> None:
    compiled = [f"{folder}/__pycache__/one.cpython-311.pyc" for folder in ("effir/data", "stages")]
    command = [sys.executable, "-m", "dvc", "check-ignore", *compiled]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.split() == compiled, ".dvcignore: add __pycache__/, or a stage changes its own dependencies"


def test_dvc_yaml_names_only_keys_of_params_yaml() -> None:
    listed = {name for stage in STAGES for name in body(stage).get("params", [])}
    assert not listed - KEYS - PARAMS.keys()


def test_every_key_of_params_yaml_has_a_comment() -> None:
    lines = (ROOT / "params.yaml").read_text(encoding="utf-8").splitlines()
    bare = [
        line.strip()
        for above, line in pairwise(lines)
        if re.match(r"  \w+:", line) and not above.lstrip().startswith("#") and " # " not in line
    ]
    assert not bare, f"params.yaml: say purpose and effect above {bare}"


# --- stages


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_is_described_in_prose(stage: str) -> None:
    assert len(body(stage).get("desc", "").split()) >= 6


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_writes_where_its_program_says(stage: str) -> None:
    names = {name.rpartition(".")[2] for name in imported(parsed(f"stages/{stage}.py")) if "stages.paths." in name}
    folders = [getattr(stages.paths, name) for name in names]
    for out in map(Path, paths(stage, "outs", "metrics", "plots")):
        assert out.parent.name == "runs" or any(folder in (out, out.parent) for folder in folders), (
            f"dvc.yaml says that {stage} writes {out}, stages/{stage}.py imports no such name from stages/paths.py"
        )


def test_a_missing_artifact_names_the_stage_that_writes_it() -> None:
    assert stage_that_makes(stages.paths.FULL, ROOT / "dvc.yaml") == "finetune_full"
    assert stage_that_makes(stages.paths.EVAL / "mine", ROOT / "dvc.yaml") == "download_eval@mine"
    assert stage_that_makes(stages.paths.INDEXES / "mine/index.faiss", ROOT / "dvc.yaml") == "index@mine"
    assert stage_that_makes(stages.paths.METRICS / "cost.json", ROOT / "dvc.yaml") == "measure_cost"
    assert stage_that_makes(Path("models/foreign"), ROOT / "dvc.yaml") is None


@pytest.mark.parametrize(
    "stage",
    "download teacher_scores finetune_full self_teacher_scores analyze distill score_channels finetune index".split(),
)
def test_a_stage_that_takes_minutes_comes_out_of_the_run_cache(stage: str) -> None:
    # DVC keeps no run of a stage with an output outside its cache, but for metrics and plots: dvc/stage/__init__.py.
    uncached = [out for out in body(stage)["outs"] if isinstance(out, dict) and {"cache": False} in out.values()]
    assert not uncached, f"dvc.yaml: list what {stage} leaves for git under metrics or plots, not under outs"


def test_the_stages_in_order_are_those_that_keep_a_record() -> None:
    records = {
        path.replace("${item}", name)
        for stage in STAGES
        for path in paths(stage, "outs")
        for name in ("one", "two")
        if path.startswith("runs/")
    }
    found = stages_in_order(["one", "two"], ROOT / "dvc.yaml")
    assert {f"runs/{stage}.json" for stage in found} == records
    assert [stage for stage in found if "@" in stage][:2] == ["download_eval@one", "download_eval@two"]


# --- README


def fences() -> list[str]:
    """The fenced code blocks of README.md."""
    if not README.is_file():
        pytest.skip("README.md is not there yet")
    return re.findall(r"^```[^\n]*\n(.*?)^```", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def commands(program: str) -> set[str]:
    """What follows a program's name in README's code: its lines, and code between single backticks."""
    prose = re.sub(r"^```.*?^```", "", README.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    spans = [line for block in fences() for line in block.splitlines()] + re.findall(r"`([^`\n]+)`", prose)
    found = (re.findall(rf"(?:^|[;&|$] *){program} +([a-z][\w-]*(?: [a-z][\w-]*)?)", span) for span in spans)
    return {command for some in found for command in some}


def test_readmes_tree_names_every_folder_and_only_what_exists() -> None:
    lines = [re.match(r"([\w./-]+) {2,}\S", line) for block in fences() for line in block.splitlines()]
    named = {line[1].rstrip("/") for line in lines if line and ("/" in line[1] or "." in line[1])}
    missing = {name_of(path) for path in (ROOT / "effir").iterdir() if (path / "__init__.py").is_file()} - named
    assert not missing, f"README.md: add {', '.join(sorted(missing))} to the tree"
    gone = {name for name in named if not (ROOT / name).exists()}
    assert not gone, f"README.md: remove {', '.join(sorted(gone))} from the tree"


def test_readmes_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    asked = {command.split()[0] for _ in fences()[:1] for command in commands("make")}
    assert asked <= targets, f"README.md: no such target in Makefile: {sorted(asked - targets)}"


def test_readmes_effir_commands_exist() -> None:
    asked = {command.split()[0] for _ in fences()[:1] for command in commands("effir")}
    program = "from effir.cli import main; print(*main.commands)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert asked <= set(done.stdout.split()), f"README.md: effir has no {sorted(asked - set(done.stdout.split()))}"


def test_readmes_dvc_commands_exist() -> None:
    asked = {command for _ in fences()[:1] for command in commands("dvc")}
    from dvc.cli.parser import get_main_parser  # type: ignore[import-untyped]

    known = {" ".join(words) for words in subcommands(get_main_parser())}
    groups = {name.split()[0] for name in known if " " in name}
    gone = {c for c in asked if (c if c.split()[0] in groups else c.split()[0]) not in known | groups}
    assert not gone, f"README.md: dvc has no {sorted(gone)}"


def subcommands(parser: Any) -> Iterator[tuple[str, ...]]:
    for action in parser._actions:
        for name, below in (action.choices or {}).items() if type(action).__name__ == "_SubParsersAction" else ():
            yield (name,)
            yield from ((name, *words) for words in subcommands(below))
