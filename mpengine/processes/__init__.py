"""The parent's view of worker processes.

==============  ==============================================================================
``identity``    which process is meant, though its number may be another's tomorrow
``spawning``    how a process comes to be, and what it must not inherit
``nurserylink`` the registry's end of its own fork server
``direct``      workers that are the coordinator's own children
``registry``    every process ever started, until its exit status has been collected
``stopping``    when to ask, when to insist, when to kill: the stop ladder, without the doing
==============  ==============================================================================
"""
