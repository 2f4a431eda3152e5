"""MLflow's own UI, as `make ui` starts it, in a real browser: what a newcomer sees of four variants."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
import yaml
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webdriver import WebDriver

from docs.screenshots import (
    TRAINING,
    browsing,
    missing_programs,
    mlflow_ui,
    open_charts,
    open_model,
    open_runs,
    runs_page,
    shows,
    until,
    visit,
)
from effir.tracking.registry import ALIASES
from effir.tracking.runs import finish_pipeline
from effir.tracking.stage_run import stage_run
from effir.tracking.store import open_store
from tests.tracking.conftest import in_project

pytestmark = pytest.mark.slow

NAME = "effir-retriever"
STAGES = ("analyze", "finetune", "evaluate@apidocs")
# nDCG@10, kept share and speed-up of each variant, in the order in which they were run: the best is neither end.
VARIANTS = {
    "d15-w0.70-s0": (0.561, 0.513, 1.82),
    "d0-w1.00-s0": (0.701, 1.0, 1.01),
    "d10-w0.96-s0": (0.638, 0.647, 1.51),
    "d10-w0.60-s0": (0.602, 0.554, 1.63),
}
BEST_FIRST = ["d0-w1.00-s0", "d10-w0.96-s0", "d10-w0.60-s0", "d15-w0.70-s0"]
MISSING = missing_programs()
needs_browser = pytest.mark.skipif(
    bool(MISSING), reason=f"no {' and no '.join(MISSING)}: install Debian's chromium and chromium-driver"
)


@dataclass(frozen=True)
class Ui:
    """A browser on a server, the address of the experiment, and the ids of the pipeline runs by variant."""

    browser: WebDriver
    experiment: str
    runs: dict[str, str]

    @property
    def table(self) -> str:
        return runs_page(self.experiment, "apidocs/ndcg_at_10")


def run_pipeline(variant: str, ndcg: float, kept: float, speedup: float) -> str:
    """Log what a pipeline logs: stage runs, a loss curve, and the metrics on the pipeline run; its id."""
    params = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    depth, width, _ = variant.split("-")
    params["prune"] |= {"depth": int(depth[1:]), "width": float(width[1:])}
    metrics = {"apidocs/ndcg_at_10": ndcg, "apidocs/recall_at_100": round(ndcg + 0.2, 3)}
    for stage in STAGES:
        with stage_run(stage, params, Path(f"runs/{stage}.json")) as run:
            if stage == "finetune":
                for step in range(5, 105, 5):
                    run.log_metrics({"loss": kept + math.exp(-step / 40)}, step)
            if stage == "evaluate@apidocs":
                run.log_metrics(metrics)
    return finish_pipeline(
        variant,
        params=params,
        stages=STAGES,
        records=Path("runs"),
        metrics=metrics | {"cost/kept_share": kept, "cost/document_speedup": speedup},
        hashes={"models/retriever": "0a.dir"},
    )


def register(runs: dict[str, str]) -> None:
    """Register the variants as versions 1 to 4: the third serves, the second did before, the fourth is new."""
    client = open_store().client
    client.create_registered_model(NAME, description=ALIASES.format(alias="challenger"))
    for variant, run in runs.items():
        client.create_model_version(NAME, f"runs:/{run}/model", run, {"variant": variant})
    for alias, version in {"previous": "2", "champion": "3", "challenger": "4"}.items():
        client.set_registered_model_alias(NAME, alias, version)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, dict[str, str]]]:
    """Serve four variants by `make ui`: the address of the experiment, and the runs by variant."""
    root = tmp_path_factory.mktemp("ui")
    with pytest.MonkeyPatch.context() as patch:
        in_project(root, patch)
        runs = {variant: run_pipeline(variant, *metrics) for variant, metrics in VARIANTS.items()}
        register(runs)
        with mlflow_ui(root) as experiment:
            yield experiment, runs


@pytest.fixture(scope="module")
def ui(served: tuple[str, dict[str, str]]) -> Iterator[Ui]:
    with browsing() as browser:
        yield Ui(browser, *served)


def test_make_ui_serves_the_store(served: tuple[str, dict[str, str]]) -> None:
    experiment, runs = served
    server = experiment.partition("/#/")[0]
    for variant, run in runs.items():
        found = requests.get(f"{server}/api/2.0/mlflow/runs/get", {"run_id": run}, timeout=60).json()["run"]["info"]
        assert (found["run_name"], found["experiment_id"]) == (variant, experiment.rpartition("/")[2])


@needs_browser
def test_the_table_of_pipeline_runs_is_sorted_by_quality(ui: Ui) -> None:
    assert open_runs(ui.browser, ui.table) == BEST_FIRST  # and no stage runs between them


@needs_browser
def test_the_charts_compare_quality_size_and_speed(ui: Ui) -> None:
    open_charts(ui.browser, ui.table)
    charts = ("apidocs/ndcg_at_10", "cost/kept_share", "cost/document_speedup")
    page = shows(ui.browser, *charts)
    assert all(page.splitlines().count(chart) >= 1 for chart in charts)  # each is the title of a chart, on a line alone


@needs_browser
def test_two_runs_are_compared_from_the_table(ui: Ui) -> None:
    open_runs(ui.browser, ui.table)
    boxes = ui.browser.find_elements(By.CSS_SELECTOR, "[role='row'][row-index] .ag-checkbox-input-wrapper")
    for box in sorted(boxes, key=lambda box: box.location["y"])[:2]:
        box.click()
    wanted = "//button[normalize-space()='Compare']"
    until(ui.browser, lambda browser: browser.find_elements(By.XPATH, wanted), "the button Compare")[0].click()
    page = shows(ui.browser, "Comparing 2 Runs from 1 Experiment", "Metrics", "cost/kept_share")
    assert f"{BEST_FIRST[0]}\n{BEST_FIRST[1]}" in page
    metrics = page[page.rindex("Metrics\n") :]
    assert re.findall(r"\w+/\w+", metrics)[:4] == [
        "apidocs/ndcg_at_10",
        "apidocs/recall_at_100",
        "cost/document_speedup",
        "cost/kept_share",
    ]
    values = ["0.701", "0.638", "0.901", "0.838", "1.01", "1.51", "1", "0.647"]  # of one run and the other in turn
    assert re.findall(r"(?<![\w.])\d(?:\.\d+)?(?![\w.])", metrics)[: len(values)] == values


@needs_browser
def test_a_run_shows_its_metrics_its_stages_and_its_artifacts(ui: Ui) -> None:
    address = f"{ui.experiment}/runs/{ui.runs['d10-w0.96-s0']}"
    visit(ui.browser, f"{address}?{TRAINING}")
    page = shows(ui.browser, "d10-w0.96-s0", "apidocs/ndcg_at_10", "Finished", *STAGES)
    assert re.search(r"apidocs/ndcg_at_10\s+0\.638\b", page)
    visit(ui.browser, f"{address}/artifacts?{TRAINING}")
    assert "dvc.lock.json" in shows(ui.browser, "dvc.lock.json")


@needs_browser
def test_a_stage_shows_its_loss_curve(ui: Ui) -> None:
    store, pipeline = open_store(), ui.runs["d10-w0.96-s0"]
    condition = f"tags.`mlflow.parentRunId` = '{pipeline}' and attributes.run_name = 'finetune'"
    [stage] = store.client.search_runs([store.experiment_id], condition)
    visit(ui.browser, f"{ui.experiment}/runs/{stage.info.run_id}/model-metrics?{TRAINING}")
    shows(ui.browser, "loss", "Step")
    points = until(ui.browser, lambda browser: browser.find_elements(By.CSS_SELECTOR, ".points path"), "the curve")
    assert len(points) == 20  # steps 5, 10, …, 100


@needs_browser
def test_the_registered_model_shows_which_version_serves(ui: Ui) -> None:
    open_model(ui.browser, ui.experiment, NAME)
    page = shows(ui.browser, "effir promote", "Version 4", "@ previous")
    rows = {row[:1]: row for row in page.split("Version ")[1:]}
    served = {
        version: [alias for alias in ("champion", "challenger", "previous") if f"@ {alias}" in row]
        for version, row in rows.items()
    }
    assert served == {"4": ["challenger"], "3": ["champion"], "2": ["previous"], "1": []}
    assert "variant\n: d10-w0.96-s0" in rows["3"]
