"""`edge-runtime ask`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from edge_runtime.cli.outcome import reports_errors


@reports_errors
def ask(  # noqa: PLR0913, PLR0917 - these are the command's options
    target: Annotated[str, typer.Argument(help="A bundle folder (answered in this process) or a server's address.")],
    prompt: Annotated[str, typer.Argument(help="The question; - reads it from standard input.")],
    image: Annotated[list[Path] | None, typer.Option(help="An image about which it is; may be repeated.")] = None,
    video: Annotated[Path | None, typer.Option(help="A video about which it is.")] = None,
    max_tokens: Annotated[int, typer.Option(help="The answer's length at most.")] = 1024,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same answer.")] = None,
    profile: Annotated[str, typer.Option(help="Device profile, for a bundle folder.")] = "auto",
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object at the end instead.")] = False,
) -> None:
    """Ask one question, about images or a video if there are any, and stream the answer."""
    from edge_runtime.cli.printing import AnswerPrinter, JsonPrinter  # noqa: PLC0415
    from edge_runtime.cli.targets import Question, open_target  # noqa: PLC0415
    from edge_runtime.engine.request import SamplingParams  # noqa: PLC0415

    question = Question(
        prompt=sys.stdin.read().strip() if prompt == "-" else prompt,
        images=tuple(image or ()),
        video=video,
        sampling=SamplingParams(temperature=temperature, seed=seed),
        max_tokens=max_tokens,
    )
    printer = JsonPrinter() if json else AnswerPrinter(is_terminal=sys.stdout.isatty())
    with open_target(target, profile) as answers:
        for event in answers(question):
            printer.show(event)
