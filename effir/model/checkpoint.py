"""Open a checkpoint, batch calibration texts for it, and save a trained one.

Importing this module registers the cut architectures with transformers.
"""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from effir.files import writing
from effir.model.modeling import FAMILIES

for family in FAMILIES.values():
    AutoConfig.register(family.config_class.model_type, family.config_class, exist_ok=True)
    AutoModel.register(family.config_class, family, exist_ok=True)
# No bar "Loading weights" for each model that is opened; the bars of downloads stay.
logging.set_tqdm_hook(lambda bar, args, settings: bar(*args, **{**settings, "disable": True}))


def load_model(checkpoint: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Open a decoder without LM head, in float32 and eval mode, and its tokenizer, which pads on the right."""
    model = AutoModel.from_pretrained(checkpoint, dtype="float32")
    model.config.use_cache = False
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    tokenizer.padding_side = "right"
    return model.eval(), tokenizer


def tokenizer_class(checkpoint: Path) -> str:
    """Name the tokenizer class of a checkpoint, also of a cut one: transformers does not know its ``model_type``."""
    return type(AutoTokenizer.from_pretrained(checkpoint)).__name__


def save_model(model: PreTrainedModel, source: Path, into: Path) -> None:
    """Write a trained ``model``, opened from ``source``, with the tokenizer and licences of ``source``."""
    with writing(into) as draft:
        model.save_pretrained(draft)
        for path in source.iterdir():
            if path.is_file() and ".safetensors" not in path.name and not (draft / path.name).exists():
                shutil.copyfile(path, draft / path.name)


def calibration_batches(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, max_tokens: int, batch_size: int
) -> Iterator[dict[str, Tensor]]:
    """Yield ``input_ids`` and ``attention_mask``, both (batch, tokens): texts of similar length together, truncated."""
    ordered = sorted(texts, key=len)
    for start in range(0, len(ordered), batch_size):
        batch = ordered[start : start + batch_size]
        fit = {"padding": True, "pad_to_multiple_of": 8, "truncation": True, "max_length": max_tokens}  # few shapes
        tokens = tokenizer(batch, **fit, return_tensors="pt")
        yield {"input_ids": tokens["input_ids"], "attention_mask": tokens["attention_mask"]}
