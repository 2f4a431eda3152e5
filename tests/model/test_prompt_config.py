import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer
from tokenizers.processors import TemplateProcessing

from effir.data.base_model import install_base_model
from effir.errors import EffirError
from effir.model.prompt_config import PromptConfig, prompt_config_of
from effir.model.retriever import build_retriever, save_retriever

pytestmark = pytest.mark.usefixtures("one_thread")

TEXTS = ["abc", "a longer text, which is cut", "naïve 中文"]
PROMPTS = {"query": "ask: ", "passage": "text: "}


@pytest.fixture
def retriever(tiny_checkpoint: Callable[[bool], Path], tmp_path: Path) -> Callable[..., Path]:
    """A sentence-transformers model over the tiny Llama, whose tokenizer ends texts with ``end``, if anything."""

    def make(mode: str = "lasttoken", end: str = "", prompts: Any = PROMPTS, more: Any = (), **pooling: Any) -> Path:
        transformer = Transformer(str(tiny_checkpoint(False)), max_seq_length=20)
        if end:
            token = transformer.tokenizer.convert_tokens_to_ids(end)
            frame = TemplateProcessing(single=f"$A {end}", special_tokens=[(end, token)])
            transformer.tokenizer.backend_tokenizer.post_processor = frame
        size = transformer.model.config.hidden_size
        pooler = Pooling(size, pooling_mode=mode, **pooling)
        model = SentenceTransformer(modules=[transformer, pooler, *more, Normalize()], prompts=prompts)
        model.save_pretrained(str(tmp_path / "theirs"), create_model_card=False)
        return tmp_path / "theirs"

    return make


def installed(source: Path, tmp_path: Path) -> Path:
    install_base_model(str(source), tmp_path / "base", tmp_path / "cache")
    return tmp_path / "base"


@pytest.mark.parametrize("mode", ["lasttoken", "mean"])
@pytest.mark.parametrize("end", ["", "</s>", "<s>"], ids=["no end", "EOS", "another token than EOS"])
def test_a_retriever_that_comes_in_and_is_not_touched_gives_its_own_vectors(
    retriever: Callable[..., Path], tmp_path: Path, mode: str, end: str
) -> None:
    folder = retriever(mode, end)
    base = installed(folder, tmp_path)
    own = prompt_config_of(base)
    assert (own.query_prompt, own.document_prompt, own.prompts) == ("ask: ", "text: ", ("passage", "query"))
    assert own.pooling == {"lasttoken": "last", "mean": "mean"}[mode]
    ours = build_retriever(
        base,
        pooling=own.pooling,
        query_prompt=own.query_prompt or "",
        document_prompt=own.document_prompt,
        max_tokens=20,
        eos=False,
    )
    save_retriever(ours, tmp_path / "ours")
    theirs = SentenceTransformer(str(folder))
    for model in (ours, SentenceTransformer(str(tmp_path / "ours"))):
        for name, of_theirs in (("query", "query"), ("document", "passage")):
            found = model.encode(TEXTS, prompt_name=name)
            np.testing.assert_allclose(found, theirs.encode(TEXTS, prompt_name=of_theirs), atol=1e-6)


def test_the_old_layout_is_read(retriever: Callable[..., Path], tmp_path: Path) -> None:
    folder = retriever("mean")
    modules = json.loads((folder / "modules.json").read_text())
    inside = folder / "0_Transformer"
    inside.mkdir()
    for path in [p for p in folder.iterdir() if p.is_file() and p.name not in ("modules.json",)]:
        if path.name != "config_sentence_transformers.json":
            path.rename(inside / path.name)
    modules[0]["path"] = "0_Transformer"
    (folder / "modules.json").write_text(json.dumps(modules))
    old = {"word_embedding_dimension": 16, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
    (folder / "1_Pooling/config.json").write_text(json.dumps(old))
    (folder / "config_sentence_transformers.json").write_text(json.dumps({"__version__": {}}))
    base = installed(folder, tmp_path)
    assert prompt_config_of(base) == PromptConfig("mean", "", "", ())
    assert (base / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("prompts", "default", "expected"),
    [
        ({}, None, ""),
        ({"document": "d: "}, None, ""),
        ({"query": "", "document": "", "web_search_query": "Instruct: …"}, None, None),
        ({"web_search_query": "Instruct: …", "sts_query": "Instruct: other"}, None, None),
        ({"web_search_query": "Instruct: …"}, "web_search_query", "Instruct: …"),
    ],
)
def test_the_query_prompt_is_the_models_own_or_unknown_where_it_has_several(
    retriever: Callable[..., Path], tmp_path: Path, prompts: dict[str, str], default: str | None, expected: str | None
) -> None:
    folder = retriever(prompts=None)
    said = {"prompts": prompts, "default_prompt_name": default}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(said))
    assert prompt_config_of(installed(folder, tmp_path)).query_prompt == expected


def changed(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_other_modules_than_effir_carries_are_one_sentence(retriever: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(EffirError, match="theirs is Transformer, Pooling, Dense, Normalize: effir cuts a Transformer"):
        installed(retriever(more=[Dense(16, 8)]), tmp_path)
    modules = json.loads((retriever() / "modules.json").read_text())
    for order in ([0, 0, 1], [1, 0], [0]):
        (tmp_path / "theirs/modules.json").write_text(json.dumps([modules[i] for i in order]))
        with pytest.raises(EffirError, match="name the language model inside it"):
            installed(tmp_path / "theirs", tmp_path)
    assert not (tmp_path / "base").exists()


@pytest.mark.parametrize(
    ("said", "how"),
    [
        ({"pooling_mode": "cls"}, "cls"),
        ({"pooling_mode": ["mean", "max"]}, r"mean\+max"),
        ({"pooling_mode": "mean", "include_prompt": False}, "mean without the prompt"),
    ],
)
def test_another_pooling_is_one_sentence(
    retriever: Callable[..., Path], tmp_path: Path, said: dict[str, Any], how: str
) -> None:
    changed(retriever() / "1_Pooling/config.json", **said)
    with pytest.raises(EffirError, match=f"theirs pools by {how}: effir cuts retrievers that pool by last token"):
        installed(tmp_path / "theirs", tmp_path)


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("config.json", {"is_causal": False}, "has bidirectional attention: name a causal decoder"),
        ("config.json", {"use_bidirectional_attention": True}, "has bidirectional attention: name a causal decoder"),
        ("config.json", {"auto_map": {"AutoModel": "modeling_x.X"}}, r"has code of its own \(auto_map\)"),
        ("sentence_bert_config.json", {"modality_config": {"message": {}}}, "wraps texts in a chat template"),
        ("sentence_bert_config.json", {"do_lower_case": True}, "cannot cut .*theirs, it reads texts by do_lower_case"),
        ("tokenizer_config.json", {"truncation_side": "left"}, "cannot cut .*theirs, it cuts texts on the left"),
    ],
)
def test_a_model_that_would_be_another_function_here_is_one_sentence(
    retriever: Callable[..., Path], tmp_path: Path, name: str, values: dict[str, Any], said: str
) -> None:
    changed(retriever() / name, **values)
    with pytest.raises(EffirError, match=said):
        installed(tmp_path / "theirs", tmp_path)


def test_a_part_that_is_missing_is_named(retriever: Callable[..., Path], tmp_path: Path) -> None:
    (retriever() / "1_Pooling/config.json").unlink()
    with pytest.raises(EffirError, match=r"theirs lacks 1_Pooling/config\.json: download the folder again"):
        installed(tmp_path / "theirs", tmp_path)


def test_a_bare_language_model_has_no_pooling_of_its_own(
    tiny_checkpoint: Callable[[bool], Path], tmp_path: Path
) -> None:
    with pytest.raises(EffirError, match=r"base is only a language model.*: set retriever\.pooling to last"):
        prompt_config_of(installed(tiny_checkpoint(False), tmp_path))
