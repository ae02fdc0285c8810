"""Connecting to Ray, or starting it on this machine.

C1. Who has connected to Ray before decides: that connection is used, and left as it is.
C2. What was connected here is let go here; what was started here is ended here, and its folder removed.
C3. A folder's name is short: the system allows sockets no more than 107 bytes, of which Ray takes 64.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from mpengine.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from mpengine.backends.ray.options import RayOptions

MOST_FOLDER_BYTES = 40
BURIAL_S = 5.0
"""How long a process of Ray's may take to end once it is killed."""
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",  # none is: what an actor ends with is told as a worker's death
}


def load_ray() -> Any:
    """Return the module ``ray``.

    Raises:
        EngineError: it is not there; names the extra.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError as error:
        raise EngineError("backend='ray' needs Ray, which is in the extra: pip install 'mpengine[ray]'") from error
    return ray


class Cluster:
    """A connection to Ray.

    Args:
        options: how to connect.
        cores: how many this process may use, for a Ray of its own.

    Raises:
        EngineError: there is no Ray, or none can be reached or started.
    """

    def __init__(self, options: RayOptions, cores: int) -> None:
        """Connect, unless this process is connected already (C1)."""
        self.ray: Any = load_ray()
        self._is_ours = False
        self._folder: str | None = None
        if not self.ray.is_initialized():
            self._connect(options, cores)
        elif options.address not in (None, "auto", self.ray.get_runtime_context().gcs_address):
            known = self.ray.get_runtime_context().gcs_address
            msg = f"this process is connected to the Ray at {known} already, not to {options.address}"
            raise EngineError(msg)

    def _connect(self, options: RayOptions, cores: int) -> None:
        arguments: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
        if options.namespace is not None:
            arguments["namespace"] = options.namespace
        address = options.address or os.environ.get("RAY_ADDRESS")
        if address:
            arguments["address"] = address
        else:
            # "local": never one that Ray remembers somebody to have started here.
            arguments |= {"address": "local", "num_cpus": cores, "include_dashboard": False}
            self._folder = arguments["_temp_dir"] = _short_folder()
        try:
            with _sigterm_kept(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Ray's own, of what it leaves open
                self.ray.init(**(arguments | dict(options.init)))
        except Exception as error:
            self._remove_folder()
            where = f"reached at {address}" if address else "started"
            msg = f"Ray could not be {where}: {error}"
            raise EngineError(msg) from error
        self._is_ours = True

    def cpus(self) -> int:
        """Return how many CPUs the cluster has, at least 1."""
        return max(1, int(self.ray.cluster_resources().get("CPU", 1)))

    def share(self, workers: int) -> float:
        """Return the CPUs that each of ``workers`` may take, so that there is room for all of them."""
        return max(0.001, min(1.0, int(1000 * self.cpus() / workers) / 1000))

    def close(self) -> None:
        """Let go of what was connected here (C2); idempotent."""
        if self._is_ours:
            self._is_ours = False
            shut_down(self.ray)
        self._remove_folder()

    def _remove_folder(self) -> None:
        folder, self._folder = self._folder, None
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def shut_down(ray: Any) -> None:
    """End the connection to Ray, and what this process has started of it, until all of that is buried."""
    from ray._private import worker  # the one place that knows the processes; Ray kills them, and does not wait

    node = getattr(worker, "_global_node", None)
    started = getattr(node, "all_processes", {}).values()
    processes = [info.process for infos in started for info in infos]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray's own, of files that it leaves open
        ray.shutdown()
        del node, started
        for process in processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(BURIAL_S)
        processes.clear()
        gc.collect()  # or the warnings come later


@contextlib.contextmanager
def _sigterm_kept() -> Iterator[None]:
    """Keep what the program does with SIGTERM: Ray has it end the program, where a run is to be cancelled in order."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _short_folder() -> str:
    folder = tempfile.mkdtemp(prefix="mpengine-")
    if len(os.fsencode(folder)) > MOST_FOLDER_BYTES:
        with contextlib.suppress(OSError):
            Path(folder).rmdir()
            folder = tempfile.mkdtemp(prefix="mpengine-", dir="/tmp")
    return folder
