"""MLflow's own UI, as `make ui` starts it, in a real browser: what a newcomer sees of four variants."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webdriver import WebDriver

from docs.screenshots import (
    ANNOUNCED,
    TRAINING,
    browsing,
    dismiss_notice,
    missing_programs,
    mlflow_ui,
    open_charts,
    open_model,
    open_runs,
    shows,
    until,
    visit,
)
from effir.tracking import open_store
from effir.tracking.runs import finish_pipeline, pipeline_run
from effir.tracking.stage_run import stage_run
from effir.tracking.view import NOTE, VIEW, explain_aliases, main, show_best_first
from tests.tracking.conftest import in_project

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
    """A browser on a server, the address that `make ui` printed, and the ids of the pipeline runs by variant."""

    browser: WebDriver
    best_first: str
    runs: dict[str, str]

    @property
    def experiment(self) -> str:
        return self.best_first.partition("/runs")[0]


def run_pipeline(variant: str, ndcg: float, kept: float, speedup: float) -> str:
    """Log what a pipeline logs: stage runs, a loss curve, and the figures on the pipeline run; its id."""
    params = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    depth, width, _ = variant.split("-")
    params["prune"] |= {"depth": int(depth[1:]), "width": float(width[1:])}
    figures = {"apidocs/ndcg_at_10": ndcg, "apidocs/recall_at_100": round(ndcg + 0.2, 3)}
    for stage in STAGES:
        with stage_run(stage, params, Path(f"runs/{stage}.json")) as run:
            if stage == "finetune":
                for step in range(5, 105, 5):
                    run.log_metrics({"loss": kept + math.exp(-step / 40)}, step)
            if stage == "evaluate@apidocs":
                run.log_metrics(figures)
    return finish_pipeline(
        variant,
        params=params,
        stages=STAGES,
        records=Path("runs"),
        metrics=figures | {"cost/kept_share": kept, "cost/document_speedup": speedup},
        hashes={"models/retriever": "0a.dir"},
    )


def register(runs: dict[str, str]) -> None:
    """Register the variants as versions 1 to 4: the third serves, the second did before, the fourth is new."""
    client = open_store().client
    client.create_registered_model(NAME)
    for variant, run in runs.items():
        client.create_model_version(NAME, f"runs:/{run}/model", run, {"variant": variant})
    for alias, version in {"previous": "2", "champion": "3", "challenger": "4"}.items():
        client.set_registered_model_alias(NAME, alias, version)


@pytest.fixture(scope="module")
def ui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ui]:
    """Four variants in a store, and a browser in front of `make ui`."""
    root = tmp_path_factory.mktemp("ui")
    with pytest.MonkeyPatch.context() as patch:
        in_project(root, patch)
        runs = {variant: run_pipeline(variant, *figures) for variant, figures in VARIANTS.items()}
        register(runs)
        with mlflow_ui(root) as best_first, browsing() as browser:
            open_runs(browser, best_first)  # waits for the server
            yield Ui(browser, best_first, runs)


def column(browser: WebDriver, name: str) -> list[str]:
    """Cells of a column of the table, from the top to the bottom."""
    cells = browser.find_elements(By.CSS_SELECTOR, f"[role='gridcell'][col-id='{name}']")
    return [cell.text for cell in sorted(cells, key=lambda cell: cell.location["y"])]


@needs_browser
def test_the_address_that_make_ui_prints_shows_the_best_run_on_top(ui: Ui) -> None:
    assert open_runs(ui.browser, ui.best_first) == BEST_FIRST  # and no stage runs between them
    assert column(ui.browser, "metrics.`apidocs/ndcg_at_10`") == ["0.701", "0.638", "0.602", "0.561"]
    assert column(ui.browser, "metrics.`cost/kept_share`") == ["1", "0.647", "0.554", "0.513"]
    assert column(ui.browser, "metrics.`cost/document_speedup`") == ["1.01", "1.51", "1.63", "1.82"]
    shows(ui.browser, "Best run first", "Sort: apidocs/ndcg_at_10", "4 matching runs")
    dismiss_notice(ui.browser)


@needs_browser
def test_who_comes_by_the_list_of_experiments_is_led_to_the_best_run(ui: Ui) -> None:
    visit(ui.browser, f"{ui.best_first.partition('/#/')[0]}/#/experiments")
    until(ui.browser, lambda browser: browser.find_elements(By.LINK_TEXT, "effir"), "the experiment")[0].click()
    links = until(ui.browser, lambda browser: browser.find_elements(By.LINK_TEXT, "Best run first"), "its description")
    assert links[0].get_attribute("href") == ui.best_first


@needs_browser
def test_the_charts_compare_quality_size_and_speed_first(ui: Ui) -> None:
    open_charts(ui.browser, ui.best_first)
    page = shows(ui.browser, "Quality, size and speed", "cost/document_speedup", "0.70", "0.65", "1.82")
    titles = [line for line in page[page.index("Quality, size and speed") :].splitlines() if "/" in line]
    assert titles[:3] == ["apidocs/ndcg_at_10", "cost/kept_share", "cost/document_speedup"]


@needs_browser
def test_two_runs_are_compared_from_the_table(ui: Ui) -> None:
    open_runs(ui.browser, ui.best_first)
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
def test_a_run_shows_its_figures_its_stages_and_its_artifacts(ui: Ui) -> None:
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
    open_model(ui.browser, ui.best_first, NAME)
    page = shows(ui.browser, "effir promote", "Version 4", "@ previous")
    rows = {row[:1]: row for row in page.split("Version ")[1:]}
    served = {
        version: [alias for alias in ("champion", "challenger", "previous") if f"@ {alias}" in row]
        for version, row in rows.items()
    }
    assert served == {"4": ["challenger"], "3": ["champion"], "2": ["previous"], "1": []}
    assert "variant\n: d10-w0.96-s0" in rows["3"]


def test_the_view_follows_the_sets_and_a_persons_words_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_project(tmp_path, monkeypatch)
    client, experiment = open_store().client, open_store().experiment_id
    show_best_first(["apidocs"])
    first = dict(client.get_experiment(experiment).tags)
    show_best_first(["apidocs"])
    assert client.get_experiment(experiment).tags == first  # nothing to say, nothing is written
    client.set_experiment_tag(experiment, NOTE, "mine")
    show_best_first(["scifact", "apidocs"])
    after = client.get_experiment(experiment).tags
    assert "metrics.`scifact/ndcg_at_10`" in after[VIEW]
    assert after[NOTE] == "mine"


def test_a_model_is_described_once_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    in_project(tmp_path, monkeypatch)
    main("http://127.0.0.1:5000")  # no model yet
    assert capsys.readouterr().out.startswith(f"{ANNOUNCED}http://127.0.0.1:5000/#/experiments/")
    client = open_store().client
    client.create_registered_model(NAME)
    explain_aliases(NAME, "candidate")
    assert "`candidate` is the newest version" in client.get_registered_model(NAME).description
    client.update_registered_model(NAME, "mine")
    explain_aliases(NAME, "candidate")
    assert client.get_registered_model(NAME).description == "mine"
    assert pipeline_run({"a": 1})  # the store is as usable as before
