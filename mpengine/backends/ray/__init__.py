"""Where batches run on a Ray cluster: the scheduler's commands as calls of actors, their reports as events.

============  ==================================================================================
``cluster``   connecting to Ray, or starting it; what it is made of
``options``   ``ray_options``, checked
``making``    how actors are made
``outgoing``  what is out at actors, and how its results can be made again
``backend``   the contract with the coordinator's loop
``links``     the coordinator's end of one actor: what is called, and a thread that listens
``wardens``   the coordinator's end of the wardens
``warden``    an actor on each machine that sees to the workers there
``objects``   payloads that stay where they are
============  ==================================================================================

What runs inside a worker's actor is ``mpengine.worker.asactor``, which knows nothing of Ray.
"""
