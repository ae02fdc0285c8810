"""What passes between coordinator and workers, and how: messages, queues, codec, control block.  No policy.

================  ======================================================================
``messages``      every message: a small named type, checked when it arrives
``mpqueue``       a bounded queue with one writer and one reader, over a pipe
``codec``         items to payloads and back, an item that will not travel told from its mates
``assembly``      the items of a batch, put together from several payloads
``controlblock``  one memory file: the cancel flag and one slot for each worker
``lastwords``     the frames that a worker was in when it was killed or crashed
``stackfile``     the frames that a worker is in, told while it goes on
================  ======================================================================
"""
