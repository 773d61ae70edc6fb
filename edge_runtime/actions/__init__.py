"""How models for screens say what to do: formats as data, a grammar and a parser from it.

    from edge_runtime import actions

    answer = client.ask("Click Save.", images="screen.png", actions="pocket")
    for action in actions.get("pocket").parse(answer.text):
        print(action.in_pixels(1920, 1080))

`docs/actions.md` has the formats and what an `Action` says. Knows nothing of engines, sockets or graphs.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from edge_runtime.actions.action import Action, Direction, Kind, Point
from edge_runtime.actions.format import FormatTable, load_table, names

__all__ = ["Action", "ActionFormat", "Direction", "Kind", "Point", "get", "names"]


@dataclass(frozen=True, slots=True)
class ActionFormat:
    """One format: its `table`, and what is made of it."""

    table: FormatTable

    def grammar(self, special: Collection[str] = ()) -> str:
        """What may be said, in llguidance's dialect of Lark. `special`: the tokenizer's added tokens.

        What is spelled like one of them, as `<tool_call>`, is that token. A thought in `<think>` is left out where that
        is one: the engine lets such thoughts be, and applies grammars behind them.
        """
        from edge_runtime.actions.grammar import lark  # noqa: PLC0415 - half of the users only parse

        return lark(self.table, frozenset(special))

    def parse(self, text: str) -> list[Action]:
        """The actions that an answer says; one, of models that follow their format.

        Their points are as the model says them: `Action.in_pixels` turns them into pixels. Understands what the grammar
        allows and the liberties in docs/actions.md; raises `BadAction` for all else.
        """
        from edge_runtime.actions.parse import parse  # noqa: PLC0415 - half of the users only want the grammar

        return parse(self.table, text)


def get(name: str) -> ActionFormat:
    """The format of this name. Raises `BadParameter` where there is none; `names()` lists them."""
    return ActionFormat(load_table(name))
