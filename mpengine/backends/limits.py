"""Which limit of the system an error is about, so that whoever reads it knows what to raise."""

from __future__ import annotations

import errno

from mpengine.worker.chain import summarize


def explained(error: BaseException) -> str:
    """Return the error in one line, with the limit that was met if it tells of one."""
    text = summarize(error)
    if isinstance(error, OSError) and error.errno == errno.EMFILE:
        return f"{text}; this process may have {_limit('RLIMIT_NOFILE')} files open at once (ulimit -n)"
    if isinstance(error, BlockingIOError) or (isinstance(error, RuntimeError) and "start new thread" in text):
        most = _limit("RLIMIT_NPROC")
        return f"{text}; this user may have {most} processes and threads (ulimit -u), a control group may allow fewer"
    return text


def _limit(which: str) -> str:
    import resource  # not needed where all goes well

    soft = resource.getrlimit(getattr(resource, which))[0]
    return "any number of" if soft == resource.RLIM_INFINITY else f"{soft:,}"
