"""The cancel flag as a ``multiprocessing.Event``, by type as well."""

from __future__ import annotations

from multiprocessing.synchronize import Event

from mpengine.cancellation import CancelFlag


class CancelEvent(CancelFlag, Event):
    """A ``multiprocessing.Event`` whose state is a byte of shared memory and a pipe; see ``mpengine.cancellation``.

    ``Event.__init__`` is never called: it would make the semaphores that this class exists to avoid.
    """
