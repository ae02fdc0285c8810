"""``Executor``: ``concurrent.futures.Executor`` over the engine's workers."""

from __future__ import annotations

import concurrent.futures
import functools
import itertools
import os
import threading
import weakref
from collections import deque
from concurrent.futures.process import BrokenProcessPool

from mpengine.backends.cores import available_cores
from mpengine.executor.desk import Desk
from mpengine.executor.heritage import initializer_for
from mpengine.executor.mapping import Results, check_sizes, chunks_of, run_chunk
from mpengine.executor.packing import CallPacker, Errand, unpicklable
from mpengine.executor.session import Session
from mpengine.settings import EngineOptions, check_choice, check_count

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from concurrent.futures import Future
    from multiprocessing.context import BaseContext
    from typing import Any, Literal, ParamSpec, TypeVar

    from mpengine.executor.packing import Function
    from mpengine.ipc.messages import Buffer

    P = ParamSpec("P")
    T = TypeVar("T")


class Executor(concurrent.futures.Executor):
    """Runs calls in worker processes: ``concurrent.futures.Executor``, complete, over the engine's workers.

    Takes what ``ProcessPoolExecutor`` takes, and does what that does, but for this: functions, arguments and results
    that plain pickle refuses go by cloudpickle; workers start by a fork server if nothing else is said, and no script
    needs a ``__main__`` guard; calls are pickled when they are submitted; and what was said in ``on_worker_death``.

    Args:
        max_workers: how many worker processes; None: the cores that this process may use.
        mp_context: as in the standard library, for its start method.
        initializer: called in each worker before its first call; if it raises, the executor is broken.
        initargs: what it is called with.
        max_tasks_per_child: a worker is replaced after so many calls; None: never.
        on_worker_death: ``"break"``: a worker that dies, of whatever and at whatever, breaks the executor: calls that
            are not finished fail with ``BrokenProcessPool``, and no more are taken.  ``"retry"``: the call that it was
            at is made again, ``crash_retries`` times, and then fails with ``WorkerDiedError``; the others go on.
        start_method: ``"forkserver"``, ``"spawn"`` or ``"fork"``; None: that of ``mp_context``, or ``"forkserver"``.
        crash_retries: how many further deaths a call may cause before it fails.
        memory_limit: bytes of resident memory for each worker process.  One that is over it is replaced between calls;
            one that stays over it in the middle of a call is ended, which is a death like any other, and at last a
            ``MemoryLimitError``.
        preload: modules that the fork server imports once, so that workers start with them.
        environ: variables that workers have besides this process's, or in their place.

    Raises:
        ValueError: an option is not what it can be; the message names it.
        TypeError: ``initializer`` cannot be called.
    """

    def __init__(  # noqa: PLR0913 - the standard library's options, and ours by keyword
        self,
        max_workers: int | None = None,
        mp_context: BaseContext | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        max_tasks_per_child: int | None = None,
        on_worker_death: Literal["break", "retry"] = "break",
        start_method: Literal["forkserver", "spawn", "fork"] | None = None,
        crash_retries: int = 1,
        memory_limit: int | None = None,
        preload: Sequence[str] = (),
        environ: Mapping[str, str] | None = None,
    ) -> None:
        """Check every option; nothing is started before the first call."""
        if isinstance(max_workers, int) and max_workers <= 0:
            raise ValueError("max_workers must be greater than 0")
        check_count("max_workers", max_workers, least=1)
        check_count("max_tasks_per_child", max_tasks_per_child, least=1)
        check_choice("on_worker_death", on_worker_death, ("break", "retry"))
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        method = _start_method(mp_context, start_method)
        if method == "fork" and max_tasks_per_child is not None:
            msg = "max_tasks_per_child is not for the start method 'fork', which would fork beside running threads"
            raise ValueError(msg)
        one_turn = max_tasks_per_child is not None or memory_limit is not None  # a worker's turn is the engine's item
        self._options = EngineOptions(
            workers=max_workers, start_method=method, ordered=False, buffer=None, grace_s=5.0,
            crash_retries=crash_retries, memory_limit=memory_limit, max_items_per_worker=1 if one_turn else None,
            max_bytes=None, backend="process", preload=preload, metrics_interval_s=0.0,
            environ=environ,
        )  # fmt: skip
        self._method = method
        self._initializer = None if initializer is None else (initializer, tuple(initargs))
        self._most_deaths = None if on_worker_death == "break" else crash_retries
        self._packer = CallPacker(main_by_value=method != "fork")
        self._desk = desk = Desk(
            workers=max_workers or available_cores(),
            most=max_tasks_per_child,
            most_bytes=memory_limit,
            leaves=on_worker_death == "break",
        )
        self._session: Session | None = None
        self._starting = threading.RLock()
        self._is_shut = False
        self._pid = os.getpid()
        # One that nobody holds any more lets its workers go, once all is done.
        self._gone = weakref.ref(self, lambda _: desk.close_to_new())

    @property
    def _broken(self) -> str | bool:
        """Why it is broken, or False; the standard library's own tests, and others, look at this."""
        return False if self._session is None else self._session.broken or False

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Have ``fn(*args, **kwargs)`` called in a worker.

        What cannot be pickled is told by the future, like all that goes wrong with the call.

        Raises:
            BrokenProcessPool: the executor is broken.
            RuntimeError: it was shut down, or the interpreter is about to be; or this process was forked from the one
                that it belongs to.
            EngineError, PipelineError: no worker can be started.
        """
        return self._submit(lambda: self._packer.pack(fn, args, kwargs))

    def _submit(self, pack: Callable[[], list[Buffer]]) -> Future[Any]:
        session = self._begun()
        future: Future[Any] = concurrent.futures.Future()
        try:
            pieces = pack()
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - the call's own error
            future.set_running_or_notify_cancel()
            future.set_exception(error if isinstance(error, Exception) else unpicklable(error))
            return future
        if not self._desk.put(Errand(future, pieces)):
            self._refuse(session)
        return future

    def _begun(self) -> Session:
        """Return the session, begun if there was none."""
        session = self._session
        if session is not None and not (session.broken or self._is_shut or os.getpid() != self._pid):
            return session
        with self._starting:
            if os.getpid() != self._pid:
                raise RuntimeError("this executor belongs to the process that this one was forked from")
            if self._is_shut or (self._session is not None and self._session.broken):
                self._refuse(self._session)
            if self._session is None:
                setup = None if self._initializer is None else initializer_for(self._method, *self._initializer)
                self._session = Session(self._desk, self._options, setup, self._most_deaths)
            return self._session

    def _refuse(self, session: Session | None) -> None:
        if session is not None and session.broken:
            raise BrokenProcessPool(f"the executor is broken, and takes no more calls: {session.broken}")
        raise RuntimeError("cannot schedule new futures after shutdown")

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[T]:
        """Return the results of ``fn`` for the items of the iterables, taken together, in their order.

        Dropping the iterator cancels what nobody has begun with.

        Args:
            fn: what to call, with one item of each iterable.
            iterables: read to the end at once, or as ``buffersize`` says.
            timeout: seconds from now, in which each result has to be there; None: any number.
            chunksize: so many calls go to a worker together, one after the other.
            buffersize: so many chunks at most are submitted and not yielded; the iterables are read no faster.

        Raises:
            TypeError, ValueError: a size cannot be what it is.
            TimeoutError: from the iterator; a result was not there in time.
            Exception: from the iterator; what a call has raised.
        """
        check_sizes(chunksize, buffersize)
        is_plain = chunksize == 1
        calls = zip(*iterables, strict=False) if is_plain else chunks_of(iterables, chunksize)
        call = fn if is_plain else functools.partial(run_chunk, fn)
        known = self._packer.for_many(fn, call)
        futures = deque(self._submit_for(call, known, args) for args in itertools.islice(calls, buffersize))
        executor = weakref.ref(self)  # which may go while its results are still wanted

        def submit_next() -> Future[Any] | None:
            alive = executor()
            if buffersize is None or alive is None or (args := next(calls, None)) is None:
                return None
            return alive._submit_for(call, known, args)  # noqa: SLF001 - it is this one

        return Results(futures, submit_next, timeout, is_plain=is_plain)

    def _submit_for(self, call: Callable[..., Any], known: Function | None, args: tuple[Any, ...]) -> Future[Any]:
        if known is None:
            return self._submit(lambda: self._packer.pack(call, args, {}))
        return self._submit(lambda: self._packer.pack_for(known, args, {}))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002 - theirs
        """Take no more calls, and let the workers go when all are made.

        Args:
            wait: whether to wait for that; never in a done callback, which would wait for itself.
            cancel_futures: whether calls that nobody has begun with are cancelled.
        """
        self._is_shut = True
        if os.getpid() != self._pid:
            return  # a forked child's copy: all of it is the parent's
        with self._starting:
            session = self._session
        self._desk.close_to_new()
        if cancel_futures:
            for errand in self._desk.take_waiting():
                if errand.future.cancel():
                    errand.future.set_running_or_notify_cancel()  # whoever waits for several is told
        if wait and session is not None:
            session.join()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Shut down, and wait; after Ctrl-C calls are not waited for."""
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            self._end("SIGINT")
        self.shutdown()

    def call_off(self, futures: Iterable[Future[Any]]) -> None:
        """Cancel calls, those that run included: their workers are ended, and replaced by others.

        No other call is harmed, and none of these is made again.  The futures of those that ran fail with a
        ``CancelledError`` when their workers have gone, which is not waited for.

        Args:
            futures: of calls of this executor; those that are done stay as they are.
        """
        unwanted = set(futures)
        for future in unwanted:
            future.cancel()
        for errand in self._desk.call_off(unwanted):
            errand.future.set_exception(concurrent.futures.CancelledError("the call was called off"))

    def terminate_workers(self) -> None:
        """End all workers at once, without waiting for that, and take no more calls.

        Calls that somebody has begun with fail with ``BrokenProcessPool``, the others are cancelled.  As workers hold
        nothing that another process waits for, this is the same as ``kill_workers``.
        """
        self._end("its workers were terminated")

    def kill_workers(self) -> None:
        """End all workers at once, without waiting for that, and take no more calls; see ``terminate_workers``."""
        self._end("its workers were killed")

    def _end(self, reason: str) -> None:
        session = self._session
        self.shutdown(wait=False, cancel_futures=True)
        if session is not None and os.getpid() == self._pid:
            session.fail(reason)


def _start_method(context: BaseContext | None, method: str | None) -> str:
    theirs = None if context is None else context.get_start_method()
    if theirs is not None and method is not None and theirs != method:
        msg = f"start_method is {method!r}, and mp_context says {theirs!r}"
        raise ValueError(msg)
    return method or theirs or "forkserver"
