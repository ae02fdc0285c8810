"""What other programs see of a run.

==============  =======================================================================
``board``       the metrics board: a dict in a process of its own, and how to attach to it
``observing``   observers of a run: what they have to be, and what they are told
``listing``     the writer of one run's file
``folder``      where runs are listed, and for whose eyes
``entries``     a run as it is listed for others: a file's content
``sights``      what each worker is at, as figures
``desk``        what goes on over its counter: who watches, what is asked and answered
``tracing``     a run as a trace for Perfetto
``reporting``   a run as one page: what is gathered for it
``pages``       that page, as HTML
``drawing``     its drawings, as SVG
``prometheus``  figures for Prometheus, over HTTP
==============  =======================================================================
"""
