import pytest

from effir.errors import EffirError
from effir.lab.space import Choice, Range, default_space, read_space


def test_ranges_are_whole_where_their_ends_are() -> None:
    space = read_space(
        ["prune.depth=0:20", "prune.width=0.5:1", "distill.steps=0:40:20", "analyze.sublayer=mlp, block"]
    )
    assert space == {
        "prune.depth": Range(0, 20, 1),
        "prune.width": Range(0.5, 1, 0.02),
        "distill.steps": Range(0, 40, 20),
        "analyze.sublayer": Choice(("mlp", "block")),
    }
    whole = {key: where.is_whole for key, where in space.items() if isinstance(where, Range)}
    assert whole == {"prune.depth": True, "prune.width": False, "distill.steps": True}


def test_a_short_range_has_twenty_steps() -> None:
    assert read_space(["distill.learning_rate=1e-4:1e-3"])["distill.learning_rate"] == Range(1e-4, 1e-3, 9e-4 / 20)
    assert read_space(["prune.width=0.6:0.6"])["prune.width"] == Range(0.6, 0.6, 0.02)


@pytest.mark.parametrize(
    "text",
    [
        "prune.width=0.5:0.6:0.2",
        "prune.depth",
        "depth=0:20",
        "training.seed=0:9",
        "prune.depth=20:0",
        "prune.width=a:b",
        "prune.depth=0:9:0",
    ],
)
def test_what_is_no_range_says_how_one_is_written(text: str) -> None:
    with pytest.raises(
        EffirError, match=r"write prune\.depth=0:20, prune\.width=0\.5:1\.0:0\.04 or prune\.sublayer=mlp,block"
    ):
        read_space([text])


def test_by_default_a_third_of_the_layers_stays() -> None:
    assert default_space(layers=30)["prune.depth"] == Range(0, 20, 1)
