"""Where jobs of these tests run: a slot that notes what it is told, and a cancel flag that nobody sets."""

import os

from mpengine.worker.chain import Site

CANCEL_FD = os.pidfd_open(os.getpid())  # never readable; and no pipe, for a test writes garbage into all it finds


class Slot:
    """Notes what it is told."""

    def __init__(self):
        self.named = []
        self.attempts = []
        self.told = None

    def begin_item(self, position, stage):
        self.named.append((position, stage))

    def begin_stage(self, stage):
        self.named.append((self.named[-1][0], stage))

    def begin_attempt(self, stage, attempt, timeout_s):
        self.attempts.append((stage, attempt, timeout_s))

    def end_attempt(self):
        self.attempts.append(None)
        return False

    def describe(self, text):
        self.told = text


def never(seconds=0):
    return False


def site(slot=None, is_cancelled=never, pause=never, cancel_fd=None):
    return Site(slot or Slot(), is_cancelled, pause, CANCEL_FD if cancel_fd is None else cancel_fd)
