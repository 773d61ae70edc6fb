"""What the export tests share: checkpoints small enough to be written, broken and exported many times."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge_export.random_checkpoint import write_random_checkpoint
from tests.export.small_model import small_config

MakeCheckpoint = Callable[..., Path]


@pytest.fixture
def make_checkpoint(tmp_path: Path) -> MakeCheckpoint:
    """`make_checkpoint(config, name, **options of write_random_checkpoint)`: a checkpoint that the test may break."""

    def make(config: dict[str, Any] | None = None, name: str = "source", **options: Any) -> Path:
        write_random_checkpoint(tmp_path / name, config or small_config(), **options)
        return tmp_path / name

    return make


@pytest.fixture
def checkpoint(make_checkpoint: MakeCheckpoint) -> Path:
    """A checkpoint of `small_config` that the test may break."""
    return make_checkpoint()
