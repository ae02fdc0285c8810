"""The benchmark's contenders: mpengine and its peers at the same work, each run in a process of its own.

jobs        what is to be done: stages, items, what the consumer keeps of a result, and what must come out
engine, stdlib, pools, pipelines, clusters
            every library behind one small interface: a context manager that makes it ready and gives ``run(job)``
seat        the program that one contender runs in, for one turn
driving     starts that program, waits for so long and no longer, and leaves nothing of it behind
field       which contenders there are, with which settings: at its default and at its best
cases       what is measured, who takes part, and the targets
scoring     from the turns to ratios, tables and verdicts
leads       how far a source gets ahead of a slow consumer
cancelling  how long it takes until nothing is left of a run
starting    the shortest program with each library
charts      bars and lines as SVG
pages       tables and charts as a part of a page
"""
