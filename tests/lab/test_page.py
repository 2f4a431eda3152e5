import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from effir.evaluation.variant import Variant
from effir.lab.comparison import Comparison, compare
from effir.lab.page import render_page, write_page

pytestmark = pytest.mark.slow

EVIL = '<script>alert("1")</script>'
MATHS = r"cut & trained $\nope$"  # matplotlib would refuse it as mathematics


def variant(name: str, ndcg: float, speedup: float) -> Variant:
    scores = {f"q{i}": min(1.0, ndcg + (i - 20) / 100) for i in range(40)}
    figures = {"ndcg_at_10": ndcg, "ndcg_at_10_low": ndcg - 0.05, "ndcg_at_10_high": ndcg + 0.05}
    return Variant(
        name=name,
        params={"prune.width": ndcg, "retriever.query_prompt": name},
        quality={"apidocs": figures | {"bm25_ndcg_at_10": 0.6}},
        scores={"apidocs": scores},
        cost={"document_speedup": speedup},
        data={"apidocs": "abc"},
        source=f"MLflow run {name}",
    )


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    return compare([variant(EVIL, 0.6, 1.0), variant(MATHS, 0.7, 1.5)])


class Page(HTMLParser):
    """Collects the tags of a page, its ids, and every address that a browser would fetch or follow."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for key, value in attrs:
            if key == "id":
                self.ids.append(str(value))
            if key.rpartition(":")[2] in ("src", "href", "srcset", "data", "action", "poster"):
                self.addresses.append(str(value))


def test_the_page_loads_nothing_and_every_reference_is_to_itself(comparison: Comparison) -> None:
    html = render_page(comparison)
    page = Page(html)
    assert all(address.startswith("#") for address in page.addresses)
    assert {address[1:] for address in page.addresses} <= set(page.ids)
    assert set(re.findall(r"url\(([^)]*)\)", html)) <= {f"#{one}" for one in page.ids}
    assert not {"link", "script", "iframe", "img", "object"} & set(page.tags)
    assert "@import" not in html


def test_ids_of_several_charts_do_not_collide(comparison: Comparison) -> None:
    ids = Page(render_page(comparison)).ids
    assert ids
    assert len(ids) == len(set(ids))


def test_names_are_escaped_in_the_table_and_in_the_charts(comparison: Comparison) -> None:
    html = render_page(comparison)
    assert "<script" not in html
    assert "cut & trained" not in html
    assert html.count("cut &amp; trained $\\nope$</text>") == 2  # beside its interval, and beside its point


def test_there_is_a_chart_of_bounds_of_the_trade_off_and_of_each_difference(comparison: Comparison) -> None:
    html = render_page(comparison)
    assert Page(html).tags.count("svg") == 3
    assert "40 queries better, 0 equal, 0 worse than" in html
    alone = compare([variant("alone", 0.6, 1.0)])
    assert Page(render_page(alone)).tags.count("svg") == 2


def test_charts_take_their_colours_from_the_page_so_that_dark_mode_reads(comparison: Comparison) -> None:
    html = render_page(comparison)
    charts = "".join(re.findall(r"<svg.*?</svg>", html, re.DOTALL))
    assert "prefers-color-scheme: dark" in html
    assert charts.count("<text") > 20
    assert all("fill: currentColor" in text for text in re.findall(r"<text[^>]*>", charts))
    assert set(re.findall(r"(?:fill|stroke): ([^;\"]+)", charts)) <= {
        "none",
        "currentColor",
        "var(--blue)",
        "var(--orange)",
        "var(--green)",
        "var(--grey)",
    }


def test_equal_comparisons_give_equal_bytes(comparison: Comparison, tmp_path: Path) -> None:
    first, second = tmp_path / "deep/one.html", tmp_path / "two.html"
    write_page(comparison, first)
    write_page(compare(comparison.variants), second)
    assert first.read_bytes() == second.read_bytes()
    assert {path.name for path in first.parent.iterdir()} == {"one.html"}


def test_strokes_mark_the_lowest_and_the_highest_seed(comparison: Comparison) -> None:
    seeds = {"seeds": 2.0, "ndcg_at_10_lowest": 0.55, "ndcg_at_10_highest": 0.65}
    plain = variant("ours", 0.6, 1.0)
    joined = replace(plain, quality={"apidocs": {**plain.quality["apidocs"], **seeds}})
    told = "Strokes mark the lowest and the highest seed."
    assert told in render_page(compare([joined]))
    assert told not in render_page(comparison)
    marks = [len(re.findall("<use", render_page(compare([one])))) for one in (plain, joined)]
    assert marks[1] == marks[0] + 2


def test_variants_without_metrics_are_left_out_of_the_charts() -> None:
    bare = Variant(name="bare", params={}, quality={}, scores={}, cost={}, data={})
    assert Page(render_page(compare([bare]))).tags.count("svg") == 0
    some = render_page(compare([variant("full", 0.5, 1.2), bare]))
    assert "bare on apidocs: not tested, because bare was not evaluated on it" in some
