"""The vision graph behind one class: patches in, embeddings and DeepStack features out. Knows nothing of files.

The graph runs segment by segment, and a large frame's rows piece by piece (docs/bundle.md), so that whoever drives an
`Encoding` can do other work in between. Which rows share a run depends on the frame's size alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_runtime.families.qwen3_vl.config import VisionArchitecture, vision_segments
from edge_runtime.families.qwen3_vl.vision import PatchPositions, patch_positions
from edge_runtime.model.cancellation import CancelToken
from edge_runtime.model.graph import Array, Graph

MAX_PAIRS = {"portable": 1 << 24, "edge": 1 << 25}
"""By flavour: pairs of patches whose attention one run computes at most, some tenths of a second on two cores.

Of a frame that has more, a run takes fewer rows.
"""

_SMALL = 8
"""One call of `advance` makes several runs where they are together no more than this part of the largest one."""

_NO_SEGMENT = -1
"""A run of it computes nothing."""


@dataclass(frozen=True, slots=True, eq=False)
class VisionFeatures:
    """What the decoder gets of one image or frame pair of n merged tokens."""

    embeds: NDArray[np.float32]
    """[n, D] rows for `inputs_embeds`."""
    deepstack: NDArray[np.float32]
    """[L, n, D] rows added to the output of the first L decoder layers; L may be 0."""

    @property
    def num_bytes(self) -> int:
        """Memory it takes."""
        return self.embeds.nbytes + self.deepstack.nbytes

    def last(self, count: int) -> VisionFeatures:
        """A copy of the last `count` rows."""
        return VisionFeatures(self.embeds[-count:].copy(), self.deepstack[:, -count:].copy())


class VisionEncoder:
    """Runs the vision graph, one temporal patch (an image, or a pair of video frames) at a time."""

    def __init__(
        self, graph: Graph, architecture: VisionArchitecture, *, max_pairs: int = MAX_PAIRS["portable"]
    ) -> None:
        """`max_pairs`: how much an encoding does at a time, see `MAX_PAIRS`."""
        self._graph = graph
        self._architecture = architecture
        self._max_pairs = max_pairs

    def begin(self, pixel_values: NDArray[np.float32], grid_h: int, grid_w: int) -> Encoding:
        """Get ready to encode `pixel_values` [grid_h * grid_w, patch_dim], rows in merge order; runs nothing yet."""
        positions = patch_positions(self._architecture, grid_h, grid_w)
        return Encoding(self._graph, self._architecture, self._max_pairs, (pixel_values, positions))

    def encode(
        self, pixel_values: NDArray[np.float32], grid_h: int, grid_w: int, cancel: CancelToken
    ) -> VisionFeatures:
        """Features of `pixel_values` as in `begin`, in one go. Raises `Cancelled`."""
        encoding = self.begin(pixel_values, grid_h, grid_w)
        while not encoding.advance(cancel):
            pass
        return encoding.features


class Encoding:
    """One frame on its way through the segments of the vision graph."""

    __slots__ = (
        "_architecture",
        "_graph",
        "_max_pairs",
        "_max_rows",
        "_next_qkv",
        "_pixel_values",
        "_positions",
        "_qkv",
        "_row",
        "_segment",
        "_segments",
        "_stream",
        "features",
    )

    def __init__(
        self,
        graph: Graph,
        architecture: VisionArchitecture,
        max_pairs: int,
        frame: tuple[NDArray[np.float32], PatchPositions],
    ) -> None:
        self._graph = graph
        self._architecture = architecture
        self._max_pairs = max_pairs
        self._pixel_values: NDArray[np.float32] | None
        self._pixel_values, self._positions = frame
        num_patches, hidden = len(frame[0]), architecture.hidden_size
        merge = architecture.spatial_merge_size**2
        self._max_rows = max(max_pairs // max(num_patches, 1) // merge, 1) * merge  # whole merged tokens
        # In memory of our own: an output inside the arena would keep its surroundings from being given back. The last
        # operators of a segment write over what its first ones have read; runs of other rows still need q, k and v.
        self._stream = np.empty((num_patches, hidden), np.float32)
        self._qkv = np.empty((num_patches, 3 * hidden), np.float32)
        self._next_qkv = np.empty_like(self._qkv) if self._max_rows < num_patches else self._qkv
        self._segments = vision_segments(architecture)
        self._segment = 0
        self._row = 0
        num_tokens = num_patches // merge
        embeds = np.empty((num_tokens, architecture.out_hidden_size), np.float32)
        deepstack = np.empty((len(architecture.deepstack_layers), *embeds.shape), np.float32)
        self.features = VisionFeatures(embeds, deepstack)
        """Complete once `advance` has said so."""

    def advance(self, cancel: CancelToken) -> bool:
        """Do the next run, or the next few small ones; return whether that was all. Raises `Cancelled`."""
        left = self._max_pairs // _SMALL
        while True:
            rows = self._next_rows()
            self._run(rows, cancel)
            left -= self._num_pairs(rows)
            self._move_past(rows)
            if self._segment == len(self._segments):
                return True
            if self._num_pairs(self._next_rows()) > left:
                return False

    def give_up(self) -> None:
        """Leave it unfinished: what its runs have kept in the graph's arena goes back to the system."""
        inputs = self._inputs(slice(0, 0)) | {"segment": np.array(_NO_SEGMENT, np.int64)}
        self._graph.run(inputs, {"image_embeds": self.features.embeds[:0]}, CancelToken())

    def _next_rows(self) -> slice:
        """The rows of the next run: all that are left of this segment, or as many as one run may have."""
        return slice(self._row, min(self._row + self._max_rows, len(self._stream)))

    def _num_pairs(self, rows: slice) -> int:
        return int(rows.stop - rows.start) * len(self._stream)

    def _move_past(self, rows: slice) -> None:
        self._row = rows.stop
        if self._row == len(self._stream):
            self._row = 0
            self._segment += 1
            self._qkv, self._next_qkv = self._next_qkv, self._qkv
            self._pixel_values = None

    def _run(self, rows: slice, cancel: CancelToken) -> None:
        """Run the current segment for `rows`."""
        is_last = self._segment + 1 == len(self._segments) and rows.stop == len(self._stream)
        self._graph.run(self._inputs(rows), self._outputs(rows), cancel, keep_memory=not is_last)

    def _inputs(self, rows: slice) -> dict[str, Array]:
        """All inputs of the graph; what the segment does not read has no rows."""
        positions, vision = self._positions, self._architecture
        inputs: dict[str, Array] = {
            "segment": np.array(self._segment, np.int64),
            "pixel_values": np.empty((0, vision.patch_dim), np.float32),
            "pos_index": positions.pos_index[:, :0],
            "pos_weight": positions.pos_weight[:, :0],
            "rope_cos": positions.rope_cos,
            "rope_sin": positions.rope_sin,
            "stream": self._stream[:0],
            "qkv": self._qkv,
            "query_rows": np.array([rows.start, rows.stop], np.int64),
        }
        if self._pixel_values is None:
            inputs["stream"] = self._stream[rows]
        else:
            inputs["pixel_values"] = self._pixel_values[rows]
            inputs["pos_index"], inputs["pos_weight"] = positions.pos_index[:, rows], positions.pos_weight[:, rows]
        return inputs

    def _outputs(self, rows: slice) -> dict[str, Array]:
        """Where the outputs of the segment go."""
        merge = self._architecture.spatial_merge_size**2
        tokens = slice(rows.start // merge, rows.stop // merge)
        outputs: dict[str, Array] = {}
        for name in self._segments[self._segment]:
            kind, _, index = name.partition(".")
            if kind == "stream":
                outputs[name] = self._stream[rows]
            elif kind == "qkv":
                outputs[name] = self._next_qkv[rows]
            elif kind == "deepstack":
                outputs[name] = self.features.deepstack[int(index), tokens]
            else:
                outputs[name] = self.features.embeds[tokens]
        return outputs
