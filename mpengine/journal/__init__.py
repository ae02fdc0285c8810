"""The journal: what is done, what has failed and what is left of a long job, in an SQLite file.

===============  ================================================================
``description``  what a run is told of its journal, and of the output it stands for
``keys``         the key of an item: a hash that is the same everywhere
``schema``       the tables, and whether a file is a journal
``holding``      one run at a time
``book``         an open journal, begun or gone on with
``records``      what is handed to the writer
``writer``       the thread that writes
``memory``       what earlier runs have settled, looked up item by item
``reading``      a journal as figures, for whoever wants to know
===============  ================================================================
"""
