"""What a sentence-transformers model says of itself: how it pools, and what it puts before texts."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from effir.errors import EffirError
from effir.files import read_json, write_json

HABITS = "retriever.json"
MODES: Mapping[str, Literal["last", "mean"]] = {"lasttoken": "last", "mean": "mean"}
# Before sentence-transformers 5.4 a pooling was a truth value a mode.
OLD_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
CARRIED = (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"])
PASSAGES = ("document", "passage", "corpus")  # sentence-transformers' names for the prompt of a document


@dataclass(frozen=True)
class PromptConfig:
    """How a model that is a retriever makes a vector.

    ``query_prompt`` is None where it has prompts, ``prompts`` by name, and none is for queries.
    """

    pooling: Literal["last", "mean"]
    query_prompt: str | None
    document_prompt: str
    prompts: tuple[str, ...]


def is_retriever(folder: Path) -> bool:
    """Say whether ``folder`` is a sentence-transformers model, not a bare language model."""
    return (folder / "modules.json").is_file()


def transformer_of(folder: Path) -> Path:
    """Return the folder of the language model inside a sentence-transformers model: itself, or one inside."""
    return folder / str(_modules(folder)[0].get("path", ""))


def read_prompt_config(folder: Path, source: str) -> PromptConfig:
    """Read what a sentence-transformers folder says of itself, without opening the model.

    EffirError where that is more than effir can carry: other modules than a transformer, a pooling and a norm, another
    pooling than of the last token or the mean, a mean that leaves the prompt out, attention that looks ahead, or texts
    in a chat template.
    """
    modules = _modules(folder)
    kinds = [str(module.get("type", "")).rpartition(".")[2] for module in modules]
    if kinds not in CARRIED:
        raise EffirError(
            f"{source} is {', '.join(kinds)}: effir cuts a Transformer with a Pooling, and a Normalize if need be; "
            "name the language model inside it"
        )
    _check_decoder(transformer_of(folder), source)
    said = _read(folder / str(modules[1]["path"]) / "config.json", source)
    mode = _mode(said)
    if mode not in MODES or not said.get("include_prompt", True):
        how = mode if mode not in MODES else f"{mode} without the prompt"
        raise EffirError(
            f"{source} pools by {how}: effir cuts retrievers that pool by last token or mean over all tokens"
        )
    prompts = _prompts(folder)
    document = next((prompts[name] for name in PASSAGES if name in prompts), "")
    others = prompts.keys() - {"query", *PASSAGES}
    return PromptConfig(MODES[mode], prompts.get("query", None if others else ""), document, tuple(sorted(prompts)))


def write_prompt_config(habits: PromptConfig, folder: Path) -> None:
    """Keep them beside the weights of the base model."""
    write_json(folder / HABITS, asdict(habits))


def prompt_config_of(base: Path) -> PromptConfig:
    """Read what :func:`write_prompt_config` kept; EffirError where the base model is a bare language model."""
    if not (base / HABITS).is_file():
        raise EffirError(
            "params.yaml asks for the base model's own pooling or prompt, but model.base is a bare language model: "
            "set retriever.pooling to last or mean, and both prompts to a text"
        )
    said = read_json(base / HABITS)
    return PromptConfig(**{**said, "prompts": tuple(said["prompts"])})


def _modules(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = read_json(folder / "modules.json")
    return found


def _check_decoder(folder: Path, source: str) -> None:
    """Refuse what would be another function in effir's hands: attention that looks ahead, texts in a chat template."""
    config = _read(folder / "config.json", source)
    foreign = "auto_map" in config and not str(config.get("model_type")).startswith("effir_")
    if foreign or config.get("is_causal") is False or config.get("use_bidirectional_attention"):
        raise EffirError(f"{source} brings code of its own, or attends ahead: effir cuts plain causal decoders alone")
    reading = folder / "sentence_bert_config.json"
    if reading.is_file() and "message" in (_read(reading, source).get("modality_config") or {}):
        raise EffirError(
            f"{source} wraps texts in a chat template, which effir does not: name the language model inside it"
        )


def _mode(said: Mapping[str, Any]) -> str:
    """Name the pooling of a configuration, new or old; several are joined by a plus."""
    named = said.get("pooling_mode", [new for old, new in OLD_MODES.items() if said.get(old)])
    return named if isinstance(named, str) else "+".join(named)


def _prompts(folder: Path) -> dict[str, str]:
    """Read the prompts that say something: sentence-transformers writes empty ones for every model."""
    path = folder / "config_sentence_transformers.json"
    if not path.is_file():
        return {}
    said = read_json(path)
    prompts = {name: text for name, text in (said.get("prompts") or {}).items() if text}
    if (default := said.get("default_prompt_name")) in prompts:
        prompts.setdefault("query", prompts[default])
    return prompts


def _read(path: Path, source: str) -> dict[str, Any]:
    if not path.is_file():
        raise EffirError(f"{source} lacks {path.parent.name}/{path.name}: fetch the folder again")
    found: dict[str, Any] = read_json(path)
    return found
