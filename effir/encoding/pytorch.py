"""The `torch` backend: on CPUs packed matrices, on a GPU the model as it is."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from effir.cpu.precision import Precision, arithmetic
from effir.cpu.prepacked_linear import pack
from effir.encoding.encoder import Batch, TextEncoder, Vectors
from effir.encoding.pooled_decoder import PooledDecoder
from effir.encoding.text_reader import TextReader


def torch_encoder(decoder: Any, reader: TextReader, precision: Precision, budget: int) -> TextEncoder:
    """Encode by a decoder in memory, which is changed: its matrices are packed and its last layer is cut short.

    It goes to the GPU where there is one.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = arithmetic(precision)
    model = PooledDecoder(decoder.to(device), reader.pooling).eval()
    for parameter in model.parameters():  # and no buffer: rounded frequencies would turn far positions the wrong way
        parameter.data = parameter.data.to(dtype)
    pack(model, dtype)

    def one(batch: Batch) -> Vectors:
        tokens, lengths = (torch.from_numpy(part).to(device) for part in batch)
        with torch.inference_mode():
            vectors: Vectors = np.asarray(model(tokens, lengths).cpu())
        return vectors

    def forward(batches: Sequence[Batch]) -> Sequence[Vectors]:
        return [one(batch) for batch in batches]

    return TextEncoder(reader, forward, budget)
