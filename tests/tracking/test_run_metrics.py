import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from effir.cli import main
from effir.errors import EffirError
from effir.tracking.run_metrics import find_runs, read_run
from effir.tracking.runs import finish_pipeline, pipeline_run
from effir.tracking.stage_run import stage_run
from effir.tracking.versions import run_of_model

pytestmark = pytest.mark.slow

MODEL = "models:/effir-retriever"


def run_of(version: int) -> str:
    return run_of_model(f"{MODEL}/{version}")


def effir(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["compare", *arguments])


def refusal(*arguments: str) -> str:
    done = effir(*arguments)
    assert done.exit_code == 2
    return done.output.removeprefix("Error: ").rstrip("\n")


def test_a_run_gives_back_all_that_was_registered(project: Path, register: Callable[..., int]) -> None:
    run = run_of(register(0.25, speedup=2.0))
    found = read_run(run, "shown")
    assert (found.name, found.source) == ("shown", f"MLflow run {run}, variant")
    assert (found.params["ndcg"], found.params["speedup"]) == ("0.25", "2.0")
    assert found.quality == {"apidocs": {"ndcg_at_10": 0.25}}
    assert found.cost == {"document_speedup": 2.0, "kept_share": 0.6}
    assert found.scores == {"apidocs": {f"q{i}": 0.25 for i in range(30)}}
    assert found.data == {"apidocs": "abc"}


def test_what_a_run_does_not_keep_is_left_out(project: Path) -> None:
    params = {"kept": "little"}
    finish_pipeline("little", params=params, stages=[], records=project, metrics={"scifact/ndcg_at_10": 0.5})
    found = read_run(pipeline_run(params), "little")
    assert (list(found.quality), found.scores, found.data) == (["scifact"], {}, {})


def test_a_run_whose_params_nobody_kept_is_joined_with_no_other(project: Path) -> None:
    finish_pipeline("bare", params={}, stages=[], records=project, metrics={"scifact/ndcg_at_10": 0.5})
    assert refusal("--seeds", "run:bare") == "the params of run:bare were not kept: leave out --seeds, or this variant"


def test_a_run_without_metrics_is_one_sentence(project: Path) -> None:
    run = pipeline_run({"begun": True})
    with pytest.raises(EffirError, match=f"the MLflow run {run} has no metrics yet: complete its pipeline"):
        read_run(run, "begun")


def test_runs_are_found_by_id_by_its_beginning_and_by_name(project: Path, register: Callable[..., int]) -> None:
    first, second = (run_of(register(ndcg)) for ndcg in (0.5, 0.75))
    assert find_runs(first) == find_runs(first[:8]) == {first: "variant"}
    assert find_runs(first[:7]) == {}  # a short one may be anything
    assert find_runs("variant") == {first: "variant", second: "variant"}
    assert find_runs("it's") == find_runs("vari%") == {}


def test_the_run_of_a_stage_names_its_pipeline_run(project: Path) -> None:
    params = {"stage": "of this"}
    with stage_run("analyze", params, project / "analyze.json") as stage:
        pass
    assert find_runs("analyze") == {}
    with pytest.raises(EffirError) as refused:
        find_runs(stage.id)
    assert str(refused.value) == (
        f"run {stage.id} is of the stage analyze: name its pipeline run, {pipeline_run(params)}"
    )


def test_a_model_means_the_run_that_registered_it(project: Path, register: Callable[..., int]) -> None:
    version = register(0.5)
    assert run_of_model(f"{MODEL}@challenger") == run_of_model(f"{MODEL}/{version}")
    with pytest.raises(EffirError, match="effir-retriever has no champion yet: run `effir promote`"):
        run_of_model(f"{MODEL}@champion")
    with pytest.raises(EffirError, match="effir-retriever has no version 7: `effir models` lists them"):
        run_of_model(f"{MODEL}/7")
    with pytest.raises(EffirError, match="names no registered model: write models:/<name>@<alias> or"):
        run_of_model(MODEL)


def test_effir_compare_takes_runs_and_models(project: Path, register: Callable[..., int]) -> None:
    first = run_of(register(0.5))
    register(0.75)
    done = effir(first, f"{MODEL}@challenger", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert [v["name"] for v in found["variants"]] == [f"variant ({first[:8]})", "effir-retriever@challenger"]
    (difference,) = found["differences"]
    assert (difference["test"]["difference"], difference["wins"]) == (0.25, 30)
    assert found["params"] == {"ndcg": ["0.5", "0.75"]}
    assert effir(f"run:{first[:10]}").exit_code == 0


def test_a_name_of_several_runs_lists_their_ids(project: Path, register: Callable[..., int]) -> None:
    first = run_of(register(0.5))
    assert effir("variant").exit_code == 0
    second = run_of(register(0.75))
    said = refusal("variant")
    assert said.startswith("2 MLflow pipeline runs are called 'variant': name one of run:")
    assert f"run:{first}" in said
    assert f"run:{second}" in said


def test_what_is_nowhere_says_where_it_was_looked_for(project: Path) -> None:
    assert refusal("nope") == (
        "'nope' is not a DVC experiment (`dvc exp list -A`), a git revision (`git log`) or an MLflow pipeline run: "
        "correct the name"
    )
    assert refusal("run:nope") == "there is no MLflow pipeline run 'nope': `mlflow ui` shows them"
