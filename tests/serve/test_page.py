"""The page to search in, in a real browser: by mouse, by keyboard, by address, and when something goes wrong."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webdriver import WebDriver

from benchmarks.processes import Served, serving
from docs.screenshots import browsing, missing_programs, until, visit
from effir.data.beir import open_collection
from effir.serve.documents import create_index
from effir.serve.open_model import model_of, open_model

ROOT = Path(__file__).parents[2]
REAL = ROOT / "models/retriever", ROOT / "data/eval/apidocs"
MISSING = missing_programs()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        bool(MISSING), reason=f"no {' and no '.join(MISSING)}: install Debian's chromium and chromium-driver"
    ),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[WebDriver]:
    with browsing() as opened:
        yield opened


def titles(browser: WebDriver) -> list[str]:
    return [found.text for found in browser.find_elements(By.CSS_SELECTOR, "#hits h2")]


def found(browser: WebDriver) -> list[str]:
    """Wait until the page says how many were found, and list their titles."""
    status = browser.find_element(By.ID, "status")
    until(browser, lambda page: "found in" in status.text, "an answer")
    return titles(browser)


def focused(browser: WebDriver) -> str:
    return str(browser.execute_script("return document.activeElement.dataset.id || document.activeElement.id"))


def press(browser: WebDriver, *keys: str) -> None:
    for key in keys:
        browser.switch_to.active_element.send_keys(key)


def test_a_question_is_asked_and_answered_by_keyboard_alone(served: Served, browser: WebDriver) -> None:
    visit(browser, served.address)
    until(browser, lambda page: "46 documents" in page.find_element(By.TAG_NAME, "h1").text, "the number of documents")
    assert focused(browser) == "query"
    press(browser, "w9 w10 w11", Keys.ENTER)
    assert len(found(browser)) == 10
    ids = [item.get_attribute("data-id") for item in browser.find_elements(By.CSS_SELECTOR, "#hits li")]
    press(browser, Keys.ARROW_DOWN, Keys.ARROW_DOWN)
    assert focused(browser) == ids[1]
    press(browser, Keys.ARROW_UP, Keys.ARROW_UP)
    assert focused(browser) == "query"
    press(browser, Keys.ARROW_DOWN, "/")
    assert focused(browser) == "query"
    assert browser.find_element(By.ID, "query").get_attribute("value") == "w9 w10 w11"  # and no slash
    press(browser, Keys.ESCAPE)
    assert titles(browser) == []


def test_the_address_holds_the_question_and_back_returns(served: Served, browser: WebDriver) -> None:
    visit(browser, f"{served.address}/?q=w20+w21")
    first = found(browser)
    box = browser.find_element(By.ID, "query")
    box.clear()
    box.send_keys("w30 w31")
    browser.find_element(By.TAG_NAME, "button").click()
    until(browser, lambda page: titles(page) not in ([], first), "other documents")
    assert browser.current_url.endswith("?q=w30+w31")
    browser.back()
    until(browser, lambda page: titles(page) == first, "the first documents")


def test_text_is_shown_as_text(browser: WebDriver, retriever: Path, tmp_path: Path) -> None:
    from effir.data.beir import Document

    model = model_of(str(retriever), precision="float32")
    documents = [Document("<b>", "<i>w9</i>", "<script>w9</script>")]
    create_index(tmp_path / "index", documents, open_model(model).documents, model, "Flat")
    with serving(tmp_path / "index") as served:
        visit(browser, f"{served.address}/?q=w9")
        assert found(browser) == ["<i>w9</i>"]
        assert browser.find_element(By.CSS_SELECTOR, "#hits p").text == "<script>w9</script>"


def test_a_stopped_service_is_reported(retriever: Path, tmp_path: Path, browser: WebDriver) -> None:
    from tests.serve.conftest import indexed

    with serving(indexed(retriever, tmp_path / "index")) as served:
        visit(browser, f"{served.address}/?q=w9")
        found(browser)
        served.process.kill()
        served.process.wait()
        press(browser, Keys.ESCAPE, "w10", Keys.ENTER)
        status = browser.find_element(By.ID, "status")
        assert (
            until(browser, lambda page: "does not answer" in status.text and status.get_attribute("class"), "it")
            == "wrong"
        )


def test_the_page_and_the_docs_load_nothing_from_elsewhere(served: Served, browser: WebDriver) -> None:
    browser.get_log("browser"), browser.get_log("performance")
    visit(browser, f"{served.address}/?q=w9")
    found(browser)
    visit(browser, f"{served.address}/docs")
    until(browser, lambda page: "/v1/embeddings" in page.find_element(By.TAG_NAME, "body").text, "the paths")
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert len(asked) > 2
    assert all(url.startswith((served.address, "about:", "data:")) for url in asked)
    severe = [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert not [message for message in severe if served.address in message]


@pytest.mark.skipif(not all(path.exists() for path in REAL), reason="no models/retriever: run `make repro`")
def test_the_real_model_finds_scipys_filters(browser: WebDriver, tmp_path: Path) -> None:
    retriever, folder = REAL
    near = ("scipy.ndimage.", "networkx.algorithms.shortest_paths.")  # a part of the set, to be quick
    documents = (d for d in open_collection(folder).documents() if d.title.startswith(near))
    model = model_of(str(retriever))
    create_index(tmp_path / "index", documents, open_model(model).documents, model, "Flat")
    with serving(tmp_path / "index") as served:
        visit(browser, served.address)
        press(browser, "apply a median filter", Keys.ENTER)
        assert "scipy.ndimage.median_filter" in found(browser)[:5]
        visit(browser, f"{served.address}/?q=smooth+an+image+with+a+gaussian")
        assert "scipy.ndimage.gaussian_filter" in found(browser)[:5]  # another processor trains other weights
