"""What a worker is to ``multiprocessing``; on its own because that package is a slow import."""

from multiprocessing.process import BaseProcess


class WorkerProcess(BaseProcess):
    """What a worker sees as its ``current_process()``.

    Not ``multiprocessing.Process``, which would fix the start method of what user code starts.
    """

    _start_method = None  # read by _bootstrap
    _parent_pid: object
    _parent_name: object
