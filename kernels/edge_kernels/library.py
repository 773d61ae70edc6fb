"""Finds the shared library of kernels, says which instruction sets it has, and calls its plain C functions.

Knows nothing of ONNX Runtime: `use_in` only calls two methods of the `onnxruntime.SessionOptions` it is given.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

import edge_kernels

ISA_OPTION = "edge_kernels.isa"
"""Load option of a graph that forces an instruction set: a name from `KernelLibrary.instruction_sets`, or "auto"."""

_FILE_NAME = "libedge_kernels.so"
_MAX_PATCH = 64


class KernelError(Exception):
    """The library is missing or cannot be loaded, or was asked for something it cannot do."""


class SessionOptions(Protocol):
    """The part of `onnxruntime.SessionOptions` that is used here."""

    def add_session_config_entry(self, key: str, value: str, /) -> None:
        """Set an option by name."""

    def register_custom_ops_library(self, path: str, /) -> None:
        """Load a library of custom ops."""


@dataclass(frozen=True, slots=True)
class InstructionSet:
    """One instruction set the library was built for."""

    name: str
    requirements: str
    """What the processor must have, in words."""
    supported: bool
    """Whether this processor has it."""


def library_path(build_dir: Path | None = None) -> Path:
    """The shared library: in `build_dir` (a CMake build folder, for development) or beside this installed package.

    Raises `KernelError` where there is none, as in a package installed without a C++ compiler.
    """
    if build_dir is not None:
        places = [build_dir / _FILE_NAME, build_dir / "kernels" / _FILE_NAME]
    else:
        # An editable install has two folders: the sources, and the one in site-packages that holds what was built.
        places = [Path(folder) / _FILE_NAME for folder in edge_kernels.__path__]
    for path in places:
        if path.is_file():
            return path.resolve()
    raise KernelError(
        f"no {_FILE_NAME} in {places[0].parent}: the package was installed without a C++ compiler, so only portable "
        "bundles run; to run edge bundles, install a compiler and reinstall edge-runtime from its sources (Debian, "
        "Ubuntu: sudo apt install g++; then pip install --force-reinstall --no-deps FOLDER)"
    )


class KernelLibrary:
    """The loaded library."""

    def __init__(self, build_dir: Path | None = None) -> None:
        """Load it. Raises `KernelError` if it is missing or does not load."""
        self.path = library_path(build_dir)
        try:
            self._c = ctypes.CDLL(str(self.path))
        except OSError as error:
            raise KernelError(f"{self.path} does not load: {error}; reinstall edge-runtime") from error
        self._c.edge_instruction_sets.restype = ctypes.c_char_p
        self._c.edge_patchify.restype = None
        self._c.edge_tile_diff.restype = None
        self._c.edge_int8_peak.restype = ctypes.c_double
        self._c.edge_read.restype = ctypes.c_uint64

    def instruction_sets(self) -> list[InstructionSet]:
        """All instruction sets of this build, best first; the last, "scalar", runs everywhere."""
        lines = self._c.edge_instruction_sets().decode().splitlines()
        rows = [line.split("\t") for line in lines]
        return [InstructionSet(name, requirements, supported == "1") for name, requirements, supported in rows]

    def chosen(self) -> InstructionSet:
        """The instruction set that "auto" means on this processor."""
        return next(isa for isa in self.instruction_sets() if isa.supported)

    def use_in(self, options: SessionOptions, isa: str = "auto") -> None:
        """Give the graph that is loaded with `options` our ops, domain `edge`, on the given instruction set.

        ONNX Runtime raises if this build does not know `isa`, or this processor does not support it.
        """
        options.add_session_config_entry(ISA_OPTION, isa)
        options.register_custom_ops_library(str(self.path))

    def patchify(
        self,
        frames: Sequence[NDArray[np.uint8]],
        patch: int,
        merge: int,
        scale: NDArray[np.float32],
        offset: NDArray[np.float32],
    ) -> NDArray[np.float32]:
        """Normalized patch rows of one temporal patch, in merge order; `reference.patchify` is the definition.

        frames: `temporal_patch_size` arrays uint8 [H, W, 3], H and W multiples of patch * merge (an image comes
        `temporal_patch_size` times). scale, offset: float32 [3]. Returns float32 [H/patch * W/patch, 3 * len(frames) *
        patch^2]. Raises `KernelError`. Releases the GIL.
        """
        height, width = _check_frames(frames)
        if not 1 <= patch <= _MAX_PATCH or merge < 1:
            raise KernelError(f"patchify: patch is {patch} and merge {merge}, wanted 1 to {_MAX_PATCH} and at least 1")
        if height % (patch * merge) or width % (patch * merge):
            raise KernelError(f"patchify: frames are {height} x {width}, wanted multiples of {patch * merge}")
        scale, offset = (np.ascontiguousarray(np.broadcast_to(v, 3), np.float32) for v in (scale, offset))
        # The kernel copies what it already made where a frame is the first one again, so the views must stay one array.
        first = np.ascontiguousarray(frames[0])
        arrays = [first if frame is frames[0] else np.ascontiguousarray(frame) for frame in frames]
        out = np.empty((height // patch * (width // patch), 3 * len(arrays) * patch * patch), np.float32)
        pointers = (ctypes.c_void_p * len(arrays))(*(array.ctypes.data for array in arrays))
        sizes = [ctypes.c_int64(n) for n in (len(arrays), height, width, patch, merge)]
        self._c.edge_patchify(pointers, *sizes, _pointer(scale), _pointer(offset), _pointer(out))
        return out

    def tile_diff(
        self, a: NDArray[np.uint8], b: NDArray[np.uint8], tile: int
    ) -> tuple[NDArray[np.uint32], NDArray[np.uint8]]:
        """Sum and largest of |a - b| in every tile of `tile` x `tile` pixels; `reference.tile_diff` is the definition.

        a, b: uint8 [H, W, C]. Returns uint32 and uint8, both [ceil(H / tile), ceil(W / tile)]. Raises `KernelError`.
        Releases the GIL.
        """
        if a.dtype != np.uint8 or b.dtype != np.uint8 or a.ndim != 3 or a.shape != b.shape:
            raise KernelError(
                f"tile_diff: frames are {a.dtype} {list(a.shape)} and {b.dtype} {list(b.shape)}, "
                "wanted two uint8 [H, W, C] of one shape"
            )
        if not 1 <= tile <= 4096:  # 4096^2 x 255 is the largest sum per channel that uint32 holds
            raise KernelError(f"tile_diff: tile is {tile}, wanted 1 to 4096")
        height, width, channels = a.shape
        a, b = np.ascontiguousarray(a), np.ascontiguousarray(b)
        shape = (-(-height // tile), -(-width // tile))
        total, peak = np.empty(shape, np.uint32), np.empty(shape, np.uint8)
        sizes = [ctypes.c_int64(n) for n in (height, width * channels, tile, tile * channels)]
        self._c.edge_tile_diff(_pointer(a), _pointer(b), *sizes, _pointer(total), _pointer(peak))
        return total, peak

    def int8_peak(self, isa: str, steps: int) -> float:
        """Do `steps` rounds of int8 dot products on registers; return the operations that were (0: unknown `isa`).

        Timed on every core at once this is the machine's int8 limit. Releases the GIL.
        """
        return float(self._c.edge_int8_peak(isa.encode(), ctypes.c_int64(steps)))

    def read(self, memory: NDArray[np.uint8]) -> None:
        """Read all of `memory`, contiguous. Timed on every core at once this is the machine's read bandwidth.

        Releases the GIL.
        """
        self._c.edge_read(_pointer(memory), ctypes.c_int64(memory.nbytes))


def _check_frames(frames: Sequence[NDArray[np.uint8]]) -> tuple[int, int]:
    described = [f"{frame.dtype} {list(frame.shape)}" for frame in frames]
    if not frames or len(set(described)) != 1 or frames[0].dtype != np.uint8 or frames[0].shape[2:] != (3,):
        raise KernelError(f"patchify: frames are {described}, wanted one or more uint8 [H, W, 3] of one shape")
    return frames[0].shape[0], frames[0].shape[1]


def _pointer(array: NDArray[np.generic]) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)
