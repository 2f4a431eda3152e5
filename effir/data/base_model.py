"""Install the base model as a Hugging Face folder, from GGUF or safetensors; nothing is ever unpickled."""

import shutil
import sys
from pathlib import Path
from typing import Any

from effir.data.gguf_file import check_tensors, parsed_once, whole_gguf
from effir.data.sources import fetch
from effir.errors import EffirError
from effir.files import writing
from effir.model.plain_decoder import reads_otherwise
from effir.model.prompt_config import PromptConfig, read_prompt_config, transformer_of, write_prompt_config
from effir.model.shape import computes_otherwise, read_config
from effir.model.tokenizer import check_tokenizer
from effir.model.weights import check_weights, copy_weights

ADAPTER = "adapter_config.json"
TOKENIZER = ["tokenizer*.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json", "vocab.json"]
KEPT = ["config.json", "generation_config.json", *TOKENIZER, "merges.txt", "vocab.txt", "*.jinja", "LICENSE*"]
PICKLED = ["*.bin", "*.pt", "*.pth", "*.ckpt"]


def install_base_model(source: str, into: Path, cache: Path, *, appends_eos: bool = False) -> None:
    """Install the model that ``source`` names into folder ``into``, atomically.

    A ``.gguf`` file, with all its parts, is converted to float32 weights without the LM head, and a tokenizer. From a
    Hugging Face folder, configuration, safetensors and tokenizer are copied without loading them. From a
    sentence-transformers folder, those of its language model are copied, and ``retriever.json`` keeps its pooling and
    prompts. Equal sources give equal bytes. EffirError for a folder without safetensors, configuration or tokenizer,
    for weights that are not those of the configuration, and for a tokenizer that does not fit them, or, with
    ``appends_eos``, that ends texts otherwise than with ``eos_token``.
    """
    found = fetch(source, cache)
    with writing(into) as draft:
        draft.mkdir()
        if (found / "modules.json").is_file():  # a sentence-transformers model
            config = read_prompt_config(found, source)
            write_prompt_config(config, draft)
            if why := reads_otherwise(transformer_of(found)):
                raise EffirError(f"effir cannot cut {source}, {why}: name the language model in it")
            _copy_folder(transformer_of(found), draft, source)
            _say_own(config, source)
        elif found.is_dir():
            _copy_folder(found, draft, source)
        elif found.suffix == ".gguf":
            _convert(found, draft, source)
        else:
            raise EffirError(f"{source} is not a model: name a .gguf file, or a folder of config.json and safetensors")
        rows = check_weights(draft, source)["embed_tokens.weight"][0]
        check_tokenizer(draft, rows, source, appends_eos=appends_eos)


def _say_own(config: PromptConfig, source: str) -> None:
    prompts = f"query_prompt {config.query_prompt!r} and document_prompt {config.document_prompt!r}"
    own = f"{source} is a retriever with pooling {config.pooling}, {prompts} of its own"
    print(f"{own}: retriever.pooling base and prompts null keep them, other values replace them", file=sys.stderr)


def _copy_folder(folder: Path, into: Path, source: str) -> None:
    _check_folder(folder, source)
    if why := computes_otherwise(read_config(folder)):
        fix = "name a causal decoder, or remove auto_map if the model computes as transformers' of its type does"
        raise EffirError(f"{source} {why}: {fix}")
    check_weights(folder, source)
    for path in sorted({path for pattern in KEPT for path in folder.glob(pattern)}):
        shutil.copyfile(path, into / path.name)
    copy_weights(folder, into)


def _check_folder(folder: Path, source: str) -> None:
    if (folder / ADAPTER).is_file():
        fix = "merge it with peft and save the merged model; `effir import` does so for EffiR's models"
        raise EffirError(f"{source} holds an adapter ({ADAPTER}): {fix}")
    if not (folder / "config.json").is_file():
        raise EffirError(f"{source} has no config.json: name the folder that save_pretrained wrote, or one .gguf file")
    if not any(folder.glob("*.safetensors")):
        pickled = any(path for pattern in PICKLED for path in folder.glob(pattern))
        why = "has only pickled weights, which can run code" if pickled else "has no *.safetensors"
        raise EffirError(f"{source} {why}: save it with save_pretrained, which writes safetensors, and name that")
    if not any(path for pattern in TOKENIZER for path in folder.glob(pattern)):
        raise EffirError(f"{source} has no tokenizer: save its tokenizer into the same folder")


def _convert(gguf: Path, into: Path, source: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    joined = into / "joined.gguf"
    try:
        with parsed_once():
            whole = whole_gguf(gguf, joined, source)
            names: dict[str, Any] = {"pretrained_model_name_or_path": whole.parent, "gguf_file": whole.name}
            model, found = AutoModelForCausalLM.from_pretrained(**names, dtype=torch.float32, output_loading_info=True)
            tokenizer = AutoTokenizer.from_pretrained(**names)
            check_tensors(whole, model.base_model, found["missing_keys"], source)
    except EffirError:
        raise
    except Exception as error:  # the GGUF reader raises many types for a damaged or unknown file
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise EffirError(f"{source} is damaged or has an unknown architecture ({reason}): name another GGUF") from error
    joined.unlink(missing_ok=True)
    base = model.base_model
    for config in (base.config, model.config):
        if hasattr(config, "quantization_config"):
            del config.quantization_config
    tokenizer.model_max_length = model.config.max_position_embeddings  # a GGUF has no such key: 1e30 otherwise
    tokenizer.init_kwargs.pop("local_files_only", None)  # it would be saved, and the bytes depend on HF_HUB_OFFLINE
    base.save_pretrained(into)
    tokenizer.save_pretrained(into)
