"""The child's side: what runs in a worker process, and the fork server that makes workers.

===============  ===================================================================
``boot``         from a new-born process to the entry function, and out again
``asprocess``    what a worker is to ``multiprocessing``
``lifeline``     the kernel ends this process when the coordinator is gone
``burial``       the end of a child, and of the group it leads
``passing``      sockets that pass descriptors
``nursery``      the fork server of one registry, and the guardian of what it forked
``boardhost``    the process of the metrics board, with a lifeline of its own
``main``         the worker's loop
``outbox``       what it sends: one message at a time, whoever interrupts it
``courier``      log records, sent to the parent's handlers
``logwatch``     the courier, installed when somebody imports ``logging``
``latecomer``    what is to be done once a module is imported
``capture``      what an item prints, kept for its error
``stopwatch``    the times of items, for observers
``threadpools``  the threads of numeric libraries, limited
``chain``        fused stages, built once, and one call of one of them
``jobs``         a window of a batch, on its way through a chain
``slices``       cheap items: who fails, who is skipped, and what each stage takes
``loops``        a loop through all stages of a chain, for cheap items
``groups``       stages that get a list of items
``coroutines``   stages that are an ``async def``
``streams``      generator stages: one item that becomes many
``reports``      what was done, counted
``packing``      a report, made ready to be sent
===============  ===================================================================

Nothing here imports the parent's side: every module imported here is paid for by every worker.
"""
