"""Which sentence-transformers folders effir's own encoder runs, and how they read texts. Reads JSON only."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from effir.files import read_json
from effir.model.prompt_config import POOLING, SUPPORTED, modules_of, pooling_mode, prompts_of, transformer_of
from effir.model.shape import computes_otherwise

UNLIMITED = 10**9
"""The number of tokens that stands for no limit."""
READING = ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
"""sentence-transformers reads the first of the files ``sentence_<name>_config.json`` that there is."""
USUAL = {
    "transformer_task": "feature-extraction",
    "module_output_name": "token_embeddings",
    "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
}


def unsupported(folder: Path) -> str:
    """Say what of a sentence-transformers folder effir's own encoder does not run; empty if it runs all of it.

    It runs a causal decoder of a known family, with last-token or mean pooling, whose tokenizer cuts on the right.
    """
    modules, inside = modules_of(folder), transformer_of(folder)
    kinds = [str(module.get("type", "")).rpartition(".")[2] for module in modules]
    own = all(str(module.get("type")).startswith("sentence_transformers.") for module in modules)
    if kinds not in SUPPORTED or not own or any(module.get("kwargs") for module in modules):
        return f"it consists of {', '.join(kinds)}"
    if missing := [name for name in ("config.json", "tokenizer.json") if not (inside / name).is_file()]:
        return f"it has no {missing[0]}"
    if (inside / "adapter_config.json").is_file():
        return "it is a LoRA adapter"
    return _of_model(read_json(inside / "config.json")) or reads_otherwise(inside) or _of_vectors(folder, modules)


def _of_model(config: Mapping[str, Any]) -> str:
    from effir.model.modeling import FAMILIES

    family, why = str(config.get("model_type")), computes_otherwise(config)
    if family.removeprefix("effir_") not in FAMILIES:
        return f"it is a {family} model"
    return f"it {why}" if why else ""


def reads_otherwise(inside: Path) -> str:
    """Say how the Transformer module in the folder ``inside`` reads texts, if not as its tokenizer alone does."""
    if _read(inside / "tokenizer_config.json").get("truncation_side", "right") != "right":
        return "it cuts texts on the left"
    others = {key: value for key, value in reading_of(inside).items() if key != "max_seq_length" and value}
    return next((f"it reads texts by {key}" for key in others if others[key] != USUAL.get(key)), "")


def _of_vectors(folder: Path, modules: list[dict[str, Any]]) -> str:
    pooling = read_json(folder / str(modules[1]["path"]) / "config.json")
    mode = pooling_mode(pooling)
    if mode not in POOLING:
        return f"it pools by {mode}"
    if not pooling.get("include_prompt", True) and any(prompts_of(folder)[0].values()):
        return "it pools without the prompt"
    shortened = _read(folder / "config_sentence_transformers.json").get("truncate_dim") is not None
    return "it shortens its vectors" if shortened else ""


def pooling_of(folder: Path) -> str:
    """Return sentence-transformers' name of the pooling of a folder that :func:`unsupported` does not name."""
    return pooling_mode(read_json(folder / str(modules_of(folder)[1]["path"]) / "config.json"))


def max_tokens_of(folder: Path) -> int:
    """Return the number of tokens at which sentence-transformers truncates texts; ``UNLIMITED`` if it does not."""
    inside = transformer_of(folder)
    if own := reading_of(inside).get("max_seq_length"):
        return int(own)
    positions = _read(inside / "config.json").get("max_position_embeddings", -1)
    limits = (_read(inside / "tokenizer_config.json").get("model_max_length"), positions if positions > 0 else None)
    return int(min(limit or UNLIMITED for limit in (*limits, UNLIMITED)))


def reading_of(inside: Path) -> dict[str, Any]:
    """Return the arguments of the Transformer module in the folder ``inside``; empty if it has none."""
    files = (_read(inside / f"sentence_{name}_config.json") for name in READING)
    return next(filter(None, files), {})


def _read(path: Path) -> dict[str, Any]:
    return dict(read_json(path)) if path.is_file() else {}
