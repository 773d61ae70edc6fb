"""One log line for a thousand of a kind: the first is logged at once, the rest once a minute as a count."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

INTERVAL_S = 60.0


@dataclass(slots=True)
class _Kind:
    level: int
    since_s: float
    count: int = 0
    last: str = ""


class Summary:
    """Logs events of a few kinds, each kind at most once per interval. Used by one thread."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._kinds: dict[str, _Kind] = {}

    @property
    def due_s(self) -> float | None:
        """When `flush` is next of use, on the clock of `time.monotonic`; None: there is nothing to log."""
        return min((kind.since_s + INTERVAL_S for kind in self._kinds.values() if kind.count), default=None)

    def note(self, level: int, kind: str, line: str) -> None:
        """Log `line` unless one of its `kind` was logged within the interval; then count it. Kinds must be few."""
        now_s = time.monotonic()
        known = self._kinds.get(kind)
        if known is not None and now_s < known.since_s + INTERVAL_S:
            known.count += 1
            known.last = line
            return
        self.flush(now_s)
        self._kinds[kind] = _Kind(level, now_s)
        self._logger.log(level, "%s", line)

    def flush(self, now_s: float | None) -> None:
        """Log the counts that are due at `now_s`; None: all, because this is the end."""
        for name, kind in self._kinds.items():
            if kind.count and (now_s is None or now_s >= kind.since_s + INTERVAL_S):
                passed_s = (time.monotonic() if now_s is None else now_s) - kind.since_s
                self._logger.log(
                    kind.level, "%d more in %.0f s of the kind %r; the last: %s", kind.count, passed_s, name, kind.last
                )
                kind.count = 0
                kind.since_s += passed_s
