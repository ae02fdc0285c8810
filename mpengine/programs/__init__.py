"""Commands as items: what a worker does for one, and what the parent keeps for all of them.

=================  ============================================================================
``templates``      a command with places for its arguments; pure
``outcomes``       what a job came to
``jobs``           a job in a worker: a command, or a function with each call told like one
``children``       a child process in a worker, from its start to its burial
``wires``          a worker's end of the switchboard
``switchboard``    the parent's: who may start, what is to end, and files that are handed over
=================  ============================================================================
"""
