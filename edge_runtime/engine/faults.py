"""What becomes of an error that nobody raised on purpose."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from edge_runtime.errors import EdgeError, InternalError

_log = logging.getLogger(__name__)


@contextmanager
def internal_unless_ours(doing: str) -> Iterator[None]:
    """Let an `EdgeError` pass; log any other error with its traceback and raise `InternalError` in its place."""
    try:
        yield
    except InternalError:
        _log.exception("%s failed", doing)
        raise
    except EdgeError:
        raise
    except Exception as error:
        _log.exception("%s failed", doing)
        raise InternalError(f"{doing} failed: {error!r}; the log has the traceback") from error
