"""``Executor``: ``concurrent.futures.Executor`` over the engine's workers."""

from __future__ import annotations

import functools
import itertools
import os
import threading
import time
import weakref
from collections import deque
from concurrent.futures import Executor as BaseExecutor
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool

from mpengine.executor.desk import Desk
from mpengine.executor.session import Session
from mpengine.executor.packing import CallPacker, Errand
from mpengine.settings import EngineOptions
from mpengine.worker.turns import Initializer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any


class Executor(BaseExecutor):
    """Runs calls in worker processes: ``concurrent.futures.Executor``, over the engine."""

    def __init__(
        self, max_workers=None, mp_context=None, initializer=None, initargs=(), *, max_tasks_per_child=None,
        on_worker_death="break", start_method=None, crash_retries=1, memory_limit=None, max_bytes=None, preload=(),
        grace_s=5.0,
    ) -> None:  # fmt: skip
        if max_workers is not None and max_workers <= 0:
            raise ValueError("max_workers must be greater than 0")
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        if mp_context is not None and start_method is None:
            start_method = mp_context.get_start_method()
        self._options = EngineOptions(
            workers=max_workers, start_method=start_method or "forkserver", ordered=False, buffer=None,
            grace_s=grace_s, crash_retries=crash_retries, memory_limit=memory_limit,
            max_items_per_worker=1 if max_tasks_per_child or memory_limit else None, max_bytes=max_bytes, backend="process", preload=preload,
            metrics_interval_s=0.5,
        )  # fmt: skip
        self._setup = None if initializer is None else Initializer(initializer, tuple(initargs))
        self._breaks = on_worker_death == "break"
        self._packer = CallPacker(main_by_value=self._options.start_method != "fork")
        self._desk = desk = Desk(most=max_tasks_per_child, most_bytes=memory_limit, leaves=self._breaks)
        self._session: Session | None = None
        self._starting = threading.RLock()
        self._is_shut = False
        self._pid = os.getpid()
        self._weak = weakref.ref(self, lambda _: desk.close_to_new())

    @property
    def _broken(self):
        return False if self._session is None else self._session.broken or False

    def submit(self, fn, /, *args, **kwargs):
        with self._starting:
            if self._session is None and not self._is_shut:
                self._session = Session(
                    self._desk, self._options, self._setup, None if self._breaks else self._options.crash_retries
                )
            if self._broken:
                raise BrokenProcessPool(self._broken)
            if self._is_shut:
                raise RuntimeError("cannot schedule new futures after shutdown")
            future: Future[Any] = Future()
            try:
                pieces = self._packer.pack(fn, args, kwargs)
            except BaseException as error:
                future.set_exception(error)
                return future
            self._desk.put(Errand(future, pieces))
        return future

    def map(self, fn, *iterables, timeout=None, chunksize=1, buffersize=None):
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        end_time = None if timeout is None else timeout + time.monotonic()
        calls = _chunks(zip(*iterables), chunksize)
        chunk = functools.partial(_run_chunk, fn)
        futures = deque(self.submit(chunk, args) for args in itertools.islice(calls, buffersize))
        return _results(futures, calls, chunk, weakref.ref(self) if buffersize else lambda: None, end_time)

    def shutdown(self, wait=True, *, cancel_futures=False):
        self._is_shut = True
        session = self._session
        if session is None:
            return
        self._desk.close_to_new()
        if cancel_futures:
            for errand in self._desk.take_waiting():
                errand.future.cancel()
        if wait:
            session.join()

    def kill_workers(self):
        self._end("kill_workers() was called")

    def terminate_workers(self):
        self._end("terminate_workers() was called")

    def _end(self, reason):
        session = self._session
        self.shutdown(wait=False, cancel_futures=True)
        if session is not None:
            session.fail(reason)


def _run_chunk(fn, chunk):
    return [fn(*args) for args in chunk]


def _chunks(calls: Iterable[Any], size: int) -> Iterator[Any]:
    iterator = iter(calls)
    while chunk := tuple(itertools.islice(iterator, size)):
        yield chunk


def _results(futures, calls, chunk, find_executor, end_time):
    def results():
        try:
            while futures:
                executor = find_executor()
                if executor is not None and (args := next(calls, None)) is not None:
                    futures.append(executor.submit(chunk, args))
                del executor
                values = _result_of(futures.popleft(), end_time)
                values.reverse()
                while values:
                    yield values.pop()
        finally:
            for future in futures:
                future.cancel()

    return results()


def _result_of(future, end_time):
    try:
        try:
            return future.result(None if end_time is None else end_time - time.monotonic())
        finally:
            future.cancel()
    finally:
        del future
