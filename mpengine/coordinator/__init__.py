"""The one loop in the parent, and the threads around it that user code runs on.

    source thread --> packer thread --> mailbox --> loop <--> backend
                                           ^          |
                                           |          v
                              taken <-- consumer <-- outlet

=================  ======================================================
T1. The loop's thread alone touches the scheduler and the backend, until it has ended; then the consumer's thread does.
T2. User code (source, pickling of items, unpickling of results, log handlers) never runs on the loop's thread (K7).
T3. What other threads want of the loop goes through the mailbox: a deque, whose ``append`` is atomic, and a bell.
"""
