"""How a command ends: exit codes and the one red line. Knows no command.

0 done; 1 it failed; 2 the caller asked for what cannot be; 130 Ctrl-C; 141 whoever read our output has gone.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from typing import ParamSpec

import typer

from edge_runtime.errors import BundleError, DoesNotFit, EdgeError, ProfileError, RequestError

_P = ParamSpec("_P")

_CALLERS_ERRORS = (RequestError, BundleError, ProfileError, DoesNotFit)
_INTERRUPTED = 130
_BROKEN_PIPE = 141


def reports_errors(command: Callable[_P, None]) -> Callable[_P, None]:
    """Wrap a subcommand so that an `EdgeError`, Ctrl-C or a closed pipe ends it without a traceback."""

    @functools.wraps(command)
    def wrapper(*args: _P.args, **kwargs: _P.kwargs) -> None:
        try:
            command(*args, **kwargs)
            sys.stdout.flush()
        except EdgeError as error:
            typer.secho(f"error: {' '.join(str(error).split())}", fg=typer.colors.RED, err=True)
            raise typer.Exit(2 if isinstance(error, _CALLERS_ERRORS) else 1) from error
        except KeyboardInterrupt:
            raise typer.Exit(_INTERRUPTED) from None
        except BrokenPipeError:
            # Python flushes stdout once more at exit; let that go nowhere instead of failing again.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(_BROKEN_PIPE) from None

    return wrapper
