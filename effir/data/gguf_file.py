"""The tensors of a GGUF: its parts by name and as one file, and whether transformers reads all of them."""

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from effir.errors import EffirError

PART = re.compile(r"(.*-)(\d{5})-of-(\d{5})\.gguf")
COUNT, TENSORS = "split.count", "split.tensors.count"
JOIN = "put all parts into one folder, or join them with llama.cpp's `llama-gguf-split --merge`"


def gguf_parts(name: str) -> list[str]:
    """List the names of all parts of a split GGUF, of which ``name`` is one; otherwise only ``name``.

    >>> gguf_parts("q4/model-00002-of-00002.gguf")
    ['q4/model-00001-of-00002.gguf', 'q4/model-00002-of-00002.gguf']
    """
    found = PART.fullmatch(name)
    count = int(found[3]) if found else 0
    return [f"{found[1]}{part:05}-of-{count:05}.gguf" for part in range(1, count + 1)] if found and count else [name]


@contextmanager
def parsed_once() -> Iterator[None]:
    """Let gguf parse each file once in this block: transformers and effir open it five times, at three seconds each."""
    import gguf

    parse = gguf.GGUFReader
    kept = cache(lambda path: parse(path))
    gguf.GGUFReader = lambda path: kept(str(path))
    try:
        yield
    finally:
        gguf.GGUFReader = parse


def whole_gguf(path: Path, into: Path, source: str) -> Path:
    """Return ``path``, or for one part of a split GGUF all parts as the new file ``into``, with the same tensors.

    EffirError, about ``source``, if a part or a tensor is missing.
    """
    from gguf import GGUFReader

    reader = GGUFReader(path)
    if (count := _number(reader, COUNT)) < 2:
        return path
    parts = [path.with_name(name) for name in gguf_parts(path.name)]
    missing = [part.name for part in parts if not part.is_file()]
    if missing or len(parts) != count:
        lacks = f", and {missing[0]} is missing" if missing else ""
        raise EffirError(f"{source} is one of {count} parts of a model{lacks}: {JOIN}")
    readers = [GGUFReader(part) for part in parts]
    found = sum(len(part.tensors) for part in readers)
    if found != (promised := _number(readers[0], TENSORS)):
        raise EffirError(f"the parts of {source} hold {found} tensors, not {promised}: download them again")
    _write(readers, into)
    return into


def check_tensors(path: Path, model: Any, missing: Collection[str], source: str) -> None:
    """Check that ``model``, opened without the keys ``missing``, has all tensors of the GGUF at ``path``.

    EffirError, about ``source``, if a tensor is missing or left over, for scaled RoPE, which transformers drops, and if
    there is no ``head_count_kv``, which GGUF allows: transformers then reads the rows of q and k in another order.
    """
    from gguf import GGUFReader

    reader = GGUFReader(path)
    scaled = [key for key in reader.fields if key.endswith(".rope.scaling.type")]
    scaled = [key for key in scaled if reader.fields[key].contents() != "none"]
    if scaled := [*scaled, *(tensor.name for tensor in reader.tensors if tensor.name.startswith("rope_"))]:
        fix = "name the safetensors of this model"
        raise EffirError(f"{source} scales its rotary positions ({scaled[0]}), which transformers does not read: {fix}")
    heads = str(reader.fields["general.architecture"].contents()) + ".attention.head_count_kv"
    if heads not in reader.fields:
        fix = "convert the model again, or name its safetensors"
        raise EffirError(f"{source} has no {heads}, without which transformers misreads it: {fix}")
    if lacking := sorted(name for name in missing if not name.startswith("lm_head.")):
        raise EffirError(f"{source} lacks {len(lacking)} weights, {lacking[0]} among them: download it again")
    stored = sum(int(tensor.n_elements) for tensor in reader.tensors if tensor.name != "output.weight")
    if stored != (built := sum(parameter.numel() for parameter in model.parameters())):
        there = f"{stored:,} weights, but the model of its metadata has {built:,}"
        raise EffirError(f"{source} holds {there}: name the safetensors of this model")


def _number(reader: Any, key: str) -> int:
    field = reader.get_field(key)
    return int(field.contents()) if field else 0


def _write(readers: list[Any], into: Path) -> None:
    from gguf import GGUFValueType, GGUFWriter

    fields = {name: field for name, field in readers[0].fields.items() if not name.startswith(("GGUF.", "split."))}
    writer = GGUFWriter(into, fields.pop("general.architecture").contents())
    writer.data_alignment = readers[0].alignment
    for name, field in fields.items():
        kind, inner = field.types[0], field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), kind, sub_type=inner)
    tensors = [tensor for reader in readers for tensor in reader.tensors]
    for tensor in tensors:
        data = tensor.data  # quantised blocks stay as they are
        writer.add_tensor_info(tensor.name, data.shape, data.dtype, data.nbytes, tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in tensors:
        writer.write_tensor_data(tensor.data)
    writer.close()
