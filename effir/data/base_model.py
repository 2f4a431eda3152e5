"""Install the base model as a Hugging Face folder, from GGUF or safetensors; nothing is ever unpickled."""

import json
import shutil
from pathlib import Path

from effir.data.sources import fetch
from effir.errors import EffirError
from effir.files import writing
from effir.model.plain_decoder import reads_otherwise
from effir.model.prompt_config import read_prompt_config, transformer_of, write_prompt_config

TOKENIZER = ["tokenizer*.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json", "vocab.json"]
KEPT = ["config.json", "generation_config.json", "*.safetensors", "*.safetensors.index.json", *TOKENIZER]
KEPT += ["merges.txt", "vocab.txt", "*.jinja", "LICENSE*"]
PICKLED = ["*.bin", "*.pt", "*.pth", "*.ckpt"]


def install_base_model(source: str, into: Path, cache: Path) -> None:
    """Install the model that ``source`` names into folder ``into``, atomically.

    A ``.gguf`` file is converted to float32 weights without the LM head, and a tokenizer. From a Hugging Face folder,
    configuration, safetensors and tokenizer are copied without loading them. From a sentence-transformers folder, those
    of its language model are copied, and ``retriever.json`` keeps its pooling and prompts. Equal sources give equal
    bytes. EffirError for a folder without safetensors, configuration or tokenizer.
    """
    found = fetch(source, cache)
    with writing(into) as draft:
        draft.mkdir()
        if (found / "modules.json").is_file():  # a sentence-transformers model
            write_prompt_config(read_prompt_config(found, source), draft)
            if why := reads_otherwise(transformer_of(found)):
                raise EffirError(f"effir cannot cut {source}, {why}: name the language model in it")
            _copy_folder(transformer_of(found), draft, source)
        elif found.is_dir():
            _copy_folder(found, draft, source)
        elif found.suffix == ".gguf":
            _convert(found, draft, source)
        else:
            raise EffirError(f"{source} is not a model: name a .gguf file, or a folder of config.json and safetensors")


def _copy_folder(folder: Path, into: Path, source: str) -> None:
    _check_folder(folder, source)
    for path in sorted({path for pattern in KEPT for path in folder.glob(pattern)}):
        if not path.name.startswith("consolidated"):  # Mistral's own copy of the same weights
            shutil.copyfile(path, into / path.name)


def _check_folder(folder: Path, source: str) -> None:
    if not (folder / "config.json").is_file():
        raise EffirError(f"{source} has no config.json: name the folder that save_pretrained wrote, or one .gguf file")
    if not any(folder.glob("*.safetensors")):
        pickled = any(path for pattern in PICKLED for path in folder.glob(pattern))
        why = "has only pickled weights, which can run code" if pickled else "has no *.safetensors"
        raise EffirError(f"{source} {why}: save it with save_pretrained, which writes safetensors, and name that")
    for index in folder.glob("*.safetensors.index.json"):
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        if missing := sorted(shard for shard in shards if not (folder / shard).is_file()):
            raise EffirError(f"{source} lacks {missing[0]}, which {index.name} names: download the folder again")
    if not any(path for pattern in TOKENIZER for path in folder.glob(pattern)):
        raise EffirError(f"{source} has no tokenizer: save its tokenizer into the same folder")


def _convert(gguf: Path, into: Path, source: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    except Exception as error:  # the GGUF reader raises many types for a damaged or unknown file
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise EffirError(f"{source} is damaged or has an unknown architecture ({reason}): name another GGUF") from error
    base = model.base_model
    for config in (base.config, model.config):
        if hasattr(config, "quantization_config"):
            del config.quantization_config
    tokenizer.model_max_length = model.config.max_position_embeddings  # a GGUF has no such key: 1e30 otherwise
    tokenizer.init_kwargs.pop("local_files_only", None)  # it would be saved, and the bytes depend on HF_HUB_OFFLINE
    base.save_pretrained(into)
    tokenizer.save_pretrained(into)
