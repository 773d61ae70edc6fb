"""The vision encoder on a real (tiny) graph: its shapes, and what memory it keeps."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.errors import Cancelled
from edge_runtime.model.cancellation import CancelToken
from edge_runtime.model.graph import Graph, GraphSettings
from edge_runtime.model.manifest import load_manifest
from edge_runtime.vision.encoder import VisionEncoder, VisionFeatures

MEASURE = """
import resource, sys
from pathlib import Path
import numpy as np
import psutil
from edge_runtime.model.cancellation import CancelToken
from edge_runtime.model.manifest import load_manifest
from edge_runtime.model.graph import Graph, GraphSettings
from edge_runtime.vision.encoder import VisionEncoder

bundle = Path(sys.argv[1])
vision = load_manifest(bundle).architecture.vision
encoder = VisionEncoder(Graph(bundle / "vision.onnx", GraphSettings(num_threads=1)), vision)

def encode(side):
    return encoder.encode(np.ones((side * side, vision.patch_dim), np.float32), side, side, CancelToken())

encode(8)
before = psutil.Process().memory_info().rss
features = encode(96)
held = psutil.Process().memory_info().rss
print(held - before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before)
"""


def test_features_have_a_row_for_each_merged_token(tiny_bundle: Path) -> None:
    vision = load_manifest(tiny_bundle).architecture.vision
    encoder = VisionEncoder(Graph(tiny_bundle / "vision.onnx", GraphSettings(num_threads=1)), vision)
    pixel_values = np.random.default_rng(0).standard_normal((24, vision.patch_dim), np.float32)
    features = encoder.encode(pixel_values, 4, 6, CancelToken())
    assert features.embeds.shape == (6, vision.out_hidden_size)
    assert features.deepstack.shape == (len(vision.deepstack_layers), 6, vision.out_hidden_size)
    again = encoder.encode(pixel_values, 4, 6, CancelToken())
    assert again.embeds is not features.embeds
    np.testing.assert_array_equal(again.embeds, features.embeds)


@pytest.mark.parametrize("bundle", ["tiny_bundle", "tiny_bundle_int4", "tiny_bundle_edge"])
def test_the_rows_of_a_frame_may_be_run_in_pieces(bundle: str, request: pytest.FixtureRequest) -> None:
    """Pieces of one size give the same bits each time; of flavour `edge` the bits of the whole."""
    folder = request.getfixturevalue(bundle)
    manifest = load_manifest(folder)
    kernels = request.getfixturevalue("kernel_library") if manifest.flavour == "edge" else None
    graph = Graph(folder / "vision.onnx", GraphSettings(num_threads=2, kernels=kernels))
    vision = manifest.architecture.vision
    pixel_values = np.random.default_rng(1).standard_normal((14 * 22, vision.patch_dim), np.float32)

    def run(max_pairs: int) -> tuple[VisionFeatures, int]:
        encoder = VisionEncoder(graph, vision, max_pairs=max_pairs)
        encoding, count = encoder.begin(pixel_values, 14, 22), 1
        while not encoding.advance(CancelToken()):
            count += 1
        return encoding.features, count

    whole, one = run(1 << 30)
    assert one == 1
    for max_pairs, num_pieces in ((308 * 308, 1), (308 * 100, 4), (308 * 30, 11), (1, 77)):
        pieces, count = run(max_pairs)
        assert count == num_pieces * (vision.depth + 1)
        for some, all_ in ((pieces.embeds, whole.embeds), (pieces.deepstack, whole.deepstack)):
            if manifest.flavour == "edge":
                np.testing.assert_array_equal(some, all_)
            else:
                np.testing.assert_allclose(
                    some, all_, atol=1e-4 if manifest.quantization.vision_linear.block_size is None else 0.05
                )


def test_a_cancelled_encoding_stops_and_gives_its_memory_back(tiny_bundle: Path) -> None:
    vision = load_manifest(tiny_bundle).architecture.vision
    encoder = VisionEncoder(Graph(tiny_bundle / "vision.onnx", GraphSettings(num_threads=1)), vision, max_pairs=64)
    pixel_values = np.ones((64, vision.patch_dim), np.float32)
    whole = encoder.encode(pixel_values, 8, 8, CancelToken())
    encoding, cancel = encoder.begin(pixel_values, 8, 8), CancelToken()
    assert not encoding.advance(cancel)
    cancel.cancel()
    with pytest.raises(Cancelled):
        encoding.advance(cancel)
    encoding.give_up()
    np.testing.assert_array_equal(encoder.encode(pixel_values, 8, 8, CancelToken()).embeds, whole.embeds)


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss counts kibibytes on Linux only")
def test_what_a_run_used_is_given_back(tiny_bundle: Path) -> None:
    command = [sys.executable, "-c", MEASURE, str(tiny_bundle)]
    held, peak = map(int, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())
    assert peak > 57e6  # the pixels of 9,216 patches alone
    assert held < peak / 4
