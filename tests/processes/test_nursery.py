"""The nursery's own rules, with the nursery in this process and the registry played by the test."""

import os
import pickle
import socket

import pytest

from mpengine.processes import spawning
from mpengine.worker import nursery
from mpengine.worker.boot import BOOT_FAILED, WorkerBoot


@pytest.fixture
def links():
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    yield ends
    for end in ends:
        end.close()


@pytest.fixture
def pipe():
    ends = os.pipe()
    yield ends
    for fd in ends:
        os.close(fd)


@pytest.fixture
def served(links, pipe):
    orders = nursery.NurseryBoot(links[1].fileno(), pipe[0], "cookie")
    made = nursery._Nursery(links[1], orders)
    yield made
    os.close(made._wake_r)
    os.close(made._wake_w)


def request_fds(pipe):
    """A birth file and five fds of a worker that would say that it runs."""
    boot = WorkerBoot(0, 0, 1, 0, 0, 0, 0, 0, "entries:wait_for_ever")
    birth_fd = spawning.birth_file(boot, spawning.make_preparation({}))
    return [birth_fd, os.dup(pipe[0]), os.dup(pipe[1]), *(os.dup(pipe[0]) for _ in range(3))]


def test_a_worker_whose_birth_could_not_be_told_never_runs_n3(served, links, pipe):
    links[0].close()
    served._fork(nursery.Request(0, 0), request_fds(pipe))
    ((pid, child),) = served._children.items()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == BOOT_FAILED
    os.set_blocking(pipe[0], False)
    with pytest.raises(BlockingIOError):
        os.read(pipe[0], 2)
    os.close(child.birth_fd)


def test_fds_that_did_not_all_arrive_are_a_failed_birth_and_closed(served, links, pipe):
    socket.send_fds(links[0], [pickle.dumps(nursery.Request(7, 2))], [pipe[0], pipe[1]])
    assert served._answer_request()
    answer = pickle.loads(links[0].recv(nursery.MESSAGE_LIMIT_BYTES))
    assert (answer.worker_id, answer.generation) == (7, 2)
    assert "too many open files" in answer.reason


def test_a_fork_that_is_refused_is_a_failed_birth(served, links, pipe, monkeypatch):
    def refuse():
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", refuse)
    fds = request_fds(pipe)
    socket.send_fds(links[0], [pickle.dumps(nursery.Request(7, 2))], fds)
    for fd in fds:
        os.close(fd)
    assert served._answer_request()
    answer = pickle.loads(links[0].recv(nursery.MESSAGE_LIMIT_BYTES))
    assert answer == nursery.BirthFailed(7, 2, "BlockingIOError: [Errno 11] Resource temporarily unavailable")
