"""The one loop in the parent, and the threads around it that user code runs on.

    source thread --> packer thread --> mailbox --> loop <--> backend
                                           ^          |
                                           |          v
                              taken <-- consumer <-- outlet

=================  ==============================================================
``loop``           waits, feeds events to the scheduler, carries out its commands
``feed``           pulls the source and packs it, off the loop
``pulling``        several items of a source by one call, which can be ended
``opening``        whatever can be a source, as one kind of iterator
``async_sources``  an async source as a plain iterator
``run``            one run, seen from the consumer's side
``live``           what goes on, and how it is ended
``runoptions``     how it goes about it
``stream``         its results as an iterator
``awaiting``       runs for asyncio callers, whose event loop never waits
``outlet``         what is on its way from the loop to the consumer
``signals``        Ctrl-C and SIGTERM while a run goes on
``snapshots``      the scheduler's books as a ``Snapshot``, from any thread
``publishing``     snapshots on the metrics board, off everybody's way
``tape``           what observers are to be told, noted by the loop
``telling``        the thread that tells them
``lookout``        what others may see of a run, and ask of it
``sightings``      what each worker is at, if somebody asks
``failures``       failed items, kept and logged at a limited rate
``handlers``       error handlers, called one after another
``scribe``         a thread for whatever is logged
=================  ==============================================================

T1. The loop's thread alone touches the scheduler and the backend, until it has ended; then the consumer's thread does.
T2. User code (source, pickling of items, unpickling of results, log handlers) never runs on the loop's thread (K7).
T3. What other threads want of the loop goes through the mailbox: a deque, whose ``append`` is atomic, and a bell.
"""
