"""jinja2's sandbox, bounded in steps, in text and in time: a chat template is a program of strangers.

Every turn of a loop and every call of a macro is a step, and operations that make text are charged before they run.
What a template may spend grows with what it is given, so that an honest one never notices. Knows nothing of chats.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from edge_runtime.model.template_costs import cost_of_call, cost_of_operator, text_size

MAX_STEPS = 250_000
"""Turns of loops and calls of macros of one rendering; Qwen's templates take some ten for each message."""
MAX_CHARS = 1 << 22
"""Characters that one rendering may make, all intermediate results together, on top of what its input allows."""
CHARS_PER_CHAR = 64
"""How often a rendering may copy its input."""
MAX_SECONDS = 10.0
"""Wall clock of one rendering: against steps that are slow in themselves."""
MAX_NUMBER = 1 << 16
"""Of an argument of a filter or of a method of strings: a width, an indentation, a count."""

_FREE = frozenset(
    (
        *("abs", "attr", "count", "d", "default", "first", "float", "int", "last", "length", "map", "random"),
        *("reject", "rejectattr", "round", "select", "selectattr"),
    )
)
"""Filters that hand a value on, or go through it one by one."""
_BY_LENGTH = frozenset(
    {"batch", "dictsort", "groupby", "items", "list", "max", "min", "reverse", "slice", "sort", "unique"}
)
"""Filters that make a list of their value's items: no text, but what is sorted or kept costs some of it for each."""
_CHARS_PER_ITEM = 16


class TemplateLimit(SecurityError):
    """A template took more steps, text or time than any honest one."""


class Budget:
    """What one rendering may still spend."""

    __slots__ = ("_deadline_s", "_steps", "chars")

    def __init__(self, input_chars: int) -> None:
        self._steps = MAX_STEPS
        self._deadline_s = time.monotonic() + MAX_SECONDS
        self.chars = MAX_CHARS + CHARS_PER_CHAR * input_chars

    def step(self, num_chars: int) -> None:
        """Count a step that prints `num_chars` characters of its own. Raises `TemplateLimit`."""
        self._steps -= 1
        if self._steps < 0:
            raise TemplateLimit(f"it takes more than {MAX_STEPS} steps")
        if time.monotonic() > self._deadline_s:
            raise TemplateLimit(f"it takes longer than {MAX_SECONDS:g} s")
        self.spend(num_chars)

    def spend(self, num_chars: int) -> None:
        """Count characters that are about to be made. Raises `TemplateLimit`."""
        if num_chars > self.chars:
            raise TemplateLimit("it makes far more text than it was given")
        self.chars -= num_chars


_budget: ContextVar[Budget] = ContextVar("template budget")


@contextmanager
def limited(input_chars: int) -> Iterator[None]:
    """Compile or render inside this block within the limits, given text of `input_chars` characters.

    Inside another such block the limits are that one's.
    """
    if _budget.get(None) is not None:
        yield
        return
    token = _budget.set(Budget(input_chars))
    try:
        yield
    finally:
        _budget.reset(token)


class LimitedEnvironment(ImmutableSandboxedEnvironment):
    """The sandbox; it compiles and renders inside `limited` only, and raises `TemplateLimit` past the limits."""

    intercepted_binops = frozenset({"*", "**", "+", "%"})

    def __init__(self, **options: Any) -> None:
        """Options of jinja2's `Environment`."""
        super().__init__(**options, finalize=_charge_printed)
        self.globals.pop("lipsum", None)
        for name, function in list(self.filters.items()):
            self.filters[name] = charged(name, function)

    def limited_tree(self, source: str) -> nodes.Template:
        """The syntax tree of `source`, with its loops and macros counting steps; for `from_string`."""
        tree = _Counting().visit(self.parse(source))
        assert isinstance(tree, nodes.Template)
        tree.set_environment(self)
        return tree

    @staticmethod
    def count_step(num_chars: int) -> None:
        """What every turn of a loop and every macro begins with; `num_chars` is the literal text inside it."""
        _budget.get().step(num_chars)

    @staticmethod
    def concatenate(*values: Any) -> str:
        """The operator `~`."""
        return "".join([str(_charge_printed(value)) for value in values])

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Charge an operator, and apply it."""
        budget = _budget.get()
        if operator == "+" and type(left) is str and type(right) is str:  # nearly all there is, so it is quick
            budget.spend(len(left) + len(right))
            return left + right
        budget.spend(cost_of_operator(operator, left, right, budget.chars))
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805 - as in jinja2
        """Call something; methods of strings are charged first."""
        if __obj is LimitedEnvironment.count_step:
            return __obj(*args)
        text = getattr(getattr(__obj, "__wrapped__", __obj), "__self__", None)
        if isinstance(text, str):
            name = getattr(__obj, "__name__", "")
            args = tuple(list(value) if isinstance(value, Iterator) else value for value in args)
            _charge_call(name, (text, *args, *kwargs.values()))
        return super().call(__context, __obj, *args, **kwargs)


class _Counting(NodeTransformer):
    """Puts a step into every loop and macro, and makes `~` a call that can be charged."""

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802 - as in jinja2
        return _counted(self.generic_visit(node))

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:  # noqa: N802
        return _counted(self.generic_visit(node))

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.Node:  # noqa: N802
        return _counted(self.generic_visit(node))

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _call("concatenate", node.nodes, node.lineno)


def _counted(node: Any) -> nodes.Node:
    num_chars = sum(len(text.data) for text in node.find_all(nodes.TemplateData))
    step = _call("count_step", [nodes.Const(num_chars, lineno=node.lineno)], node.lineno)
    node.body.insert(0, nodes.ExprStmt(step, lineno=node.lineno))
    return node  # type: ignore[no-any-return]


def _call(method: str, arguments: list[nodes.Expr], line: int) -> nodes.Call:
    """A call of one of the environment's own methods."""
    return nodes.Call(nodes.EnvironmentAttribute(method, lineno=line), arguments, [], None, None, lineno=line)


def charged(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that is charged before it runs."""
    first = 1 if hasattr(function, "jinja_pass_arg") else 0

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if name in _BY_LENGTH:
            num_items = len(args[first]) if isinstance(args[first], Sized) else 0
            _charge_call(name, ("", *args[first + 1 :], *kwargs.values()))
            _budget.get().spend(num_items * _CHARS_PER_ITEM)
        elif name not in _FREE:
            args = tuple(list(value) if isinstance(value, Iterator) else value for value in args)
            _charge_call(name, (*args[first:], *kwargs.values()))
        return function(*args, **kwargs)

    return wrapper


def _charge_call(name: str, values: tuple[Any, ...]) -> None:
    if any(isinstance(value, int) and abs(value) > MAX_NUMBER for value in values[1:]):
        raise TemplateLimit(f"it gives {name} a number above {MAX_NUMBER}")
    budget = _budget.get()
    budget.spend(cost_of_call(name, values, budget.chars))


def _charge_printed(value: Any) -> Any:
    """Charge a value that is about to be printed, and return it."""
    budget = _budget.get()
    budget.spend(len(value) if type(value) is str else text_size(value, budget.chars))
    return value
