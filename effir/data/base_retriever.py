"""What a sentence-transformers model says of itself: how it pools, and what it puts before texts."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from effir.errors import EffirError
from effir.files import read_json, write_json

OWN = "retriever.json"
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
CARRIED = ("Transformer", "Pooling", "Normalize")
PASSAGES = ("document", "passage", "corpus")  # sentence-transformers' names for the prompt of a document


@dataclass(frozen=True)
class Own:
    """How a model that is a retriever already makes a vector; a prompt is None where the model has several."""

    pooling: Literal["last", "mean"]
    query_prompt: str | None
    document_prompt: str


def is_retriever(folder: Path) -> bool:
    """Say whether ``folder`` is a sentence-transformers model, not a bare language model."""
    return (folder / "modules.json").is_file()


def transformer_of(folder: Path) -> Path:
    """Return the folder of the language model inside a sentence-transformers model: itself, or one inside."""
    first = read_json(folder / "modules.json", made_by="download")[0]
    return folder / str(first.get("path", ""))


def read_own(folder: Path, source: str) -> Own:
    """Read what a sentence-transformers folder says of itself, without opening the model.

    EffirError where that is more than effir can carry: other modules than a transformer, a pooling and a norm, another
    pooling than of the last token or the mean, or a mean that leaves the prompt out.
    """
    modules = read_json(folder / "modules.json", made_by="download")
    for module in modules:
        if (kind := str(module.get("type", "")).rpartition(".")[2]) not in CARRIED:
            raise EffirError(
                f"{source} has a module {kind}, which effir cannot cut around: name the language model inside it"
            )
    pooling = next((folder / str(m["path"]) for m in modules if str(m["type"]).endswith("Pooling")), None)
    if pooling is None:
        raise EffirError(f"{source} has no pooling in modules.json: name the language model inside it")
    said = read_json(pooling / "config.json", made_by="download")
    mode = _mode(said)
    if mode not in MODES or not said.get("include_prompt", True):
        how = mode if mode not in MODES else f"{mode} without the prompt"
        raise EffirError(
            f"{source} pools by {how}: effir cuts retrievers that pool by last token or mean over all tokens"
        )
    prompts = _prompts(folder)
    document = next((prompts[name] for name in PASSAGES if name in prompts), "")
    others = prompts.keys() - {"query", *PASSAGES}
    return Own(MODES[mode], prompts.get("query", None if others else ""), document)


def _mode(said: Mapping[str, Any]) -> str:
    """Name the pooling of a configuration, new or old; several are joined by a plus."""
    named = said.get("pooling_mode", [new for old, new in OLD_MODES.items() if said.get(old)])
    return named if isinstance(named, str) else "+".join(named)


def _prompts(folder: Path) -> dict[str, str]:
    """Read the prompts that say something: sentence-transformers writes empty ones for every model."""
    path = folder / "config_sentence_transformers.json"
    if not path.is_file():
        return {}
    said = read_json(path, made_by="download")
    prompts = {name: text for name, text in (said.get("prompts") or {}).items() if text}
    if (default := said.get("default_prompt_name")) in prompts:
        prompts.setdefault("query", prompts[default])
    return prompts


def write_own(own: Own, folder: Path) -> None:
    """Keep it beside the weights of the base model."""
    write_json(folder / OWN, asdict(own))


def own_of(base: Path) -> Own:
    """Read what :func:`write_own` kept; EffirError where the base model is a bare language model."""
    if not (base / OWN).is_file():
        raise EffirError(
            "params.yaml asks for the base model's own pooling or prompt, but model.base is a bare language model: "
            "set retriever.pooling to last or mean, and both prompts to a text"
        )
    return Own(**read_json(base / OWN, made_by="download"))
