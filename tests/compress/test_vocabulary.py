"""A smaller vocabulary: texts of kept tokens keep their tokens and vectors to the bit, all others can still be read."""

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaModel, PreTrainedTokenizerFast

import stages.export
from effir.cli import main
from effir.compress.vocabulary import built_from, choose, close, fit_vocabulary, open_tokenizer
from effir.compress.vocabulary_files import Pair, pairs_of
from effir.data.beir import Document, write_collection
from effir.encoding.backends import open_encoder
from effir.errors import EffirError
from effir.model.retriever import build_retriever, encode_documents, encode_queries, open_retriever, save_retriever
from tests.compress.conftest import tiny_tokenizer

SPECIAL = ("<|pad|>", "<|bos|>", "<|eos|>")
FOLDERS = ("models/finetuned", "small")
NAMED = 1100  # a token that a config names, and texts do not use
SPARE = 5  # rows of the embedding that belong to no token, as Qwen has them
TEXTS = [line.strip() for path in sorted(Path("effir").rglob("*.py")) for line in path.read_text().splitlines() if line]
ODD = ["naïve 中文 😀 №5", "", " \t two  spaces", "zqxj" * 9]


def trained(pre_tokenizer: Any, alphabet: list[str]) -> tuple[list[str], list[Pair]]:
    """A small vocabulary, in the order of its ids, and merges, of effir's own code."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizer
    bpe.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=1200, initial_alphabet=alphabet, show_progress=False))
    model = json.loads(bpe.to_str())["model"]
    return sorted(model["vocab"], key=model["vocab"].get), pairs_of(model)


def every_split(tokens: list[str]) -> list[Pair]:
    """All ways to merge each token, the tokens in order: what a tiktoken vocabulary (Llama 3, Qwen) is converted to."""
    known = set(tokens)
    return [
        (token[:i], token[i:])
        for token in tokens
        for i in range(1, len(token))
        if token[:i] in known and token[i:] in known
    ]


def byte_level(kind: str) -> Tokenizer:
    tokens, merges = trained(pre_tokenizers.ByteLevel(add_prefix_space=False), pre_tokenizers.ByteLevel.alphabet())
    if kind != "one merge a token":
        merges = every_split(tokens)
    if kind == "ignore_merges":  # every third word has no merges and is known as a whole only
        merges = [pair for pair in merges if not (pair[0].startswith("Ġ") and hash_of("".join(pair)) % 3 == 0)]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=kind == "ignore_merges"))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return made


def hash_of(token: str) -> int:
    return sum(map(ord, token))


def byte_fallback() -> Tokenizer:
    """As Gemma's: characters without pre-tokenisation, those that are unknown in bytes."""
    tokens, merges = trained(pre_tokenizers.Metaspace(prepend_scheme="never"), [])
    listed = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *tokens]
    vocabulary = {token: number for number, token in enumerate(listed)}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, byte_fallback=True, unk_token="<unk>"))
    made.add_special_tokens(["<unk>"])
    made.normalizer = normalizers.Replace(" ", "▁")
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return made


KINDS: dict[str, Callable[[], Tokenizer]] = {
    kind: (lambda kind=kind: byte_level(kind)) for kind in ("one merge a token", "every split", "ignore_merges")
}
KINDS["byte_fallback"] = byte_fallback


def save_as_retriever(tokenizer: Tokenizer, into: Path) -> Path:
    """Save a tiny Llama retriever with a tokenizer; its special tokens come last, so that their ids change."""
    torch.manual_seed(7)
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=SPECIAL[0], bos_token=SPECIAL[1], eos_token=SPECIAL[2]
    )
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    ids = {
        "pad_token_id": made.pad_token_id,
        "bos_token_id": made.bos_token_id,
        "eos_token_id": [made.eos_token_id, NAMED],
    }
    model = LlamaModel(LlamaConfig(vocab_size=len(made) + SPARE, initializer_range=0.3, **sizes, **ids))
    model.save_pretrained(into / "base")
    made.save_pretrained(into / "base")
    retriever = build_retriever(
        into / "base", pooling="last", query_prompt="query: ", document_prompt="text: ", max_tokens=24
    )
    save_retriever(retriever, into / "retriever")
    written = Tokenizer.from_file(str(into / "retriever/tokenizer.json"))
    written.enable_padding(pad_id=made.pad_token_id, pad_token=SPECIAL[0])  # as a training leaves it
    written.save(str(into / "retriever/tokenizer.json"))
    return into / "retriever"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Save a retriever with each kind of tokenizer, once."""
    saved: dict[str, Path] = {}

    def folder(kind: str = "one merge a token") -> Path:
        if kind not in saved:
            saved[kind] = save_as_retriever(KINDS[kind](), tmp_path_factory.mktemp("vocabulary"))
        return saved[kind]

    return folder


@pytest.fixture(params=KINDS)
def folder(request: pytest.FixtureRequest, folders: Callable[[str], Path]) -> Path:
    """A retriever with each kind of tokenizer in turn."""
    return folders(request.param)


def tokenizer_of(folder: Path) -> Tokenizer:
    return open_tokenizer(folder / "tokenizer.json")


def samples(count: int) -> Iterator[list[str]]:
    for seed in range(count):
        yield random.Random(seed).sample(TEXTS, 40)


def test_every_text_of_kept_tokens_is_read_as_before_and_every_other_one_can_be_read(
    folder: Path, tmp_path: Path
) -> None:
    before = tokenizer_of(folder)
    same = other = 0
    for number, used in enumerate(samples(4)):
        fit_vocabulary(folder, tmp_path / str(number), lambda used=used: used)  # type: ignore[misc]
        kept = choose(folder, {token for text in used for token in before.encode(text).ids})
        after, ids = tokenizer_of(tmp_path / str(number)), {old: new for new, old in enumerate(kept)}
        for text in [*TEXTS[::5], *ODD]:
            old, new = before.encode(text).ids, after.encode(text).ids
            if ids.keys() >= set(old):
                assert new == [ids[token] for token in old]
                same += 1
            else:
                other += 1
            assert after.decode(new) == before.decode(old) == text
    assert min(same, other) > 100  # the samples say something of both


def test_a_cut_without_the_tokens_on_the_way_would_change_texts(folders: Callable[[str], Path]) -> None:
    model = json.loads((folders("one merge a token") / "tokenizer.json").read_text())["model"]
    ranks = {pair: rank for rank, pair in enumerate(pairs_of(model))}
    token = max(model["vocab"], key=len)
    on_the_way = built_from(token, ranks)
    assert token in on_the_way
    # Each of its tokens longer than a character is made of two others: a token of n characters takes n - 1 merges, of
    # which some may make the same token twice.
    assert 2 * len(token) - 1 >= len(on_the_way) > len(set(token)) + 1
    assert close([token], model["vocab"], pairs_of(model)) >= on_the_way


def test_a_token_that_is_built_in_two_ways_keeps_the_one_that_bpe_takes() -> None:
    # Rank 0 joins b and c first, so `ab` is never on the way to `abc`, although (ab, c) makes it too.
    merges = [("b", "c"), ("a", "b"), ("ab", "c"), ("a", "bc")]
    vocabulary = {"a", "b", "c", "ab", "bc", "abc"}
    assert close(["abc"], vocabulary, merges) == {"a", "b", "c", "bc", "abc"}


def test_the_vectors_are_the_same_to_the_bit(folder: Path, tmp_path: Path) -> None:
    texts = TEXTS[:48]
    prompted = [prompt + text for text in texts for prompt in ("text: ", "query: ")]
    found = fit_vocabulary(folder, tmp_path / "small", lambda: prompted)
    assert found.tokens < found.tokens_before
    assert (found.texts, found.changed, found.lost) == (len(prompted), 0, 0)
    before, after = open_retriever(folder), open_retriever(tmp_path / "small")
    for encode in (encode_documents, encode_queries):
        np.testing.assert_array_equal(encode(after, texts, 8), encode(before, texts, 8))
    own = [open_encoder(each, "torch", "float32", 64).documents(texts) for each in (folder, tmp_path / "small")]
    np.testing.assert_array_equal(*own)


def test_every_file_names_the_special_tokens_by_their_new_ids(folder: Path, tmp_path: Path) -> None:
    fit_vocabulary(folder, tmp_path / "small", lambda: TEXTS[:20])
    before, after = tokenizer_of(folder), tokenizer_of(tmp_path / "small")
    config = json.loads((tmp_path / "small/config.json").read_text())
    assert (
        config["vocab_size"]
        == after.get_vocab_size()
        == load_file(tmp_path / "small/model.safetensors")["embed_tokens.weight"].shape[0]
    )
    pad, bos, eos = (after.token_to_id(token) for token in SPECIAL)
    assert pad != before.token_to_id(SPECIAL[0])
    named = after.token_to_id(before.id_to_token(NAMED))
    assert NAMED not in {token for text in TEXTS[:20] for token in before.encode(text).ids}
    assert (config["pad_token_id"], config["bos_token_id"], config["eos_token_id"]) == (pad, bos, [eos, named])
    assert after.encode("if").ids[-1] == eos
    assert Tokenizer.from_file(str(tmp_path / "small/tokenizer.json")).padding["pad_id"] == pad
    opened = open_retriever(tmp_path / "small").tokenizer
    assert (opened.pad_token_id, opened.bos_token_id, opened.eos_token_id) == (pad, bos, eos)
    assert opened(["if", "if not"], padding=True)["input_ids"][0][-1] == pad


def test_tokens_keep_their_order_and_their_rows(folders: Callable[[str], Path], tmp_path: Path) -> None:
    folder = folders("one merge a token")
    fit_vocabulary(folder, tmp_path / "small", lambda: TEXTS[:20])
    old, new = (tokenizer_of(each).get_vocab() for each in (folder, tmp_path / "small"))
    assert sorted(new, key=new.__getitem__) == sorted(new, key=old.__getitem__)
    rows, kept = (load_file(each / "model.safetensors")["embed_tokens.weight"] for each in (folder, tmp_path / "small"))
    assert all(torch.equal(kept[new[token]], rows[old[token]]) for token in new)


def test_shards_and_an_lm_head_are_cut_too_and_old_graphs_stay_behind(
    folders: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = save_as_retriever(KINDS["one merge a token"](), tmp_path)
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    head = weights["embed_tokens.weight"] * 2
    first = {"model.embed_tokens.weight": weights.pop("embed_tokens.weight"), "lm_head.weight": head}
    parts = {"model-00001-of-00002.safetensors": first, "model-00002-of-00002.safetensors": weights}
    for name, part in parts.items():
        save_file(part, folder / name, metadata={"format": "pt"})
    places = {weight: name for name, part in parts.items() for weight in part}
    index = {"metadata": {"total_size": 1}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "openvino").mkdir()
    found = fit_vocabulary(folder, tmp_path / "small", lambda: TEXTS[:20])
    small = {name: load_file(tmp_path / "small" / name) for name in parts}
    embedding, head = small["model-00001-of-00002.safetensors"].values()
    assert embedding.shape == head.shape == (found.tokens, 16)
    written = json.loads((tmp_path / "small/model.safetensors.index.json").read_text())
    assert written["metadata"]["total_size"] == sum(t.nbytes for part in small.values() for t in part.values())
    assert written["weight_map"] == places
    assert not (tmp_path / "small/openvino").exists()


def test_rare_tokens_can_go_and_the_texts_that_change_are_counted(
    folders: Callable[[str], Path], tmp_path: Path
) -> None:
    folder, texts = folders("one merge a token"), ["return", "return import"]
    found = fit_vocabulary(folder, tmp_path / "small", lambda: texts, min_count=2)
    # `return` occurs twice, ` import`, one token too, once: only the second text changes.
    assert tokenizer_of(folder).encode(texts[1]).tokens == ["return", "Ġimport", SPECIAL[2]]
    assert (found.texts, found.changed, found.lost, found.read) == (2, 1, 1, 2 + 3)


def test_another_kind_of_tokenizer_and_no_texts_are_refused(folders: Callable[[str], Path], tmp_path: Path) -> None:
    folder = save_as_retriever(tiny_tokenizer().backend_tokenizer, tmp_path)
    with pytest.raises(EffirError, match=r"tokenizer\.json is WordLevel: effir cuts the vocabulary of BPE as in"):
        fit_vocabulary(folder, tmp_path / "small", lambda: ["w5"])
    with pytest.raises(EffirError, match=r"^there are no texts to choose a vocabulary by: name texts$"):
        fit_vocabulary(folders("every split"), tmp_path / "small", list)
    assert not (tmp_path / "small").exists()


@pytest.fixture
def project(folders: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a fine-tuned retriever, data/train and data/dev, whose texts are disjoint."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    (tmp_path / "models/finetuned").symlink_to(folders("one merge a token"))
    for name, texts in (("train", TEXTS[:9]), ("dev", TEXTS[90:99])):
        documents = [Document(str(i), "the title", text) for i, text in enumerate(texts[1:])]
        write_collection(tmp_path / "data" / name, documents, {"q": texts[0]}, {name: {"q": {"1": 1}}})
    return tmp_path


def test_the_stage_keeps_the_tokens_of_the_training_and_the_dev_set(project: Path) -> None:
    assert stages.export.copy_retriever(project / "all", "all") == 0
    assert (project / "all/tokenizer.json").read_bytes() == (project / "models/finetuned/tokenizer.json").read_bytes()
    tokens = stages.export.copy_retriever(project / "small", "train")
    assert tokens == tokenizer_of(project / "small").get_vocab_size()
    documents = [f"the title {text}".strip() for text in (*TEXTS[1:9], *TEXTS[91:99])]
    opened = [open_retriever(project / name) for name in ("all", "small")]
    np.testing.assert_array_equal(*(encode_documents(each, documents, 4) for each in opened))
    np.testing.assert_array_equal(*(encode_queries(each, [TEXTS[0], TEXTS[90]], 4) for each in opened))


def test_the_command_reads_collections_and_lines_and_says_what_changed(project: Path) -> None:
    (project / "more.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS[50:55]))
    command = ["vocabulary", "models/finetuned", "data/train", "more.jsonl", "--out", "small"]
    done = CliRunner().invoke(main, [*command, "--json"])
    assert done.exit_code == 0, done.output
    said = json.loads(done.output)
    assert (said["texts"], said["changed"], said["lost"]) == (8 + 1 + 5, 0, 0)  # documents, query, lines
    sizes = [sum((project / f / n).stat().st_size for n in ("model.safetensors", "tokenizer.json")) for f in FOLDERS]
    assert [said["bytes_before"], said["bytes"]] == sizes
    paths = [project / folder / "tokenizer.json" for folder in FOLDERS]
    assert said["tokens"] == open_tokenizer(paths[1]).get_vocab_size() < said["tokens_before"]
    again = CliRunner().invoke(main, command)
    assert again.exit_code == 2
    assert "small exists already: remove it, or name another folder" in again.output
