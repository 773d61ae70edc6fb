"""`edge-runtime ask`."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import GenericAlias
from typing import Annotated, Any, get_args, get_origin

import typer
from msgspec.structs import FieldInfo, fields

from edge_runtime.cli.outcome import reports_errors
from edge_runtime.engine.request import GenerationOptions
from edge_runtime.errors import BadParameter

_MAX_PROMPT = 4 << 20
"""Characters read from standard input: more than a server's headers, or any context, can hold."""
_Parameter = inspect.Parameter
_Target = Annotated[
    str,
    typer.Argument(
        help="A bundle folder (answered in this process), pocket (the model that ships), or a server's address."
    ),
]
_SPELLINGS: dict[str, dict[str, Any]] = {
    "enable_thinking": {"flag": "--think/--no-think"},
    "num_logprobs": {"flag": "--logprobs", "help": "With --json: this many likeliest tokens at each place."},
    "schema": {
        "flag": "--schema",
        "help": "The answer is JSON of the JSON schema in this file.",
        "kind": Path | None,
        "default": None,
    },
    "stop_on_repetition": {
        "flag": "--stop-on-repetition/--no-stop-on-repetition",
        "help": "End an answer that only repeats itself, token for token; the default, but with --ignore-eos.",
        "kind": bool | None,
        "default": None,
    },
}
"""Where the command differs from `GenerationOptions`: an option's name, its help, its type, its default."""

_NOT_ASKED = frozenset({"tools", "tool_choice", "parallel_tool_calls"})
"""Options that the command does not have: a tool's result would need another question."""


def _takes_options(command: Callable[..., None]) -> Callable[..., None]:
    """In place of `command`'s `**options`: an option for each field of `GenerationOptions`, told to typer."""
    own = inspect.signature(command, eval_str=True).parameters.values()
    listed = [
        *(parameter for parameter in own if parameter.kind is _Parameter.POSITIONAL_OR_KEYWORD),
        *(_option(field) for field in fields(GenerationOptions) if field.name not in _NOT_ASKED),
        *(parameter for parameter in own if parameter.kind is _Parameter.KEYWORD_ONLY),
    ]
    command.__signature__ = inspect.Signature(listed)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in listed}
    return command


def _text_of(path: Path) -> str:
    """What is in a file of the schema. Raises `BadParameter`."""
    try:
        text = path.read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BadParameter(f"the schema {path} cannot be read: {error}") from error
    if not text:
        raise BadParameter(f"the schema {path} is empty")
    return text


def _option(field: FieldInfo) -> _Parameter:
    kind, meta = get_args(field.type)
    flag = f"--{field.name.replace('_', '-')}"
    if kind is bool and field.default:
        flag += f"/--no-{flag[2:]}"
    default = field.default
    if get_origin(kind) is tuple:  # typer knows only lists; the options make tuples of them
        kind, default = GenericAlias(list, get_args(kind)[:1]), []
    own: dict[str, Any] = {"flag": flag, "help": meta.description, "kind": kind, "default": default}
    own |= _SPELLINGS.get(field.name, {})
    kind, option = own["kind"], typer.Option(own["flag"], help=own["help"])
    return _Parameter(field.name, _Parameter.KEYWORD_ONLY, default=own["default"], annotation=Annotated[kind, option])


@reports_errors
@_takes_options
def ask(  # noqa: PLR0913 - these are the command's own options
    target: _Target,
    prompt: Annotated[str, typer.Argument(help="The question; - reads it from standard input.")],
    image: Annotated[list[Path] | None, typer.Option(help="An image about which it is; may be repeated.")] = None,
    video: Annotated[Path | None, typer.Option(help="A video about which it is.")] = None,
    system: Annotated[str | None, typer.Option(help="A system message before the question.")] = None,
    *,
    max_pixels: Annotated[int | None, typer.Option(min=1, help="Make images and frames no larger than this.")] = None,
    profile: Annotated[str, typer.Option(help="Device profile, for a bundle folder.")] = "auto",
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object at the end instead.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="The answer only: no memory plan, no timings.")] = False,
    **options: Any,
) -> None:
    """Ask one question, about images or a video if there are any, and stream the answer.

    Greedy unless told otherwise, whatever the model's makers recommend for sampling (`edge-runtime inspect` shows it).
    """
    from edge_runtime.cli.printing import AnswerPrinter, JsonPrinter, print_plan, print_remark  # noqa: PLC0415
    from edge_runtime.cli.question import Question  # noqa: PLC0415
    from edge_runtime.cli.targets import LocalOptions, open_target  # noqa: PLC0415

    options["schema"] = _text_of(options["schema"]) if options["schema"] else ""
    if options["stop_on_repetition"] is None:  # who wants all tokens there can be wants those, too
        options["stop_on_repetition"] = not options["ignore_eos"]
    question = Question(
        prompt=sys.stdin.read(_MAX_PROMPT).strip() if prompt == "-" else prompt,
        images=tuple(image or ()),
        video=video,
        system=system,
        options=GenerationOptions(**options),
        max_pixels=max_pixels,
    )
    printer = JsonPrinter() if json else AnswerPrinter(sys.stdout.isatty(), quiet, question.options.max_tokens)
    local = LocalOptions(profile, max_pixels, None if json or quiet else print_plan)
    with open_target(target, local, None if json or quiet else print_remark) as answers:
        for event in answers(question):
            printer.show(event)
