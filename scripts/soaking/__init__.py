"""The soak: random pipelines under random blows, each held against what it has to give.

=================  ====================================================================================================
``forms``          what stages do; workers import it
``recipes``        from one integer to a pipeline, an engine's settings, a consumer and a schedule of blows
``blows``          the thread that deals them out
``running``        one recipe, run and judged, in a process that runs a few of them
``judging``        what a run has to have given, and what it did wrong
``belongings``     what a run has left behind
``supervising``    starts those processes, and watches them against the clock
``coordinators``   the other way round: the coordinator is killed, and everything else has to go
``poison``         ten thousand items, some of which kill whoever takes them
``figures``        the tables
=================  ====================================================================================================
"""
