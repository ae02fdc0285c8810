"""The live dashboard: a page in the browser that shows a run while it goes on, and can cancel it.

    this program                                                  a process of its own          browsers
    engine.snapshot() -> history -> wire ---- socket pair ---->   wire -> hub -> site  --SSE--> page
    engine.cancel()   <----------------------- requests -------   <------ POST /cancel -------

What it guarantees, and the tests cite:

W1. The run does not know of it.  It takes snapshots, which any thread may; whatever goes wrong in it costs the page.
W2. The web server is a process of its own, started when somebody first connects, and holds nothing that anybody waits
    for (K1).  It goes with this program, however that ends (its lifeline), and is started anew when it dies.
W3. Everything is bounded: what is kept of the past, a text, a message, a request, the connections, and what waits for
    a slow reader, who is told the present when he comes back to it and never what was in between.
W4. A look takes at most a fiftieth of one core, however many workers and stages there are: the next comes later.
W5. Nothing is read or changed without the token, which is in the address behind the ``#`` and so never in a log, a
    history or another page's sight; and nothing answers to a name that is not this machine's (DNS rebinding).
W6. What the user has named, and what his errors say, reaches the page as text, never as markup.

===============  ==================================================================
``live``         ``Dashboard``: the thread that looks, sends, and hears requests
``address``      where it listens, and the URL
``history``      what the page shows, from one snapshot after another; pure
``wire``         frames one way, requests the other, over a socket that never blocks
``hostprocess``  the web server's process, as this program sees it
``host``         that process
``hub``          one step, encoded once, to everybody who looks
``site``         what is answered to whom
``page/``        the page: HTML, CSS and JavaScript as a browser reads them
===============  ==================================================================
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mpengine.dashboard.live import Dashboard

__all__ = ["Dashboard"]


def __getattr__(name: str) -> Any:
    """Import what is asked for: the web server's process needs none of it."""
    if name == "Dashboard":
        from mpengine.dashboard.live import Dashboard

        return Dashboard
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
