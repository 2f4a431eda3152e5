"""A study's page: every run with its size, its metrics, and a paired test; plots that open."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from effir.errors import EffirError
from effir.evaluation.variant import Variant
from effir.files import write_json
from effir.lab.comparison import over_seeds
from effir.lab.pareto_plot import FLOOR, pareto
from effir.lab.report import report, table, variant_of
from effir.lab.study_plots import curves, cut_layers, intervals


def row(name: str, share: float, score: float, queries: int = 20) -> dict[str, Any]:
    scores = {f"q{i}": score + 0.01 * (i % 3) for i in range(queries)}
    middle = sum(scores.values()) / queries
    figures = {"ndcg_at_10": middle, "ndcg_at_10_low": middle - 0.05, "ndcg_at_10_high": middle + 0.05}
    cost = {"parameters_without_embeddings": 1e8 * share, "kept_share": share, "document_speedup": 1 / share}
    return {
        "name": name,
        "settings": {"run": name},
        "experiment": f"e-{name}",
        "quality": {"tiny": figures},
        "scores": {"tiny": scores},
        "cost": cost,
        "data": {"tiny": "hash"},
        "source": f"commit of {name}",
    }


def drawn_pareto(studies: Mapping[str, Sequence[Variant]], encoders: Sequence[Mapping[str, Any]] = ()) -> Figure:
    figure = pareto(studies, encoders)
    assert figure is not None
    return figure


MEASURED = {"document_speedup": {"median": 3.0}, "quality": {"tiny": {"ndcg_at_10": 0.5}}}
SMALL: dict[str, Any] = {"name": "small", "engine": "torch", "ours": False, **MEASURED}
ROWS = [row("full", 1.0, 0.6), row("mlp-2", 0.9, 0.5), row("mlp-10", 0.6, 0.2), row("block-2", 0.93, 0.55)]


def test_the_table_has_a_line_a_run_with_a_paired_test_against_the_first() -> None:
    lines = table("direct", "Which?", [variant_of(each) for each in ROWS], "full").splitlines()
    assert lines[0] == "# Which?"
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    assert cells[0] == ["run", "parameters", "nDCG@10 tiny", "share of full's, tiny", "difference to full, tiny"]
    assert [line[0] for line in cells[2:]] == ["full", "mlp-2", "mlp-10", "block-2"]
    assert cells[3][1] == "90.0 M (90.0%)"
    assert cells[2][3:] == ["", ""]
    assert re.fullmatch(r"0\.836 \(0\.83\d to 0\.83\d\)", cells[3][3])  # 0.5095 of 0.6095
    assert re.fullmatch(
        r"-0\.100 \(-0\.100 to -0\.100\), p 0\.0003", cells[3][4]
    )  # 1 of 10,001 patterns, times 3 tests
    assert "- `mlp-2`: `run=mlp-2`" in lines


def test_settings_that_all_runs_share_are_said_once() -> None:
    shared = {"data.eval": ["a", "b"], "prune.depth": 5}
    rows = [{**ROWS[0], "settings": {**shared, "prune.width": 1.0}}, {**ROWS[1], "settings": shared}]
    lines = table("direct", "Which?", [variant_of(each) for each in rows], "full").splitlines()
    assert [line for line in lines if line.startswith("- ")] == [
        "- every run: `data.eval=['a', 'b']`, `prune.depth=5`",
        "- `full`: `prune.width=1.0`",
        "- `mlp-2`: no other settings",
    ]


def test_the_run_to_compare_with_gets_paired_tests_of_its_own() -> None:
    lines = table("direct", "Which?", [variant_of(each) for each in ROWS[:3]], "full", other="mlp-10").splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    assert cells[0][3:] == ["share of full's, tiny", "difference to full, tiny", "difference to mlp-10, tiny"]
    assert [line[5].split()[0] if line[5] else "" for line in cells[2:]] == ["+0.400", "+0.300", ""]


def test_a_single_run_has_no_note_about_tests() -> None:
    assert "p is corrected" not in table("direct", "Which?", [variant_of(ROWS[0])], "full")
    assert "the 1 tests against full" in table("direct", "Which?", [variant_of(each) for each in ROWS[:2]], "full")


def test_seeds_of_one_recipe_are_one_row_with_their_spread(tmp_path: Path) -> None:
    ours = [
        {**row(name, 0.5, 0.4 + 0.1 * seed), "settings": {"training.seed": seed}}
        for seed, name in enumerate(["ours", "ours-seed1"])
    ]
    write_json(
        tmp_path / "half.json",
        {"question": "Which?", "baseline": "full", "compare_with": None, "rows": [ROWS[0], *ours]},
    )
    report(tmp_path)
    lines = [line for line in (tmp_path / "half.md").read_text().splitlines() if line.startswith("| ")]
    assert len(lines) == 4
    assert lines[3].startswith("| ours | 50.0 M (50.0%) | 0.459 (0.456 to 0.463); 2 seeds 0.410 to 0.509 | 0.754 (")


def test_equal_seeds_are_refused_and_a_shared_value_keeps_its_last_digit() -> None:
    level = 0.43148404978982213  # three times this, over three, is another number
    figures = {"ndcg_at_10": 0.5, "bm25_ndcg_at_10": level}
    rows = [
        {**row(f"s{i}", 0.5, 0.4), "quality": {"tiny": figures}, "settings": {"training.seed": i}} for i in range(3)
    ]
    (one,) = over_seeds([variant_of(each) for each in rows])
    assert (one.name, one.quality["tiny"]["bm25_ndcg_at_10"]) == ("s0", level)
    with pytest.raises(EffirError, match="s0 and s0 have the same recipe and the same seed"):
        over_seeds([variant_of(rows[0]), variant_of(rows[0])])
    with pytest.raises(EffirError, match="s0 and s1 were evaluated on different data"):
        over_seeds([variant_of(rows[0]), variant_of({**rows[1], "data": {"tiny": "another"}})])


def test_a_baseline_that_is_also_the_run_to_compare_with_gets_one_column() -> None:
    lines = table("shorter", "Which?", [variant_of(each) for each in ROWS[:2]], "full", other="full").splitlines()
    assert lines[2] == "| run | parameters | nDCG@10 tiny | share of full's, tiny | difference to full, tiny |"
    assert "| " + " | ".join(["full", "100.0 M (100.0%)"]) in lines[4]


def test_a_baseline_that_was_not_run_is_named_and_has_no_columns() -> None:
    lines = table("half", "Which?", [variant_of(each) for each in ROWS[1:3]], "full", other="paper").splitlines()
    assert lines[2] == "| run | parameters | nDCG@10 tiny |"
    assert "`full` was not run yet, so there is no comparison with it." in lines
    assert "`paper` was not run yet, so there is no comparison with it." in lines


def test_every_run_has_a_row_with_its_interval_and_lines_for_the_baseline_and_bm25() -> None:
    seeds = {"seeds": 2.0, "ndcg_at_10_lowest": 0.45, "ndcg_at_10_highest": 0.56, "bm25_ndcg_at_10": 0.3}
    seeded = {**row("mlp-2", 0.9, 0.5), "quality": {"tiny": ROWS[1]["quality"]["tiny"] | seeds}}
    bare = {**row("mlp-5", 0.8, 0.4), "quality": {}}
    axes = intervals("Which?", [variant_of(each) for each in (ROWS[0], seeded, bare)], "full").axes[0]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["full, 100.0%", "mlp-2, 90.0%", "mlp-5, 80.0%"]
    # Scores are 0.60, 0.61 and 0.62 over and over, 20 of them: 0.6095 in the mean, bounds 0.05 away.
    points = [(*bar.lines[0].get_xdata(), *bar.lines[0].get_ydata()) for bar in axes.containers]  # type: ignore[union-attr]
    assert points == [(pytest.approx(0.6095), 0), (pytest.approx(0.5095), 1)]
    ends = [segment[:, 0].tolist() for segment in axes.containers[0].lines[2][0].get_segments()]  # type: ignore[union-attr]
    assert ends == [[pytest.approx(0.5595), pytest.approx(0.6595)]]
    drawn = {str(line.get_label()): np.asarray(line.get_xdata()).tolist() for line in axes.lines}
    assert drawn["lowest and highest seed"] == [0.45, 0.56]
    assert drawn["full"] == [pytest.approx(0.6095)] * 2
    assert drawn["BM25"] == [0.3, 0.3]


def drawn_curves(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    figure = curves("Which?", [variant_of(each) for each in rows])
    bars = figure.axes[0].containers if figure else []
    return {str(bar.get_label()): bar.lines[0].get_xdata().tolist() for bar in bars}  # type: ignore[union-attr]


def test_runs_of_one_method_make_one_curve_up_to_the_first_run_if_that_is_larger() -> None:
    unnumbered = row("mlp", 0.5, 0.1)
    assert drawn_curves([*ROWS, unnumbered]) == {"mlp": [60.0, 90.0, 100.0], "block": [93.0, 100.0]}
    assert drawn_curves(ROWS[1:]) == {"mlp": [60.0, 90.0], "block": [93.0]}
    assert drawn_curves([ROWS[0], ROWS[1], ROWS[3]]) == {}  # no way has two runs


def test_curves_start_at_zero_only_if_a_run_lost_half_of_the_best() -> None:
    ends = {
        name: drawn_axis([ROWS[0], row("mlp-2", 0.9, 0.58), row("mlp-5", 0.8, at)])
        for name, at in (("far", 0.2), ("near", 0.57))
    }
    assert ends["far"][0] == 0
    low, high = ends["near"]
    assert 0.4 < low < 0.52  # the bounds of the worst
    assert high - low == pytest.approx(0.2)  # all bounds are within 0.14: a small difference looks small


def drawn_axis(rows: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    figure = curves("Which?", [variant_of(each) for each in rows])
    assert figure is not None
    return figure.axes[0].get_ylim()


@pytest.mark.slow
def test_every_study_gets_a_table_and_plots_with_equal_bytes_each_time(tmp_path: Path) -> None:
    write_json(tmp_path / "direct.json", {"question": "Which?", "baseline": "full", "compare_with": None, "rows": ROWS})
    written = report(tmp_path)
    assert [path.name for path in written] == ["direct.md", "direct.png", "direct-curves.png", "pareto.png"]
    before = [path.read_bytes() for path in written]
    with Image.open(tmp_path / "direct.png") as image:
        assert image.width > 500
    report(tmp_path)
    assert [path.read_bytes() for path in written] == before


def test_a_plot_that_no_longer_applies_is_removed(tmp_path: Path) -> None:
    for rows, there in ((ROWS, True), (ROWS[:2], False)):
        write_json(
            tmp_path / "direct.json", {"question": "Which?", "baseline": "full", "compare_with": None, "rows": rows}
        )
        report(tmp_path)
        assert (tmp_path / "direct-curves.png").exists() == there


def test_the_pareto_plot_shows_all_studies_and_small_encoders() -> None:
    studies = {"one": [variant_of(row("full", 1.0, 0.6)), variant_of(row("mlp-2", 0.5, 0.4))], "two": []}
    studies["two"] = [
        variant_of({**row("worse", 0.8, 0.35), "quality": {"tiny": {"ndcg_at_10": 0.35, "bm25_ndcg_at_10": 0.5}}})
    ]
    others = [SMALL | {"name": "cut", "ours": True}, SMALL | {"name": "quantised", "engine": "openvino"}]
    axes = drawn_pareto(studies, [SMALL, *others]).axes[0]
    drawn = {str(line.get_label()): np.asarray(line.get_xydata()).tolist() for line in axes.lines}
    assert [speed for speed, _ in drawn["one"]] == [1.0, 2.0]
    assert drawn["_"] == [[3.0, 0.5]]
    assert [speed for speed, _ in drawn["best at its speed"]] == [1.0, 2.0]  # `worse` is slower than mlp-2, and worse
    assert drawn["BM25"][0][1] == 0.5
    # `worse` is not on the front: its study is in the legend, its name is not drawn.
    assert {text.get_text() for text in axes.texts} - {""} == {"full", "mlp-2", "small"}


def test_runs_timed_once_are_left_out_and_every_study_has_its_own_style() -> None:
    once = variant_of(row("once", 0.1, 0.6))
    once = replace(once, cost={**once.cost, "document_speedup_low": 10.0, "document_speedup_high": 10.0})
    studies = {f"s{i}": [variant_of(row(f"run{i}", 1.0 - 0.1 * i, 0.6))] for i in range(8)}
    axes = drawn_pareto({**studies, "untimed": [once]}).axes[0]
    drawn = [line for line in axes.lines if str(line.get_label()).startswith("s")]
    assert len({(line.get_color(), line.get_marker()) for line in drawn}) == len(studies)
    assert "untimed" not in {str(line.get_label()) for line in axes.lines}
    assert pareto({"untimed": [once]}, []) is None


def test_a_run_far_below_the_best_is_at_the_foot_with_its_ndcg() -> None:
    """Its own height would squeeze all others into a tenth of the panel."""
    rows = [row("full", 1.0, 0.6), row("lost", 0.5, 0.01), row("gone", 0.25, 0.01)]
    axes = drawn_pareto({"one": [variant_of(each) for each in rows]}).axes[0]
    drawn = {str(line.get_label()): np.asarray(line.get_xydata()).tolist() for line in axes.lines}
    assert [speed for speed, _ in drawn["one"]] == [1.0]
    assert drawn["_"] == [[speed, pytest.approx(FLOOR * 0.6095)] for speed in (2.0, 4.0)]
    assert {line.get_linestyle() for line in axes.lines if line.get_label() == "_"} == {"None"}
    assert {text.get_text() for text in axes.texts} - {""} == {"full", "lost 0.02", "gone 0.02"}  # 0.0195
    assert drawn["best at its speed"] == [[1.0, pytest.approx(0.6095)]]


def test_runs_with_equal_cuts_share_a_row() -> None:
    layers = {"dropped": [["mlp", 1]], "widths": [8, 0]}
    rows = [{**row(name, 0.9, 0.5), "layers": layers} for name in ("mlp-1", "mlp-1-mean", "mlp-1-long")]
    figure = cut_layers([variant_of(each) for each in rows])
    assert figure is not None
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["mlp-1, mlp-1-mean,\nmlp-1-long"]


def test_labels_of_the_front_cover_no_other() -> None:
    """Points of the front that stand close, in two panels: the second moves the first when it gets its titles."""
    rows = [row(f"run-{i}", 0.8 - 0.02 * i, 0.6 - 0.004 * i) for i in range(6)]
    rows = [{**each, "quality": each["quality"] | {"other": each["quality"]["tiny"]}} for each in rows]
    figure = drawn_pareto({"one": [variant_of(each) for each in rows]})
    figure.draw_without_rendering()
    for axes in figure.axes:
        panel, boxes = axes.get_window_extent(), [text.get_window_extent() for text in axes.texts if text.get_text()]
        assert len(boxes) == len(rows)
        assert all(panel.contains(box.x0, box.y0) and panel.contains(box.x1, box.y1) for box in boxes)
        assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_the_layers_of_a_cut_are_drawn_in_one_row() -> None:
    cut = {**row("mlp-2", 0.9, 0.5), "layers": {"dropped": [["mlp", 3], ["mlp", 1]], "widths": [8, 0, 6, 0]}}
    whole = {**row("full", 1.0, 0.6), "layers": {"dropped": [], "widths": [8, 8, 8, 8]}}
    figure = cut_layers([variant_of(whole), variant_of(cut)])
    assert figure is not None
    left, right = figure.axes[:2]
    assert [(text.get_position(), text.get_text()) for text in left.texts] == [((3, 0.2), "1m"), ((1, 0.2), "2m")]
    assert np.asarray(right.images[0].get_array()).tolist() == [[1.0, 0.0, 0.75, 0.0]]
    assert cut_layers([variant_of(whole)]) is None


def test_widths_are_relative_to_the_same_base_model() -> None:
    deep, wide = ({**row(base, 0.5, 0.5), "settings": {"model.base": base}} for base in ("deep", "wide"))
    deep["layers"] = {"dropped": [["mlp", 2]], "widths": [8, 4, 0]}
    wide["layers"] = {"dropped": [], "widths": [16, 4]}
    figure = cut_layers([variant_of(deep), variant_of(wide)])
    assert figure is not None
    left, right = figure.axes[:2]
    shares = np.ma.filled(right.images[0].get_array(), np.nan).tolist()
    assert shares[0] == [1.0, 0.5, 0.0]  # of 8 channels
    assert shares[1][:2] == [1.0, 0.25]  # of 16
    assert np.isnan(shares[1][2])  # a layer that this model does not have
    assert [text.get_text() for text in left.texts] == ["1m"]


def test_the_encoders_of_the_pareto_plot_are_read_where_they_were_measured(tmp_path: Path) -> None:
    write_json(tmp_path / "direct.json", {"question": "Which?", "baseline": "full", "compare_with": None, "rows": ROWS})
    write_json(tmp_path / "encoders/small.json", {"rows": [SMALL]})
    pictures = []
    for encoders in ("encoders/small.json", "encoders/missing.json"):
        report(tmp_path, tmp_path / encoders)
        pictures.append((tmp_path / "pareto.png").read_bytes())
    assert pictures[0] != pictures[1]


def test_no_results_write_nothing(tmp_path: Path) -> None:
    assert report(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_runs_on_other_data_and_runs_without_a_set_say_so() -> None:
    other, bare = {**row("mlp-2", 0.9, 0.5), "data": {"tiny": "another"}}, {**row("mlp-5", 0.8, 0.4), "quality": {}}
    lines = table("direct", "Which?", [variant_of(each) for each in (ROWS[0], other, bare)], "full")
    assert "the two were evaluated on different data" in lines
    assert "| not evaluated |" in lines
