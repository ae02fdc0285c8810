"""What a worker is to ``multiprocessing``; on its own because that package is a slow import.

Made for `mpengine.worker.latecomer`: both functions may be called while ``multiprocessing.context`` is the youngest
module of the package, and whenever it is older.
"""

from __future__ import annotations

import itertools
import sys
from multiprocessing import process as standard

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


class WorkerProcess(standard.BaseProcess):
    """What a worker sees as its ``current_process()``.

    Not ``multiprocessing.Process``, which would fix the start method of what user code starts.
    """

    _parent_pid: object
    _parent_name: object


def settle(settings: Mapping[str, Any]) -> None:
    """Take over what the parent has set, as ``multiprocessing.spawn.prepare`` does."""
    this: Any = standard.current_process()
    this.authkey = settings["authkey"]
    standard.ORIGINAL_DIR = settings["orig_dir"]  # type: ignore[attr-defined]
    if settings["start_method"] is not None:
        sys.modules["multiprocessing.context"]._default_context.set_start_method(settings["start_method"], force=True)  # noqa: SLF001
    if settings["log_to_stderr"] or settings["log_level"] is not None:
        from multiprocessing import util

        if settings["log_to_stderr"]:
            util.log_to_stderr()
        if settings["log_level"] is not None:
            util.get_logger().setLevel(settings["log_level"])


def introduce(name: str, parent_pid: object, parent_name: object, sentinel: int) -> None:
    """Make this process one that its parent has started, as ``BaseProcess._bootstrap`` does.

    Args:
        name: its own.
        parent_pid: its parent's number.
        parent_name: its parent's name.
        sentinel: an fd that is readable once the parent has gone.
    """
    package: Any = standard
    process: Any = WorkerProcess(name=name, daemon=False)
    process._parent_pid, process._parent_name = parent_pid, parent_name  # noqa: SLF001 - as a child sees it
    before = package._current_process  # noqa: SLF001 - kept until the new one is settled
    package._process_counter = itertools.count(1)  # noqa: SLF001
    package._children = set()  # noqa: SLF001
    package._current_process = process  # noqa: SLF001
    package._parent_process = package._ParentProcess(parent_name, parent_pid, sentinel)  # noqa: SLF001
    if "multiprocessing.util" in sys.modules:  # it may know of what must not be shared with the fork server
        process._after_fork()  # noqa: SLF001
    del before
