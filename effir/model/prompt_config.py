"""The pooling and the prompts of a sentence-transformers model, read from its files."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from effir.errors import EffirError
from effir.files import read_json, write_json

PROMPT_CONFIG = "retriever.json"
# sentence-transformers' names of the poolings that effir supports, and effir's own.
POOLING: Mapping[str, Literal["last", "mean"]] = {"lasttoken": "last", "mean": "mean"}
# Before sentence-transformers 5.4, the config of a pooling had one boolean per mode.
OLD_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
SUPPORTED = (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"])
QUERY, PASSAGES = "query", ("document", "passage", "corpus")  # sentence-transformers' names of the prompts


@dataclass(frozen=True)
class PromptConfig:
    """The pooling and prompts of a retriever.

    ``query_prompt`` is None if the retriever has prompts, named in ``prompts``, but none for queries.
    """

    pooling: Literal["last", "mean"]
    query_prompt: str | None
    document_prompt: str
    prompts: tuple[str, ...]


def transformer_of(folder: Path) -> Path:
    """Return the folder of the language model in a sentence-transformers model: the same one, or a subfolder."""
    return folder / str(modules_of(folder)[0].get("path", ""))


def retrieval_prompts(prompts: Mapping[str, str | None], default: str | None) -> dict[str, str]:
    """Choose the texts before a query and before a document among the prompts of a sentence-transformers model.

    Empty prompts count as missing: sentence-transformers adds an empty ``query`` and ``document`` to every model, and
    so never finds a prompt named ``passage`` by itself. The default prompt stands in for those that are missing, but
    one named as a query's stands before no document, and the reverse.

    >>> retrieval_prompts({"query": "q: ", "document": "", "passage": "p: "}, None)
    {'query': 'q: ', 'document': 'p: '}
    >>> retrieval_prompts({"any": "a: "}, "any"), retrieval_prompts({"query": "q: "}, "query")
    ({'query': 'a: ', 'document': 'a: '}, {'query': 'q: ', 'document': ''})
    """
    usual = (prompts.get(default) or "") if default else ""
    query = prompts.get(QUERY) or ("" if default in PASSAGES else usual)
    passage = next((prompts[name] for name in PASSAGES if prompts.get(name)), "" if default == QUERY else usual)
    return {QUERY: query, PASSAGES[0]: passage or ""}


def read_prompt_config(folder: Path, source: str) -> PromptConfig:
    """Read pooling and prompts of a sentence-transformers folder, without opening the model.

    EffirError for what effir does not support: modules other than transformer, pooling and norm, a pooling other than
    last token or mean, a mean without the prompt, and texts in a chat template.
    """
    modules = modules_of(folder)
    kinds = [str(module.get("type", "")).rpartition(".")[2] for module in modules]
    if kinds not in SUPPORTED:
        can = "effir cuts a Transformer with a Pooling and an optional Normalize; name the language model inside it"
        raise EffirError(f"{source} is {', '.join(kinds)}: {can}")
    _check_reading(transformer_of(folder), source)
    pooling = _read(folder / str(modules[1]["path"]) / "config.json", source)
    mode = pooling_mode(pooling)
    if mode not in POOLING or not pooling.get("include_prompt", True):
        how = mode if mode not in POOLING else f"{mode} without the prompt"
        can = "effir cuts retrievers that pool by last token or mean over all tokens"
        raise EffirError(f"{source} pools by {how}: {can}")
    named, default = prompts_of(folder)
    chosen, there = retrieval_prompts(named, default), sorted(name for name, text in named.items() if text)
    others = set(there) - {QUERY, *PASSAGES}
    return PromptConfig(POOLING[mode], chosen[QUERY] or (None if others else ""), chosen[PASSAGES[0]], tuple(there))


def write_prompt_config(config: PromptConfig, folder: Path) -> None:
    """Write ``retriever.json`` beside the weights of the base model."""
    write_json(folder / PROMPT_CONFIG, asdict(config))


def prompt_config_of(base: Path) -> PromptConfig:
    """Read what :func:`write_prompt_config` wrote; EffirError if the base model is only a language model."""
    if not (base / PROMPT_CONFIG).is_file():
        fix = "set retriever.pooling to last or mean, and both prompts to a text"
        raise EffirError(f"{base} is only a language model, without a pooling and prompts of its own: {fix}")
    config = read_json(base / PROMPT_CONFIG)
    return PromptConfig(**{**config, "prompts": tuple(config["prompts"])})


def modules_of(folder: Path) -> list[dict[str, Any]]:
    """Return the entries of ``modules.json``, in order."""
    return list(read_json(folder / "modules.json"))


def _check_reading(folder: Path, source: str) -> None:
    reading = folder / "sentence_bert_config.json"
    if reading.is_file() and "message" in (_read(reading, source).get("modality_config") or {}):
        raise EffirError(f"{source} wraps texts in a chat template, effir does not: name the language model in it")


def pooling_mode(pooling: Mapping[str, Any]) -> str:
    """Name the pooling mode of a config, new or old; several modes are joined by a plus."""
    named = pooling.get("pooling_mode", [new for old, new in OLD_MODES.items() if pooling.get(old)])
    return named if isinstance(named, str) else "+".join(named)


def prompts_of(folder: Path) -> tuple[dict[str, str | None], str | None]:
    """Return the prompts of a sentence-transformers folder by name, and the name of its default prompt."""
    path = folder / "config_sentence_transformers.json"
    config = read_json(path) if path.is_file() else {}
    return dict(config.get("prompts") or {}), config.get("default_prompt_name")


def _read(path: Path, source: str) -> dict[str, Any]:
    if not path.is_file():
        raise EffirError(f"{source} lacks {path.parent.name}/{path.name}: download the folder again")
    return dict(read_json(path))
