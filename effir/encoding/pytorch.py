"""The `torch` backend: prepacked matrices on CPUs, the unchanged model on a GPU."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch

from effir.cpu.prepacked_linear import prepack
from effir.cpu.thread_parallel import map_on_cores
from effir.encoding.encoder import Batch, TextEncoder, Vectors
from effir.encoding.pooled_decoder import PooledDecoder
from effir.encoding.text_reader import TextReader
from effir.model.precision import TrainingPrecision, decision


def torch_encoder(decoder: Any, reader: TextReader, precision: TrainingPrecision, budget: int) -> TextEncoder:
    """Encode by a decoder, on the GPU if there is one; it is changed: prepacked, its last layer computes one token."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    computes = decision(precision, decoder.config)
    dtype = torch.bfloat16 if computes.arithmetic == "bfloat16" else torch.float32
    model = PooledDecoder(decoder.to(device), reader.pooling).eval()
    for parameter in model.parameters():  # but not the buffers: rounded frequencies give wrong angles at far positions
        parameter.data = parameter.data.to(dtype)
    prepack(model, dtype)

    def one(batch: Batch) -> Vectors:
        tokens, lengths = (torch.from_numpy(part).to(device) for part in batch)
        with torch.inference_mode():
            vectors: Vectors = np.asarray(model(tokens, lengths).cpu())
        return vectors

    def each(batches: Sequence[Batch]) -> Iterable[Vectors]:
        return map_on_cores(one, batches, device)

    return TextEncoder(reader, each, budget, computes=computes)
