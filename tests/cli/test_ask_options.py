"""What `ask` makes of the options: those of `GenerationOptions`, however they are spelled."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import msgspec
import pytest
import typer
from msgspec import Meta
from typer.testing import CliRunner

from edge_runtime.cli import targets
from edge_runtime.cli.ask import _option
from edge_runtime.cli.main import app
from edge_runtime.engine.request import GenerationOptions


@pytest.fixture
def options(monkeypatch: pytest.MonkeyPatch) -> Callable[..., GenerationOptions]:
    """The options of the question that a command line asks."""
    asked: list[GenerationOptions] = []

    @contextmanager
    def nobody(*_: object) -> Iterator[Any]:
        yield lambda question: asked.append(question.options) or ()

    monkeypatch.setattr(targets, "open_target", nobody)

    def ask(*arguments: str) -> GenerationOptions:
        result = CliRunner().invoke(app, ["ask", "nobody", "hi", "--json", *arguments])
        assert result.exit_code == 0, result.output
        return asked[-1]

    return ask


def test_an_answer_past_the_end_may_repeat_itself_unless_told_otherwise(
    options: Callable[..., GenerationOptions],
) -> None:
    assert options() == GenerationOptions(stop_on_repetition=True)
    assert options("--ignore-eos") == GenerationOptions(ignore_eos=True)
    assert options("--ignore-eos", "--stop-on-repetition").stop_on_repetition
    assert not options("--no-stop-on-repetition").stop_on_repetition


def test_what_may_be_repeated_comes_as_a_tuple(options: Callable[..., GenerationOptions]) -> None:
    assert options("--stop", "a", "--stop", "b").stop == ("a", "b")
    assert options().stop == ()


class Newer(msgspec.Struct, frozen=True):
    """Options of kinds that are not there yet."""

    token_ids: Annotated[tuple[int, ...], Meta(description="Ids.")] = ()
    grammar: Annotated[str | None, Meta(description="A grammar.")] = None
    strict: Annotated[bool, Meta(description="Strictly so.")] = True


def test_a_new_option_needs_no_more_than_its_field() -> None:
    app, taken = typer.Typer(), []

    def command(**fields: Any) -> None:
        taken.append(fields)

    parameters = [_option(field) for field in msgspec.structs.fields(Newer)]
    command.__signature__ = inspect.Signature(parameters)
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    app.command()(command)
    for line in ([], ["--token-ids", "1", "--token-ids", "2", "--grammar", "g", "--no-strict"]):
        assert CliRunner().invoke(app, line).exit_code == 0
    assert taken[0] | {"token_ids": tuple(taken[0]["token_ids"])} == msgspec.structs.asdict(Newer())
    assert taken[1] == {"token_ids": [1, 2], "grammar": "g", "strict": False}
