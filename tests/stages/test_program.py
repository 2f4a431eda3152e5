import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from effir.data.beir import Document, write_collection
from effir.evaluation.metrics import evaluate_run
from effir.files import read_json, write_json
from effir.model.retriever import build_retriever, encode_documents, encode_queries, open_retriever, save_retriever
from effir.process import SHELLS
from stages.program import locked_hashes

pytestmark = pytest.mark.slow

CHECKOUT = Path(__file__).parents[2]
Runner = Callable[..., subprocess.CompletedProcess[str]]

# What DVC does: a program that starts a stage through a shell. The shell must not replace itself by the stage.
PARENT = "import subprocess, sys; subprocess.run(['sh', '-c', sys.argv[1] + '; true'])"
CHILD = """
import sys, time
from pathlib import Path
from effir.process import die_with_parent
die_with_parent(poll=0.1)
import os
Path(sys.argv[1]).write_text(str(os.getpid()))
time.sleep(60)
"""


def environment(**variables: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(CHECKOUT), **variables}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with the project's programs and settings, in which no stage has run; the only baseline is BM25."""
    for name in ("effir", "stages"):
        shutil.copytree(CHECKOUT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(CHECKOUT / name, tmp_path)
    change(tmp_path, "evaluate", baselines={})
    return tmp_path


def change(project: Path, section: str, **settings: Any) -> None:
    """Change keys of a section of the project's params.yaml."""
    path = project / "params.yaml"
    values = yaml.safe_load(path.read_text())
    values[section] |= settings
    path.write_text(yaml.safe_dump(values))


@pytest.fixture
def run_stage(project: Path, warm: Path) -> Runner:
    return partial(_run, project, warm)


def _run(project: Path, python: Path, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [python, "-m", f"stages.{name}", *arguments],
        cwd=project,
        env={**os.environ, "DVC_ROOT": str(project), "MLFLOW_TRACKING_URI": f"sqlite:///{project / 'mlflow.db'}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def wait_for(path: Path, seconds: float) -> str:
    deadline = time.monotonic() + seconds
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < deadline, f"{path} did not come"
        time.sleep(0.05)
    return path.read_text()


def test_a_stage_dies_with_the_program_that_started_its_shell(tmp_path: Path) -> None:
    (tmp_path / "child.py").write_text(CHILD)
    command = f"'{sys.executable}' '{tmp_path / 'child.py'}' '{tmp_path / 'pid'}'"
    parent = subprocess.Popen([sys.executable, "-c", PARENT, command], env=environment())
    try:
        child = psutil.Process(int(wait_for(tmp_path / "pid", 60)))
        above = child.parents()
        assert above[0].name() in SHELLS  # the shell is there, and outlives the parent
        assert above[1].pid == parent.pid
        time.sleep(0.5)
        assert child.is_running()  # a living parent is no reason to leave
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        psutil.wait_procs([child], timeout=3)
        assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
    finally:
        parent.kill()
        parent.wait()


def test_what_a_program_started_ends_with_it_when_its_own_parent_is_gone(tmp_path: Path) -> None:
    below = "[sys.executable, '-c', 'import time; time.sleep(60)']"
    busy = f"import subprocess, sys\nbelow = subprocess.Popen({below})\n"
    (tmp_path / "child.py").write_text(busy + CHILD.replace("os.getpid()", "below.pid"))
    command = f"'{sys.executable}' '{tmp_path / 'child.py'}' '{tmp_path / 'pid'}'"
    parent = subprocess.Popen([sys.executable, "-c", PARENT, command], env=environment())
    try:
        below = psutil.Process(int(wait_for(tmp_path / "pid", 60)))
        parent.send_signal(signal.SIGKILL)
        psutil.wait_procs([below], timeout=3)
        assert not below.is_running() or below.status() == psutil.STATUS_ZOMBIE
    finally:
        parent.kill()
        parent.wait()


@pytest.mark.skipif(psutil.Process(1).name().startswith("python"), reason="the first process may be DVC here")
@pytest.mark.parametrize("variables", [{"DVC_STAGE": "finetune_full"}, {}])
def test_a_stage_whose_dvc_was_killed_while_it_imported_ends_at_once(tmp_path: Path, variables: dict[str, str]) -> None:
    late = "import os, time\nwhile os.getppid() == int(__import__('sys').argv[2]): time.sleep(0.05)\n" + CHILD
    (tmp_path / "child.py").write_text(late)
    # The shell ends with its child in the background: the first process of the system takes it.
    command = f"'{sys.executable}' '{tmp_path / 'child.py'}' '{tmp_path / 'pid'}' $$ & echo $!"
    shell = subprocess.Popen(
        ["sh", "-c", command],
        env=environment(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert shell.stdout is not None
    child = psutil.Process(int(shell.stdout.readline()))
    shell.wait()
    try:
        if variables:
            psutil.wait_procs([child], timeout=20)
            assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
            assert not (tmp_path / "pid").exists()
        else:  # not DVC's: a person may start a stage and leave it behind
            assert wait_for(tmp_path / "pid", 60) == str(child.pid)
    finally:
        if child.is_running():
            child.kill()


def test_a_missing_input_is_one_line_on_stderr_and_status_2(run_stage: Runner, project: Path) -> None:
    done = run_stage("prune_depth")
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if line.strip()]
    assert errors == [
        "[8/16] prune_depth",  # the eighth of dvc.yaml's stages; nobody knows yet how long they take
        "Error: reports/drop_order.json is missing: run `dvc repro analyze`",
    ]
    assert "Traceback" not in done.stdout + done.stderr
    assert not (project / "models").exists()


def test_a_cut_that_leaves_no_sublayer_is_one_line(
    run_stage: Runner, project: Path, tiny_checkpoint: Callable[[bool], Path]
) -> None:
    shutil.copytree(tiny_checkpoint(False), project / "models/full")  # of three layers
    order = [{"sublayer": "block", "layer": layer, "change": 0.1} for layer in range(3)]
    write_json(project / "reports/drop_order.json", order)
    change(project, "prune", depth=3)
    done = run_stage("prune_depth")
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if line.strip()]
    assert errors[-1] == "Error: prune.depth is 3, which leaves neither attention nor MLP: choose less"
    assert not (project / "models/depth").exists()


def test_bm25_keeps_its_depth_where_a_document_is_the_query_itself(run_stage: Runner, project: Path) -> None:
    documents = [Document(f"d{i}", "", "things") for i in range(101)]  # alike: they are found in their order
    judged = {"test": {"d0": {"d100": 1}}}
    write_collection(project / "data/eval/tiny", documents, {"d0": "things"}, judged)
    done = run_stage("baselines", "tiny")
    assert done.returncode == 0, done.stderr
    # d0 is the query itself and left out: d100 is the hundredth of the others, evaluate.depth.
    assert read_json(project / "baselines/tiny.json")["bm25"]["metrics"]["recall_at_100"] == 1


def test_bm25_counts_a_document_that_only_has_the_number_of_the_query(run_stage: Runner, project: Path) -> None:
    documents = [Document(str(i), "", f"thing{i} is here") for i in range(1, 21)]
    queries = {str(i): f"thing{i}" for i in range(1, 21)}
    write_collection(
        project / "data/eval/tiny", documents, queries, {"test": {str(i): {str(i): 1} for i in range(1, 21)}}
    )
    done = run_stage("baselines", "tiny")
    assert done.returncode == 0, done.stderr
    assert read_json(project / "baselines/tiny.json")["bm25"]["metrics"]["ndcg_at_10"] == 1


@pytest.mark.parametrize(("own", "ours"), [(16, 96), (64, 24)])
def test_an_encoder_searches_with_its_own_prompts_and_the_shorter_of_both_lengths(
    run_stage: Runner, project: Path, tiny_checkpoint: Callable[[bool], Path], own: int, ours: int
) -> None:
    texts = {
        f"d{i}": f"{chr(97 + i)}{i} is the number {i * i} of {i} and more, which is only padding" for i in range(12)
    }
    documents = [Document(id_, f"t{id_}", text) for id_, text in texts.items()]
    queries = {f"q{i}": f"{chr(97 + i)}{i} the number {i * i}" for i in range(12)}
    qrels = {f"q{i}": {f"d{i}": 1} for i in range(12)}
    write_collection(project / "data/eval/tiny", documents, queries, {"test": qrels})
    prompts = {"query_prompt": "ask: ", "document_prompt": "text: "}
    save_retriever(build_retriever(tiny_checkpoint(False), pooling="mean", max_tokens=own, **prompts), project / "own")
    change(project, "evaluate", baselines={"small": "own"})
    change(project, "retriever", max_tokens=ours)
    done = run_stage("baselines", "tiny")
    assert done.returncode == 0, done.stderr

    model = open_retriever(project / "own")
    model.max_seq_length = min(own, ours)
    vectors = encode_documents(model, [document.content for document in documents], 4)
    scores = encode_queries(model, list(queries.values()), 4) @ vectors.T
    run = {query: dict(zip(texts, row, strict=True)) for query, row in zip(queries, scores.tolist(), strict=True)}
    found = read_json(project / "baselines/tiny.json")
    assert list(found) == ["bm25", "small"]
    assert found["small"]["ndcg_at_10"] == pytest.approx(evaluate_run(run, qrels).by_query("ndcg_at_10"))
    assert len(set(found["small"]["ndcg_at_10"].values())) > 3  # neither all found nor none


def test_an_encoder_that_cannot_be_opened_names_its_setting_and_how_to_do_without(
    run_stage: Runner, project: Path
) -> None:
    write_collection(project / "data/eval/tiny", [Document("d", "", "word")], {"q": "word"}, {"test": {"q": {"d": 1}}})
    (project / "empty").mkdir()
    change(project, "evaluate", baselines={"small": "empty"})
    done = run_stage("baselines", "tiny")
    assert done.returncode == 2
    said = done.stderr.splitlines()[-1]
    assert re.match(r"Error: evaluate\.baselines\.small: .*empty/modules\.json is missing", said), said
    assert said.endswith("Or do without it: `baselines: {}` in params.yaml compares with BM25 alone")


def test_a_wrong_setting_is_one_line_on_stderr_and_status_2(run_stage: Runner, project: Path) -> None:
    change(project, "prune", width=1.6)
    done = run_stage("report")
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "Error: prune.width: input should be less than or equal to 1, got 1.6; "
        "it is the share of the remaining MLP channels that is kept"
    ]


def test_locked_hashes_are_of_all_outs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lock = {
        "schema": "2.0",
        "stages": {
            "a": {"cmd": "x", "outs": [{"path": "m", "md5": "1.dir"}, {"path": "runs/a.json", "md5": "2"}]},
            "register": {"cmd": "y"},
        },
    }
    Path("dvc.lock").write_text(yaml.safe_dump(lock))
    assert locked_hashes() == {"m": "1.dir", "runs/a.json": "2"}
