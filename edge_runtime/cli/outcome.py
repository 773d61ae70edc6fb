"""How a command ends: exit codes and the one red line. Knows no command.

0 done; 1 it failed, or its output could not be written; 2 the caller asked for what cannot be; 130 Ctrl-C; 141 whoever
read our output has gone.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import io
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
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})
"""What writing to a file, or a disk, that takes no more ends in."""


def reports_errors(command: Callable[_P, None]) -> Callable[_P, None]:
    """Wrap a subcommand so that an `EdgeError`, Ctrl-C, a closed pipe or a full disk ends it without a traceback."""

    @functools.wraps(command)
    def wrapper(*args: _P.args, **kwargs: _P.kwargs) -> None:
        _make_streams_usable()
        try:
            command(*args, **kwargs)
            sys.stdout.flush()
        except EdgeError as error:
            _complain(str(error))
            raise typer.Exit(2 if isinstance(error, _CALLERS_ERRORS) else 1) from error
        except KeyboardInterrupt:
            raise typer.Exit(_INTERRUPTED) from None
        except BrokenPipeError:
            _write_nowhere()
            raise typer.Exit(_BROKEN_PIPE) from None
        except SystemExit:  # rich's way of meeting a closed pipe
            raise typer.Exit(_BROKEN_PIPE) from None
        except OSError as error:
            if error.errno not in _FULL or error.filename is not None:
                raise
            _write_nowhere()
            _complain(f"the output cannot be written: {error.strerror}")
            raise typer.Exit(1) from None

    return wrapper


def _make_streams_usable() -> None:
    """Stand-ins for streams the caller has closed; and what a terminal cannot show is replaced, not an error."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # a descriptor of its own, lest the next file that is opened be written to
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode, encoding="utf-8"))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def _complain(text: str) -> None:
    """The one red line; nothing where stderr takes nothing."""
    with contextlib.suppress(OSError):
        typer.secho(f"error: {' '.join(text.split())}", fg=typer.colors.RED, err=True)


def _write_nowhere() -> None:
    """Python flushes stdout once more at exit; let that go nowhere instead of failing again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
