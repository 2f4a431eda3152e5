"""The FAISS index: exact where Flat, resumable, bounded in memory, clear in its refusals."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from effir.encoding.encoder import Report
from effir.encoding.shards import reporting
from effir.errors import EffirError, MissingError
from effir.index.factory import check_factory, probes
from effir.index.faiss_index import SearchIndex, build_index, open_index

DIMENSION = 16


def vector(text: str) -> NDArray[np.float32]:
    """A unit vector that depends on the text alone."""
    row = np.random.default_rng(list(text.encode())).normal(size=DIMENSION).astype(np.float32)
    return row / np.linalg.norm(row)


class CountingEncoder:
    """Encodes by :func:`vector`, records the sizes of its calls, and is killed at call ``dies_at``."""

    def __init__(self, dies_at: int | None = None) -> None:
        self.sizes: list[int] = []
        self.dies_at = dies_at

    def __call__(self, texts: list[str], report: Report) -> NDArray[np.float32]:
        if len(self.sizes) == self.dies_at:
            raise KeyboardInterrupt
        self.sizes.append(len(texts))
        return np.stack([vector(text) for text in texts])


def corpus(count: int) -> list[tuple[str, str, str]]:
    return [(f"d{i}", f"Títle {i}\nline", f"text {i}") for i in range(count)]


def build(folder: Path, count: int = 300, factory: str = "Flat", shard_size: int = 64) -> SearchIndex:
    build_index(
        corpus(count),
        CountingEncoder(),
        folder / "index",
        factory=factory,
        shard_size=shard_size,
        work=folder / "work",
    )
    return open_index(folder / "index")


def exact(queries: NDArray[np.float32], count: int, k: int) -> list[list[str]]:
    vectors = np.stack([vector(content) for _, _, content in corpus(count)])
    return [[f"d{row}" for row in np.argsort(-scores)[:k]] for scores in queries @ vectors.T]


def queries(count: int) -> NDArray[np.float32]:
    return np.stack([vector(f"query {i}") for i in range(count)])


def test_flat_finds_what_sorting_every_inner_product_finds(tmp_path: Path) -> None:
    index = build(tmp_path)
    found = index.search(queries(30), k=10)
    assert [[hit.id for hit in hits] for hits in found] == exact(queries(30), 300, 10)
    best = found[0][0]
    row = int(best.id[1:])
    assert best.title == f"Títle {row}\nline"
    assert best.score == pytest.approx(float(queries(1)[0] @ vector(f"text {row}")), abs=1e-6)


@pytest.mark.parametrize("factory", ["HNSW32", "IVF4,Flat", "PCA8,IVF2,SQ8"])
def test_a_document_is_its_own_nearest_under_other_factories(tmp_path: Path, factory: str) -> None:
    index = build(tmp_path, factory=factory)
    own = np.stack([vector(f"text {i}") for i in range(0, 300, 30)])
    found = [hits[0].id for hits in index.search(own, k=5)]
    # Flat storage is exact; 8 principal components of 16 random directions may confuse a neighbour now and then.
    wrong = sum(id_ != f"d{i}" for id_, i in zip(found, range(0, 300, 30), strict=True))
    assert wrong <= (3 if factory.startswith("PCA") else 0)


@pytest.mark.parametrize("factory", ["Flat", "IVF4,Flat"])
def test_a_killed_build_continues_after_its_last_finished_shard(tmp_path: Path, factory: str) -> None:
    uninterrupted, resumed = tmp_path / "uninterrupted", tmp_path / "resumed"
    build_index(corpus(150), CountingEncoder(), uninterrupted, factory=factory, shard_size=64, work=tmp_path / "work")
    work = tmp_path / "work2"
    with pytest.raises(KeyboardInterrupt):
        build_index(corpus(150), CountingEncoder(dies_at=1), resumed, factory=factory, shard_size=64, work=work)
    assert not resumed.exists()
    second = CountingEncoder()
    build_index(iter(corpus(150)), second, resumed, factory=factory, shard_size=64, work=work)
    assert second.sizes == [64, 22]  # 150 = 64 (kept from the first run) + 64 + 22
    for name in ("index.faiss", "documents.jsonl", "manifest.json"):
        assert (resumed / name).read_bytes() == (uninterrupted / name).read_bytes()
    assert not work.exists()


def test_a_resumed_build_does_not_trust_shards_of_changed_documents(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        build_index(
            corpus(100), CountingEncoder(dies_at=2), tmp_path / "i", factory="Flat", shard_size=40, work=tmp_path / "w"
        )
    changed = corpus(100)
    changed[45] = ("d45", "new", "an entirely new text")
    second = CountingEncoder()
    build_index(changed, second, tmp_path / "i", factory="Flat", shard_size=40, work=tmp_path / "w")
    assert second.sizes == [40, 20]  # the first 40 stand; 40 to 79 changed, 80 to 99 were never encoded
    hit = open_index(tmp_path / "i").search(vector("an entirely new text")[None], k=1)[0][0]
    assert (hit.id, hit.title) == ("d45", "new")


def test_the_encoder_and_the_stream_never_run_ahead_of_one_shard(tmp_path: Path) -> None:
    encoder = CountingEncoder()
    taken: list[int] = []

    def stream() -> Iterator[tuple[str, str, str]]:
        for number, entry in enumerate(corpus(100)):
            assert number - sum(encoder.sizes) < 30, "more than a shard was read before it was encoded"
            taken.append(number)
            yield entry

    build_index(stream(), encoder, tmp_path / "i", factory="Flat", shard_size=30, work=tmp_path / "w")
    assert encoder.sizes == [30, 30, 30, 10]
    assert len(taken) == 100


def test_the_report_and_the_manifest_say_what_was_built(tmp_path: Path) -> None:
    into = tmp_path / "i"
    report = build_index(corpus(10), CountingEncoder(), into, factory="Flat", work=tmp_path / "w")
    manifest = json.loads((into / "manifest.json").read_text())
    assert manifest == {"factory": "Flat", "dimension": DIMENSION, "count": 10, "metric": "inner_product"}
    assert (report.documents, report.dimension) == (10, DIMENSION)
    assert report.bytes == sum(path.stat().st_size for path in into.iterdir()) > 10 * DIMENSION * 4
    assert {path.name for path in into.iterdir()} == {"index.faiss", "documents.jsonl", "manifest.json"}


def test_more_hits_than_documents_gives_every_document_once(tmp_path: Path) -> None:
    index = build(tmp_path, count=5)
    (hits,) = index.search(queries(1), k=50)
    assert sorted(hit.id for hit in hits) == ["d0", "d1", "d2", "d3", "d4"]


def test_cells_that_were_not_visited_leave_no_empty_hits(tmp_path: Path) -> None:
    build(tmp_path, factory="IVF8,Flat")
    index = open_index(tmp_path / "index", "nprobe=1")  # one cell of 8 is visited: 300 hits cannot be had
    (hits,) = index.search(queries(1), k=300)
    assert 0 < len(hits) < 300
    assert len({hit.id for hit in hits}) == len(hits)


def test_equal_scores_stand_in_the_order_of_the_corpus(tmp_path: Path) -> None:
    twins = [(f"d{i}", "", "the same text" if i % 2 else f"text {i}") for i in range(200)]
    build_index(twins, CountingEncoder(), tmp_path / "i", factory="Flat", shard_size=64, work=tmp_path / "w")
    index = open_index(tmp_path / "i")
    for k in (1, 5, 100):  # faiss keeps its best in another structure from 100 on
        for copies in (1, 40):  # and multiplies matrices from 20 queries on
            found = index.search(np.repeat(vector("the same text")[None], copies, axis=0), k)
            assert [hit.id for hit in found[-1]] == [f"d{i}" for i in range(1, 200, 2)][:k]


@pytest.mark.parametrize("factory", ["Flet", "", "IVF,Flat", "LSH", "PQ5", "ZnLattice2x3_4", "IDMap,Flat"])
def test_a_factory_that_cannot_work_is_refused_in_one_sentence(tmp_path: Path, factory: str) -> None:
    with pytest.raises(EffirError, match=r"index factory") as refusal:
        build(tmp_path, count=20, factory=factory)
    assert repr(factory) in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert "Error" not in str(refusal.value), "faiss' own file, line and assertion are no help"
    assert not (tmp_path / "index").exists()


def test_an_unknown_factory_is_refused_before_anything_is_encoded() -> None:
    check_factory("IVF1024,Flat")
    with pytest.raises(EffirError, match="does not know the index factory 'Flet': use for example Flat"):
        check_factory("Flet")


def test_fewer_vectors_than_clusters_says_how_many_are_needed(tmp_path: Path) -> None:
    with pytest.raises(EffirError, match=r"'IVF64,Flat' cannot be built \(it needs at least 64 vectors .* got 20"):
        build(tmp_path, count=20, factory="IVF64,Flat")


def test_an_empty_corpus_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EffirError, match="the corpus has no documents"):
        build(tmp_path, count=0)


def test_a_vector_that_is_not_finite_names_its_document(tmp_path: Path) -> None:
    def diverged(texts: list[str]) -> NDArray[np.float32]:
        return np.stack([vector(text) * (np.nan if text == "text 7" else 1) for text in texts])

    with pytest.raises(EffirError, match="document 'd7' is not finite"):
        build_index(corpus(10), reporting(diverged), tmp_path / "i", factory="Flat", work=tmp_path / "w")


def test_vectors_of_two_models_are_never_mixed(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        build_index(
            corpus(20), CountingEncoder(dies_at=1), tmp_path / "i", factory="Flat", shard_size=10, work=tmp_path / "w"
        )
    with pytest.raises(EffirError, match="vectors of another model: delete it"):
        build_index(
            corpus(20),
            reporting(lambda texts: np.ones((len(texts), 3), dtype=np.float32)),
            tmp_path / "i",
            factory="Flat",
            shard_size=10,
            work=tmp_path / "w",
        )


def test_a_missing_index_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="nowhere is missing"):
        open_index(tmp_path / "nowhere")


@pytest.mark.parametrize("factory", ["IVF32,Flat", "PCA8,IVF32,SQ8"])
def test_an_opened_index_of_cells_visits_sixteen_by_default(tmp_path: Path, factory: str) -> None:
    index = build(tmp_path, factory=factory)
    told = {n: open_index(tmp_path / "index", f"nprobe={n}").search(queries(30), k=50) for n in (1, 16)}
    assert index.search(queries(30), k=50) == told[16] != told[1]


def test_a_search_visits_a_sixty_fourth_of_the_cells_and_at_least_sixteen() -> None:
    # 8 < 16; 256 and 1024 / 64 = 16 are at the least; 65536 / 64 = 1024.
    assert [probes(cells) for cells in (1, 8, 256, 1024, 65536)] == [1, 8, 16, 16, 1024]


def test_search_settings_reach_the_index_and_wrong_ones_are_refused(tmp_path: Path) -> None:
    build(tmp_path, factory="IVF32,Flat")
    every_cell = open_index(tmp_path / "index", "nprobe=32").search(queries(30), k=10)
    assert [[hit.id for hit in hits] for hits in every_cell] == exact(queries(30), 300, 10)
    for wrong in ("nprob=8", "nprobe", "efSearch=9"):
        with pytest.raises(EffirError, match=f"search settings '{wrong}' do not fit this index"):
            open_index(tmp_path / "index", wrong)


@pytest.mark.parametrize("name", ["index.faiss", "documents.jsonl"])
@pytest.mark.parametrize("kept", [0.0, 0.5])
def test_a_truncated_index_is_refused(tmp_path: Path, name: str, kept: float) -> None:
    build(tmp_path, count=50)
    path = tmp_path / "index" / name
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    with pytest.raises(EffirError, match=r"index in .* is damaged: build it again"):
        open_index(tmp_path / "index")


def test_queries_of_another_dimension_are_refused(tmp_path: Path) -> None:
    index = build(tmp_path, count=5)
    with pytest.raises(EffirError, match=r"dimension 16, but the queries have shape \(2, 8\): build"):
        index.search(np.ones((2, 8), dtype=np.float32), k=1)


def test_no_queries_give_no_hits_and_no_k_is_refused(tmp_path: Path) -> None:
    index = build(tmp_path, count=5)
    assert index.search(np.zeros((0, DIMENSION), dtype=np.float32), k=3) == []
    with pytest.raises(EffirError, match="k must be at least 1, got 0"):
        index.search(queries(1), k=0)


@pytest.mark.parametrize("file", ["vectors-00000.npy", "documents-00001.jsonl", "manifest.json"])
@pytest.mark.parametrize("removed", [False, True])
def test_a_shard_of_which_a_file_is_lost_or_damaged_is_encoded_again(tmp_path: Path, file: str, removed: bool) -> None:
    whole, work = build(tmp_path / "whole"), tmp_path / "broken/work"
    settings: dict[str, Any] = {"factory": "Flat", "shard_size": 64, "work": work}
    with pytest.raises(KeyboardInterrupt):
        build_index(corpus(300), CountingEncoder(dies_at=3), tmp_path / "broken/index", **settings)
    content = bytearray((work / file).read_bytes())
    content[-20] ^= 1
    (work / file).unlink()  # as a kill leaves it while the folder is removed
    if not removed:
        (work / file).write_bytes(content)
    build_index(corpus(300), CountingEncoder(), tmp_path / "broken/index", **settings)
    for name in ("index.faiss", "documents.jsonl"):
        assert (tmp_path / "broken/index" / name).read_bytes() == (whole.folder / name).read_bytes()


@pytest.mark.parametrize("said", ["0", "[]", '{"count": "300"}'])
def test_a_damaged_manifest_is_refused(tmp_path: Path, said: str) -> None:
    build(tmp_path)
    (tmp_path / "index/manifest.json").write_text(said)
    with pytest.raises(EffirError, match=r"the index in .*index is damaged: build it again$"):
        open_index(tmp_path / "index")
