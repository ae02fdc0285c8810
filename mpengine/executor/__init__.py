"""``mpengine.Executor``: ``concurrent.futures.Executor`` over the engine's workers.

::

    submit, map --- pickled call ---> desk ---> a free worker's lane ===pipe===> worker: its turn
                                       ^                                            |
                  engine: makes turns -+- lanes                                     |
                                       |                                            |
    future <--- clerk: unpickles <-----+--------------- lane <=======pipe===========+

The engine runs one pipeline as long as the executor lives; its items are turns of workers.  So it starts workers, has
them set up, replaces those that have died, and ends them; calls go past it.

============  =================================================================
``pool``      ``Executor``: what users hold
``mapping``   ``Executor.map``: chunks of calls, and their results in order
``packing``   calls pickled, functions that go by value only once
``desk``      which call goes to which worker, and what becomes of its future
``lanes``     the pipes of one worker's turn
``clerk``     the thread that hears workers and settles futures
``session``   the run behind an executor, from its first call to its end
============  =================================================================

The other half, which runs in workers, is ``mpengine.worker.turns``.
"""

from __future__ import annotations

from mpengine.executor.pool import Executor

__all__ = ["Executor"]
