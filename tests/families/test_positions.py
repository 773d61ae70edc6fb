import numpy as np

from edge_runtime.families.qwen3_vl.config import TextArchitecture
from edge_runtime.families.qwen3_vl.decoder import RotaryTables, prompt_positions
from edge_runtime.families.qwen3_vl.processor import TokenGrid, VisionSpan

TEXT = TextArchitecture(
    num_layers=1,
    hidden_size=32,
    intermediate_size=32,
    num_attention_heads=2,
    num_kv_heads=1,
    head_dim=16,
    vocab_size=10,
    rms_norm_eps=1e-6,
    rope_theta=10000.0,
    mrope_section=(4, 2, 2),
    max_position_embeddings=100,
    tie_word_embeddings=True,
)


def test_text_counts_up_on_all_axes() -> None:
    positions, delta = prompt_positions(4, ())
    assert positions.tolist() == [[0, 1, 2, 3]] * 3
    assert delta == 0


def test_image_spreads_over_rows_and_columns_and_text_goes_on_past_its_longer_side() -> None:
    positions, delta = prompt_positions(10, (VisionSpan(2, TokenGrid(rows=2, columns=3)),))
    assert positions.tolist() == [
        [0, 1, 2, 2, 2, 2, 2, 2, 5, 6],
        [0, 1, 2, 2, 2, 3, 3, 3, 5, 6],
        [0, 1, 2, 3, 4, 2, 3, 4, 5, 6],
    ]
    assert delta == -3


def test_two_grids_side_by_side() -> None:
    spans = (VisionSpan(0, TokenGrid(3, 1)), VisionSpan(3, TokenGrid(1, 2)))
    positions, delta = prompt_positions(5, spans)
    assert positions.tolist() == [[0, 0, 0, 3, 3], [0, 1, 2, 3, 3], [0, 0, 0, 3, 4]]
    assert delta == 0


def test_rotary_frequencies_are_dealt_to_the_axes_in_turn() -> None:
    cos, sin = RotaryTables(TEXT)(np.array([[1], [10], [100]]))
    axes = [1, 10, 100, 1, 10, 100, 1, 1]  # time, row, column, time, row, column, and time for the rest
    angles = np.array(axes) * 10000.0 ** (-np.arange(8) / 8)
    np.testing.assert_allclose(cos[0], np.cos(angles), atol=2e-6)
    np.testing.assert_allclose(sin[0], np.sin(angles), atol=2e-6)
    assert cos.dtype == sin.dtype == np.float32
