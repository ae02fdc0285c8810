"""The child's side: what runs in a worker process, and the fork server that makes workers.

=============  =============================================================================
``boot``       from a new-born process to the entry function, and out again
``lifeline``   the kernel ends this process when the coordinator is gone
``nursery``    the fork server of one registry, and the guardian of what it forked
``main``       the worker's loop
``chain``      runs the functions of fused stages over a batch
=============  =============================================================================

Nothing here imports the parent's side: every module imported here is paid for by every worker.
"""
