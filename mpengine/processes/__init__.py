"""The parent's view of worker processes.

================  =============================================================================
``registry``      every process ever started, until its exit status has been collected
``notices``       what a registry has to tell: started, exited, failed to start
``nurserylink``   the registry's end of its own fork server (``forkserver``)
``direct``        workers that are the coordinator's own children (``spawn``, ``fork``)
``spawning``      how a process comes to be, and what it must not inherit
``orphans``       ends processes whose parent has died before them
``identity``      which process is meant, though its number may be another's tomorrow
``stopping``      when to ask, when to insist, when to kill: the stop ladder, without the doing
``sideprocess``   a process beside the workers, which is none of them
``boardprocess``  the process of the metrics board
``stacks``        where a worker is, asked from any process of the same user
``usage``         memory and CPU of processes, as anybody can see them
================  =============================================================================
"""
