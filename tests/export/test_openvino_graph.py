"""An exported retriever: the same vectors, a folder that others open as before, and a limit to the loss of quality."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from effir.data.beir import Collection
from effir.encoding import openvino
from effir.encoding.backends import Precision, open_encoder
from effir.encoding.pooled_decoder import PooledDecoder, outlier_ratios
from effir.encoding.text_reader import TextReader
from effir.errors import EffirError
from effir.export import openvino_graph as export
from effir.export.openvino_graph import QualityLostError, export_graph, ndcg
from effir.model.auto_precision import Decision
from effir.model.checkpoint import load_model
from effir.model.retriever import encode_documents, open_retriever
from tests.encoding.conftest import TEXTS
from tests.encoding.conftest import retriever as retriever  # the fixture
from tests.encoding.test_folders import BERT, save_folder

pytest.importorskip("openvino")
pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.slow]


@pytest.fixture
def dev(tmp_path: Path) -> Collection:
    folder = tmp_path / "dev"
    (folder / "qrels").mkdir(parents=True)
    documents = [f'{{"_id": "d{i}", "title": "", "text": "{chr(97 + i) * (i + 3)}"}}' for i in range(12)]
    queries = [f'{{"_id": "q{i}", "text": "{chr(97 + i) * 4}"}}' for i in range(12)]
    judged = [f"q{i}\td{i}\t1" for i in range(12)]
    (folder / "corpus.jsonl").write_text("\n".join(documents) + "\n")
    (folder / "queries.jsonl").write_text("\n".join(queries) + "\n")
    (folder / "qrels/dev.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *judged]) + "\n")
    return Collection(folder)


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("graphs")


@pytest.fixture
def exported(retriever: Callable[..., Path], dev: Collection, graphs: Path) -> Callable[[Precision], Path]:
    """Make the usual retriever with its graph in a precision, which is built once."""

    def make(precision: Precision) -> Path:
        folder = retriever()
        if not (graphs / precision).exists():
            export_graph(folder, precision, TEXTS, dev, 1.0, 64)
            shutil.copytree(folder / "openvino" / precision, graphs / precision)
        return Path(shutil.copytree(graphs, folder / "openvino", dirs_exist_ok=True)).parent

    return make


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_the_float32_graph_gives_the_same_vectors_of_any_batch(
    retriever: Callable[..., Path], dev: Collection, pooling: str
) -> None:
    folder = retriever(pooling, (("mlp", [1]), ("attention", [2])))
    export_graph(folder, "float32", (), dev, 0.0, 64)
    expected = encode_documents(open_retriever(folder), TEXTS, 2)
    for budget in (1, 64):
        found = open_encoder(folder, "openvino", "float32", budget).documents(TEXTS)
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_single_text_of_any_length_gets_its_vector_of_a_batch(
    retriever: Callable[..., Path], dev: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = retriever(document_prompt="", max_tokens=40)
    export_graph(folder, "float32", (), dev, 0.0, 64)
    compiled: list[int | None] = []
    usual = openvino.compiled_graph

    def compiling(place: Path, precision: str, length: int | None = None, **settings: Any) -> Any:
        compiled.append(length)
        return usual(place, precision, length, **settings)

    monkeypatch.setattr(openvino, "compiled_graph", compiling)
    encoder = open_encoder(folder, "openvino", "float32", 1024)
    texts = ["x" * (tokens - 2) for tokens in (2, 16, 17, 32, 33)]  # with BOS and EOS, around the lengths of graphs
    together = encoder.documents([*texts, "another"])[:-1]
    assert compiled == [None]
    for text, expected in zip(texts, together, strict=True):
        np.testing.assert_allclose(encoder.documents([text])[0], expected, atol=1e-5)
    assert compiled == [None, 16, 32]  # each when the first text of that length came


def test_int8_is_near_and_bfloat16_uses_the_float32_graph(exported: Callable[[Precision], Path]) -> None:
    exported("float32")
    folder = exported("int8")
    exact = open_encoder(folder, "torch", "float32", 64).documents(TEXTS)
    for precision in ("bfloat16", "int8"):
        found = open_encoder(folder, "openvino", precision, 64).documents(TEXTS)  # type: ignore[arg-type]
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-2)
        assert (found * exact).sum(axis=1).min() > 0.95
        assert not np.array_equal(found, exact)


def test_many_batches_of_int8_run_one_a_core_and_keep_their_order(
    retriever: Callable[..., Path], dev: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = retriever(document_prompt="", max_tokens=40)
    export_graph(folder, "int8", TEXTS, dev, 1.0, 64)
    texts = ["x" * (number % 38) + str(number % 10) for number in range(60)]
    monkeypatch.setattr(openvino, "usable_cores", lambda: 2)  # whatever machine this is
    encoder = open_encoder(folder, "openvino", "int8", 64)
    place = folder / "openvino/int8"
    one_stream = openvino.open_graph(place, encoder.reader, "int8", 64, streams=1).documents(texts)
    monkeypatch.setattr(openvino, "padded_single", lambda tokens: pytest.fail("the batches did not run together"))
    for _ in range(2):  # the queue serves again
        np.testing.assert_allclose(encoder.documents(texts), one_stream, atol=1e-5)


def test_auto_and_int8_compute_as_the_measurement_of_openvino_says(
    exported: Callable[[Precision], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = exported("float32")
    for arithmetic, streams in (("float32", 1), ("bfloat16", 3)):
        monkeypatch.setattr(openvino, "usable_cores", lambda: 3)
        monkeypatch.setattr(openvino, "_measured", lambda product, a=arithmetic: Decision(a))
        place = folder / "openvino/float32"
        for precision in ("auto", "int8"):
            graph = openvino.compiled_graph(place, precision)
            used = graph.get_property("INFERENCE_PRECISION_HINT").to_string()
            assert used in {"float32": {"f32"}, "bfloat16": {"bf16", "f32"}}[arithmetic]  # f32 where it has no bfloat16
        assert open_encoder(folder, "openvino", "auto", 64).computes.arithmetic in (arithmetic, "float32")
        opened = openvino.open_graph(place, TextReader.open(folder), "auto", 64)
        assert opened.forward.__self__.streams in (streams, 1)  # type: ignore[attr-defined]


def test_both_products_that_openvino_is_measured_by_take_time() -> None:
    found = openvino._candidates((512, 512))
    assert found.keys() == {"float32", "bfloat16"}
    assert all(run() >= 0 for run in found.values())


def test_a_container_with_few_cores_gets_few_threads(
    exported: Callable[[Precision], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = exported("float32")
    monkeypatch.setattr(openvino, "usable_cores", lambda: 1)
    monkeypatch.setattr(openvino, "shown_processors", lambda: 64)
    graph = openvino.compiled_graph(folder / "openvino/float32", "float32")
    assert graph.get_property("INFERENCE_NUM_THREADS") == 1


def test_outliers_are_found_under_the_names_that_the_graph_has(retriever: Callable[..., Path]) -> None:
    folder = retriever()
    model = PooledDecoder(load_model(folder)[0], "last", traced=True).eval()
    tokens = TextReader.open(folder).read(TEXTS, "document")
    found = outlier_ratios(model, tokens)
    # Three layers of seven products; of the last, those that only the pooled token passes are wrapped.
    assert len(found) == 21
    assert "decoder.layers.2.mlp.inner.down_proj" in found
    assert all(1 <= ratio < 100 for ratio in found.values())
    with torch.no_grad():
        model.decoder.layers[0].mlp.up_proj.weight[5] *= 1e4  # one channel of 32 above all others: the root of 32
    name = "decoder.layers.0.mlp.down_proj"
    assert found[name] < outlier_ratios(model, tokens)[name]


def test_products_with_outliers_keep_their_weights(
    exported: Callable[[Precision], Path], dev: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = exported("int8")

    def int8_weights() -> int:
        return (folder / "openvino/int8/model.xml").read_text().count('element_type="i8"')

    usual = int8_weights()
    monkeypatch.setattr(openvino, "OUTLIER", 0.0)  # now all 21 products have outliers, the wrapped ones too
    export_graph(folder, "int8", TEXTS, dev, 1.0, 64)
    assert int8_weights() == usual - 21


def test_int8_without_calibration_texts_is_refused(retriever: Callable[..., Path], dev: Collection) -> None:
    with pytest.raises(EffirError, match="int8 needs calibration texts"):
        export_graph(retriever(), "int8", (), dev, 1.0, 64)


def test_a_graph_is_run_without_importing_torch(exported: Callable[[Precision], Path]) -> None:
    folder = exported("float32")
    program = (
        "import sys; from pathlib import Path; from effir.encoding.backends import open_encoder\n"
        f"vectors = open_encoder(Path({str(folder)!r}), 'openvino', 'float32', 64).queries(['a'])\n"
        "print(vectors.shape, sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(1, 16) []"


def test_a_model_that_effirs_own_encoder_does_not_run_is_not_exported(dev: Collection, tmp_path: Path) -> None:
    folder = save_folder(tmp_path / "bert", "bert", BERT)
    with pytest.raises(EffirError, match=r"bert cannot be exported, sentence-transformers encodes: it is a bert model"):
        export_graph(folder, "float32", (), dev, 0.0, 64)
    assert not (folder / "openvino").exists()


def test_the_folder_still_opens_as_before(
    retriever: Callable[..., Path], exported: Callable[[Precision], Path]
) -> None:
    before = encode_documents(open_retriever(retriever()), TEXTS, 2)
    folder = exported("int8")
    np.testing.assert_array_equal(encode_documents(open_retriever(folder), TEXTS, 2), before)


def test_an_export_that_loses_too_much_quality_is_not_written(
    retriever: Callable[..., Path], dev: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = retriever()

    def spoilt(*args: Any) -> Any:
        encoder = opening(*args)
        forward = encoder.forward
        encoder.forward = lambda batches: [found[::-1] for found in forward(batches)]  # each text gets another's vector
        return encoder

    opening = export.open_graph
    monkeypatch.setattr(export, "open_graph", spoilt)
    listed = sorted(folder.rglob("*"))
    with pytest.raises(
        QualityLostError, match=r"nDCG@10 on .*dev falls from 0\.\d+ to 0\.\d+, more than the 0.005 allowed"
    ):
        export_graph(folder, "float32", (), dev, 0.005, 1000)
    assert [path for path in sorted(folder.rglob("*")) if path not in listed] == [folder / "openvino"]
    assert not list((folder / "openvino").iterdir())


def test_ndcg_is_that_of_exact_search(retriever: Callable[..., Path], dev: Collection) -> None:
    encoder = open_encoder(retriever(), "torch", "float32", 64)
    documents = encoder.documents([document.content for document in dev.documents()])
    scores = encoder.queries(list(dev.queries("dev").values())) @ documents.T
    ranks = (scores > np.diag(scores)[:, None]).sum(axis=1)  # of the one relevant document, from 0
    # One relevant document: nDCG@10 is 1 / log2(rank + 2) within the first ten.
    expected = np.where(ranks < 10, 1 / np.log2(ranks + 2), 0).mean()
    assert ndcg(encoder, dev, "dev") == pytest.approx(expected)


def test_the_guard_judges_by_the_dev_split_where_there_is_one(retriever: Callable[..., Path], dev: Collection) -> None:
    folder, judged = retriever(), dev.folder / "qrels"
    by_dev = export_graph(folder, "float32", (), dev, 1.0, 64)
    (judged / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq0\td11\t1\n")  # another figure than that of dev
    assert export_graph(folder, "float32", (), dev, 1.0, 64) == by_dev
    (judged / "dev.tsv").unlink()
    assert export_graph(folder, "float32", (), dev, 1.0, 64) != by_dev
