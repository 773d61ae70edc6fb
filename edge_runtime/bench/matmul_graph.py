"""A one-operator ONNX file, `y = a x b` with a constant `b`, for measuring. Knows nothing of speed.

The runtime has no ONNX library, and needs none for this: field numbers are those of `onnx/onnx.proto3`, the encoding is
Protocol Buffers'.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

IR_VERSION = 8
OPSET_VERSION = 17
DATA_TYPES = {"float32": 1, "uint8": 2, "int8": 3, "int32": 6}
"""`TensorProto.DataType`"""


def matmul_graph(operator: str, left: np.dtype[np.generic], right: NDArray[np.generic]) -> bytes:
    """A serialized `ModelProto`: input `a` [M, K] of dtype `left`, constant `b` = `right` [K, N], output `y` [M, N]."""
    output = "int32" if operator == "MatMulInteger" else left.name
    node = _text(1, "a") + _text(1, "b") + _text(2, "y") + _text(4, operator)
    tensor = b"".join(_number(1, size) for size in right.shape)
    tensor += _number(2, DATA_TYPES[right.dtype.name]) + _text(8, "b") + _bytes(9, right.tobytes())
    graph = _bytes(1, node) + _text(2, "matmul") + _bytes(5, tensor)
    graph += _bytes(11, _matrix("a", left.name)) + _bytes(12, _matrix("y", output))
    opset = _text(1, "") + _number(2, OPSET_VERSION)
    return _number(1, IR_VERSION) + _bytes(7, graph) + _bytes(8, opset)


def _matrix(name: str, dtype: str) -> bytes:
    """`ValueInfoProto` of a matrix whose sizes are left open."""
    shape = _bytes(1, _text(2, "rows")) + _bytes(1, _text(2, "columns"))
    tensor_type = _number(1, DATA_TYPES[dtype]) + _bytes(2, shape)
    return _text(1, name) + _bytes(2, _bytes(1, tensor_type))


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _text(field: int, value: str) -> bytes:
    return _bytes(field, value.encode())


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    """Seven bits a byte, lowest first; the high bit says that more follow."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
