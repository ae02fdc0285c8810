"""What a run is told of its journal."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from mpengine.errors import PipelineError
from mpengine.records import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable


class Output(Protocol):
    """A file that results are written to, which can be cut back to where the journal has seen it."""

    @property
    def name(self) -> str:
        """Its name, which is an absolute path where it has one."""

    def position(self, *, is_last: bool) -> object:
        """Hand all that was written to the system, and return where the file stands.

        Called by the consumer's thread, each time when it is through with a list of results.

        Args:
            is_last: whether nothing more will come.

        Returns:
            A number, or what else JSON has, which ``rewind`` understands; None: this is no place to be cut back to,
            and what has been written since the last one counts when the next one comes.

        Raises:
            Exception: it cannot be written; ends the run.
        """

    def sync(self) -> None:
        """Have all that was handed to the system reach the disk; from any thread.

        Raises:
            OSError: it cannot be.
        """

    def rewind(self, position: object) -> None:
        """Cut the file back to ``position``, and go on from there.

        Raises:
            Exception: the file is not what it was.
        """


@dataclass(frozen=True, slots=True)
class Journal:
    """Where a run keeps what is done, so that another can go on with it.

    Args:
        path: the SQLite file.
        key: returns an item's name, of whatever ``stable_key`` takes; by default the item is its own.  Two items of one
            name are told apart by their order.
        resume: go on where the journal ends, if there is one: pass over what is done and what has failed.
        retry_failed: go on, and run again what has failed and has given nothing.
        force: go on, though the pipeline's stages, or its output, are others than those that the journal was begun
            with.
        keep_values: keep each value, pickled, when the journal is begun; one that exists has it as it was begun.
        deliver: whether the values of items that are done are delivered again, from the journal, in their places; by
            default where it keeps values.
        output: what the consumer writes results to; an item then is done when its results are in there.

    Raises:
        PipelineError: an option is not what it can be.
    """

    path: str | os.PathLike[str]
    key: Callable[[Any], Any] | None = None
    resume: bool = False
    retry_failed: bool = False
    force: bool = False
    keep_values: bool = False
    deliver: bool | None = None
    output: Output | None = None

    def __post_init__(self) -> None:
        """Check the options."""
        if not isinstance(self.path, str | os.PathLike):
            raise PipelineError(f"a journal's path must be a str or a path, not {self.path!r:.200}")
        if self.key is not None and not callable(self.key):
            raise PipelineError(f"a journal's key must be a function of an item, not {self.key!r:.200}")
        if self.deliver and self.output is not None:
            raise PipelineError("deliver=True would write to the output what it has already")

    @property
    def file(self) -> Path:
        """The SQLite file."""
        return Path(self.path)

    @property
    def goes_on(self) -> bool:
        """Whether a journal that exists is gone on with."""
        return self.resume or self.retry_failed


JournalLike = Journal | str | os.PathLike[str] | None
"""What ``journal=`` may be."""


def as_journal(journal: JournalLike) -> Journal | None:
    """Return what ``journal=`` was given.

    Raises:
        PipelineError: it is neither a path nor a ``Journal``.
    """
    return journal if journal is None or isinstance(journal, Journal) else Journal(journal)
