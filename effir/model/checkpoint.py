"""A checkpoint opened to be measured, texts as its batches, and a trained one saved again."""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from torch import Tensor
from tqdm import tqdm
from transformers import AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

import effir  # noqa: F401  registers the cut architectures with transformers
from effir.files import writing


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
