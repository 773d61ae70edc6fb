"""`make demo`: pocket, the model that ships, exported to INT4, served, and asked three questions about a screenshot.

Every command is printed before it is run. The places that the answers name are drawn on a copy of the screenshot.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from PIL import Image, ImageDraw

BIN = Path(sys.executable).parent
QUESTIONS = ("What is the title?", "Where is the Save button?", "Click Cancel.")
_PLACE = re.compile(r'\((\d+), (\d+)\)|"x":(\d+),"y":(\d+)')
_MARK = (220, 30, 60)


def main() -> None:
    """Export, serve, ask, draw; leave no process behind."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--screenshot", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True, help="everything is written here; made anew")
    arguments = parser.parse_args()
    folder, screenshot = arguments.folder, arguments.screenshot
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    bundle, address = str(folder / "pocket-int4"), f"ipc://{folder}/edge.sock"

    run("edge-export", "pocket", bundle, "--weights", "int4")
    server = start("edge-runtime", "serve", bundle, "--bind", address, stdout=subprocess.PIPE)
    try:
        wait_until_serving(server, address)
        print(f"\nThe screenshot: {screenshot}")
        answers = [ask(address, question, screenshot) for question in QUESTIONS]
    finally:
        server.send_signal(signal.SIGTERM)
        status = server.wait(timeout=30)
    if status != 0:
        sys.exit(f"the server ended with status {status}")
    pictured = folder / "places.png"
    draw_places(screenshot, answers, pictured)
    print(f"\nThe places it named, drawn on a copy of the screenshot: {pictured}")


def ask(address: str, question: str, screenshot: Path) -> str:
    """Ask the server; show the answer as it comes, and return it."""
    asking = start("edge-runtime", "ask", address, question, "--image", str(screenshot), stdout=subprocess.PIPE)
    assert asking.stdout is not None
    answer = ""
    while piece := os.read(asking.stdout.fileno(), 4096).decode(errors="replace"):
        answer += piece
        print(piece, end="", flush=True)
    if asking.wait() != 0:
        sys.exit(f"edge-runtime ask ended with status {asking.returncode}")
    return answer


def draw_places(screenshot: Path, answers: list[str], out: Path) -> None:
    """Mark every point and click of `answers` (0-1000 across the image), numbered by question, on a copy."""
    with Image.open(screenshot) as image:
        copy = image.convert("RGB")
    draw = ImageDraw.Draw(copy)
    for number, answer in enumerate(answers, start=1):
        for match in _PLACE.finditer(answer):
            x, y = (int(digits) / 1000 for digits in match.groups() if digits is not None)
            left, top = x * copy.width, y * copy.height
            draw.ellipse((left - 9, top - 9, left + 9, top + 9), outline=_MARK, width=3)
            draw.text((left + 12, top - 14), str(number), fill=_MARK, font_size=16)
    copy.save(out)


def run(*command: str) -> None:
    """Run one of our commands in the foreground; stop the demo if it fails."""
    started = start(*command)
    if started.wait() != 0:
        sys.exit(f"{command[0]} ended with status {started.returncode}")


def start(*command: str, stdout: int | None = None) -> subprocess.Popen[str]:
    """Print one of our commands, and start it."""
    print(f"\n$ {shlex.join(command)}", flush=True)
    executable = str(BIN / command[0])
    # Timings go to standard error: with an answer that is passed on, they have to come after it.
    stderr = subprocess.STDOUT if stdout is not None else None
    return subprocess.Popen(
        [executable, *command[1:]], stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, text=True
    )


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
