"""Tries a checkpoint's tokenizer and chat template before anything is written, in a process that may die of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from edge_export.checkpoint.checkpoint import Checkpoint, log_warning
from edge_export.checkpoint.shards import Warn
from edge_export.errors import TokenizerError

TIMEOUT_S = 300
"""It takes a second; a loaded machine may take a hundred times that."""
_REFUSED = 3
_TEXT_ONLY = "text-only"
"""As in edge_runtime/model/trial.py, which is a program to us, and no module."""


def try_words(checkpoint: Checkpoint, warn: Warn = log_warning) -> None:
    """Raise `TokenizerError` for a tokenizer or chat template that the runtime refuses, or that ends its process.

    `warn` is told of a template that has no place for pictures.
    """
    with TemporaryDirectory(prefix="edge-export-") as scratch:
        template, names = Path(scratch) / "chat_template.jinja", Path(scratch) / "names.json"
        template.write_text(checkpoint.chat_template, encoding="utf-8")
        names.write_bytes(msgspec.json.encode(checkpoint.special_tokens_map))
        tokenizer = checkpoint.folder / "tokenizer.json"
        command = [sys.executable, "-m", "edge_runtime.model.trial", str(tokenizer), str(template), str(names)]
        try:
            result = subprocess.run(  # noqa: S603 - our own module, by our own interpreter
                command,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            at = (error.stdout or b"").decode(errors="replace")
            raise TokenizerError(_message(checkpoint, at, f"it does not end within {TIMEOUT_S} s")) from error
    if result.returncode != 0:
        raise TokenizerError(_message(checkpoint, result.stdout, _reason(result.returncode, result.stderr)))
    if _TEXT_ONLY in result.stdout.split():
        warn(
            "the chat template has no place for images: what is exported answers questions without any; export it with "
            "the chat_template.jinja of the model it was made from to ask it about pictures"
        )


def _reason(code: int, stderr: str) -> str:
    last = (stderr.strip().splitlines() or [""])[-1][:500]
    if code == _REFUSED:
        return last
    if code < 0:
        return f"the process that read it was ended by {signal.Signals(-code).name}"
    return f"the process that read it failed: {last}"


def _message(checkpoint: Checkpoint, stdout: str, reason: str) -> str:
    at = (stdout.split() or ["its tokenizer files"])[-1]
    return (
        f"{checkpoint.folder}: {at} cannot be used: {reason}; take tokenizer.json and the chat template from the "
        "model's original repository"
    )
