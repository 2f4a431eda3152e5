"""What is found out at opening: missing weights, scores that effir does not compute, rounding; and that it is kept."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from effir.cli import main
from effir.encoding import self_check
from effir.encoding.backends import open_encoder
from effir.encoding.encoder import TextEncoder
from effir.encoding.self_check import Checked, fingerprint
from effir.errors import EffirError
from effir.files import write_json
from effir.serve.documents import read_manifest
from effir.serve.open_model import open_model
from tests.encoding.test_folders import BERT, LAST, change, of_library, save_folder

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def nothing_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Find everything out anew."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    return save_folder(tmp_path / "bert", "bert", BERT)


def rename_weights(folder: Path) -> None:
    """Save weights as a compiled model does."""
    weights = load_file(folder / "model.safetensors")
    save_file({f"_orig_mod.{name}": value for name, value in weights.items()}, folder / "model.safetensors")


def another_layer(folder: Path) -> None:
    change(folder / "config.json", num_hidden_layers=3)


@pytest.mark.parametrize("kind", [{"kind": "bert", "settings": BERT}, LAST], ids=["BERT", "Llama"])
@pytest.mark.parametrize("damage", [rename_weights, another_layer])
def test_a_folder_without_some_weights_is_refused(
    kind: dict[str, Any], damage: Callable[[Path], None], tmp_path: Path
) -> None:
    folder = save_folder(tmp_path / "folder", **kind)
    damage(folder)
    with pytest.raises(EffirError, match=r"gives other vectors each time it is opened.*weights are missing"):
        open_encoder(folder, "torch", "float32", 64)


@pytest.mark.parametrize(("similarity", "opens"), [("cosine", True), ("dot", False), ("manhattan", False)])
def test_only_a_model_that_is_compared_by_cosine_may_leave_its_vectors_unscaled(
    similarity: str, opens: bool, tmp_path: Path
) -> None:
    folder = save_folder(tmp_path / "folder", "bert", BERT, normalize=False, similarity=similarity)
    if opens:
        assert np.linalg.norm(open_encoder(folder, "torch", "float32", 64).queries(["a"])) == pytest.approx(1)
        return
    with pytest.raises(EffirError, match=f"is compared by {similarity}, .* effir compares by cosine"):
        open_encoder(folder, "torch", "float32", 64)


def test_the_dot_product_of_unit_vectors_is_the_cosine(tmp_path: Path) -> None:
    folder = save_folder(tmp_path / "folder", "bert", BERT, similarity="dot")
    assert open_encoder(folder, "torch", "float32", 64).about.startswith("sentence-transformers encodes")


def test_a_folder_that_the_library_cannot_open_or_that_gives_no_vectors_is_refused(bert: Path) -> None:
    change(bert / "config_sentence_transformers.json", model_type="SparseEncoder")
    with pytest.raises(EffirError, match="bert is a SparseEncoder, which gives no single vector for a text"):
        open_encoder(bert, "torch", "float32", 64)
    change(bert / "config_sentence_transformers.json", model_type="SentenceTransformer")
    modules = json.loads((bert / "modules.json").read_text(encoding="utf-8"))
    write_json(bert / "modules.json", [{**modules[0], "type": "their_code.Transformer"}, *modules[1:]])
    with pytest.raises(EffirError, match=r"^sentence-transformers cannot open .*bert .*: name another model$"):
        open_encoder(bert, "torch", "float32", 64)


def test_what_was_found_is_remembered_until_a_file_of_the_folder_changes(
    bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks: list[Path] = []
    usual = self_check._check

    def check(folder: Path, open_own: Callable[[], TextEncoder]) -> Checked:
        checks.append(folder)
        return usual(folder, open_own)

    monkeypatch.setattr(self_check, "_check", check)
    for _ in range(2):
        open_encoder(bert, "torch", "float32", 64)
    (bert / "README.md").write_text("A card decides no vector.")
    open_encoder(bert, "torch", "float32", 64)
    assert len(checks) == 1
    change(bert / "1_Pooling/config.json", pooling_mode="cls")
    open_encoder(bert, "torch", "float32", 64)
    assert len(checks) == 2


def test_a_model_opens_where_nothing_can_be_remembered(bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(kind: str) -> Path:
        raise PermissionError(kind)

    monkeypatch.setattr(self_check, "state_dir", refuse)
    assert open_encoder(bert, "torch", "float32", 64).about


def test_the_fingerprint_reads_the_weights_of_every_module(tmp_path: Path) -> None:
    folder = save_folder(tmp_path / "folder", "bert", BERT, dense=True)
    before = fingerprint(folder)
    weights = load_file(folder / "2_Dense/model.safetensors")
    save_file({name: value + 1 for name, value in weights.items()}, folder / "2_Dense/model.safetensors")
    assert fingerprint(folder) != before


def test_rounding_is_said_and_bfloat16_below_the_limit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = save_folder(tmp_path / "folder", **LAST)
    found = {"cosine": 0.9991, "off": 0.01}
    monkeypatch.setattr("effir.encoding.backends.deviation", lambda *_: (found["cosine"], found["off"]))
    about = open_encoder(folder, "torch", "bfloat16", 64).about
    assert about == "in bfloat16, the lowest cosine to the vectors in float32 is 0.99910"
    found["cosine"] = 0.9989
    with pytest.raises(EffirError, match=r"in bfloat16, .* float32 is 0\.99890, less than 0\.999: use float32"):
        open_encoder(folder, "torch", "bfloat16", 64)
    taken = open_encoder(folder, "torch", "auto", 64)
    assert (taken.computes.arithmetic, taken.about) == ("float32", "")
    assert "auto takes float32, in bfloat16 the lowest cosine is 0.99890" in capsys.readouterr().err
    found["off"] = np.inf
    with pytest.raises(EffirError, match=r"gives other vectors in torch, auto, than its weights: export it again"):
        open_encoder(folder, "torch", "auto", 64)


def test_vectors_that_are_not_numbers_or_of_another_dimension_are_never_equal() -> None:
    checked = Checked("", {kind: [[1.0, 0.0], [0.0, 1.0]] for kind in ("query", "document")})

    class Encoder:
        def __init__(self, vectors: Any) -> None:
            self.queries = self.documents = lambda texts: np.array(vectors)[: len(texts)]

    assert checked.compare(Encoder([[1.0, np.nan], [0.0, 1.0]])) == (-1.0, np.inf)  # type: ignore[arg-type]
    assert checked.compare(Encoder([[1.0], [0.0]])) == (-1.0, np.inf)  # type: ignore[arg-type]
    # Alone, both texts get the first vector: for the second text the cosine is 0.8 x 0 + 0.6 x 1, off by 0.8.
    assert checked.compare(Encoder([[0.8, 0.6], [0.0, 1.0]])) == pytest.approx((0.6, 0.8))  # type: ignore[arg-type]


def test_openvino_does_not_run_what_effirs_own_encoder_does_not(bert: Path) -> None:
    (bert / "openvino/float32").mkdir(parents=True)
    (bert / "openvino/float32/model.xml").write_text("another's graph")
    with pytest.raises(EffirError, match=r"openvino does not run .*bert, it is a bert model: use the torch backend"):
        open_encoder(bert, "openvino", "float32", 64)


def test_an_index_of_a_bert_is_built_and_searched_by_its_own_vectors(bert: Path, tmp_path: Path) -> None:
    rows = [{"_id": f"d{i}", "text": text} for i, text in enumerate(["abc", "a longer text", "xyz"])]
    (tmp_path / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    arguments = ["index", "build", "rows.jsonl", "index", "--model", str(bert), "--precision", "float32", "--json"]
    built = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert json.loads(built.stdout)["encoding"] == "sentence-transformers encodes: it is a bert model"
    encoder = open_model(read_manifest(Path("index")).model)
    assert encoder.reader.truncated("x" * 99, "document") == "x" * 13  # of 20 tokens, BOS and "text: " take seven
    np.testing.assert_allclose(encoder.queries(["abc"])[0], of_library(bert, "ask: ")[0], atol=1e-5)
    found = CliRunner().invoke(main, ["search", "xyz", "--index", "index", "--json"], catch_exceptions=False)
    scores = {hit["id"]: hit["score"] for hit in json.loads(found.stdout)}
    vectors = encoder.documents([row["text"] for row in rows]) @ encoder.queries(["xyz"])[0]
    assert scores == pytest.approx({row["_id"]: float(each) for row, each in zip(rows, vectors, strict=True)}, abs=1e-5)
