"""A GGUF file's blocks as Q4_0 and its embedding and head as Q8_0, by PyPI's gguf, llama.cpp's own package: what
docs/finetune.md compares int4 in groups of 32 with.

usage: requantize.py FROM.gguf TO.gguf"""
import sys

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter
from gguf.quants import dequantize, quantize

NOT_COPIED = ("general.architecture", "general.file_type")  # the first is the writer's own


def main():
    reader = GGUFReader(sys.argv[1])
    writer = GGUFWriter(sys.argv[2], reader.get_field("general.architecture").contents())
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name in NOT_COPIED:
            continue
        kind, *items = field.types
        writer.add_key_value(name, field.contents(), kind, items[-1] if kind == GGUFValueType.ARRAY else None)
    for t in reader.tensors:
        values = dequantize(t.data, t.tensor_type).astype(np.float32).reshape(t.shape[::-1])
        kind = (GGMLQuantizationType.F32 if values.ndim == 1 else
                GGMLQuantizationType.Q4_0 if t.name.startswith("blk.") else GGMLQuantizationType.Q8_0)
        writer.add_tensor(t.name, values if values.ndim == 1 else quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


main()
