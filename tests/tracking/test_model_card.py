import json
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from effir.lab.settings import Value, set_over
from effir.params import check_params
from effir.tracking.model_card import (
    GitState,
    Origin,
    description,
    git_state,
    licences_of,
    model_card,
    recipe,
    result_table,
)

QUALITY = {
    "apidocs": {
        "ndcg_at_10": 0.6375,
        "ndcg_at_10_low": 0.5959,
        "ndcg_at_10_high": 0.6782,
        "recall_at_100": 0.9227,
        "mrr_at_10": 0.6519,
        "bm25_ndcg_at_10": 0.6314,
        "queries": 300,
    }
}
COST = {
    "parameters_without_embeddings": 68_673_600,
    "kept_share": 0.6466,
    "flops_speedup": 1.5458,
    "document_speedup": 1.51,
    "query_speedup": 1.477,
    "bytes": 387_959_824,
}
ORIGIN = Origin("wheel:a==1", "Apache-2.0", {"train": ["MIT"]}, GitState("abc", ()))


def test_the_result_table_has_a_row_a_set_and_one_of_cost() -> None:
    table = result_table(QUALITY, COST).splitlines()
    assert table[0] == "| set | nDCG@10 (95 % bounds) | Recall@100 | MRR@10 | BM25 nDCG@10 | queries |"
    assert table[2] == "| apidocs | **0.637** (0.596 to 0.678) | 0.923 | 0.652 | 0.631 | 300 |"
    assert (
        table[-1]
        == "| this retriever | 68.7 M (64.7%) | 1.55 times fewer | 1.51 times as fast | 1.48 times as fast | 388 MB |"
    )


def test_the_result_table_has_a_column_and_a_row_of_each_timed_baseline() -> None:
    quality = {"apidocs": {**QUALITY["apidocs"], "small_ndcg_at_10": 0.6987}}
    cost = {"small_parameters_without_embeddings": 10_992_768, "small_bytes": 90_868_376}
    speeds = {"small_document_speedup": 9.04, "small_query_speedup": 6.5}
    table = result_table(quality, {**COST, **cost, **speeds}).splitlines()
    assert table[0].endswith("| BM25 nDCG@10 | small nDCG@10 | queries |")
    assert table[2].endswith("| 0.631 | 0.699 | 300 |")
    assert table[-1] == "| small | 11.0 M | | 9.04 times as fast | 6.50 times as fast | 91 MB |"
    assert {line.count("|") for line in table[:3]} == {8}
    assert {line.count("|") for line in table[4:]} == {7}


def test_a_description_begins_with_the_main_metrics() -> None:
    assert description(QUALITY, COST).startswith("0.637 on apidocs, 65% kept, 1.5x speed\n\n| set |")


def test_the_cards_front_matter_holds_metrics_and_licence_as_the_hub_reads_them() -> None:
    card = model_card("d10-w0.96-s0", QUALITY, COST, ORIGIN, {"query": "query: ", "document": ""}, "")
    _, front, body = card.split("---\n", 2)
    data = yaml.safe_load(front)
    assert data["license"] == "apache-2.0"
    assert data["library_name"] == "sentence-transformers"
    result = data["model-index"][0]["results"][0]
    assert {metric["type"]: metric["value"] for metric in result["metrics"]} == {
        "ndcg_at_10": 0.6375,
        "recall_at_100": 0.9227,
    }
    assert result_table(QUALITY, COST) in body
    assert "- Prompts: `query`: `query: `\n" in body
    assert "- Code: git abc\n" in body


RECIPE: Mapping[str, Value] = {
    "finetune_full.steps": 60,
    "analyze.sublayer": "block",
    "prune.depth": 10,
    "prune.width": 0.96,
    "distill.steps": 120,
    "finetune.steps": 60,
    "training.teacher": "wheel:b==2/model",
    "finetune.self_distillation": "true",
}


def said(settings: Mapping[str, Value]) -> str:
    params = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    return recipe(check_params(set_over(params, {**RECIPE, **settings})))


def test_the_card_says_what_was_done_and_nothing_else() -> None:
    teacher = "distilled from `wheel:b==2/model`"
    assert said({}) == (
        f"fine-tuned uncompressed for 60 steps, {teacher}; 10 blocks dropped; hidden states distilled for 120 steps; "
        "96% of its MLP channels kept; fine-tuned for 60 steps, distilled from its uncompressed model"
    )
    paper: dict[str, Value] = {
        "finetune_full.steps": 0,
        "distill.steps": 0,
        "analyze.sublayer": "mlp",
        "prune.width": 0.7,
    }
    made = f"10 MLPs dropped; 70% of its MLP channels kept; fine-tuned for 60 steps, {teacher}"
    assert said(paper) == made
    assert said({**paper, "training.teacher": ""}) == made.partition(", distilled")[0]
    assert said({**paper, "finetune.steps": 0}) == made.partition("; fine-tuned")[0]
    uncut: dict[str, Value] = {"prune.depth": 0, "prune.width": 1.0, "finetune.steps": 0}
    assert said(uncut) == f"fine-tuned uncompressed for 60 steps, {teacher}"
    assert said({**uncut, "finetune_full.steps": 0}) == "nothing was cut or trained"
    assert "made from `wheel:a==1`: 10 MLPs dropped.\n" in model_card("a", QUALITY, COST, ORIGIN, {}, "10 MLPs dropped")


def test_the_card_names_changed_code() -> None:
    origin = Origin("wheel:a==1", "MIT", {}, GitState("abc", ("effir/two.py",)))
    assert "git abc, with changes in effir/two.py" in model_card("one", QUALITY, COST, origin, {}, "")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A git checkout with one commit of code, params and a report."""
    for name in ("effir/one.py", "params.yaml", "reports/one.json", "dvc.yaml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("old")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "-c", "user.name=a", "-c", "user.email=a@test", "commit", "--quiet", "-m", "one")
    return tmp_path


def git(root: Path, *arguments: str) -> str:
    return subprocess.run(["git", "-C", str(root), *arguments], check=True, capture_output=True, text=True).stdout


def test_a_clean_checkout_is_its_commit(checkout: Path) -> None:
    assert git_state(checkout) == GitState(git(checkout, "rev-parse", "HEAD").strip(), ())


def test_changed_and_new_code_makes_it_dirty_params_and_reports_do_not(checkout: Path) -> None:
    for name in ("params.yaml", "reports/one.json", "reports/two.json", "dvc.lock"):
        (checkout / name).write_text("new")
    assert git_state(checkout).changed == ()
    (checkout / "dvc.yaml").write_text("new")
    (checkout / "effir/two.py").write_text("new")
    assert git_state(checkout).changed == ("dvc.yaml", "effir/two.py")


def test_outside_git_there_is_no_revision(tmp_path: Path) -> None:
    assert git_state(tmp_path) == GitState("none", ())


def test_licences_are_those_that_sources_name(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    sources = [{"licence": "MIT"}, {"licence": "Apache-2.0"}, {"licence": "MIT"}, {"name": "?"}]
    (tmp_path / "train/SOURCES.json").write_text(json.dumps(sources))
    (tmp_path / "scifact").mkdir()
    found = licences_of([tmp_path / "train", tmp_path / "scifact"])
    assert found == {"train": ["Apache-2.0", "MIT", "not stated"], "scifact": ["not stated"]}


def test_an_origin_is_flat_as_tags() -> None:
    origin = Origin("hub:a/b@c", "MIT", {"train": ["MIT", "BSD-3-Clause"]}, GitState("abc", ("effir/two.py",)))
    assert origin.tags() == {
        "model.base": "hub:a/b@c",
        "training.teacher": "none",
        "finetune.self_distillation": "false",
        "licences": '{"model": "MIT", "train": "MIT, BSD-3-Clause"}',
        "git.revision": "abc",
        "git.dirty": "true",
    }
