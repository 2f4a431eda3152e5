from collections.abc import Mapping
from pathlib import Path

import yaml

from effir.lab.overrides import set_over
from effir.lab.space import Value
from effir.params import check_params
from effir.tracking.model_card import description, model_card, recipe, result_table
from effir.tracking.provenance import GitState, Origin

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
    assert table[2] == "| apidocs | **0.637** (0.596 to 0.678) | 0.923 | 0.652 | 0.631 | 300 |"
    assert table[-1] == "| 68.7 M (64.7%) | 1.55 times fewer | 1.51 times as fast | 1.48 times as fast | 388 MB |"


def test_a_description_begins_with_the_main_figures() -> None:
    assert description(QUALITY, COST).startswith("0.637 on apidocs, 65% kept, 1.5x speed\n\n| set |")


def test_the_cards_front_matter_holds_figures_and_licence_as_the_hub_reads_them() -> None:
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
    assert said({}) == (
        "tuned for 60 steps, taught by `wheel:b==2/model`; 10 blocks dropped; restored for 120 steps; "
        "96% of its MLP channels kept; healed for 60 steps, taught by its own whole"
    )
    paper: dict[str, Value] = {
        "finetune_full.steps": 0,
        "distill.steps": 0,
        "analyze.sublayer": "mlp",
        "prune.width": 0.7,
    }
    healed = "10 MLPs dropped; 70% of its MLP channels kept; healed for 60 steps, taught by `wheel:b==2/model`"
    assert said(paper) == healed
    assert said({**paper, "training.teacher": ""}) == healed.partition(", taught")[0]
    assert said({**paper, "finetune.steps": 0}) == healed.partition("; healed")[0]
    whole: dict[str, Value] = {"prune.depth": 0, "prune.width": 1.0, "finetune.steps": 0}
    assert said(whole) == "tuned for 60 steps, taught by `wheel:b==2/model`"
    assert said({**whole, "finetune_full.steps": 0}) == "nothing was cut or trained"
    assert "made of `wheel:a==1`: 10 MLPs dropped.\n" in model_card("a", QUALITY, COST, ORIGIN, {}, "10 MLPs dropped")


def test_the_card_names_changed_code() -> None:
    origin = Origin("wheel:a==1", "MIT", {}, GitState("abc", ("effir/two.py",)))
    assert "git abc, with changes in effir/two.py" in model_card("one", QUALITY, COST, origin, {}, "")
