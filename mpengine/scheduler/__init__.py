"""The decisions of a run: a state machine without clock, process, lock or I/O.

``Scheduler.handle(event)`` returns the commands that follow.  Events are past participles and carry their time;
commands are imperatives.  Whoever owns clock and processes feeds the one and carries out the other.

====================  ==================================================================
``events``            what has happened
``commands``          what is to be done about it
``lifecycles``        run, worker and batch: each one table, an illegal move is a missing key
``batches``           the batch: what moves, and what is known of it
``batching``          how large batches are: learnt from measured time and bytes
``ordering``          the order in which results leave
``ledger``            the books: every item in every stage, counted a batch at a time
``backlog``           what waits before each chain, and how much room there is behind it
``payloads``          payloads made of other payloads
``splicing``          waiting batches joined for a stage that takes several items at once
``stock``             all batches under way, and every figure that follows from them
``crew``              the workers: which are there, what each holds, who may run what
``intake``            what is asked of the source
``dispatching``       who gets what next
``admission``         how many processes may be at work, as far as memory goes
``timesheet``         where the workers' time goes
``verdicts``          what becomes of an item that has failed for good
``deaths``            what follows from a worker's death
``reports``           whether what a worker reports can be true
``scheduler``         the one mutator that the others serve
====================  ==================================================================
"""
