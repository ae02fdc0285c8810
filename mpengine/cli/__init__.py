"""The command line, ``python -m mpengine``: runs, a look at runs of other terminals, and at this machine.

Values go to standard output, one JSON value a line; everything meant for a person to standard error.  The exit status:

    0    all good
    1    the run failed, an item did, or a value could not be written
    2    wrong usage, said in one line
    130  after SIGINT
    143  after SIGTERM

================  ===============================================================
``commands``      what can be typed, and what each ending means as an exit status
``mapping``       what was typed for ``map``, as one request
``mapoptions``    what can be typed for it
``amounts``       times, sizes and numbers of jobs as they are typed; pure
``running``       a run, from an open input to an exit status
``jobrun``        a run of jobs, from their arguments to an exit status
``inputs``        the arguments of jobs, numbered
``delivery``      what jobs have written, to where it goes
``joblog``        a line for each job that is done
``halting``       when a run of jobs is to halt; pure
``free``          how much memory is free
``streams``       the standard files, input and output, and what they may not be
``signals``       SIGINT and SIGTERM while a run goes on
``watchers``      a trace, a report, figures for Prometheus
``dashboards``    a page in the browser, opened, and its address told
``progress``      the thread that shows a run while it goes on; it never changes it
``gauge``         how far a run is, and how fast; pure
``frames``        that as a table, and as a line
``bars``          that as one line that was asked for
``figures``       what a run that has ended has to tell
``watching``      what can be typed to look at a run of another terminal
``rundown``       the runs that are listed
``top``           one of them, shown while it goes on
``panes``         what is shown of it, as tables; pure
``stacking``      where its workers are
``cancelling``    how it is ended, and what came of that
``waiting``       its end, waited for and told
``doctor``        whether an engine can run here, and why not
``machine``       what this machine allows
``surroundings``  what a job that runs for hours meets here
``advice``        what to do about that; pure
``trials``        one worker by each start method
``speech``        lines and tables for the person at the terminal
================  ===============================================================
"""

from mpengine.cli.commands import main

__all__ = ["main"]
