"""The source, pulled and packed off the loop.

Two threads: one runs the source's own code and nothing else, so that it may block as long as it likes; the other packs
what has come.  A list or tuple needs no first thread: it is cut into slices.

F1. No more is pulled than the scheduler has asked for.
F2. What has been pulled is packed when a batch is full, and ``LINGER_S`` after the first of it came in any case: also
    where the next one takes for ever.  So several are pulled by one call only while the thread that packs knows that
    something waits, and will look again; from when it knows of nothing, the next item is announced to it.
F3. The source is closed by the thread that runs it, once it gives control back.  An async one can be made to; another
    that never does is left to its daemon thread, since nobody can take it away from it.
"""

from __future__ import annotations

import functools
import threading
import time
from collections import deque

from mpengine.coordinator.failures import refused
from mpengine.coordinator.opening import close_iterator, interrupt, is_indexed, open_source
from mpengine.coordinator.pulling import Puller
from mpengine.ipc.codec import pack_apart
from mpengine.scheduler import events
from mpengine.worker.chain import summarize

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any, Protocol

    from mpengine.ipc.codec import Codec
else:
    Protocol = object

LINGER_S = 0.002


def pack(codec: Codec, items: Any) -> Iterator[events.SourcePacked]:
    """Yield the events of ``items``, a list or a range, having been pulled and packed.

    What will not pack is told as a failure.

    That is one event, unless items pack one by one and not together: there may be no memory for all of them at once.
    """
    bad: dict[int, BaseException] = {}
    try:
        payload = codec.pack(items)
    except BaseException:  # noqa: BLE001 - told item by item; a sys.exit() in there must not end the thread in silence
        good, bad = pack_apart(codec, items)
        try:
            payload = codec.pack(good)
        except BaseException as error:  # noqa: BLE001 - the same
            if len(items) > 1:
                for item in items:
                    yield from pack(codec, [item])
                return
            payload, bad = codec.pack([]), {0: error}
    failures = tuple(refused(items, place, error) for place, error in bad.items())
    yield events.SourcePacked(time.monotonic(), payload, len(items), codec.weigh(payload), failures)


def failed(error: BaseException) -> events.SourceFailed:
    """Return the event of the source having raised ``error``."""
    return events.SourceFailed(time.monotonic(), error, summarize(error))


def told(role: Callable[[ThreadedFeed], None]) -> Callable[[ThreadedFeed], None]:
    """Return the body of a thread, made to tell what it raises: a run whose feed is gone would wait for ever."""

    @functools.wraps(role)
    def run(feed: ThreadedFeed) -> None:
        try:
            role(feed)
        except BaseException as error:  # noqa: BLE001 - ends the run, by event
            feed.post(failed(error))

    return run


def ended() -> Iterator[events.Event]:
    """Yield the event of the source's end."""
    yield events.SourceEnded(time.monotonic())


class Packer(Protocol):
    """A source that has its own way to tell what was pulled."""

    def pack(self, codec: Codec, items: Any) -> Iterator[events.Event]:
        """Yield the events of ``items`` having been pulled and packed."""

    def ended(self) -> Iterator[events.Event]:
        """Yield the events of the source's end."""


class Feed(Protocol):
    """Pulls a source."""

    threads: Sequence[threading.Thread]
    """The threads it pulls and packs on."""

    runs_user_code: bool
    """Whether the source's code runs in the caller's thread at this moment."""

    def pull(self, count: int, batch_size: int) -> None:
        """Pull ``count`` more items, and pack them ``batch_size`` to a batch."""

    def close(self) -> None:
        """Pull no more, and close the source as soon as that can be done."""

    def interrupt(self) -> None:
        """End a wait for the source's next item, where that can be done; from any thread or signal handler."""

    def join(self, timeout_s: float) -> bool:
        """Wait until the source is closed; return whether it is."""


class InlineFeed:
    """Pulls in the thread that asks.

    Args:
        source: see ``open_source``.
        codec: packs.
        post: gets the events.
        packer: tells what was pulled; None: as it is.
    """

    def __init__(
        self, source: object, codec: Codec, post: Callable[[events.Event], None], packer: Packer | None = None
    ) -> None:  # fmt: skip
        """Open nothing yet: the source's code runs when it is first pulled."""
        self._source = source
        self._pack, self._ended = (pack, ended) if packer is None else (packer.pack, packer.ended)
        self._codec = codec
        self._post = post
        self._iterator: Iterator[Any] | None = None
        self._has_ended = False
        self._is_interrupted = False
        self.threads: Sequence[threading.Thread] = ()
        self.runs_user_code = False

    def pull(self, count: int, batch_size: int) -> None:
        """See ``Feed``."""
        while count > 0 and not self._has_ended:
            items: list[Any] = []
            problem = self._take(items, min(count, batch_size))
            count -= batch_size
            if items:
                for event in self._pack(self._codec, items):
                    self._post(event)
            if problem is not None:
                self._post(failed(problem))
            elif self._has_ended:
                for event in self._ended():
                    self._post(event)

    def _take(self, items: list[Any], count: int) -> BaseException | None:
        """Add up to ``count`` of the source's items to ``items``; return what went wrong, once the source has ended."""
        problem: BaseException | None = None
        self.runs_user_code = True
        try:
            if self._iterator is None:
                self._iterator = open_source(self._source)
                if self._is_interrupted:
                    interrupt(self._iterator)
            for _ in range(count):
                items.append(next(self._iterator))  # noqa: PERF401 - what came before an exception counts
        except StopIteration:
            self._has_ended = True
        except Exception as error:  # noqa: BLE001 - the source's error ends the run, by event
            self._has_ended = True
            problem = error
        finally:
            if self._has_ended:
                problem = self._close_iterator(problem)
            self.runs_user_code = False
        return problem

    def close(self) -> None:
        """See ``Feed``."""
        self._has_ended = True
        problem = self._close_iterator(None)
        if problem is not None:
            self._post(failed(problem))

    def interrupt(self) -> None:
        """See ``Feed``."""
        self._is_interrupted = True
        interrupt(self._iterator)

    def _close_iterator(self, problem: BaseException | None) -> BaseException | None:
        """Close the source, once; return what went wrong first."""
        iterator, self._iterator = self._iterator, None
        try:
            if iterator is not None:
                close_iterator(iterator)
        except BaseException as error:  # noqa: BLE001 - a source that cannot be closed has failed, and the run has an end
            return error if problem is None else problem
        return problem

    def join(self, timeout_s: float) -> bool:  # noqa: ARG002 - it is closed already
        """See ``Feed``."""
        return True


class ThreadedFeed:
    """Pulls and packs on threads of its own.

    Args:
        source: see ``open_source``.
        codec: packs.
        post: gets the events, from other threads.
        packer: tells what was pulled; None: as it is.
    """

    runs_user_code = False

    def __init__(
        self, source: object, codec: Codec, post: Callable[[events.Event], None], packer: Packer | None = None
    ) -> None:  # fmt: skip
        """Start nothing yet: the threads begin when something is first asked for, once workers have been forked."""
        self._source = source
        self._events_of, self._ended = (pack, ended) if packer is None else (packer.pack, packer.ended)
        self._codec = codec
        self.post = post
        self._changed = threading.Condition()
        # Under the condition's lock, but that one thread appends to what is pulled while another takes from its head:
        self._pulled: list[Any] = []
        self._ordered = 0  # items that have been asked for and not been packed, pulled or not
        self._orders: deque[tuple[int, int]] = deque()  # the same: so many items, and how many to a batch
        self._since: float | None = None  # when the first of what waits came, or nobody knows of any
        self._puller: Puller | None = None
        self._has_ended = False
        self._is_closing = False
        self._problem: BaseException | None = None
        self._iterator: Iterator[Any] | None = None  # set before the first look at _is_closing
        roles = [self._pack_slices] if is_indexed(source) else [self._pull_items, self._pack_items]
        self.threads: Sequence[threading.Thread] = [
            threading.Thread(target=role, name=f"mpengine-{role.__name__.strip('_')}", daemon=True) for role in roles
        ]
        self._has_begun = False

    def pull(self, count: int, batch_size: int) -> None:
        """See ``Feed``."""
        if not self._has_begun:
            self._has_begun = True
            for thread in self.threads:
                thread.start()
        with self._changed:
            self._ordered += count
            self._orders.append((count, batch_size))
            self._changed.notify_all()

    def close(self) -> None:
        """See ``Feed``."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        self._recall()
        self.interrupt()

    def interrupt(self) -> None:
        """See ``Feed``."""
        interrupt(self._iterator)

    def join(self, timeout_s: float) -> bool:
        """See ``Feed``."""
        if not self._has_begun:
            return True
        deadline = time.monotonic() + timeout_s
        for thread in self.threads:
            if thread.ident is not None:  # else there was none to be had
                thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self.threads)

    def _pack(self, items: Any) -> None:
        for event in self._events_of(self._codec, items):
            self.post(event)

    def _tell_end(self) -> None:
        for event in self._ended():
            self.post(event)

    # ------------------------------------------------------------------ a source that can be cut

    @told
    def _pack_slices(self) -> None:
        source: Sequence[Any] = self._source  # type: ignore[assignment]  # is_indexed() has looked
        start = 0
        while start < len(source):
            with self._changed:
                self._changed.wait_for(lambda: self._orders or self._is_closing)
                if self._is_closing:
                    return
                count = self._take_order(len(source) - start)
            items = list(source[start : start + count])
            start += len(items)
            self._pack(items)
        self._tell_end()

    # ------------------------------------------------------------------ any other source

    def _pull_items(self) -> None:
        iterator: Iterator[Any] | None = None
        problem: BaseException | None = None
        try:
            iterator = self._iterator = open_source(self._source)
            puller = self._puller = Puller(iterator, lambda: self._since is not None and not self._is_closing)
            while (allowed := self._await_allowance()) > 0:
                if self._since is not None:
                    puller.pull(self._pulled, allowed)
                else:
                    self._pulled.append(next(iterator))
                if self._since is None:  # it may be what a call has pulled after the other thread's last look
                    self._announce()
        except StopIteration:
            pass
        except BaseException as error:  # noqa: BLE001 - the source's error ends the run, by event
            problem = error
        finally:
            try:
                if iterator is not None:
                    close_iterator(iterator)
            except BaseException as error:  # noqa: BLE001 - the same: a source that cannot be closed has failed
                problem = error if problem is None else problem
            with self._changed:
                self._problem = problem
                self._iterator = self._puller = None
                self._has_ended = True
                self._changed.notify_all()

    def _recall(self) -> None:
        puller = self._puller
        if puller is not None:
            puller.recall()

    def _await_allowance(self) -> int:
        """Wait until something may be pulled; return how much, or 0 when nothing will be any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._ordered > len(self._pulled) or self._is_closing)
            return 0 if self._is_closing else self._ordered - len(self._pulled)

    def _announce(self) -> None:
        with self._changed:
            if self._pulled:  # else it has been taken already, and who waits for what is not there never sleeps
                self._since = time.monotonic()
                self._changed.notify_all()

    @told
    def _pack_items(self) -> None:
        while True:
            items = self._await_batch()
            if not items:
                break
            self._pack(items)
        if self._problem is not None:
            self.post(failed(self._problem))
        else:
            self._tell_end()

    def _await_batch(self) -> list[Any]:
        """Wait until a batch is full or old enough (F2); return its items, none at the end."""
        with self._changed:
            while True:
                waiting = len(self._pulled)
                if waiting and (self._has_ended or waiting >= min(self._orders[0])):
                    break
                if self._has_ended:
                    return []
                if self._since is None:
                    self._changed.wait_for(lambda: self._since is not None or self._has_ended)
                    continue
                left_s = self._since + LINGER_S - time.monotonic()
                if left_s <= 0 and waiting:
                    break
                self._changed.wait(max(left_s, 0.0))
            count = self._take_order(waiting)
            items = self._pulled[:count]
            del self._pulled[:count]
            # In this order: no call pulls on while nothing waits, and what one still pulls after the look is announced.
            self._since = None
            self._recall()
            if self._pulled:
                self._since = time.monotonic()
            return items

    def _take_order(self, available: int) -> int:
        """Return how many of the ``available`` items make the next batch, and strike them off the orders."""
        ordered, batch_size = self._orders.popleft()
        count = min(ordered, batch_size, available)
        if ordered > count:
            self._orders.appendleft((ordered - count, batch_size))
        self._ordered -= count
        return count
