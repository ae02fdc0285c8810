"""The web server's process, as the program that runs a pipeline sees it: started, talked to, buried (M1, M2)."""

from __future__ import annotations

import select
import socket
import time
from typing import TYPE_CHECKING, Self

from mpengine.dashboard.host import HostBoot
from mpengine.dashboard.wire import Link
from mpengine.processes import spawning
from mpengine.processes.sideprocess import SideProcess, launched

if TYPE_CHECKING:
    from mpengine.processes.identity import ProcessIdentity


class HostProcess(SideProcess):
    """One process.

    Args:
        identity: which.
        lifeline_fd: write end of its lifeline.
        link_fd: our half of the socket pair.
    """

    def __init__(self, identity: ProcessIdentity, lifeline_fd: int, link_fd: int) -> None:
        super().__init__(identity, (lifeline_fd, link_fd))
        self.link = Link(link_fd)

    @classmethod
    def start(cls, listener_fd: int, token: str, names: tuple[str, ...]) -> Self:
        """Start one.

        Args:
            listener_fd: where browsers connect.
            token: what they have to know.
            names: what they may call this machine.

        Raises:
            OSError: the program could not be started.
        """
        ours, theirs = (plug.detach() for plug in socket.socketpair())
        for fd in (ours, theirs):
            spawning.close_in_forked_children(fd)
        try:
            identity, lifeline_fd = launched(
                "mpengine.dashboard.host:run_host",
                lambda line_fd: HostBoot(line_fd, theirs, listener_fd, token, names),
                (theirs, listener_fd),
            )
        except BaseException:
            spawning.close_parent_only(ours)
            raise
        finally:
            spawning.close_parent_only(theirs)
        return cls(identity, lifeline_fd, ours)

    def wait_clear(self, timeout_s: float) -> bool:
        """Send what is unsent; returns whether it could be, in time.

        Raises:
            OSError: there is nobody at the other end.
        """
        poll = select.poll()
        poll.register(self.link.fd, select.POLLOUT)
        deadline_at = time.monotonic() + timeout_s
        while not self.link.is_clear and poll.poll(max(0.0, deadline_at - time.monotonic()) * 1000):
            self.link.flush()
        return self.link.is_clear

    def wait_gone(self, timeout_s: float) -> None:
        """Send what is unsent, and wait until the other end has hung up.

        Raises:
            OSError: it has, with something unsent.
        """
        deadline_at = time.monotonic() + timeout_s
        if self.wait_clear(timeout_s):
            poll = select.poll()
            poll.register(self.link.fd, 0)  # a hang-up is reported whether asked for or not
            poll.poll(max(0.0, deadline_at - time.monotonic()) * 1000)
