"""`python -m edge_runtime.model.trial TOKENIZER TEMPLATE NAMES`: load a tokenizer and a template, and use both once.

In a process of its own, with limits of memory and time: the export starts it before it makes a bundle of files that may
abort or stop whoever reads them. Prints the file it is at, and `TEXT_ONLY` for a template without a place for pictures;
ends with 3 and the reason where a file is refused.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import msgspec

from edge_runtime.errors import BadPrompt, EdgeError
from edge_runtime.model.conversation import ImagePart, Message, TextPart
from edge_runtime.model.template import ChatTemplate
from edge_runtime.model.tokenizer import Tokenizer

REFUSED = 3
TEXT_ONLY = "text-only"
"""Printed last where the template has no place for pictures."""
IMAGE_PLACEHOLDER = "<|image_pad|>"
MEMORY_BYTES = 4 << 30
CPU_S = 60
_SAMPLES = (
    "What is on this screen? Answer in one word.\r\n\r\n\tI'll say 3.14 or 10 000 €",
    "你好 世界 Привет! नमस्ते e\u0301 🙂 \u200b\ufeff ",
    "".join(char * 1000 for char in "a \n0!"),
    "",
)


def main(tokenizer: Path, template: Path, names: Path) -> int:
    """The exit code."""
    _limit_this_process()
    try:
        print(tokenizer.name, flush=True)
        loaded = Tokenizer(tokenizer)
        for text in _SAMPLES:
            loaded.detokenize(loaded.encode(text))
        print(template.name, flush=True)
        special_tokens_map = msgspec.json.decode(names.read_bytes(), type=dict[str, str | tuple[str, ...]])
        chat_template = ChatTemplate(template, special_tokens_map)
        if not chat_template.formats.prints_text:
            print(
                "the chat template does not print what a user says, neither from a list of parts nor from a string",
                file=sys.stderr,
            )
            return REFUSED
        if not _places_images(chat_template):
            print(TEXT_ONLY, flush=True)
    except EdgeError as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return REFUSED
    return 0


def _places_images(template: ChatTemplate) -> bool:
    """Whether a picture in a user's message comes out as the placeholder that stands for it."""
    try:
        return IMAGE_PLACEHOLDER in template.render([Message("user", (ImagePart(b""), TextPart("this")))])
    except BadPrompt:
        return False


def _limit_this_process() -> None:
    with contextlib.suppress(ImportError):  # where there is no such limit, the caller's timeout is all
        import resource  # noqa: PLC0415

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:4])))
