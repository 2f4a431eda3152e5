"""The API-search collection, made from a small wheel written here."""

import json
import re
import zipfile
from pathlib import Path

import pytest

from effir.data.apidocs import (
    NEIGHBOUR,
    OWN,
    PACKAGES,
    SIZES,
    TEXT_LENGTH,
    document_of,
    documented,
    hashed_first,
    package_queries,
    with_filling,
    write_part,
)
from effir.data.apisource import ApiEntry, is_public_module, module_entries, public_module, read_package
from effir.data.docstrings import Docstring, is_query, plain, read_docstring
from effir.errors import EffirError
from effir.files import sha256_of

FILTERS = '''
"""A module."""
__all__ = ["smooth", "sharpen", "Window"]

def smooth(signal, width=(1,
           2), *, mode="na\\xefve"):
    """Remove the noise from a signal by local averages.

    Each sample becomes the mean of its neighbours; see :func:`~toy.signal.sharpen`, or ``numpy`` for arrays [1]_.

    Parameters
    ----------
    signal : array_like
        Samples.

    See Also
    --------
    sharpen, Window.taper : the opposite
        and more about it
    numpy.mean : an average
    missing

    References
    ----------
    .. [1] A book.
    """

def sharpen(signal):
    """Sharpen the edges of a signal by local differences.

    Each sample becomes the difference of its neighbours, scaled so that it keeps its range.
    """

def hidden(signal):
    """Do what no name in the list of public names promises.

    It has a long text which says a great many things, but nobody is to see it at all.
    """

class Window:
    """Weights of the samples that stand around a given one.

    They fall off to both sides, as quickly as the chosen shape says they should do.
    """

    def __init__(self, size: int, shape="hann"):
        pass

    def taper(self, amount=0.5):
        """Let the weights fall to zero at both ends.

        The amount is the share of samples over which the weights are falling, on both sides.
        """

    @property
    def total(self):
        """Sum of the weights over all of the samples.

        It is one where the shape was normalised, and the number of samples where it was not.
        """

    @total.setter
    def total(self, value):
        """Set the sum of the weights over all of the samples.

        It is one where the shape was normalised, and the number of samples where it was not.
        """

    def _private(self):
        """Nobody should ever be able to find this in the collection.

        It has a long text which says a great many things, but nobody is to see it at all.
        """
'''


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    path = tmp_path / "toy-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("toy/signal/_filters.py", FILTERS)
        archive.writestr("toy/signal/tests/test_filters.py", FILTERS)
        archive.writestr("toy/_lib/filters.py", FILTERS)
    return path


def test_names_lose_private_modules_and_private_objects_are_left_out(wheel: Path) -> None:
    assert list(read_package(wheel, "toy")) == [
        "toy.signal.Window",
        "toy.signal.Window.taper",
        "toy.signal.Window.total",
        "toy.signal.sharpen",
        "toy.signal.smooth",
    ]


def test_signatures_are_the_source_text_on_one_line(wheel: Path) -> None:
    entries = read_package(wheel, "toy")
    assert entries["toy.signal.smooth"].signature == 'smooth(signal, width=(1, 2), *, mode="na\\xefve")'
    assert entries["toy.signal.Window"].signature == 'Window(size, shape="hann")'
    assert entries["toy.signal.Window.total"].signature == "total"


def test_columns_after_letters_of_several_bytes_are_counted_in_bytes() -> None:
    source = 'def f(a="ü", b="é", c=1):\n    """Doc."""\n'.encode()
    assert next(module_entries(source, "toy/m.py")).signature == 'f(a="ü", b="é", c=1)'


def test_of_colliding_names_the_first_path_stays(tmp_path: Path) -> None:
    path = tmp_path / "toy.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("toy/_b.py", 'def f(second): "Doc."')
        archive.writestr("toy/_a.py", 'def f(first): "Doc."')
    assert read_package(path, "toy")["toy.f"].signature == "f(first)"


def test_a_file_that_is_no_wheel_is_named_with_its_remedy(tmp_path: Path) -> None:
    (tmp_path / "toy.whl").write_text("no zip")
    with pytest.raises(EffirError, match=r"toy\.whl is not a wheel: delete it"):
        read_package(tmp_path / "toy.whl", "toy")


@pytest.mark.parametrize(
    ("path", "public"),
    [
        ("toy/a.py", True),
        ("toy/_private/a.py", True),  # its objects may be public: the name drops the component
        ("toy/tests/a.py", False),
        ("toy/test_a.py", False),
        ("toy/externals/a.py", False),
        ("other/a.py", False),
        ("toy/a.so", False),
    ],
)
def test_tests_and_vendored_code_are_no_public_modules(path: str, public: bool) -> None:
    assert is_public_module(path, "toy") is public


def test_private_and_src_components_leave_the_module_name() -> None:
    assert public_module("keras/src/_impl/ops.py") == "keras.ops"


def test_a_docstring_splits_into_summary_text_and_neighbours(wheel: Path) -> None:
    docstring = read_package(wheel, "toy")["toy.signal.smooth"].docstring
    assert docstring.summary == "Remove the noise from a signal by local averages."
    assert docstring.text.startswith(
        "Each sample becomes the mean of its neighbours; see sharpen, or numpy for arrays."
    )
    assert "Remove the noise" not in docstring.text
    assert "----" not in docstring.text
    assert docstring.neighbours == ("sharpen", "Window.taper", "numpy.mean", "missing")


def test_a_summary_is_one_sentence_and_abbreviations_do_not_end_it() -> None:
    docstring = read_docstring("Read a file, e.g. A.txt, into memory. The rest of it follows.\n\nMore.")
    assert docstring.summary == "Read a file, e.g. A.txt, into memory."
    assert docstring.text == "The rest of it follows. More."


def test_seealso_directives_name_neighbours_too() -> None:
    assert read_docstring("Do it.\n\n.. seealso::\n\n    :func:`a.b`, :class:`.C`\n\nElse: no").neighbours == (
        "a.b",
        "C",
    )


@pytest.mark.parametrize(
    ("marked", "read"),
    [
        ("A :class:`text <a.b>` here", "A text here"),
        ("The `site <https://x.org>`_ of", "The site of"),
        ("L{Deferred} and C{None}", "Deferred and None"),
        (".. versionadded:: 1.2\nText", "Text"),
    ],
)
def test_markup_is_read_as_prose(marked: str, read: str) -> None:
    assert plain(marked) == read


@pytest.mark.parametrize(
    ("summary", "why"),
    [
        ("Sort the elements of an array", "six words"),
        (" ".join(["the word"] * 21), "42 words"),
        ("Return the value of >>> f(1) for all arrays.", "doctest residue"),
        ("Use the FILTER to smooth all of the samples.", "its own name"),
        ("alpha beta gamma delta epsilon zeta eta theta", "no English word"),
        ("Compute the value which is then described in", "an unfinished sentence"),
    ],
)
def test_summaries_that_are_no_search_are_refused(summary: str, why: str) -> None:
    assert not is_query(summary, "filter"), why


def test_qrels_grade_the_own_document_2_and_resolved_neighbours_1(wheel: Path) -> None:
    queries = package_queries(documented(read_package(wheel, "toy")))
    assert queries.qrels["q:toy.signal.smooth"] == {
        "toy.signal.smooth": OWN,
        "toy.signal.Window.taper": NEIGHBOUR,
        "toy.signal.sharpen": NEIGHBOUR,
    }  # numpy.mean and missing are no documents here
    assert "q:toy.signal.sharpen" not in queries.texts  # its summary names it


def test_summaries_that_several_objects_share_are_no_queries() -> None:
    docstring = Docstring("Return the number of all items in a set.", "word " * 20, ())
    entries = {name: ApiEntry(name, "f()", docstring) for name in ("a.f", "a.g")}
    assert package_queries(entries).texts == {}


def test_a_document_is_cut_at_the_end_of_a_word() -> None:
    text = document_of(ApiEntry("a.f", "f()", Docstring("", "word " * 1000, ()))).text
    # "f()" and n times " word" take 3 + 5 n characters: n = 399 makes 1998, the 400th would not fit into 2,000
    assert text == "f()" + " word" * ((TEXT_LENGTH - 3) // 5)


def test_a_draw_is_fixed_and_does_not_depend_on_the_order_or_on_others() -> None:
    ids = [f"id{number}" for number in range(50)]
    drawn = hashed_first(ids, 10)
    assert drawn == hashed_first(reversed(ids), 10) == hashed_first(drawn, 10)
    assert len(drawn) == 10


def test_judged_documents_are_all_kept_and_others_fill_up() -> None:
    kept = with_filling(["b", "z"], ["a", "b", "c", "d", "z"], 4)
    assert len(kept) == 4
    assert {"b", "z"} < set(kept)
    assert with_filling(["b", "z"], ["a", "b", "z"], 1) == ["b", "z"]


def test_a_part_is_written_twice_with_equal_bytes_and_its_attribution(wheel: Path, tmp_path: Path) -> None:
    entries = documented(read_package(wheel, "toy"))
    collection = write_part("test", entries, package_queries(entries), tmp_path / "one")
    write_part("test", entries, package_queries(entries), tmp_path / "two")
    assert sha256_of(tmp_path / "one") == sha256_of(tmp_path / "two")
    assert collection.splits == ["test"]
    assert {document.title for document in collection.documents()} == set(entries)
    sources = json.loads((tmp_path / "one" / "SOURCES.json").read_text(encoding="utf-8"))
    assert {source["licence"] for source in sources} <= {"BSD-3-Clause", "MIT", "Apache-2.0"}


def test_packages_are_pinned_and_held_out() -> None:
    packages = [package for part in ("large-train", "dev", "test") for package in PACKAGES[part]]
    assert len({package.name for package in packages}) == len(packages) >= 6
    assert all(re.fullmatch(r"wheel:\w+==[\w.]+#sha256=[0-9a-f]{64}", package.source) for package in packages)
    assert SIZES["test"][1] == 300


def test_smaller_parts_are_some_packages_of_the_larger_ones() -> None:
    assert set(PACKAGES["small-train"]) < set(PACKAGES["train"]) < set(PACKAGES["large-train"])
    assert set(PACKAGES["small-dev"]) < set(PACKAGES["dev"])


def test_small_and_large_parts_have_the_split_of_the_usual_one(wheel: Path, tmp_path: Path) -> None:
    entries = documented(read_package(wheel, "toy"))
    assert write_part("small-dev", entries, package_queries(entries), tmp_path / "small").splits == ["dev"]
    assert write_part("large-train", entries, package_queries(entries), tmp_path / "large").splits == ["train"]
