"""Retake the screenshots in docs/: MLflow's UI on this checkout's store, and the page of ``effir serve``.

``python docs/screenshots.py mlflow`` starts what ``make ui`` starts, ``search`` indexes the default collection with the
default retriever and serves it. Both drive headless Chromium (Debian's ``chromium`` and ``chromium-driver``).
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TypeVar
from urllib.parse import urlencode

import click
import requests
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from benchmarks.processes import serving
from effir.serve.documents import MANIFEST

Found = TypeVar("Found")

CHECKOUT = Path(__file__).parents[1]
DOCS = CHECKOUT / "docs"
PROGRAMS = ("chromium", "chromedriver")
FLAGS = """--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
--disable-component-update --disable-sync""".split()
# A mouse: without one, charts keep their toolbars over themselves.
MOUSE = "--blink-settings=primaryHoverType=2,availableHoverTypes=2,primaryPointerType=4,availablePointerTypes=4"
WIDTH, HEIGHT = 1400, 800
SECONDS = 90.0  # a busy machine starts the server in 30 s
TRAINING = "workflowType=machine_learning"  # the UI opens in its GenAI mode
HEAD = "Experiments\neffir"  # the path at the head of a page, which may come last
# The assistant's panel opens itself once in each new browser, over a third of the page.
NO_PANEL = "localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true')"


def missing_programs() -> list[str]:
    """Name the programs, Chromium and its driver, that are not installed."""
    return [name for name in PROGRAMS if shutil.which(name) is None]


@contextmanager
def browsing() -> Iterator[WebDriver]:
    """Open headless Chromium with a profile of its own, 1400 by 800 pixels."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = str(shutil.which("chromium"))
        for flag in (*FLAGS, MOUSE, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        browser = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
        try:
            size = {"width": WIDTH, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": False}
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": NO_PANEL})
            yield browser
        finally:
            browser.quit()


def visit(browser: WebDriver, address: str) -> None:
    """Open a page anew: addresses of MLflow differ after the ``#`` only, and the last page must not be seen."""
    browser.get("about:blank")
    browser.get(address)


def until(browser: WebDriver, condition: Callable[[WebDriver], Found], what: str, seconds: float = SECONDS) -> Found:
    """Wait until ``condition`` holds and return what it found; TimeoutException says ``what`` did not come."""
    waiting = WebDriverWait(browser, seconds, 0.2, [StaleElementReferenceException])
    return waiting.until(condition, f"{what}: not within {seconds:.0f} s at {browser.current_url}")


def shows(browser: WebDriver, *texts: str) -> str:
    """Wait until the page shows all ``texts``, and return all that it shows."""

    def seen(browser: WebDriver) -> str | None:
        page = browser.find_element(By.TAG_NAME, "body").text
        return page if all(text in page for text in texts) else None

    return until(browser, seen, f"a page with {', '.join(texts)}") or ""


@contextmanager
def mlflow_ui(root: Path) -> Iterator[str]:
    """Run ``make ui`` on the store in ``root`` and a free port; yield the address of effir's experiment."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = int(listening.getsockname()[1])
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    # Under `make test` it would be a make inside a make, which prints its folder first.
    env = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    # -o: the environment is there, and is not set up again for another folder.
    command = ["make", "-f", str(CHECKOUT / "Makefile"), "-o", ".venv/.ready", "ui", f"PORT={port}"]
    with tempfile.TemporaryFile("w+") as log:
        server = subprocess.Popen(
            command, cwd=root, env={**env, "PATH": path}, stdout=log, stderr=log, start_new_session=True
        )
        try:
            yield f"http://127.0.0.1:{port}/#/experiments/{_experiment(server, port, log)}"
        finally:
            os.killpg(server.pid, signal.SIGKILL)  # asked to end, it takes 11 s
            server.communicate()


def _experiment(server: "subprocess.Popen[bytes]", port: int, log: IO[str]) -> str:
    """Ask MLflow for the id of effir's experiment, until it answers."""
    question = f"http://127.0.0.1:{port}/api/2.0/mlflow/experiments/get-by-name?experiment_name=effir"
    deadline = time.monotonic() + SECONDS
    while server.poll() is None and time.monotonic() < deadline:
        with suppress(requests.ConnectionError, requests.Timeout):
            return str(requests.get(question, timeout=5).json()["experiment"]["experiment_id"])
        time.sleep(0.5)
    log.seek(0)
    raise RuntimeError(f"make ui does not answer: {log.read()}")


def runs_page(experiment: str, order_by: str) -> str:
    """Return the address of the experiment's pipeline runs, the highest ``order_by`` first."""
    shown = {
        "searchFilter": "tags.`effir.pipeline` LIKE '%'",
        "orderByKey": f"metrics.`{order_by}`",
        "orderByAsc": "false",
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": "W10=",  # an empty list, in MLflow's way
    }
    return f"{experiment}/runs?{urlencode(shown)}&{TRAINING}"


def open_runs(browser: WebDriver, page: str) -> list[str]:
    """Open the table of runs; return the names of its runs, from the top."""
    visit(browser, page)
    links = until(browser, lambda browser: _run_links(browser), "a run in the table")
    shows(browser, HEAD)
    return [link.text for link in links]


def open_charts(browser: WebDriver, page: str) -> None:
    """Compare the runs of the table by charts, and wait for three of them."""
    visit(browser, f"{page}&compareRunsMode=CHART")
    drawn = ".js-plotly-plot:has(.bars path)"
    until(browser, lambda browser: len(browser.find_elements(By.CSS_SELECTOR, drawn)) >= 3, "three charts with bars")
    shows(browser, HEAD)


def open_model(browser: WebDriver, experiment: str, name: str) -> None:
    """Open the page of the registered model ``name``."""
    visit(browser, f"{experiment.partition('/#/')[0]}/#/models/{name}?{TRAINING}")
    shows(browser, name, "Aliases")


def _run_links(browser: WebDriver) -> Sequence[WebElement]:
    """Links of the table's runs, as they stand from the top to the bottom; the table keeps its rows in any order."""
    links = browser.find_elements(By.CSS_SELECTOR, "[col-id='attributes.`Run Name`'] a[href*='/runs/']")
    return sorted(links, key=lambda link: link.location["y"])


@contextmanager
def served(index: Path) -> Iterator[str]:
    """Serve the default collection, indexed in ``index`` by the default retriever if needed; yield the address."""
    if not (index / MANIFEST).exists():  # a build that was killed goes on
        build = ["index", "build", "data/eval/apidocs", str(index), "--model", "models/retriever"]
        subprocess.run([sys.executable, "-m", "effir.cli", *build], cwd=CHECKOUT, check=True)
    with serving(index) as found:
        yield found.address


def ask(browser: WebDriver, address: str, question: str) -> None:
    """Ask the page of ``effir serve``, twice: the first answer waits for the model to warm up."""
    for _ in range(2):
        visit(browser, f"{address}/?{urlencode({'q': question})}")
        shows(browser, "found in")


@click.group()
def main() -> None:
    """Retake the screenshots in docs/."""
    if missing := missing_programs():
        raise click.ClickException(f"no {' and no '.join(missing)}: install Debian's chromium and chromium-driver")


@main.command()
@click.argument("model", default="effir-retriever")
def mlflow(model: str) -> None:
    """Write docs/mlflow-runs.png, docs/mlflow-comparison.png and docs/mlflow-model.png, of MODEL."""
    with mlflow_ui(CHECKOUT) as experiment, browsing() as browser:
        page = runs_page(experiment, "apidocs/ndcg_at_10")
        open_runs(browser, page)
        browser.save_screenshot(str(DOCS / "mlflow-runs.png"))
        open_charts(browser, page)
        browser.save_screenshot(str(DOCS / "mlflow-comparison.png"))
        open_model(browser, experiment, model)
        browser.save_screenshot(str(DOCS / "mlflow-model.png"))


@main.command()
@click.argument("question", default="smooth an image with a gaussian")
@click.option("--index", type=click.Path(path_type=Path), default=CHECKOUT / ".effir/pictures/index")
def search(question: str, index: Path) -> None:
    """Write docs/search-page.png: what the default retriever finds when asked QUESTION."""
    with served(index) as address, browsing() as browser:
        ask(browser, address, question)
        browser.save_screenshot(str(DOCS / "search-page.png"))


if __name__ == "__main__":
    main()
