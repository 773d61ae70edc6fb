"""edge_runtime: run Qwen3-VL-class vision-language models on a device you can hold.

    from edge_runtime import GenerationRequest, load, question

    engine = load("pocket")
    for event in engine.generate(GenerationRequest("1", question("What is on this screen?", "screen.png"))):
        print(event)

or, with `edge-runtime serve` running, `Client().ask("What is on this screen?", images="screen.png").text`. Names are
imported when they are first asked for. The file to read first is `edge_runtime/engine/engine.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_runtime import errors
from edge_runtime.errors import (
    BadAction,
    BadImage,
    BadParameter,
    BadPrompt,
    Cancelled,
    ConnectionLost,
    ContextOverflow,
    EdgeError,
    Overloaded,
    SessionBusy,
    TimedOut,
    TooManySessions,
    UnknownSession,
)

if TYPE_CHECKING:
    from edge_runtime.devices.memory import MemoryRequest
    from edge_runtime.engine.dropping import older_than
    from edge_runtime.engine.engine import Engine
    from edge_runtime.engine.events import Delta, Failed, Finished
    from edge_runtime.engine.load import PlannedBundle, load
    from edge_runtime.engine.request import GenerationOptions, GenerationRequest, SamplingParams, SessionTurn
    from edge_runtime.model.conversation import ImagePart, Message, TextPart, VideoPart
    from edge_runtime.model.tools import ToolCall, ToolDefinition
    from edge_runtime.serving.async_client import AsyncClient, AsyncSession
    from edge_runtime.serving.client import Client, Session
    from edge_runtime.serving.client_core import Timeouts
    from edge_runtime.serving.images import question
    from edge_runtime.serving.model_info import model_info
    from edge_runtime.serving.server import Server
    from edge_runtime.serving.settings import ServerSettings

__version__ = "0.1.0"

_NAMES = {
    "devices.memory": "MemoryRequest",
    "engine.dropping": "older_than",
    "engine.engine": "Engine",
    "engine.events": "Delta Failed Finished",
    "engine.load": "PlannedBundle load",
    "engine.request": "GenerationOptions GenerationRequest SamplingParams SessionTurn",
    "model.conversation": "ImagePart Message TextPart VideoPart",
    "model.tools": "ToolCall ToolDefinition",
    "serving.async_client": "AsyncClient AsyncSession",
    "serving.client": "Client Session",
    "serving.client_core": "Timeouts",
    "serving.images": "question",
    "serving.model_info": "model_info",
    "serving.server": "Server",
    "serving.settings": "ServerSettings",
}
"""By module below this package: what is imported from it when it is first asked for."""
_HOMES = {name: module for module, names in _NAMES.items() for name in names.split()}

__all__ = [
    "AsyncClient",
    "AsyncSession",
    "BadAction",
    "BadImage",
    "BadParameter",
    "BadPrompt",
    "Cancelled",
    "Client",
    "ConnectionLost",
    "ContextOverflow",
    "Delta",
    "EdgeError",
    "Engine",
    "Failed",
    "Finished",
    "GenerationOptions",
    "GenerationRequest",
    "ImagePart",
    "MemoryRequest",
    "Message",
    "Overloaded",
    "PlannedBundle",
    "SamplingParams",
    "Server",
    "ServerSettings",
    "Session",
    "SessionBusy",
    "SessionTurn",
    "TextPart",
    "TimedOut",
    "Timeouts",
    "TooManySessions",
    "ToolCall",
    "ToolDefinition",
    "UnknownSession",
    "VideoPart",
    "__version__",
    "errors",
    "load",
    "model_info",
    "older_than",
    "question",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib  # noqa: PLC0415

    globals()[name] = found = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
