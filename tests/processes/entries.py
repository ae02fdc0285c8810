"""What workers of these tests do: entry functions, found by name in the worker because the import path travels."""

import ctypes
import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path


def leave(boot):
    sys.exit(boot.options["code"])


def return_nothing(boot):
    pass


def raise_error(boot):
    raise RuntimeError("no way")


def kill_itself(boot):
    os.kill(os.getpid(), boot.options["signum"])


def wait_for_ever(boot):
    os.write(boot.outbox_fd, b"up")
    while True:
        signal.pause()


def sleep_in_c_code(boot):
    os.write(boot.outbox_fd, b"up")
    ctypes.PyDLL(None).sleep(60)  # PyDLL holds the interpreter's lock


def sleep_with_all_signals_blocked(boot):
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    wait_for_ever(boot)


def stop_itself(boot):
    os.write(boot.outbox_fd, b"up")
    os.kill(os.getpid(), signal.SIGSTOP)


def start_grandchild(boot):
    """Start a program of its own, tell its pid, and wait."""
    program = subprocess.Popen(["sleep", "60"])
    os.write(boot.outbox_fd, json.dumps(program.pid).encode())
    while True:
        signal.pause()


def start_all_kinds_of_grandchildren(boot):
    """Start what has left the group, the tree, or the worker's environment behind; tell the pids by kind, and wait."""
    nothing = {name: value for name, value in os.environ.items() if name == "PATH"}
    told = {
        "in the group": subprocess.Popen(["sleep", "60"]).pid,
        "in a session": subprocess.Popen(["sleep", "60"], start_new_session=True).pid,
        "in a session, with an environment": subprocess.Popen(["sleep", "60"], start_new_session=True, env=nothing).pid,
        "a fork in a session": fork_in_a_session(),
        "a daemon": start_daemon(lambda: os.execlp("sleep", "sleep", "60")),
        "a forked daemon": start_daemon(signal.pause),
    }
    os.write(boot.outbox_fd, json.dumps(told).encode())
    while True:
        signal.pause()


def fork_in_a_session():
    pid = os.fork()
    if pid == 0:
        os.setsid()
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        signal.pause()
    return pid


def start_daemon(become):
    """Fork twice, so that nobody is its parent any more; returns its pid."""
    told_r, told_w = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setsid()
        pid = os.fork()
        if pid:
            os.write(told_w, pid.to_bytes(4, "little"))
            os._exit(0)
        become()
    os.waitpid(pid, 0)
    daemon = int.from_bytes(os.read(told_r, 4), "little")
    os.close(told_r)
    os.close(told_w)
    return daemon


def start_daemon_and_shorter_ones(boot):
    """Start a daemon that shows no cookie, and tell its pid; then another orphan, which ends at once."""
    daemon = start_daemon(lambda: os.execve("/bin/sleep", ["sleep", "60"], {}))
    start_daemon(lambda: os._exit(0))
    os.write(boot.outbox_fd, json.dumps(daemon).encode())
    while True:
        signal.pause()


def start_grandchild_and_leave(boot):
    program = subprocess.Popen(["sleep", "60"])
    os.write(boot.outbox_fd, json.dumps(program.pid).encode())
    os._exit(0)


def use_a_pool(boot):
    with multiprocessing.get_context("fork").Pool(1) as pool:
        os.write(boot.outbox_fd, json.dumps(pool.map(abs, [-1, -2])).encode())


def describe_surroundings(boot):
    inner = subprocess.run(["cat"], capture_output=True, check=True).stdout
    parent = multiprocessing.parent_process()
    report = {
        "pid": os.getpid(),
        "ppid": os.getppid(),
        "pgid": os.getpgid(0),
        "cwd": str(Path.cwd()),
        "argv": sys.argv,
        "path": sys.path,
        "environ": dict(os.environ),
        "stdin": sys.stdin.read(),
        "program_stdin": inner.decode(),
        "name": multiprocessing.current_process().name,
        "daemon": multiprocessing.current_process().daemon,
        "authkey": multiprocessing.current_process().authkey.hex(),
        "parent_pid": parent.pid,
        "parent_alive": parent.is_alive(),
        "start_method": multiprocessing.get_start_method(allow_none=True),
        "sigint": signal.getsignal(signal.SIGINT) == signal.SIG_IGN,
        "sigterm": signal.getsignal(signal.SIGTERM) == signal.SIG_DFL,
        "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
        "worker_id": boot.worker_id,
        "fds": open_fds(),
        "inheritable": [os.get_inheritable(fd) for fd in boot.fds],
    }
    with os.fdopen(os.dup(boot.outbox_fd), "wb") as outbox:
        outbox.write(json.dumps(report).encode())


def tell_fds_and_wait(boot):
    told = open_fds()
    os.write(boot.outbox_fd, json.dumps(told).encode())
    while True:
        signal.pause()


def open_fds():
    """What the open fds of this process refer to, by their numbers as text."""
    found = {}
    for link in list(Path("/proc/self/fd").iterdir()):
        try:
            found[link.name] = str(link.readlink())
        except OSError:
            continue  # the one that lists the folder
    return found


def tell_about_oneself(parcel):
    """What a program is like that was launched; called with the pickled number of the fd to tell it to."""
    told = {
        "fds": open_fds(),
        "pgid": os.getpgid(0),
        "sigpipe": signal.getsignal(signal.SIGPIPE) == signal.SIG_IGN,  # Python's own doing
        "marked": os.environ["MARKED"],
    }
    os.write(pickle.loads(parcel), json.dumps(told).encode())
