"""`edge-runtime ask`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from edge_runtime.cli.outcome import reports_errors

_MAX_PROMPT = 4 << 20
"""Characters read from standard input: more than a server's headers, or any context, can hold."""
_Target = Annotated[
    str,
    typer.Argument(
        help="A bundle folder (answered in this process), pocket (the model that ships), or a server's address."
    ),
]
_MaxTokens = Annotated[
    int | None, typer.Option(help="The answer's length at most; else 1024, or what the context leaves.")
]
_PresencePenalty = Annotated[
    float, typer.Option(help="Above 0: tokens of the answer so far are less likely; 1.5 against endless repeating.")
]
_FrequencyPenalty = Annotated[float, typer.Option(help="Above 0: the same, the more so the more often they came.")]
_StopOnRepetition = Annotated[
    bool,
    typer.Option(
        "--stop-on-repetition/--no-stop-on-repetition", help="End an answer that only repeats itself, token for token."
    ),
]
_ParseSpecial = Annotated[
    bool,
    typer.Option("--parse-special", help="Let control tokens spelled in the question, as <|im_end|>, take effect."),
]


@reports_errors
def ask(  # noqa: PLR0913, PLR0917 - these are the command's options
    target: _Target,
    prompt: Annotated[str, typer.Argument(help="The question; - reads it from standard input.")],
    image: Annotated[list[Path] | None, typer.Option(help="An image about which it is; may be repeated.")] = None,
    video: Annotated[Path | None, typer.Option(help="A video about which it is.")] = None,
    system: Annotated[str | None, typer.Option(help="A system message before the question.")] = None,
    max_tokens: _MaxTokens = None,
    stop: Annotated[list[str] | None, typer.Option(help="Text that ends the answer; may be repeated.")] = None,
    think: Annotated[
        bool | None, typer.Option("--think/--no-think", help="Reason first or not, where the model leaves a choice.")
    ] = None,
    temperature: Annotated[float, typer.Option(help="0 is greedy: the same question has the same answer.")] = 0.0,
    top_k: Annotated[int, typer.Option(help="Draw from this many likeliest tokens; 0: all.")] = 0,
    top_p: Annotated[float, typer.Option(help="Draw from the likeliest tokens of this much probability.")] = 1.0,
    min_p: Annotated[float, typer.Option(help="Leave out tokens below this share of the likeliest one.")] = 0.0,
    repetition_penalty: Annotated[float, typer.Option(help="Above 1: tokens seen before are less likely.")] = 1.0,
    presence_penalty: _PresencePenalty = 0.0,
    frequency_penalty: _FrequencyPenalty = 0.0,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same answer.")] = None,
    logprobs: Annotated[int | None, typer.Option(help="With --json: this many likeliest tokens at each place.")] = None,
    stop_on_repetition: _StopOnRepetition = True,
    parse_special: _ParseSpecial = False,
    max_pixels: Annotated[int | None, typer.Option(min=1, help="Make images and frames no larger than this.")] = None,
    profile: Annotated[str, typer.Option(help="Device profile, for a bundle folder.")] = "auto",
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object at the end instead.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="The answer only: no memory plan, no timings.")] = False,
) -> None:
    """Ask one question, about images or a video if there are any, and stream the answer.

    Greedy unless told otherwise, whatever the model's makers recommend for sampling (`edge-runtime inspect` shows it).
    """
    from edge_runtime.cli.printing import AnswerPrinter, JsonPrinter, print_plan, print_remark  # noqa: PLC0415
    from edge_runtime.cli.question import Question  # noqa: PLC0415
    from edge_runtime.cli.targets import LocalOptions, open_target  # noqa: PLC0415
    from edge_runtime.engine.request import SamplingParams  # noqa: PLC0415

    question = Question(
        prompt=sys.stdin.read(_MAX_PROMPT).strip() if prompt == "-" else prompt,
        images=tuple(image or ()),
        video=video,
        system=system,
        sampling=SamplingParams(
            temperature, top_k, top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty, seed
        ),
        max_tokens=max_tokens,
        stop=tuple(stop or ()),
        enable_thinking=think,
        num_logprobs=logprobs,
        max_pixels=max_pixels,
        stop_on_repetition=stop_on_repetition,
        parse_special=parse_special,
    )
    printer = JsonPrinter() if json else AnswerPrinter(sys.stdout.isatty(), quiet, max_tokens)
    local = LocalOptions(profile, max_pixels, None if json or quiet else print_plan)
    with open_target(target, local, None if json or quiet else print_remark) as answers:
        for event in answers(question):
            printer.show(event)
