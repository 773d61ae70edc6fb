"""Every error the runtime raises on purpose, in one tree.

    EdgeError
    ├── BundleError            the bundle folder is missing, incomplete, damaged, or of a version we cannot run
    ├── ProfileError           a device profile is unknown or malformed
    ├── DoesNotFit             the model cannot fit the memory it was given
    ├── RequestError           the caller asked for something that cannot be done; retrying the same will fail again
    │   ├── BadImage           an image or video cannot be decoded, or is refused
    │   ├── BadPrompt          messages that the chat template or the model cannot take
    │   ├── BadParameter       a sampling or limit value outside its range
    │   ├── ContextOverflow    prompt plus answer is longer than the context
    │   ├── PicturesNeeded     pictures known by digest alone have to be sent; the clients do so by themselves
    │   ├── SessionFileError   a file is no saved session, or one of another model, or may not be used
    │   └── UnknownSession     the session was closed or forgotten, or never was
    ├── TooManySessions        sessions are as many, or hold as much, as they may
    ├── SessionBusy            the session is answering another request
    ├── Overloaded             a queue is full, or the machine is short of memory or descriptors; try again later
    ├── BadAction              an answer says no action of its format (docs/actions.md)
    ├── Cancelled              the caller, or the loss of the caller, stopped the work
    ├── TimedOut               the caller's own time limit passed before the answer came
    ├── ServerError            the server cannot start, or stopped, or broke its protocol
    │   ├── AddressInUse       another server already listens there
    │   ├── ShuttingDown       the server is stopping and takes no new work
    │   ├── ConnectionLost     no server answers (any more)
    │   └── ProtocolError      a message that is not ours, or breaks the rules of docs/protocol.md
    └── InternalError          our own fault; the log has the traceback

A message says what was found, what was wanted, and what to do. `code` is the stable name on the wire
(docs/protocol.md); `retryable` says whether the same request can succeed later.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar


class EdgeError(Exception):
    """Base of all errors raised on purpose by `edge_runtime`."""

    code: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False


class BundleError(EdgeError):
    """The bundle folder is missing, incomplete, damaged, or of a version this runtime cannot run."""

    code = "bad_bundle"


class ProfileError(EdgeError):
    """A device profile is unknown, or its file is malformed."""

    code = "bad_profile"


class DoesNotFit(EdgeError):
    """The model cannot fit the memory budget; the message names the smallest change that would."""

    code = "does_not_fit"


class RequestError(EdgeError):
    """The request cannot be served as it stands."""

    code = "bad_request"


class BadImage(RequestError):
    """An image or video cannot be decoded, or is refused (too large, a decompression bomb, no pixels)."""

    code = "bad_image"


class BadPrompt(RequestError):
    """Messages that the chat template or the model cannot take."""

    code = "bad_prompt"


class BadParameter(RequestError):
    """A sampling or limit value is outside its range."""

    code = "bad_parameter"


class ContextOverflow(RequestError):
    """Prompt plus answer is longer than the context; nothing was computed."""

    code = "context_overflow"


class UnknownSession(RequestError):
    """The session was closed, or forgotten because nobody used it, or never was on this server."""

    code = "unknown_session"


class SessionFileError(RequestError):
    """A file is no saved session, is damaged or of another model, or may not be read or written there."""

    code = "bad_session_file"


class TooManySessions(EdgeError):
    """There are as many sessions, or they hold as much, as they may; closing some helps."""

    code = "too_many_sessions"
    retryable = True


class SessionBusy(EdgeError):
    """The session is answering another request; it can be waited for, cancelled or superseded."""

    code = "session_busy"
    retryable = True


class PicturesNeeded(RequestError):
    """Pictures that the request names by their digests have to be sent: `digests`. The clients do so by themselves."""

    code = "pictures_needed"

    def __init__(self, message: str, digests: tuple[bytes, ...] = ()) -> None:
        super().__init__(message)
        self.digests = digests

    @classmethod
    def of(cls, digests: Iterable[bytes]) -> PicturesNeeded:
        """Those of `digests`, each once."""
        found = tuple(dict.fromkeys(digests))
        return cls(f"{len(found)} pictures named by digest are not known here (any more); send them in full", found)


class SmallImageWarning(UserWarning):
    """Points were asked for in an image so small in the model that they are likely to be wrong."""


class Overloaded(EdgeError):
    """A queue is full, or this machine is short of memory, descriptors or processes at the moment."""

    code = "overloaded"
    retryable = True


class BadAction(EdgeError):
    """An answer says no action of the format that it is read in; the same answer never will."""

    code = "bad_action"


class Cancelled(EdgeError):
    """The work was stopped by its caller, or because its caller went away."""

    code = "cancelled"
    retryable = True


class TimedOut(EdgeError):
    """The caller's own time limit passed before the answer came; the work was cancelled."""

    code = "timed_out"
    retryable = True


class ServerError(EdgeError):
    """The server cannot start, or stopped, or broke its protocol."""

    code = "server_error"
    retryable = True


class AddressInUse(ServerError):
    """Another process already listens at this address."""

    code = "address_in_use"


class ShuttingDown(ServerError):
    """The server is stopping: new work is refused, and what could not end in time has failed."""

    code = "shutting_down"


class ConnectionLost(ServerError):
    """No server answers at this address (any more)."""

    code = "connection_lost"


class ProtocolError(ServerError):
    """A message that is not ours, or breaks the rules of docs/protocol.md."""

    code = "protocol_error"
    retryable = False


class InternalError(EdgeError):
    """Our own fault; the log has the traceback."""

    code = "internal"
    retryable = False
