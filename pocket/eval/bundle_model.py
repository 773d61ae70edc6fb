"""Our own runtime as a model to evaluate: an exported bundle behind the engine."""

from collections.abc import Sequence
from pathlib import Path

from edge_runtime.devices.planner import MemoryRequest
from edge_runtime.devices.probe import probe_machine
from edge_runtime.devices.profile import KVDtype
from edge_runtime.devices.select import select_profile
from edge_runtime.engine.engine import Engine
from edge_runtime.engine.events import Failed, Finished
from edge_runtime.engine.load import load_engine, plan_bundle
from edge_runtime.engine.request import GenerationRequest
from edge_runtime.model.conversation import ImagePart, Message, Part, TextPart
from pocket.eval.case import Image, Messages


class BundleModel:
    """Answers greedily. Raises `EdgeError` when a bundle cannot be loaded or a request fails."""

    def __init__(self, bundle: Path, max_tokens: int, think: bool = False, kv_dtype: KVDtype | None = None) -> None:
        profile = select_profile("auto", probe_machine())
        opened, plan = plan_bundle(bundle, profile, MemoryRequest(kv_dtype=kv_dtype))
        self._engine: Engine = load_engine(opened, profile, plan)
        self._max_tokens = max_tokens
        self._think = think

    def __call__(self, images: Sequence[Image], messages: Messages) -> str:
        """The answer's text, without any thought."""
        return self.finish(images, messages).text

    def token_ids(self, images: Sequence[Image], messages: Messages) -> list[int]:
        """The answer's tokens, the end token included."""
        return list(self.finish(images, messages).token_ids)

    def finish(self, images: Sequence[Image], messages: Messages) -> Finished:
        """The whole ending: answer, thought and tokens. Raises the `EdgeError` that the request failed with."""
        request = GenerationRequest(
            "eval", _conversation(images, messages), max_tokens=self._max_tokens, enable_thinking=self._think or None
        )
        *_, last = self._engine.generate(request)
        if isinstance(last, Failed):
            raise last.error
        assert isinstance(last, Finished)
        return last


def _conversation(images: Sequence[Image], messages: Messages) -> tuple[Message, ...]:
    pending = iter(images)
    chat = []
    for message in messages:
        parts: list[Part] = [
            ImagePart(next(pending)) if part["type"] == "image" else TextPart(part["text"])
            for part in message["content"]
        ]
        chat.append(Message(message["role"], tuple(parts)))
    return tuple(chat)
