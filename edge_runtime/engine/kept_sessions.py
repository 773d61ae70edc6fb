"""The folder in which a server keeps its sessions while it does not run. Knows no socket.

Each is a file that is deleted once the session is back: nothing is restored twice.
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from edge_runtime.engine.session_file import PARTIAL_SUFFIX
from edge_runtime.engine.session_files import SessionFiles
from edge_runtime.errors import BadParameter, EdgeError

logger = logging.getLogger(__name__)

KEPT_SUFFIX = ".kept"
_LOCK = ".lock"
_OTHERS_WRITE = 0o022


class KeptSessions:
    """A folder that no other user may write to, and no other server uses."""

    def __init__(self, folder: Path) -> None:
        """It is made if it is not there. Raises `BadParameter`."""
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.folder = folder.resolve(strict=True)
            status = self.folder.stat()
            if status.st_uid != os.geteuid() or status.st_mode & _OTHERS_WRITE:
                raise BadParameter(
                    f"other users may write to {folder}, and could put sessions there; make it yours alone (chmod 700)"
                )
            self._lock = os.open(self.folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except (OSError, ValueError) as error:
            raise BadParameter(f"sessions cannot be kept in {str(folder)!r}: {error}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.close()
            raise BadParameter(f"another server keeps its sessions in {folder}; choose another folder") from error

    def close(self) -> None:
        """Let others have the folder. Idempotent."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def save(self, files: SessionFiles, until_s: float, is_hurried: Callable[[], bool]) -> None:
        """Save all sessions that answer nothing, those used last first, until that time (`time.monotonic`)."""
        idle = files.idle_sessions()
        num_saved = 0
        for session_id, salt in idle:
            if is_hurried() or time.monotonic() >= until_s:
                break
            try:
                files.save(session_id, self.folder / f"{session_id}{KEPT_SUFFIX}", salt)
                num_saved += 1
            except EdgeError as error:
                logger.warning("a session was not kept: %s", error)
            except Exception:
                logger.exception("a session was not kept")
        if idle:
            left = len(idle) - num_saved
            logger.info("kept %d sessions in %s%s", num_saved, self.folder, f"; {left} are lost" if left else "")

    def bring_back(self, files: SessionFiles) -> None:
        """Open all sessions that are here. What is too old is deleted, what cannot be read stays and is told of."""
        for stale in self.folder.glob(f".*{PARTIAL_SUFFIX}"):
            self._delete(stale)
        idle_s: dict[Path, float] = {}
        for path in sorted(self.folder.glob(f"*{KEPT_SUFFIX}")):
            with _told(path):
                idle_s[path] = files.idle_s(path)
        num_back, num_blocks = 0, files.max_blocks
        for path in sorted(idle_s, key=idle_s.__getitem__):  # used last comes first, while the cache has room
            with _told(path):
                if idle_s[path] > files.timeout_s:
                    logger.info("%s was not used for %g s: it is forgotten", path, files.timeout_s)
                else:
                    num_blocks -= files.bring_back(path, num_blocks)
                    num_back += 1
                self._delete(path)
        if idle_s:
            logger.info("brought back %d of the sessions in %s", num_back, self.folder)

    def _delete(self, path: Path) -> None:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            logger.warning("%s cannot be deleted: %s", path, error.strerror)


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """What is wrong with one session does not keep the others away."""
    try:
        yield
    except EdgeError as error:
        logger.warning("%s was not brought back, and stays: %s", path, error)
    except Exception:
        logger.exception("%s was not brought back, and stays", path)
