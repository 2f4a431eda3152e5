"""A split GGUF becomes one file with the same metadata and the same bytes."""

from pathlib import Path

import gguf
import numpy as np
import pytest

from effir.data.gguf_file import whole_gguf
from effir.errors import EffirError


def write(path: Path, tensors_a_part: int) -> None:
    """Write three tensors of two formats, in parts of some tensors, as llama.cpp's gguf-split does."""
    values = np.random.default_rng(0).normal(size=(3, 4, 64)).astype(np.float32)
    kinds = (gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.Q4_1, gguf.GGMLQuantizationType.F16)
    writer = gguf.GGUFWriter(path, "llama", split_max_tensors=tensors_a_part)
    writer.add_token_list(["a", "中"])
    writer.add_token_types([1, 3])
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_add_bos_token(False)
    for number, kind in enumerate(kinds):
        writer.add_tensor(f"blk.{number}", gguf.quantize(values[number], kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def contents(path: Path) -> tuple[dict[str, object], dict[str, tuple[object, bytes]]]:
    reader = gguf.GGUFReader(path)
    fields = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    return fields, {t.name: (t.tensor_type, t.data.tobytes()) for t in reader.tensors}


@pytest.mark.parametrize("part", [1, 2, 3])
def test_parts_are_joined_to_the_bytes_of_the_whole(tmp_path: Path, part: int) -> None:
    write(tmp_path / "whole.gguf", 0)
    write(tmp_path / "m.gguf", 1)
    joined = whole_gguf(tmp_path / f"m-0000{part}-of-00003.gguf", tmp_path / "joined.gguf", "m")
    assert contents(joined) == contents(tmp_path / "whole.gguf")
    assert whole_gguf(tmp_path / "whole.gguf", tmp_path / "again.gguf", "m") == tmp_path / "whole.gguf"


def test_a_part_of_another_model_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "m.gguf", 2)  # parts of two tensors and of one
    first, second = sorted(tmp_path.glob("m-*.gguf"))
    second.write_bytes(first.read_bytes())
    with pytest.raises(EffirError, match="the parts of m hold 4 tensors, not 3: download them again"):
        whole_gguf(first, tmp_path / "joined.gguf", "m")
