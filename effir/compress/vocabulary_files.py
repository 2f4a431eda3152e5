"""The files of a retriever that hold token ids: read, and written with fewer tokens."""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tokenizers import Tokenizer

import effir.model.checkpoint  # noqa: F401  registers the cut architectures: transformers asks about others' code
from effir.errors import EffirError
from effir.files import read_json, require, write_json
from effir.model.prompt_config import transformer_of
from effir.model.tokenizer import check_tokenizer
from effir.model.weights import INDEX, WEIGHTS, plain_name, stored_weights, weight_files

Pair = tuple[str, str]
Ids = Mapping[int, int]
"""The new id of each old one that is kept."""

EMBEDDING, ROWS = "embed_tokens.weight", ("embed_tokens.weight", "lm_head.weight")
CONFIGS = ("config.json", "generation_config.json", "tokenizer_config.json")
LEFT_OUT = ("openvino", "onnx", "vocab.json", "merges.txt", "vocab.txt", "tokenizer.model", "pytorch_model.bin")
"""What the whole vocabulary is in too: graphs, which are exported again, and files that tokenizer.json replaces."""


def read_tokenizer(folder: Path) -> dict[str, Any]:
    """Read the tokenizer.json of a checkpoint; EffirError if its vocabulary cannot be cut."""
    path = require(folder / "tokenizer.json")
    tokenizer: dict[str, Any] = read_json(path)
    model = tokenizer["model"]
    marks = [key for key in ("continuing_subword_prefix", "end_of_word_suffix", "dropout") if model.get(key)]
    if model.get("type") != "BPE" or marks:
        kind = f"BPE with {marks[0]}" if marks else str(model.get("type"))
        can = "effir cuts the vocabulary of BPE as in SmolLM2, Llama, Qwen, Mistral and Gemma"
        raise EffirError(f"{path} is {kind}: {can}; keep all tokens (retriever.vocabulary: all)")
    return tokenizer


def pairs_of(model: Mapping[str, Any]) -> list[Pair]:
    """Return the merges of a BPE model, which are stored as pairs or, by older versions, as texts.

    >>> pairs_of({"merges": ["l o", ["lo", "w"]]})
    [('l', 'o'), ('lo', 'w')]
    """
    pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"])
    return [(left, right) for left, right in pairs]


def added_ids(tokenizer: Mapping[str, Any]) -> set[int]:
    """Return the ids of special and other added tokens."""
    return {token["id"] for token in tokenizer["added_tokens"]}


def named_ids(folder: Path) -> set[int]:
    """Return the ids that the configs of a checkpoint name: EOS, BOS, padding."""
    configs = [read_json(folder / name) for name in CONFIGS if (folder / name).is_file()]
    values = [value for config in configs for key, value in config.items() if key.endswith("token_id")]
    listed = (value if isinstance(value, list) else [value] for value in values)
    return {number for numbers in listed for number in numbers if number is not None}


def cut_files(folder: Path, into: Path, kept: Sequence[int]) -> None:
    """Write the retriever ``folder`` to the new folder ``into`` with the tokens ``kept``, old ids in ascending order.

    New ids are positions in ``kept``. Graphs for other runtimes are not copied. EffirError if the model has no
    embedding that effir knows, or the tokenizer does not open.
    """
    source = transformer_of(folder)
    if EMBEDDING not in stored_weights(source):
        raise EffirError(f"{source} stores no {EMBEDDING}: name a retriever of a family that effir cuts")
    rows = int(stored_weights(source)[EMBEDDING]().shape[0])
    shutil.copytree(folder, into, ignore=_left_out(source))
    place, ids = into / source.relative_to(folder), {number: i for i, number in enumerate(kept)}
    inside = [number for number in kept if number < rows]  # Gemma's <image_soft_token> has no row
    _write_tokenizer(read_tokenizer(source), place / "tokenizer.json", ids)
    _write_configs(place, ids, len(inside))
    _write_rows(source, place, inside)
    check_tokenizer(place, len(inside), str(folder), appends_eos=False)


def _left_out(source: Path) -> Callable[[str, list[str]], set[str]]:
    written = {path.name for path in weight_files(source)}
    return lambda place, names: {n for n in names if n in LEFT_OUT or (Path(place) == source and n in written)}


def _write_tokenizer(tokenizer: dict[str, Any], path: Path, ids: Ids) -> None:
    model, padding = tokenizer["model"], tokenizer.get("padding")
    vocabulary = {token: ids[number] for token, number in model["vocab"].items() if number in ids}
    merges = [[a, b] for a, b in pairs_of(model) if {a, b, a + b} <= vocabulary.keys()]
    tokenizer["model"] = {**model, "vocab": vocabulary, "merges": merges}
    tokenizer["added_tokens"] = [{**token, "id": ids[token["id"]]} for token in tokenizer["added_tokens"]]
    tokenizer["post_processor"] = _processor(tokenizer.get("post_processor"), ids)
    if padding:
        tokenizer["padding"] = {**padding, "pad_id": ids.get(padding["pad_id"], 0)}
    opened = Tokenizer.from_str(json.dumps(tokenizer))
    expected = vocabulary | {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    if opened.get_vocab() != expected:
        raise EffirError(f"{path.name} numbers its added tokens before others: keep all (retriever.vocabulary: all)")
    opened.save(str(path))


def _processor(processor: Any, ids: Ids) -> Any:
    """Renumber a post-processor: a template, BERT's or RoBERTa's, or a sequence of them.

    >>> _processor({"type": "BertProcessing", "sep": ["</s>", 7], "cls": ["<s>", 5]}, {5: 0, 7: 1})
    {'type': 'BertProcessing', 'sep': ['</s>', 1], 'cls': ['<s>', 0]}
    """
    if not processor:
        return processor
    renumbered = dict(processor)
    for key in {"sep", "cls"} & processor.keys():
        renumbered[key] = [processor[key][0], ids[processor[key][1]]]
    if "processors" in processor:
        renumbered["processors"] = [_processor(each, ids) for each in processor["processors"]]
    if isinstance(special := processor.get("special_tokens"), dict):
        renumbered["special_tokens"] = {
            name: {**token, "ids": [ids[number] for number in token["ids"]]} for name, token in special.items()
        }
    return renumbered


def _write_configs(place: Path, ids: Ids, rows: int) -> None:
    for path in (place / name for name in CONFIGS if (place / name).is_file()):
        config = _renumbered(read_json(path), ids)
        write_json(path, {**config, "vocab_size": rows} if path.name == "config.json" else config)
    if (added := place / "added_tokens.json").is_file():
        write_json(added, {token: ids[number] for token, number in read_json(added).items()})


def _renumbered(config: Mapping[str, Any], ids: Ids) -> dict[str, Any]:
    """Renumber the keys of a config that hold ids; an id that the tokenizer lacks becomes None.

    >>> _renumbered({"eos_token_id": [9, 4], "pad_token_id": -1, "hidden_size": 9}, {4: 0, 9: 1})
    {'eos_token_id': [1, 0], 'pad_token_id': None, 'hidden_size': 9}
    """
    new = dict(config)
    for key in (key for key in config if key.endswith("token_id")):
        value = config[key]
        new[key] = [ids[number] for number in value if number in ids] if isinstance(value, list) else ids.get(value)
    if "added_tokens_decoder" in config:
        told = {int(number): token for number, token in config["added_tokens_decoder"].items()}
        new["added_tokens_decoder"] = {str(ids[number]): token for number, token in told.items() if number in ids}
    return new


def _write_rows(source: Path, place: Path, kept: Sequence[int]) -> None:
    """Copy the weights, one file in memory at a time; of the embedding and an LM head only the rows ``kept``."""
    files, total, rows = weight_files(source), 0, torch.tensor(kept)
    for file in files:
        with safe_open(file, framework="pt") as weights:
            tensors = {name: weights.get_tensor(name) for name in weights.keys()}
        for name in tensors:
            if plain_name(name) in ROWS:
                tensors[name] = tensors[name].index_select(0, rows)
        save_file(tensors, place / file.name, metadata={"format": "pt"})
        total += sum(tensor.nbytes for tensor in tensors.values())
    if [file.name for file in files] != [WEIGHTS]:
        write_json(place / INDEX, {**read_json(source / INDEX), "metadata": {"total_size": total}})
