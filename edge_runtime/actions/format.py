"""The tables of an action format, as the files in `formats/` have them. Strict: what they do not know is refused.

A new format is a new file. Knows nothing of grammars and of parsing, which are made from these tables.
"""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from edge_runtime.actions.action import Direction, Kind
from edge_runtime.errors import BadParameter

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FOLDER = Path(__file__).with_name("formats")
_Count = Annotated[int, msgspec.Meta(gt=0)]


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of every table: strict. mypy wants `frozen` and `kw_only` said again by every heir."""


class Argument(_Table, frozen=True, kw_only=True):
    """One argument of an action: its name, and what of an `Action` it sets, from which its type follows."""

    name: str
    sets: Literal[
        "point", "point2", "x", "y", "text", "key", "keys", "seconds", "scroll", "hscroll", "direction", "kind"
    ]
    """x, y: a number of `point`; key: one key as text, keys: a list of them; scroll, hscroll: a number of steps, up and
    right above 0; direction, kind: one of `values`."""
    values: dict[str, str] = {}
    """What may be said -> what it sets; empty: anything of the type. Keys of a phone have these, too."""
    optional: bool = False


class ActionRow(_Table, frozen=True, kw_only=True):
    """One action, or one way to say it: a name may have several rows with other arguments."""

    says: str
    """Its name in the format."""
    kind: Kind
    arguments: tuple[Argument, ...] = ()
    """In the order in which the grammar has them."""
    keys: tuple[str, ...] = ()
    """Of an action that always presses the same."""
    also_says: tuple[str, ...] = ()
    """Other names for it that are understood, but never offered."""


class FreeText(_Table, frozen=True, kw_only=True):
    """Text before or behind the action, between two marks."""

    open: str
    close: str
    text: Literal["line", "field", "lines", "span"]
    """line: one line; field: the same, up to a tab; lines: whole lines, none of which starts with `<`; span: anything
    without `<`."""
    max_chars: _Count
    """Of a line, a field or a span."""
    optional: bool = True


class Frame(_Table, frozen=True, kw_only=True):
    """How an answer is put together."""

    syntax: Literal["json", "call", "fields", "point"]
    r"""json: `{"action": NAME, ...}`; call: `NAME(argument=value)`; fields: `action:NAME\targument:value`; point: a
    place alone."""
    open: str = ""
    close: str = ""
    """Marks around the action."""
    before: tuple[FreeText, ...] = ()
    after: tuple[FreeText, ...] = ()
    function: str = ""
    """json: the action is the arguments of a call of this function; empty: it stands alone."""
    spacing: Literal["spaced", "compact", "either"] = "spaced"
    """json: whether a blank follows colon and comma."""
    point: tuple[str, str, str] = ("[", ",", "]")
    """point: what stands before, between and behind the two numbers."""


class Prompt(_Table, frozen=True, kw_only=True):
    """How the model is asked, as far as its makers say; None: they do not."""

    order: Literal["image_first", "text_first"] | None = None
    system: bool | None = None
    """Whether a system message tells the actions; else the question does."""
    history_images: _Count | None = None
    """Screenshots in a question, the one it is about included."""
    min_pixels: _Count | None = None
    max_pixels: _Count | None = None


class FormatTable(_Table, frozen=True, kw_only=True):
    """One file."""

    name: str
    about: str
    models: str
    divisor: Literal[999, 1000]
    frame: Frame
    prompt: Prompt
    actions: Annotated[tuple[ActionRow, ...], msgspec.Meta(min_length=1)]
    refusals: tuple[str, ...] = ()
    """Whole answers that say that what was asked for is not there."""
    sources: dict[str, str]
    """Where the facts come from; `divisor`, `frame`, `prompt` and `actions` at least."""

    @property
    def argument_names(self) -> frozenset[str]:
        """Those of all actions."""
        return frozenset(argument.name for row in self.actions for argument in row.arguments)

    def __post_init__(self) -> None:
        missing = {"divisor", "frame", "prompt", "actions"} - self.sources.keys()
        if missing:
            raise ValueError(f"[sources] lacks {', '.join(sorted(missing))}")
        for argument in (argument for row in self.actions for argument in row.arguments):
            allowed: dict[str, tuple[str, ...]] = {"kind": Kind.__args__, "direction": Direction.__args__}  # type: ignore[attr-defined]
            wrong = set(argument.values.values()) - set(allowed.get(argument.sets, argument.values.values()))
            if wrong or (argument.sets in allowed and not argument.values):
                raise ValueError(f"{argument.name} sets {argument.sets} to {wrong or 'nothing'}")


def names() -> tuple[str, ...]:
    """The formats there are."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.toml")))


@cache
def load_table(name: str) -> FormatTable:
    """The table of a format. Raises `BadParameter` for a name that is none."""
    if name not in names():
        raise BadParameter(f"there is no action format {name!r:.80}; known are {', '.join(names())}")
    return msgspec.convert(tomllib.loads((FOLDER / f"{name}.toml").read_text(encoding="utf-8")), FormatTable)
