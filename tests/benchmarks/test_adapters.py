"""What adapters do without their peer: llama.cpp's log, and the decoder cut out of a checkpoint."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.peers.adapters.llama_cpp import vision_seconds
from benchmarks.peers.adapters.onnxruntime_genai import write_text_checkpoint
from edge_export.checkpoint.weights import open_weights


def test_vision_time_is_between_two_lines_of_the_log() -> None:
    log = [
        "0.01.500.000 I slot launch_slot_: processing",
        "0.01.884.319 I slot encode_mtmd_: id  0 | task 60 | encoding mtmd batch from idx = 1, n_chunks = 1",
        "1.04.423.869 I decoding image batch 1/2, n_tokens_batch = 512",
        "1.09.423.869 I decoding image batch 2/2, n_tokens_batch = 408",
    ]
    assert vision_seconds(log) == pytest.approx(64.423869 - 1.884319)


@pytest.mark.parametrize(
    "lines", [[], ["0.01.884.319 I encoding mtmd batch"], ["encoding mtmd batch", "decoding image"]]
)
def test_a_log_without_them_is_an_error(lines: list[str]) -> None:
    with pytest.raises(ValueError, match="log"):
        vision_seconds(lines)


def test_text_checkpoint_holds_the_decoder_unchanged(tiny_checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "text"
    write_text_checkpoint(tiny_checkpoint, out)
    ours, whole = open_weights(out), open_weights(tiny_checkpoint)
    decoder = [name for name in whole.entries if name.startswith("model.language_model.")]
    assert set(ours.entries) == set(decoder)  # both are read under canonical names
    for name in decoder:
        rows = whole.entries[name].shape[0]
        np.testing.assert_array_equal(ours.rows(name, 0, rows), whole.rows(name, 0, rows))
