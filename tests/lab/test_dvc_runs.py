import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from effir.cli import main
from effir.errors import EffirError
from effir.lab.dvc_runs import (
    commit_of,
    experiment_named,
    experiments,
    experiments_of_head,
    read_commit,
    read_experiment,
    read_workspace,
)

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], check=True, capture_output=True, text=True).stdout.strip()


def write_metrics(width: float, ndcg: float) -> None:
    """Leave in the working tree what a pipeline with ``prune.width`` leaves, every query scored ``ndcg``."""
    params = {"data": {"eval": ["apidocs"]}, "prune": {"width": width, "depth": 1}}
    hashes = [{"path": f"data/eval/{name}", "hash": "md5", "md5": f"hash of {name}"} for name in ("apidocs", "removed")]
    stages = {
        "download_eval@apidocs": {"cmd": "download", "outs": hashes[:1]},
        "evaluate@removed": {"cmd": "evaluate", "params": {"params.yaml": {"prune.width": 0.1}}, "outs": hashes[1:]},
        "prune_width": {"cmd": "prune", "params": {"params.yaml": {"prune.width": width}}},
    }
    Path("params.yaml").write_text(yaml.safe_dump(params))
    Path("dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}))
    for path, value in {
        "metrics/apidocs.json": {"ndcg_at_10": ndcg, "queries": 10},
        "metrics/removed.json": {"ndcg_at_10": 0.0},
        "reports/drop_order.json": [{"sublayer": "mlp", "layer": 3, "change": 0.1}, {"sublayer": "mlp", "layer": 1}],
        "reports/slimming.json": {"method": "slimming", "widths": [8, 6, 8, 0], "scores": None},
        "reports/distill_loss.json": [],
        "reports/finetune_loss.json": [{"step": 5, "loss": width, "learning_rate": 0.1}],
        "metrics/cost.json": {"document_speedup": 1 / width},
        "reports/apidocs-queries.json": {f"q{i}": {"ndcg_at_10": ndcg, "recall_at_10": 0.0} for i in range(10)},
    }.items():
        Path(path).parent.mkdir(exist_ok=True)
        Path(path).write_text(json.dumps(value))


def commit(message: str) -> str:
    git("add", "--all")
    git("commit", "--quiet", "--message", message)
    return git("rev-parse", "HEAD")


def keep_experiment(name: str, baseline: str, width: float, ndcg: float) -> str:
    """Keep an experiment as DVC does: a commit that only its ref reaches."""
    head = git("rev-parse", "HEAD")
    write_metrics(width, ndcg)
    made = commit(name)
    git("update-ref", f"refs/exps/{baseline[:2]}/{baseline[2:]}/{name}", made)
    git("reset", "--quiet", "--hard", head)
    return made


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git repository without MLflow: width 0.9 tagged `first`, then 0.7, and from there `narrow` with 0.5."""
    for key in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(key, raising=False)
    for key in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{key}_NAME", "tester")
        monkeypatch.setenv(f"GIT_{key}_EMAIL", "tester@example.org")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # nothing answers there: who asks, fails
    monkeypatch.chdir(tmp_path)
    git("init", "--quiet", "--initial-branch", "main")
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    write_metrics(0.9, 0.75)
    commit("first")
    git("tag", "first")
    write_metrics(0.7, 0.5)
    keep_experiment("narrow", commit("second"), 0.5, 0.25)
    return tmp_path


def effir(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["compare", *arguments])


def refusal(*arguments: str) -> str:
    done = effir(*arguments)
    assert done.exit_code == 2
    assert done.output.startswith("Error: ")
    return done.output.removeprefix("Error: ").rstrip("\n")


# --- reading


def test_a_commit_an_experiment_and_the_working_tree_each_give_their_own_metrics(repository: Path) -> None:
    write_metrics(0.6, 0.125)
    narrow = experiment_named("narrow")
    assert narrow is not None
    first = commit_of("first")
    assert first is not None
    found = [read_commit(first, "first"), read_experiment(narrow), read_workspace()]
    assert [v.name for v in found] == ["first", "narrow", "workspace"]
    assert [v.params["prune.width"] for v in found] == [0.9, 0.5, 0.6]
    assert [v.quality["apidocs"]["ndcg_at_10"] for v in found] == [0.75, 0.25, 0.125]
    assert [v.scores["apidocs"]["q3"] for v in found] == [0.75, 0.25, 0.125]
    assert [v.cost["document_speedup"] for v in found] == [1 / 0.9, 1 / 0.5, 1 / 0.6]
    assert all(v.layers == {"dropped": [["mlp", 3]], "widths": [8, 6, 8, 0]} for v in found)  # as deep as prune.depth
    assert [v.losses for v in found] == [
        {"finetune": [(5, width)]} for width in (0.9, 0.5, 0.6)
    ]  # distillation had no steps
    assert [v.source for v in found] == [
        f"commit {first}",
        f"commit {narrow.commit}, DVC experiment narrow",
        "the working tree",
    ]


def test_only_configured_sets_are_read_and_each_has_the_hash_of_its_data(repository: Path) -> None:
    found = read_workspace()
    assert set(found.quality) == set(found.scores) == {"apidocs"}
    assert found.data == {"apidocs": "hash of apidocs"}


def test_a_project_in_a_folder_of_its_repository_is_read(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = repository / "deep"
    folder.mkdir()
    monkeypatch.chdir(folder)
    write_metrics(0.3, 0.375)
    assert read_commit(commit("deep"), "HEAD").quality["apidocs"]["ndcg_at_10"] == 0.375


def test_metrics_older_than_the_params_are_noted(repository: Path) -> None:
    assert read_workspace().notes == ()
    Path("params.yaml").write_text(yaml.safe_dump({"data": {"eval": ["apidocs"]}, "prune": {"width": 0.4}}))
    # That the removed set was evaluated with 0.1 does not count.
    assert read_workspace().notes == (
        "the metrics of workspace are older than its params, prune.width 0.4 (made with 0.7): run `dvc repro`",
    )


def test_scores_that_were_not_kept_are_left_out(repository: Path) -> None:
    Path("reports/apidocs-queries.json").unlink()
    assert read_workspace().scores == {"apidocs": {}}


def test_missing_metrics_name_the_command_that_makes_them(repository: Path) -> None:
    Path("metrics/apidocs.json").unlink()
    with pytest.raises(EffirError, match=r"metrics/apidocs.json is missing: run `dvc repro evaluate@apidocs`"):
        read_workspace()
    bare = commit("without metrics")
    with pytest.raises(EffirError) as refused:
        read_commit(bare, "HEAD")
    assert str(refused.value) == (
        "HEAD has no metrics/apidocs.json: check it out, run `dvc repro evaluate@apidocs` and commit the file"
    )


@pytest.mark.parametrize(
    ("path", "text", "sentence"),
    [
        ("metrics/cost.json", "{", "metrics/cost.json of workspace is not JSON"),
        ("params.yaml", "a: [", "params.yaml of workspace is not YAML"),
        ("params.yaml", "data: {}", "workspace has no params.yaml with data.eval"),
    ],
)
def test_damaged_files_are_named(repository: Path, path: str, text: str, sentence: str) -> None:
    Path(path).write_text(text)
    with pytest.raises(EffirError, match=sentence):
        read_workspace()


# --- names


def test_of_experiments_with_one_name_the_current_commits_is_meant(repository: Path) -> None:
    head, first = git("rev-parse", "HEAD"), git("rev-parse", "first")
    elsewhere = keep_experiment("narrow", first, 0.2, 0.0)
    assert [one.name for one in experiments()] == ["narrow", "narrow"]
    assert [one.baseline for one in experiments_of_head()] == [head]
    found = experiment_named("narrow")
    assert found is not None
    assert found.baseline == head
    git("commit", "--quiet", "--allow-empty", "--message", "third")
    assert experiments_of_head() == []
    said = refusal("narrow")
    assert said.startswith("2 commits have an experiment 'narrow': name one of git:")
    assert f"git:{elsewhere[:10]} (from {first[:7]})" in said


def test_outside_a_git_repository_there_are_neither_experiments_nor_commits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert experiments() == []
    assert commit_of("HEAD") is None


def test_what_looks_like_an_option_of_git_is_no_commit(repository: Path) -> None:
    assert commit_of("--all") is None
    assert commit_of("HEAD:params.yaml") is None


# --- effir compare


def compared(*arguments: str) -> Any:
    done = effir(*arguments, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_names_of_dvc_and_git_are_compared_without_opening_mlflow(repository: Path) -> None:
    found = compared("first", "narrow", "workspace", "git:HEAD")
    assert [v["name"] for v in found["variants"]] == ["first", "narrow", "workspace", "git:HEAD"]
    # Ten equal differences, as many as queries: exact, 2 of 2^10 patterns; three tests, so Holm makes it 3 times that.
    assert [d["test"]["difference"] for d in found["differences"]] == [-0.5, -0.25, -0.25]
    assert [d["p"] for d in found["differences"]] == pytest.approx([3 * 2 / 2**10] * 3)
    assert found["params"] == {"prune.width": ["0.9", "0.5", "0.7", "0.7"]}


def test_without_names_the_workspace_and_the_experiments_of_head_are_compared(repository: Path) -> None:
    assert [v["name"] for v in compared()["variants"]] == ["workspace", "narrow"]
    Path("metrics/cost.json").unlink()
    done = effir("--json")
    assert [v["name"] for v in json.loads(done.stdout)["variants"]] == ["narrow"]
    assert done.stderr == "left out: metrics/cost.json is missing: run `dvc repro measure_cost`\n"
    git("update-ref", "-d", f"refs/exps/{git('rev-parse', 'HEAD')[:2]}/{git('rev-parse', 'HEAD')[2:]}/narrow")
    assert effir().exit_code == 2
    assert "there is nothing to compare: run `dvc repro`" in effir().output


def test_runs_that_differ_in_their_seed_alone_are_joined_where_asked_for(repository: Path) -> None:
    for seed in (0, 1):
        write_metrics(0.6, 0.5 + 0.25 * seed)
        params = yaml.safe_load(Path("params.yaml").read_text())
        Path("params.yaml").write_text(yaml.safe_dump({**params, "training": {"seed": seed}}))
        commit("another seed")
        git("tag", f"seed{seed}")
    one, *others = json.loads(effir("--seeds", "seed0", "seed1", "--json").stdout)["variants"]
    assert (one["name"], others) == ("seed0", [])
    assert one["scores"]["apidocs"]["q3"] == 0.625
    assert len(json.loads(effir("seed0", "seed1", "--json").stdout)["variants"]) == 2


def test_the_table_is_plain_text_where_it_is_piped(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")  # of the terminal that the pipe does not go to
    done = effir("first", "narrow")
    assert done.exit_code == 0
    assert "\x1b" not in done.output
    assert max(map(len, done.output.splitlines())) <= 100
    lines = [" ".join(line.split()) for line in done.output.splitlines()]
    assert "apidocs nDCG@10 0.750 0.250" in lines
    assert "difference baseline -0.500 **" in lines
    assert "paired test p = 0.002, 10 queries" in lines
    assert "prune.width 0.9 0.5" in lines
    assert "- narrow on apidocs: lower nDCG@10, by 0.500 (p = 0.002; 0 queries better, 0 equal, 10 worse)" in lines


def test_html_is_written_beside_the_table_or_the_json(repository: Path) -> None:
    done = effir("first", "narrow", "--json", "--html", "pages/one.html")
    assert done.exit_code == 0
    assert json.loads(done.stdout)["sets"] == ["apidocs"]
    assert done.stderr == "pages/one.html is written: open it in a browser\n"
    assert Path("pages/one.html").read_text().startswith("<!doctype html>")


def test_an_experiment_and_a_branch_of_one_name_are_told_apart(repository: Path) -> None:
    git("branch", "narrow", "first")
    assert refusal("narrow") == (
        "'narrow' is a DVC experiment and a git revision: name one of exp:narrow or git:narrow"
    )
    found = compared("exp:narrow", "git:narrow")
    assert [v["params"]["prune.width"] for v in found["variants"]] == [0.5, 0.9]


def test_a_branch_made_of_an_experiment_is_no_ambiguity(repository: Path) -> None:
    found = experiment_named("narrow")
    assert found is not None
    git("branch", "narrow", found.commit)
    assert compared("narrow")["variants"][0]["params"]["prune.width"] == 0.5


def test_refusals_are_one_sentence_and_status_2(repository: Path) -> None:
    assert refusal("exp:nope") == "there is no DVC experiment 'nope': `dvc exp list -A` lists them"
    assert refusal("git:nope") == "there is no git revision 'nope': `git branch` and `git log` list them"
    assert refusal("first", "first") == "first is named twice: name each variant once"
    Path("params.yaml").unlink()
    assert refusal("first") == "params.yaml is missing: run this in the project's root"
