"""Every error the package raises on purpose, in one tree.

``EngineError`` is the root.  What went wrong with one item is not raised but kept in an
:class:`mpengine.ItemError`; what is here either stops a run or stands inside such an ``ItemError``.
All of them pickle, because any of them may cross from a worker to the coordinator.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final


_SET_CAUSE: Final[Callable[[BaseException, BaseException], None]] = vars(BaseException)["__cause__"].__set__


class EngineError(Exception):
    """Root of the package's errors."""


class PipelineError(EngineError, ValueError):
    """A pipeline, or an option of it, that cannot run; raised before any process starts."""


class StageError(EngineError):
    """A stage that could not be set up, or a stand-in for an exception that could not travel.

    Raised with the worker's traceback as text, since the exception object itself may be what does not pickle.
    """


class SourceError(EngineError):
    """An input that cannot be read any further."""


class MalformedError(EngineError, ValueError):
    """A part of the input that is no item: a line that is not JSON, a row with too few fields.

    Attributes:
        where: what it is, by number and file: ``"line 7 of in.jsonl"``.
        raw: the text, or the list of fields, as it stands there, cut off after some thousand characters; None where
            there is nothing to show.
    """

    where: str = ""
    raw: str | list[str] | None = None


class WorkerDiedError(EngineError):
    """A worker process ended without having been asked to.

    Attributes:
        how: its exit code, or the signal that ended it, by name: ``"SIGKILL"``, ``"exit code 3"``.
        peak_rss: bytes of resident memory that it had at most, as the kernel counted them; 0 when that is not known.
    """

    how: str = ""
    peak_rss: int = 0


class ItemTimeoutError(EngineError, TimeoutError):
    """An item took longer than its stage's ``timeout``."""


class MemoryLimitError(EngineError, MemoryError):
    """An item alone took its worker over the engine's ``memory_limit``."""


class EngineClosedError(EngineError):
    """The engine was closed and cannot run anything."""


class JournalError(EngineError):
    """A journal that cannot be begun, gone on with, read or written; the message names its file."""


class InternalError(EngineError):
    """The engine broke one of its own promises: a bug of ours, told with all that is known of it."""


class RemoteTraceback(Exception):  # noqa: N818 - named as concurrent.futures names its own: it is shown as a cause
    """The traceback as it was in the worker, shown as the ``__cause__`` of what came from there."""

    def __init__(self, text: str) -> None:
        """Keep ``text``, a traceback formatted in the worker."""
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        """Return the traceback on lines of its own."""
        return f'\n"""\n{self.text}"""'


def with_remote_traceback(error: BaseException, text: str) -> BaseException:
    """Return ``error`` with the worker's traceback as its cause, so that raising it shows where it came from."""
    # Not by assignment: its class may have a __setattr__ of its own that refuses, as a frozen dataclass has.
    _SET_CAUSE(error, RemoteTraceback(text))
    return error
