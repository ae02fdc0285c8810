"""Things that go off where they are told to: picklable by name, and light, since every worker imports this."""

import os
import sys
import time

import engine_stages as stages


def act(how, bell=""):
    """Do what ``how`` says; "hang" first rings the bell, a named pipe, so that nobody has to guess when."""
    if how == "raise":
        raise RuntimeError("sprung")
    if how == "hang":
        fd = os.open(bell, os.O_WRONLY)
        os.write(fd, b"!")
        os.close(fd)
        time.sleep(300)
    stages.die(how)  # "sys.exit" among others


def act_elsewhere(how, bell, home):
    """Go off in any process but ``home``."""
    if os.getpid() != home:
        act(how, bell)
    return "harmless"


def act_at_home(how, bell, home):
    """Go off in the process ``home`` alone."""
    if os.getpid() == home:
        act(how, bell)
    return "harmless"


class WhenPickled:
    """Goes off when it is pickled."""

    def __init__(self, how, bell=""):
        self.how, self.bell = how, bell

    def __reduce__(self):
        act(self.how, self.bell)


class WhenUnpickled:
    """Goes off when it is unpickled, where ``act`` lets it."""

    def __init__(self, act, *arguments):
        self.act, self.arguments = act, arguments

    def __reduce__(self):
        return self.act, self.arguments


class PicklesBadlyError(Exception):
    def __init__(self, how, bell=""):
        super().__init__("sprung")
        self.how, self.bell = how, bell

    def __reduce__(self):
        act(self.how, self.bell)


class UnpicklesBadlyError(Exception):
    def __init__(self, *arguments):
        super().__init__("sprung")
        self.arguments = arguments

    def __reduce__(self):
        return act_at_home, self.arguments


class WhenForgotten:
    """Goes off when nobody holds it any more, but not at home."""

    def __init__(self, how, home):
        self.how, self.home = how, home

    def __del__(self):
        if os.getpid() != self.home:
            act(self.how)


class Built:
    """A stage that goes off when it is built, entered or closed."""

    def __init__(self, where, how, bell=""):
        self.where, self.how, self.bell = where, how, bell
        self._at("built")

    def _at(self, where):
        if self.where == where:
            act(self.how, self.bell)

    def __enter__(self):
        self._at("entered")
        return self

    def __exit__(self, *_):
        self._at("left")

    def __call__(self, x):
        return x


def leave(code):
    sys.exit(code)
