"""``mpengine.Executor``: ``concurrent.futures.Executor`` over the engine's workers.

===========  ===================================================================
``pool``     ``Executor``: what users hold
``desk``     where calls wait until a worker is free, and futures for results
``session``  the one run behind an executor, and the thread that takes its results
===========  ===================================================================

The other half, which runs in workers, is ``mpengine.worker.calls``.
"""

from __future__ import annotations

from mpengine.executor.pool import Executor

__all__ = ["Executor"]
