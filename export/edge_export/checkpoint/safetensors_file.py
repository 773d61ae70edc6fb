"""One safetensors file: its header checked, its tensors read in pieces as float32. Knows no names or shapes of models.

Format (github.com/huggingface/safetensors, README): u64 header length, JSON header, then the tensors' bytes. Pieces are
read, not mapped: pages of a mapping would count as this process's memory until the kernel takes them back.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_export.errors import CorruptShard, UnknownDtype

MAX_HEADER_BYTES = 100_000_000
ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2}


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """Where one tensor lies."""

    path: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int
    """Bytes from the start of the file."""

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    @property
    def num_bytes(self) -> int:
        """Bytes in the file."""
        return self.size * ITEM_BYTES[self.dtype]


def read_header(path: Path) -> dict[str, TensorEntry]:
    """All tensors of a file by name. Raises `CorruptShard` or `UnknownDtype`; reads no tensor data."""
    file_bytes = path.stat().st_size
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        if file_bytes < 8 or not 2 <= header_bytes <= min(MAX_HEADER_BYTES, file_bytes - 8):
            raise _corrupt(path, f"it is {file_bytes} bytes long and announces a header of {header_bytes}")
        try:
            header = json.loads(file.read(header_bytes))
            fields = {name: _fields(entry) for name, entry in header.items() if name != "__metadata__"}
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise _corrupt(path, f"its header is malformed ({error!r})") from error
    start = 8 + header_bytes
    entries = {}
    for name, (dtype, shape, begin, end) in fields.items():
        if dtype not in ITEM_BYTES:
            raise UnknownDtype(
                f"{path}: {name} is stored as {dtype}; the exporter reads {', '.join(ITEM_BYTES)}, "
                "so export from the unquantized checkpoint"
            )
        entry = TensorEntry(path, dtype, shape, start + begin)
        if begin < 0 or end - begin != entry.num_bytes:
            raise _corrupt(path, f"{name} of shape {list(shape)} and type {dtype} has {end - begin} bytes")
        if start + end > file_bytes:
            raise _corrupt(path, f"{name} ends at byte {start + end}, the file at {file_bytes}")
        entries[name] = entry
    return entries


def read_values(entry: TensorEntry, first: int, count: int) -> NDArray[np.float32]:
    """`count` values from the `first` on, flat, as float32. Safe from several threads. Raises `CorruptShard`."""
    item_bytes = ITEM_BYTES[entry.dtype]
    raw = np.empty(count * item_bytes, dtype=np.uint8)
    with entry.path.open("rb", buffering=0) as file:
        file.seek(entry.offset + first * item_bytes)
        view, done = raw.data, 0
        while done < len(view):
            if not (got := file.readinto(view[done:])):
                raise _corrupt(entry.path, f"it ends {len(view) - done} bytes early")
            done += got
    if entry.dtype == "BF16":  # the upper half of a float32
        widened = raw.view(np.uint16).astype(np.uint32)
        widened <<= 16
        return widened.view(np.float32)
    if entry.dtype == "F16":
        return raw.view(np.float16).astype(np.float32)
    return raw.view(np.float32)


def _fields(entry: Any) -> tuple[str, tuple[int, ...], int, int]:
    shape = tuple(int(size) for size in entry["shape"])
    begin, end = entry["data_offsets"]
    if any(size < 0 for size in shape):
        raise ValueError(f"shape {list(shape)}")
    return str(entry["dtype"]), shape, int(begin), int(end)


def _corrupt(path: Path, found: str) -> CorruptShard:
    return CorruptShard(f"{path} is truncated or damaged: {found}; download it again")
