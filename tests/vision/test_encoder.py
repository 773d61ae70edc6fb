"""The vision encoder on a real (tiny) graph: its shapes, and what memory it keeps."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.model.cancellation import CancelToken
from edge_runtime.model.manifest import load_manifest
from edge_runtime.model.session import Graph, SessionSettings
from edge_runtime.vision.encoder import VisionEncoder

MEASURE = """
import resource, sys
from pathlib import Path
import numpy as np
import psutil
from edge_runtime.model.cancellation import CancelToken
from edge_runtime.model.manifest import load_manifest
from edge_runtime.model.session import Graph, SessionSettings
from edge_runtime.vision.encoder import VisionEncoder

bundle = Path(sys.argv[1])
vision = load_manifest(bundle).architecture.vision
encoder = VisionEncoder(Graph(bundle / "vision.onnx", SessionSettings(num_threads=1)), vision)

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
    encoder = VisionEncoder(Graph(tiny_bundle / "vision.onnx", SessionSettings(num_threads=1)), vision)
    pixel_values = np.random.default_rng(0).standard_normal((24, vision.patch_dim), np.float32)
    features = encoder.encode(pixel_values, 4, 6, CancelToken())
    assert features.embeds.shape == (6, vision.out_hidden_size)
    assert features.deepstack.shape == (len(vision.deepstack_layers), 6, vision.out_hidden_size)
    again = encoder.encode(pixel_values, 4, 6, CancelToken())
    assert again.embeds is not features.embeds
    np.testing.assert_array_equal(again.embeds, features.embeds)


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss counts kibibytes on Linux only")
def test_what_a_run_used_is_given_back(tiny_bundle: Path) -> None:
    command = [sys.executable, "-c", MEASURE, str(tiny_bundle)]
    held, peak = map(int, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())
    assert peak > 57e6  # the pixels of 9,216 patches alone
    assert held < peak / 4
