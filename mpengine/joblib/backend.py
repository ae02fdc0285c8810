"""``MpengineBackend``: what joblib calls."""

from __future__ import annotations

import contextlib
import threading
import warnings

from joblib import parallel as joblibs

from mpengine.joblib.remote import depth
from mpengine.settings import check_choice, check_count, check_seconds

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future
    from typing import Any

    from mpengine.joblib.crews import Call

IDLE_S = 300.0
BATCH_S = 0.15
"""Seconds of work that are to go to a worker at once, where calls are shorter."""
MOST_BATCH_S = 0.5
"""Seconds of work that may go to a worker at once, unless it is a single call."""
BYTES_PER_S = 50_000_000
"""Calls that weigh much are as good as long: so much as this stands for a second of work."""
MOST_GROWTH = 4
"""How much larger the next batches may be: what has been short so far need not stay so."""
VERBOSE = 10
"""Where ``Parallel(verbose=)`` is at least this, it is told of sizes of batches."""
MOST_DEPTH = 10
"""So many workers may be within one another; joblib's own backend has the same limit."""

_OWN = (
    "idle_worker_timeout", "initializer", "initargs", "on_worker_death", "crash_retries", "memory_limit",
    "max_tasks_per_child", "start_method",
)  # fmt: skip
_OF_PARALLEL = ("max_nbytes", "mmap_mode", "temp_folder", "verbose", "context", "prefer", "require")


class MpengineBackend(joblibs.AutoBatchingMixin, joblibs.ParallelBackendBase):  # type: ignore[misc]  # joblib has no types
    """Runs what ``joblib.Parallel`` is given in mpengine's workers.

    Options go to ``joblib.parallel_config("mpengine", ...)``, or to ``Parallel`` itself.

    Args:
        nesting_level: how deep the call is nested; joblib says.
        inner_max_num_threads: threads that a numeric library may use in a worker; None: the cores, by the workers.
        idle_worker_timeout: seconds without a call after which the workers end; 300 by default.
        initializer: called in each worker, before anything else.
        initargs: with what.
        on_worker_death: ``"retry"``: a batch whose worker dies is run again by another one; ``"break"``: it fails, and
            all the others with it.
        crash_retries: how many further deaths a batch may cause before it fails with a ``WorkerDiedError``; 1.
        memory_limit: bytes of resident memory for each worker; see ``Engine``.
        max_tasks_per_child: a worker is replaced after so many batches.
        start_method: see ``Engine``.

    Raises:
        ValueError: an option is not what it can be, or there is none of that name.
    """

    supports_retrieve_callback = True
    supports_inner_max_num_threads = True
    supports_sharedmem = False
    uses_threads = False

    def __init__(
        self, nesting_level: int | None = None, inner_max_num_threads: int | None = None, **options: Any
    ) -> None:
        """Keep the options."""
        super().__init__(nesting_level=nesting_level, inner_max_num_threads=inner_max_num_threads)
        _check(options, _OWN)
        self.backend_kwargs = options
        self.parallel: Any = None
        self._workers: Call | None = None
        self._is_over = threading.Event()
        self._took_s = 0.0
        self._effective_batch_size: int = self._DEFAULT_EFFECTIVE_BATCH_SIZE
        self._smoothed_batch_duration: float = self._DEFAULT_SMOOTHED_BATCH_DURATION

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """Return how many workers a call gets that asks for ``n_jobs``.

        Raises:
            ValueError: it asks for none.
        """
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if n_jobs is None or n_jobs == 1 or joblibs.mp is None:
            return 1
        why = self._why_not_parallel()
        if why:
            warnings.warn(f"mpengine-backed parallel loops cannot be {why}, setting n_jobs=1", stacklevel=3)
            return 1
        return max(joblibs.cpu_count() + 1 + n_jobs, 1) if n_jobs < 0 else int(n_jobs)

    def _why_not_parallel(self) -> str:
        if joblibs.mp.current_process().daemon:
            return "called in a daemonic process of multiprocessing"
        if not (self.nesting_level == 0 or self.in_main_thread()):
            return "nested below threads"
        return f"nested {depth() + 1} deep" if depth() >= MOST_DEPTH else ""

    def configure(self, n_jobs: int = 1, parallel: Any = None, **options: Any) -> int:
        """Get ready for calls of ``parallel``; return how many workers there will be.

        Raises:
            FallbackToBackend: one is enough, and this process will do; or this backend is in another call.
            ValueError: an option is not what it can be.
        """
        n_jobs = self.effective_n_jobs(n_jobs)
        if n_jobs == 1:
            raise joblibs.FallbackToBackend(joblibs.SequentialBackend(nesting_level=self.nesting_level))
        if self._workers is not None and parallel is not self.parallel:
            # One that parallel_config() has made serves all calls under it, a generator that goes on among them.
            raise joblibs.FallbackToBackend(
                type(self)(self.nesting_level, self.inner_max_num_threads, **self.backend_kwargs)
            )
        own = {name: value for name, value in options.items() if name not in _OF_PARALLEL}
        _check(own, _OWN)
        self.parallel = parallel
        self._workers = self._join(n_jobs, {**self.backend_kwargs, **own}, options)
        return n_jobs

    def _join(self, n_jobs: int, own: dict[str, Any], options: dict[str, Any]) -> Call:
        from mpengine.joblib.arrays import Dump
        from mpengine.joblib.crews import Wanted, join  # slow imports, which no worker needs

        idle_s = own.pop("idle_worker_timeout", None)
        own["initargs"] = tuple(own.get("initargs") or ())
        environ = tuple(sorted(self._prepare_worker_env(n_jobs=n_jobs).items()))
        dump = Dump(options.get("max_nbytes"), options.get("mmap_mode"), options.get("temp_folder"))
        return join(Wanted(n_jobs, environ, **own), dump, IDLE_S if idle_s is None else float(idle_s))

    def start_call(self) -> None:
        """A call begins."""
        if self._workers is not None:
            self._workers.begin()

    def submit(self, func: Callable[[], Any], callback: Callable[[Future[Any]], None] | None = None) -> Future[Any]:
        """Have a batch run, and ``callback`` called when it has."""
        assert self._workers is not None  # noqa: S101 - configure() comes first
        future = self._workers.submit(func)
        if callback is not None:
            future.add_done_callback(callback)
            future.add_done_callback(self._look)
        return future

    apply_async = submit  # what joblib 1.4 calls

    def _look(self, _: object) -> None:
        """See whether there is nothing more to wait for, once joblib has taken in what has come of a batch."""
        if not _is_under_way(self.parallel):
            self._is_over.set()

    def retrieve_result_callback(self, out: Future[Any]) -> Any:
        """Return what a batch has returned, or raise what it has raised."""
        results, self._took_s = out.result()
        return results

    # ------------------------------------------------------------------ how many calls are a batch

    def batch_completed(self, batch_size: int, duration: float) -> None:  # noqa: ARG002 - the worker's own counts
        """Take in how long a batch has taken its worker, and what its calls weigh."""
        sent_bytes = 0 if self._workers is None else self._workers.sent_bytes
        weight_bytes = sent_bytes * batch_size / max(1, self.parallel.n_dispatched_tasks)
        super().batch_completed(batch_size, self._took_s + weight_bytes / BYTES_PER_S)

    def compute_batch_size(self) -> int:
        """Return how many calls are to be a batch: with what they weigh, they should take ``BATCH_S``."""
        before, took_s = self._effective_batch_size, self._smoothed_batch_duration
        if took_s:
            ideal = max(1, int(before * BATCH_S / took_s))
            if ideal >= 2 * before or (took_s > MOST_BATCH_S and before > 1):
                self._effective_batch_size = min(ideal, before * MOST_GROWTH)
                self._smoothed_batch_duration = self._DEFAULT_SMOOTHED_BATCH_DURATION
                if self.parallel.verbose >= VERBOSE:
                    story = f"A batch took {took_s:.3g} s: batch_size={self._effective_batch_size}."
                    self.parallel._print(story)  # noqa: SLF001 - as joblib's own do
        return self._effective_batch_size

    @contextlib.contextmanager
    def retrieval_context(self) -> Iterator[None]:
        """Wait until all results are there: joblib's own loop would look for the next one a hundred times a second.

        Only where a list is wanted, so that there is nothing to be done with one before the last has come.
        """
        parallel = self.parallel
        if not parallel.return_generator and parallel.timeout is None:
            while _is_under_way(parallel):
                self._is_over.wait()
                self._is_over.clear()
        yield

    def terminate(self) -> None:
        """The calls are over: the workers wait for others."""
        workers, self._workers = self._workers, None
        if workers is not None:
            workers.release()
        self.reset_batch_stats()

    def abort_everything(self, ensure_ready: bool = True) -> None:  # noqa: FBT001, FBT002 - joblib's signature
        """End what runs of a call that is given up."""
        workers, self._workers = self._workers, None
        if workers is not None:
            workers.abort()
        if ensure_ready:
            self.configure(self.parallel.n_jobs, self.parallel, **self.parallel._backend_kwargs)  # noqa: SLF001 - as joblib's own do


def _is_under_way(parallel: Any) -> bool:
    """Whether joblib waits for anything more, by what its own loop looks at."""
    return not parallel._aborting and parallel._wait_retrieval()  # noqa: SLF001


def _check(options: dict[str, Any], known: tuple[str, ...]) -> None:
    """Refuse options that there are not, or that are not what they can be."""
    for name in options:
        if name not in known:
            raise ValueError(f"the backend 'mpengine' has no option {name!r}; it has {', '.join(known)}")
    check_choice("on_worker_death", options.get("on_worker_death", "retry"), ("retry", "break"))
    check_count("crash_retries", options.get("crash_retries", 1), least=0, may_miss=False)
    for name in ("memory_limit", "max_tasks_per_child"):
        check_count(name, options.get(name), least=1)
    if options.get("idle_worker_timeout") is not None:
        check_seconds("idle_worker_timeout", options["idle_worker_timeout"])
    initializer = options.get("initializer")
    if initializer is not None and not callable(initializer):
        raise ValueError(f"initializer must be callable, not {initializer!r:.200}")
