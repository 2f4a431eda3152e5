"""Open a checkpoint to measure it, batch texts for it, and save a trained one.

Importing this module registers the cut architectures with transformers.
"""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from torch import Tensor
from tqdm import tqdm
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from effir.files import writing
from effir.model.modeling import FAMILIES


def register_architectures() -> None:
    """Let ``AutoConfig`` and ``AutoModel`` open cut checkpoints; calling it again changes nothing."""
    for model in FAMILIES.values():
        AutoConfig.register(model.config_class.model_type, model.config_class, exist_ok=True)
        AutoModel.register(model.config_class, model, exist_ok=True)


register_architectures()


def load_model(checkpoint: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Open a decoder without LM head in float32, in inference mode, and its tokenizer, padding on the right."""
    model = AutoModel.from_pretrained(checkpoint, dtype="float32")
    model.config.use_cache = False
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    tokenizer.padding_side = "right"
    return model.eval(), tokenizer


def save_model(model: PreTrainedModel, source: Path, into: Path) -> None:
    """Write ``model``, opened from ``source`` and trained since, with the tokenizer and licences of ``source``."""
    with writing(into) as draft:
        model.save_pretrained(draft)
        for path in source.iterdir():
            if path.is_file() and ".safetensors" not in path.name and not (draft / path.name).exists():
                shutil.copyfile(path, draft / path.name)


def token_batches(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, max_tokens: int, batch_size: int
) -> Iterator[dict[str, Tensor]]:
    """Yield ``input_ids`` and ``attention_mask``, both (batch, tokens); texts of like length together, cut to size."""
    ordered = sorted(texts, key=len)
    for start in tqdm(range(0, len(ordered), batch_size), desc="measure", unit=" batches", disable=None):
        batch = ordered[start : start + batch_size]
        tokens = tokenizer(batch, padding=True, truncation=True, max_length=max_tokens, return_tensors="pt")
        yield {"input_ids": tokens["input_ids"], "attention_mask": tokens["attention_mask"]}
