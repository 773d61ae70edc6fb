"""One safetensors file: its header checked, its tensors read in pieces as float32. Knows no names or shapes of models.

Format (github.com/huggingface/safetensors, README): u64 header length, JSON header, then the tensors' bytes, without
gaps or overlaps. Pieces are read, not mapped: pages of a mapping would count as this process's memory until the kernel
takes them back.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_export.errors import CorruptShard

MAX_HEADER_BYTES = 100_000_000
MAX_NAME_LENGTH = 300
ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2}
"""Types whose values can be read. Others may stand in a file, for somebody else to refuse or pass over."""

_Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 62)]


class _HeaderEntry(msgspec.Struct):
    dtype: str
    shape: Annotated[list[_Count], msgspec.Meta(max_length=8)]
    data_offsets: tuple[_Count, _Count]


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """Where one tensor lies."""

    path: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int
    """Bytes from the start of the file."""
    stored_name: str
    """What the file calls it."""

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    @property
    def num_bytes(self) -> int:
        """Bytes in the file."""
        return self.size * ITEM_BYTES[self.dtype]


def read_header(path: Path) -> dict[str, TensorEntry]:
    """All tensors of a file by name. Raises `CorruptShard`; reads no tensor data."""
    try:
        file_bytes = path.stat().st_size
        with path.open("rb") as file:
            header_bytes = int.from_bytes(file.read(8), "little")
            if file_bytes < 8 or not 2 <= header_bytes <= min(MAX_HEADER_BYTES, file_bytes - 8):
                raise _corrupt(path, f"it is {file_bytes} bytes long and announces a header of {header_bytes}")
            raw: dict[str, msgspec.Raw] = msgspec.json.decode(file.read(header_bytes), type=dict[str, msgspec.Raw])
        raw.pop("__metadata__", None)
        header = {name: msgspec.json.decode(entry, type=_HeaderEntry) for name, entry in raw.items()}
    except (ValueError, RecursionError) as error:  # msgspec's own errors are ValueErrors
        raise _corrupt(path, f"its header is malformed ({error})") from error
    except OSError as error:
        raise CorruptShard(f"{path} cannot be read: {error}") from error
    _check_layout(path, header, file_bytes - 8 - header_bytes)
    return {
        name: TensorEntry(path, entry.dtype, tuple(entry.shape), 8 + header_bytes + entry.data_offsets[0], name)
        for name, entry in header.items()
    }


def _check_layout(path: Path, header: dict[str, _HeaderEntry], data_bytes: int) -> None:
    """Every tensor has the bytes it needs, begins where the one before it ends, and the last ends with the file."""
    at = 0
    for name, entry in sorted(header.items(), key=lambda item: item[1].data_offsets):
        if not (name.isprintable() and len(name) <= MAX_NAME_LENGTH):
            raise _corrupt(path, f"a tensor is named {name[:MAX_NAME_LENGTH]!a}")
        begin, end = entry.data_offsets
        item_bytes = ITEM_BYTES.get(entry.dtype)
        if item_bytes is not None and end - begin != math.prod(entry.shape) * item_bytes:
            raise _corrupt(path, f"{name} of shape {entry.shape} and type {entry.dtype} has {end - begin} bytes")
        if begin != at or end < begin:
            raise _corrupt(path, f"{name} lies at bytes {begin} to {end} of the data, where {at} was to be the first")
        at = end
    if at != data_bytes:
        raise _corrupt(path, f"its tensors end at byte {at} of the data, the file at {data_bytes}")


def read_values(entry: TensorEntry, first: int, count: int) -> NDArray[np.float32]:
    """`count` values from the `first` on, flat, as float32. Safe from several threads. Raises `CorruptShard`."""
    item_bytes = ITEM_BYTES[entry.dtype]
    raw = np.empty(count * item_bytes, dtype=np.uint8)
    try:
        with entry.path.open("rb", buffering=0) as file:
            file.seek(entry.offset + first * item_bytes)
            view, done = raw.data, 0
            while done < len(view):
                if not (got := file.readinto(view[done:])):
                    raise _corrupt(entry.path, f"it ends {len(view) - done} bytes early")
                done += got
    except OSError as error:
        raise CorruptShard(f"{entry.path} cannot be read: {error}") from error
    if entry.dtype == "BF16":  # the upper half of a float32
        widened = raw.view(np.uint16).astype(np.uint32)
        widened <<= 16
        return widened.view(np.float32)
    if entry.dtype == "F16":
        return raw.view(np.float16).astype(np.float32)
    return raw.view(np.float32)


def _corrupt(path: Path, found: str) -> CorruptShard:
    return CorruptShard(f"{path} is truncated or damaged: {found}; download it again")
