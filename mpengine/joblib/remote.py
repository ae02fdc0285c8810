"""What runs in a worker: a batch of joblib's, and its results on the way back.

Results travel as they would from joblib's own workers: an array that looks into a file of the user's is sent as the
name of that file, and one that looks into what was sent here as what it holds.
"""

from __future__ import annotations

import copyreg
import io
import sys
import time
from collections import ChainMap
from pickle import Pickler, loads

from mpengine.pickling import MAIN, PROTOCOL, PickleBuffer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, MutableMapping
    from typing import Any

    Reducers = Mapping[type, Callable[[Any], tuple[Any, ...]]]
    LeaveOut = Callable[[PickleBuffer], object] | None

_depth = 0


def depth() -> int:
    """Return how many workers of this backend this process is within; 0 in a program of its own."""
    return _depth


def run(batch: Callable[[], list[Any]], depth_here: int) -> tuple[Any, float]:
    """Run a batch of joblib's in a worker.

    Args:
        batch: joblib's ``BatchedCalls``.
        depth_here: as ``depth``.

    Returns:
        The list of results, or what becomes that list on its way back; and the seconds it took.
    """
    global _depth  # noqa: PLW0603 - a worker is as deep as its calls say
    if _depth != depth_here:
        _depth = depth_here
        _tell_loky(depth_here)
    began = time.perf_counter()
    results = batch()
    took_s = time.perf_counter() - began
    return results if "numpy" not in sys.modules else Results(results), took_s


def _tell_loky(depth_here: int) -> None:
    """Have joblib's own backends know that they are nested: they warn of it, and limit themselves."""
    from joblib.externals import loky

    executor: Any = loky.process_executor
    executor._CURRENT_DEPTH = depth_here  # noqa: SLF001 - what loky sets in its own workers


class Results:
    """The results of a batch, which arrive as a plain list.

    Args:
        values: the results.
    """

    __slots__ = ("_values",)

    def __init__(self, values: list[Any]) -> None:
        """Keep them."""
        self._values = values

    def __reduce__(self) -> tuple[Any, ...]:
        """Return a pickle of its own, in which arrays that look into files are what they are to the caller."""
        from mpengine.joblib.arrays import backward_reducers

        buffers: list[PickleBuffer] = []
        content = dump(self._values, backward_reducers(), buffers.append)
        return load, (content, *buffers)


def load(content: Any, *buffers: Any) -> Any:
    """Return what was taken apart."""
    return loads(content, buffers=buffers)  # noqa: S301 - our own workers' bytes


def dump(thing: object, reducers: Reducers, leave_out: LeaveOut) -> bytes:
    """Return ``thing`` pickled: by pickle where that is enough, else by cloudpickle.

    Args:
        thing: what to pickle.
        reducers: what some types become.
        leave_out: called with each buffer, which is beside the pickle unless it returns true; None: all are in it.

    Raises:
        BaseException: whatever pickling raises.
    """
    if not takes_cloudpickle():
        try:
            content = _dump(Pickler, thing, {**copyreg.dispatch_table, **reducers}, leave_out)
        except Exception:  # noqa: BLE001, S110 - whatever pickle cannot do, cloudpickle may; if not, its error is raised
            pass
        else:
            if MAIN not in content:
                return content
    return dump_by_value(thing, reducers, leave_out)


def takes_cloudpickle() -> bool:
    """Whether somebody has told cloudpickle to take modules by value, which only cloudpickle knows to do."""
    cloudpickle = sys.modules.get("cloudpickle")
    return cloudpickle is not None and bool(cloudpickle.list_registry_pickle_by_value())


def dump_by_value(thing: object, reducers: Reducers, leave_out: LeaveOut) -> bytes:
    """As ``dump``, by cloudpickle."""
    import cloudpickle

    kind = cloudpickle.Pickler
    return _dump(kind, thing, ChainMap(dict(reducers), kind.dispatch_table), leave_out)


def _dump(kind: Any, thing: object, table: MutableMapping[type, Any], leave_out: LeaveOut) -> bytes:
    file = io.BytesIO()
    pickler = kind(file, PROTOCOL, buffer_callback=leave_out)
    # cloudpickle's class has an attribute of that name, which pickle's C code has looked at by now, and never again.
    Pickler.dispatch_table.__set__(pickler, table)  # type: ignore[attr-defined]
    pickler.dump(thing)
    return file.getvalue()
