"""Our side: the whole runtime on an exported bundle, with what it computes on the way written down."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_export.options import ExportOptions
from edge_export.pipeline import export_bundle
from edge_runtime.engine.bundle_runner import BundleRunner, RunnerSettings
from edge_runtime.engine.engine import Engine
from edge_runtime.engine.events import Failed, Finished
from edge_runtime.engine.model_runner import Step
from edge_runtime.engine.request import GenerationRequest
from edge_runtime.engine.settings import EngineSettings
from edge_runtime.engine.token_log import TokenLog
from edge_runtime.model.bundle import open_bundle
from edge_runtime.model.conversation import Message
from edge_runtime.model.decoder import Logits
from edge_runtime.model.graph import GraphSettings
from edge_runtime.vision.image import ImageLimits
from tests.conftest import NoProgress

PREFILL_CHUNK = 100
"""Less than most prompts, and no divisor of their length: prefill in several uneven chunks is part of the test."""


class RecordingRunner(BundleRunner):
    """The real runner; it knows no end token, and keeps every row of logits it gives."""

    eos_token_ids = frozenset()  # type: ignore[assignment]

    def forward(self, steps: Sequence[Step]) -> list[Logits | None]:
        results = super().forward(steps)
        self.recorded += [logits.rows[0].copy() for logits in results if logits is not None]
        return results


class Runtime:
    """An fp32 bundle of a checkpoint behind the engine."""

    def __init__(self, checkpoint: Path, bundle: Path) -> None:
        export_bundle(str(checkpoint), bundle, ExportOptions(weights="fp32"), NoProgress())
        settings = RunnerSettings(
            max_context=4096,
            max_cache_tokens=8192,
            max_pixels=None,
            graphs=GraphSettings(num_threads=1),
            image_limits=ImageLimits(),
        )
        self.runner = RecordingRunner(open_bundle(bundle), settings)
        self._engine = Engine(self.runner, EngineSettings(prefill_chunk=PREFILL_CHUNK))

    def prepare(self, messages: tuple[Message, ...]) -> TokenLog:
        """Token ids, positions and rope delta of a chat."""
        return self.runner.prepare(GenerationRequest("prepare", messages))

    def generate(self, messages: tuple[Message, ...], num_tokens: int) -> tuple[list[int], NDArray[np.float32]]:
        """`num_tokens` greedy tokens, and the logits [num_tokens, V] they were chosen from."""
        self.runner.recorded = []
        *_, last = self._engine.generate(GenerationRequest("generate", messages, max_tokens=num_tokens))
        if isinstance(last, Failed):
            raise last.error
        assert isinstance(last, Finished)
        return list(last.token_ids), np.stack(self.runner.recorded)
