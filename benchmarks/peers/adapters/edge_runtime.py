"""edge_runtime itself, through the same engine that the server and `edge-runtime ask` use."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.peers.adapter import ChatModel, ImageResult, RunSettings, TextResult

if TYPE_CHECKING:
    from edge_runtime.devices.profile import KVDtype
    from edge_runtime.engine.engine import Engine
    from edge_runtime.engine.events import Timings
    from edge_runtime.model.conversation import Part


KV_DTYPES: dict[str, KVDtype] = {"portable": "fp32", "edge": "int8"}
"""How keys and values are kept, by flavour: as small as the flavour can."""


def prepare(checkpoint: Path, out: Path, options: Mapping[str, str]) -> dict[str, str]:
    """Export a bundle of the flavour `options["flavour"]`: INT4 decoder, INT8 vision, LM head INT8 unless asked."""
    from edge_export.options import ExportOptions  # noqa: PLC0415
    from edge_export.pipeline import export_bundle  # noqa: PLC0415
    from edge_export.progress import ProgressBars  # noqa: PLC0415

    head = "int4" if options.get("lm_head") == "int4" else "int8"
    chosen = ExportOptions(flavour=options["flavour"], lm_head=head, force=True)  # the folder is there, and empty
    with ProgressBars() as progress:
        manifest = export_bundle(str(checkpoint), out, chosen, progress)
    return {"version": manifest.exporter_version, "weights": f"INT4 block 32, LM head {head.upper()}, vision INT8"}


def load(model: Path, settings: RunSettings) -> EdgeModel:
    """Open the bundle with one chat's worth of memory."""
    from dataclasses import replace  # noqa: PLC0415

    from edge_runtime.devices.memory import MemoryRequest  # noqa: PLC0415
    from edge_runtime.devices.probe import probe_machine  # noqa: PLC0415
    from edge_runtime.devices.select import select_profile  # noqa: PLC0415
    from edge_runtime.engine.load import load_engine, plan_bundle  # noqa: PLC0415
    from edge_runtime.model.manifest import load_manifest  # noqa: PLC0415

    profile = replace(select_profile("auto", probe_machine()), threads=settings.num_threads)
    kv_dtype = KV_DTYPES[load_manifest(model).flavour]
    request = MemoryRequest(context_tokens=settings.max_context, max_chats=1, kv_dtype=kv_dtype)
    bundle, plan = plan_bundle(model, profile, request)
    return EdgeModel(load_engine(bundle, profile, plan))


def load_chat(model: Path, settings: RunSettings) -> ChatModel:
    """A server, in a process of its own."""
    from benchmarks.peers.adapters.edge_server import EdgeServer  # noqa: PLC0415

    return EdgeServer(model, settings)


class EdgeModel:
    """A loaded engine, asked one question at a time."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def run_text(self, prompt: str, max_tokens: int) -> TextResult:
        """First token: from the question on, template and tokenizer included."""
        from edge_runtime.model.conversation import TextPart  # noqa: PLC0415

        timings = self._ask((TextPart(prompt),), max_tokens)
        return TextResult(
            prompt_tokens=timings.prompt_tokens,
            prefill_s=timings.first_token_ms / 1e3,
            decode_tokens=timings.output_tokens - 1,
            decode_s=timings.decode_ms / 1e3,
        )

    def run_image(self, image: Path, prompt: str) -> ImageResult:
        """Vision is the graph run; decoding and resizing count for the first token."""
        from edge_runtime.model.conversation import ImagePart, TextPart  # noqa: PLC0415

        timings = self._ask((ImagePart(image.read_bytes()), TextPart(prompt)), 1)
        return ImageResult(
            prompt_tokens=timings.prompt_tokens,
            first_token_s=timings.first_token_ms / 1e3,
            vision_s=timings.vision_ms / 1e3,
        )

    def process_ids(self) -> Sequence[int]:
        """This one."""
        return (os.getpid(),)

    def close(self) -> None:
        """Nothing to stop."""

    def _ask(self, parts: tuple[Part, ...], max_tokens: int) -> Timings:
        from edge_runtime.engine.events import Failed, Finished  # noqa: PLC0415
        from edge_runtime.engine.request import GenerationRequest  # noqa: PLC0415
        from edge_runtime.model.conversation import Message  # noqa: PLC0415

        request = GenerationRequest("benchmark", (Message("user", parts),), max_tokens=max_tokens)
        for event in self._engine.generate(request):
            if isinstance(event, Failed):
                raise event.error
            if isinstance(event, Finished):
                return event.timings
        raise AssertionError("every request ends in Finished or Failed")
