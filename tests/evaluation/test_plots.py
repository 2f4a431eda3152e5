from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest

from effir.evaluation.plots import draw_loss, draw_quality, draw_redundancy, draw_slimming

pytestmark = pytest.mark.slow

METRICS = {f"{measure}_at_{k}": 0.1 * i for measure in ("ndcg", "recall") for i, k in enumerate((1, 5, 10, 100), 1)}
QUALITY = METRICS | {"ndcg_at_10": 0.5, "ndcg_at_10_low": 0.4, "ndcg_at_10_high": 0.55, "queries": 300}
BASELINES = {"bm25": METRICS, "small": {key: 0.9 for key in METRICS}}
REDUNDANCY = {"samples": 256, "tokens": 9000, "attention": [0.5, 0.2], "mlp": [0.3, 0.1], "block": [0.6, 0.3]}
SLIMMING: dict[str, Any] = {
    "method": "slimming",
    "widths": [32, 0, 16],
    "scores": {"edges": [0.0, 0.5, 1.0], "counts": [3, 20], "threshold": 0.4},
}
LOSS = [
    {"step": 5, "loss": 2.0, "learning_rate": 0.1},
    {"step": 10, "loss": 1.0, "learning_rate": 0.0},
]

Draw = Callable[[Path], None]
PLOTS: dict[str, Draw] = {
    "redundancy": lambda into: draw_redundancy(REDUNDANCY, into),
    "slimming": lambda into: draw_slimming(SLIMMING, into),
    "unslimmed": lambda into: draw_slimming(SLIMMING | {"scores": None}, into),
    "loss": lambda into: draw_loss(LOSS, into),
    "no loss": lambda into: draw_loss([], into),
    "quality": lambda into: draw_quality("apidocs", QUALITY, BASELINES, into),
}
CHANGED: dict[str, Draw] = {
    "redundancy": lambda into: draw_redundancy(REDUNDANCY | {"mlp": [0.3, 0.2]}, into),
    "slimming": lambda into: draw_slimming(SLIMMING | {"widths": [32, 16, 16]}, into),
    "loss": lambda into: draw_loss(LOSS[:1], into),
    "quality": lambda into: draw_quality("apidocs", QUALITY | {"ndcg_at_10_low": 0.1}, BASELINES, into),
}


def pixels(path: Path) -> "np.ndarray[Any, Any]":
    found: np.ndarray[Any, Any] = matplotlib.image.imread(path)
    return found


def colours_of(path: Path) -> set[tuple[int, ...]]:
    return {tuple(pixel) for pixel in (pixels(path)[..., :3] * 255).round().astype(int).reshape(-1, 3).tolist()}


@pytest.mark.parametrize("name", PLOTS)
def test_a_plot_is_an_image_and_equal_numbers_give_equal_bytes(tmp_path: Path, name: str) -> None:
    one, other = tmp_path / "one.png", tmp_path / "other.png"
    PLOTS[name](one)
    PLOTS[name](other)
    assert one.read_bytes() == other.read_bytes()
    image = pixels(one)
    assert image.shape[0] > 300
    assert image.shape[1] > 600
    assert len(np.unique(image.reshape(-1, image.shape[2]), axis=0)) > 20  # axes and letters at least
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("name", CHANGED)
def test_other_numbers_give_another_image(tmp_path: Path, name: str) -> None:
    PLOTS[name](tmp_path / "one.png")
    CHANGED[name](tmp_path / "other.png")
    assert not np.array_equal(pixels(tmp_path / "one.png"), pixels(tmp_path / "other.png"))


def test_every_curve_is_drawn_in_its_own_colour(tmp_path: Path) -> None:
    PLOTS["redundancy"](tmp_path / "one.png")
    # Okabe and Ito's blue, vermilion and green.
    assert {(0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00), (0x00, 0x9E, 0x73)} <= colours_of(tmp_path / "one.png")


def test_each_baseline_has_a_line_of_its_own(tmp_path: Path) -> None:
    PLOTS["quality"](tmp_path / "both.png")
    draw_quality("apidocs", QUALITY, {"bm25": METRICS}, tmp_path / "one.png")
    vermilion = {name: (0xD5, 0x5E, 0x00) in colours_of(tmp_path / f"{name}.png") for name in ("one", "both")}
    assert vermilion == {"one": False, "both": True}
