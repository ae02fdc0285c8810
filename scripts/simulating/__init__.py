"""The real scheduler in a made-up world: workers, source, consumer and wires are a queue of moments.

=============  ==============================================================
``costs``      what items cost: even, changing, with heavy tails
``world``      the discrete-event simulation around ``mpengine.scheduler``
``outcomes``   what a simulated run came to
``tables``     the figures that the page about scale shows
=============  ==============================================================
"""
