"""`make demo`: the two commands, on a tiny random model. Every command is printed before it is run."""

from __future__ import annotations

import argparse
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

BIN = Path(sys.executable).parent
QUESTION = "What is the total of this order, and which button pays for it?"


def main() -> None:
    """Make a checkpoint, export it, serve it, ask it about a screenshot; leave no process behind."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--screenshot", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True, help="everything is written here; made anew")
    arguments = parser.parse_args()
    folder = arguments.folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    checkpoint, bundle = str(folder / "qwen3-vl-tiny-random"), str(folder / "bundle")
    address = f"ipc://{folder}/edge.sock"

    run("edge-export", "random-checkpoint", checkpoint, "--size", "tiny")
    run("edge-export", checkpoint, bundle, "--weights", "int4")
    server = start("edge-runtime", "serve", bundle, "--bind", address, stdout=subprocess.PIPE)
    try:
        wait_until_serving(server, address)
        run(
            "edge-runtime",
            "ask",
            address,
            QUESTION,
            "--image",
            str(arguments.screenshot),
            "--max-tokens",
            "40",
            "--temperature",
            "1",
            "--seed",
            "7",
        )
    finally:
        server.send_signal(signal.SIGTERM)
        status = server.wait(timeout=30)
    if status != 0:
        sys.exit(f"the server ended with status {status}")
    print(
        "\nThe words mean nothing: the model is tiny and its weights are random. The way is the real one: screenshot,\n"
        "vision encoder, prefill, streamed tokens over ZeroMQ. With a real checkpoint (README.md) the answer is real."
    )


def run(*command: str) -> None:
    """Run one of our commands in the foreground; stop the demo if it fails."""
    started = start(*command)
    if started.wait() != 0:
        sys.exit(f"{command[0]} ended with status {started.returncode}")


def start(*command: str, stdout: int | None = None) -> subprocess.Popen[str]:
    """Print one of our commands, and start it."""
    print(f"\n$ {shlex.join(command)}", flush=True)
    executable = str(BIN / command[0])
    return subprocess.Popen([executable, *command[1:]], stdin=subprocess.DEVNULL, stdout=stdout, text=True)


def wait_until_serving(server: subprocess.Popen[str], address: str) -> None:
    """Pass on what the server says until it names its address."""
    assert server.stdout is not None
    for line in server.stdout:
        print(line, end="", flush=True)
        if line.startswith("serving ") and address in line:
            return
    sys.exit("the server ended before it was ready")


if __name__ == "__main__":
    main()
