import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoTokenizer

from effir.compress.cut import cut_checkpoint
from effir.encoding.text_reader import TextReader
from effir.errors import EffirError, MissingError
from effir.files import read_json, write_json
from effir.model.retriever import (
    append_eos,
    build_retriever,
    encode_documents,
    encode_queries,
    open_retriever,
    save_retriever,
)
from effir.model.shape import shape_of

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.slow]

BOS, EOS, PAD = 1, 2, 0
LONG = "abcdefghijklmnopqrstuvwxyz"  # 26 bytes, so 26 tokens
TEXTS = ["abc", LONG, "", "naïve 中文"]
MAX_TOKENS = 16


@pytest.fixture
def build(tiny_checkpoint: Callable[[bool], Path]) -> Callable[..., SentenceTransformer]:
    def make(bos: bool = False, **settings: Any) -> SentenceTransformer:
        defaults = {"pooling": "last", "query_prompt": "q: ", "document_prompt": "", "max_tokens": MAX_TOKENS}
        return build_retriever(settings.pop("checkpoint", tiny_checkpoint(bos)), **{**defaults, **settings})

    return make


def ids_of(model: SentenceTransformer, text: str) -> list[int]:
    """The tokens that the retriever reads of one text, cut at its maximum."""
    found: list[int] = model.preprocess([text])["input_ids"][0].tolist()
    return found


def plain_ids(checkpoint: Path, text: str) -> list[int]:
    found: list[int] = AutoTokenizer.from_pretrained(checkpoint)(text, add_special_tokens=False)["input_ids"]
    return found


def pooled(checkpoint: Path, ids: list[int], pooling: str) -> NDArray[np.float32]:
    """One text's vector by the definition, from its tokens, alone and without padding."""
    with torch.inference_mode():
        states = AutoModel.from_pretrained(checkpoint).eval()(torch.tensor([ids])).last_hidden_state[0]
    vector = states[-1] if pooling == "last" else states.mean(dim=0)
    found: NDArray[np.float32] = (vector / vector.norm()).numpy()
    return found


def test_a_text_loses_its_end_whichever_side_the_base_model_s_tokenizer_cuts(
    build: Callable[..., SentenceTransformer], tiny_checkpoint: Callable[[bool], Path], tmp_path: Path
) -> None:
    other = shutil.copytree(tiny_checkpoint(False), tmp_path / "other")
    settings = read_json(other / "tokenizer_config.json")
    write_json(other / "tokenizer_config.json", {**settings, "truncation_side": "left"})
    model = build(checkpoint=other)
    assert ids_of(model, LONG) == TextReader.of(model).read([LONG], "document")[0] == ids_of(build(), LONG)


@pytest.mark.parametrize("bos", [False, True])
def test_the_tokenizer_itself_ends_each_text_with_one_eos_and_keeps_what_came_before(
    build: Callable[..., SentenceTransformer], tiny_checkpoint: Callable[[bool], Path], bos: bool
) -> None:
    model = build(bos)
    text = plain_ids(tiny_checkpoint(bos), "abc")
    assert len(text) == 3
    begin = [BOS] if bos else []
    assert model.tokenizer("abc")["input_ids"] == [*begin, *text, EOS]
    assert ids_of(model, "abc") == [*begin, *text, EOS]
    assert model.tokenizer("")["input_ids"] == [*begin, EOS]
    append_eos(model.tokenizer)  # doing it again changes nothing
    assert model.tokenizer("abc")["input_ids"] == [*begin, *text, EOS]


def test_a_chat_template_wraps_no_text(
    build: Callable[..., SentenceTransformer], tiny_checkpoint: Callable[[bool], Path], tmp_path: Path
) -> None:
    chatty = AutoTokenizer.from_pretrained(tiny_checkpoint(False))
    chatty.chat_template = "{% for message in messages %}<s>{{ message['content'] }}!{% endfor %}"
    shutil.copytree(tiny_checkpoint(False), tmp_path / "chatty")
    chatty.save_pretrained(tmp_path / "chatty")
    model = build(checkpoint=tmp_path / "chatty")
    save_retriever(model, tmp_path / "saved")
    for each in (model, open_retriever(tmp_path / "saved")):
        assert ids_of(each, "abc") == [*plain_ids(tiny_checkpoint(False), "abc"), EOS]
        assert np.array_equal(encode_queries(each, ["abc"], 1), encode_queries(build(), ["abc"], 1))


@pytest.mark.parametrize("bos", [False, True])
def test_eos_survives_truncation_and_saving(
    build: Callable[..., SentenceTransformer], tiny_checkpoint: Callable[[bool], Path], tmp_path: Path, bos: bool
) -> None:
    save_retriever(build(bos), tmp_path / "saved")
    begin = [BOS] if bos else []
    text = plain_ids(tiny_checkpoint(bos), LONG)
    # 16 tokens in all, of which EOS, and BOS where there is one, take theirs.
    cut = [*begin, *text[: MAX_TOKENS - 1 - len(begin)], EOS]
    assert ids_of(build(bos), LONG) == cut
    opened = open_retriever(tmp_path / "saved")
    assert ids_of(opened, LONG) == cut
    assert opened.tokenizer("abc")["input_ids"] == [*begin, *text[:3], EOS]
    # Any other loader of the folder gets it right too.
    plain = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert plain(LONG, truncation=True, max_length=8)["input_ids"] == [*begin, *text[: 7 - len(begin)], EOS]


def test_padding_is_on_the_right_and_no_text_sees_it(build: Callable[..., SentenceTransformer]) -> None:
    model = build()
    batch = model.preprocess(["abc", "abcdef"])
    assert batch["input_ids"][0].tolist()[4:] == [PAD] * 3
    assert batch["attention_mask"].tolist() == [[1] * 4 + [0] * 3, [1] * 7]
    alone = np.concatenate([encode_documents(model, [text], 1) for text in TEXTS])
    np.testing.assert_allclose(encode_documents(model, TEXTS, 4), alone, atol=1e-6)


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_a_vector_is_the_normalised_state_of_the_last_token_or_the_mean_over_all(
    build: Callable[..., SentenceTransformer], tiny_checkpoint: Callable[[bool], Path], pooling: str
) -> None:
    model = build(pooling=pooling)
    found = encode_documents(model, TEXTS, 2)
    assert found.dtype == np.float32
    assert found.shape == (4, 16)
    for text, vector in zip(TEXTS, found, strict=True):
        ids = [*plain_ids(tiny_checkpoint(False), text)[: MAX_TOKENS - 1], EOS]
        np.testing.assert_allclose(vector, pooled(tiny_checkpoint(False), ids, pooling), atol=1e-5)
    assert np.abs(found[0] - found[1]).max() > 0.05


def test_prompts_stand_before_the_text_and_travel_with_the_folder(
    build: Callable[..., SentenceTransformer], tmp_path: Path
) -> None:
    model = build(query_prompt="q: ", document_prompt="d: ")
    save_retriever(model, tmp_path / "saved")
    opened = open_retriever(tmp_path / "saved")
    assert opened.prompts["query"] == "q: "
    assert opened.prompts["document"] == "d: "
    plain = build(query_prompt="", document_prompt="")
    for each in (model, opened):
        assert np.array_equal(encode_queries(each, ["abc"], 1), encode_documents(plain, ["q: abc"], 1))
        assert np.array_equal(encode_documents(each, ["abc"], 1), encode_queries(plain, ["d: abc"], 1))


def test_a_tokenizer_without_eos_is_refused(tiny_checkpoint: Callable[[bool], Path]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint(False))
    tokenizer.eos_token = None
    with pytest.raises(EffirError, match="has no EOS token to pool: set `eos_token` in"):
        append_eos(tokenizer)


def test_a_missing_retriever_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"nowhere/modules\.json is missing"):
        open_retriever(tmp_path / "nowhere")


ELSEWHERE = """
import sys
sys.modules["effir"] = None  # importing it now raises ImportError
import numpy, torch
from sentence_transformers import SentenceTransformer
torch.set_num_threads(1)
for folder in ("last", "mean"):
    model = SentenceTransformer(folder, trust_remote_code=True, device="cpu")
    print(type(model[0].model).__name__, type(model[0].model).__module__)
    for side in ("query", "document"):
        vectors = model.encode(sys.argv[1:], prompt_name=side, batch_size=2)
        numpy.save(f"{folder}/{side}.npy", vectors, allow_pickle=False)
"""


def test_a_cut_retriever_gives_the_same_vectors_where_effir_is_not(
    build: Callable[..., SentenceTransformer], tiny_checkpoint: Callable[[bool], Path], tmp_path: Path
) -> None:
    whole = tiny_checkpoint(False)
    shape = shape_of(whole).without("mlp", [1]).without("attention", [2]).with_mlp_widths([5, 0, 32])
    cut_checkpoint(whole, tmp_path / "cut", shape, {0: range(5)})
    models = {pooling: build(checkpoint=tmp_path / "cut", pooling=pooling) for pooling in ("last", "mean")}
    for pooling, model in models.items():
        save_retriever(model, tmp_path / pooling)
    variables = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-I", "-c", ELSEWHERE, *TEXTS],
        cwd=tmp_path,
        env=variables | {"HF_HOME": str(tmp_path / "hf")},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert all(line.startswith("EffirLlamaModel transformers_modules.") for line in done.stdout.splitlines())
    for pooling, model in models.items():
        queries, documents = encode_queries(model, TEXTS, 2), encode_documents(model, TEXTS, 2)
        np.testing.assert_array_equal(np.load(tmp_path / pooling / "query.npy"), queries)
        np.testing.assert_array_equal(np.load(tmp_path / pooling / "document.npy"), documents)
        opened = open_retriever(tmp_path / pooling)
        np.testing.assert_array_equal(encode_documents(opened, TEXTS, 2), documents)
