"""What other programs see of a run.

=========  =======================================================================
``board``  the metrics board: a dict in a process of its own, and how to attach to it
=========  =======================================================================
"""
