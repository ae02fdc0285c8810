"""Which contenders there are, and with which settings they take part: each at its default, and at its best.

A setting is the best of those that were tried where this was written; a case that is to show how much a setting matters
has several.  Those that take long for an item get fewer items, enough for about a second.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Peer:
    """A library: its title, its distribution and module (none: comes with Python), and its adapter."""

    title: str
    contender: str
    distribution: str = ""
    module: str = ""
    is_ours: bool = False
    is_control: bool = False

    def is_here(self) -> bool:
        """Return whether this Python has it."""
        return not self.module or importlib.util.find_spec(self.module) is not None


PEERS = {
    "mpengine": Peer("mpengine", "contenders.engine:mpengine", "mpengine", "mpengine", is_ours=True),
    "bare": Peer("bare processes", "contenders.stdlib:bare", is_control=True),
    "pool": Peer("multiprocessing.Pool", "contenders.stdlib:pool"),
    "executor": Peer("ProcessPoolExecutor", "contenders.stdlib:executor"),
    "loky": Peer("loky", "contenders.pools:loky", "loky", "loky"),
    "joblib": Peer("joblib", "contenders.pools:joblib", "joblib", "joblib"),
    "mpire": Peer("mpire", "contenders.pools:mpire", "mpire", "mpire"),
    "pebble": Peer("pebble", "contenders.pools:pebble", "pebble", "pebble"),
    "pypeln": Peer("pypeln", "contenders.pipelines:pypeln", "pypeln", "pypeln"),
    "pipevine": Peer("pipevine", "contenders.pipelines:pipevine", "pipevine", "pipevine"),
    "pyper": Peer("python-pyper", "contenders.pipelines:pyper", "python-pyper", "pyper"),
    "streamable": Peer("streamable", "contenders.pools:streamable", "streamable", "streamable"),
    "faster_fifo": Peer("faster-fifo", "contenders.pipelines:faster_fifo", "faster-fifo", "faster_fifo"),
    "dask": Peer("dask.distributed", "contenders.clusters:dask", "distributed", "distributed"),
    "ray_tasks": Peer("Ray tasks", "contenders.clusters:ray_tasks", "ray", "ray"),
    "ray_data": Peer("Ray Data", "contenders.clusters:ray_data", "ray", "ray"),
}


@dataclass(frozen=True)
class Entry:
    """A contender as it takes part in a case.

    Attributes:
        peer: its name in ``PEERS``.
        setting: what it is told, in words; nothing at its default.
        options: what its adapter is told.
        items: how many items it gets at most; 0: as many as the case has.
        job: what it does instead of the case's own job.
        is_control: whether it is no rival: work that was split or fused by hand, or an experiment.
    """

    peer: str
    setting: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    items: int = 0
    job: str = ""
    is_control: bool = False

    @property
    def title(self) -> str:
        """What it is called in tables."""
        title = PEERS[self.peer].title
        return f"{title}, {self.setting}" if self.setting else title

    @property
    def is_rival(self) -> bool:
        """Whether mpengine is to be compared with it as with a peer."""
        peer = PEERS[self.peer]
        return not (self.is_control or peer.is_control or peer.is_ours)


def entry(
    peer: str, setting: str = "", *, items: int = 0, job: str = "", control: bool = False, **options: Any
) -> Entry:
    """Return an entry with these options of its adapter."""
    return Entry(peer, setting, options, items, job, control)


US, BARE = entry("mpengine"), entry("bare")
POOL_CHUNKS = (64, 1024, 4096, 16384, 65536)


def trivial() -> list[Entry]:
    """Return those that add one to a million ints."""
    return [
        US,
        entry("mpengine", "from a generator", job="single-generated"),
        entry("mpengine", "as they come", stream=True),
        entry("pool", items=20_000),
        *(entry("pool", f"{chunk} a chunk", chunk=chunk) for chunk in POOL_CHUNKS),
        entry("pool", "map", method="map", chunk=None),
        entry("executor", items=20_000),
        *(entry("executor", f"{chunk} a chunk", chunk=chunk) for chunk in (4096, 16384)),
        entry("loky", items=20_000),
        *(entry("loky", f"{chunk} a chunk", chunk=chunk) for chunk in (4096, 16384)),
        entry("joblib", items=200_000),
        entry("joblib", "4096 a batch", items=200_000, batch=4096),
        entry("mpire", items=200_000),
        entry("mpire", "4096 a chunk", items=200_000, chunk=4096),
        entry("pebble", items=20_000),
        entry("pebble", "4096 a chunk", items=200_000, chunk=4096),
        entry("pypeln", items=5_000),
        entry("pypeln", "maxsize 1000", items=5_000, maxsize=1000),
        entry("pipevine", items=5_000),
        entry("pipevine", "buffer 100", items=5_000, buffer=100),
        entry("pyper", items=10_000),
        entry("pyper", "throttle 100", items=10_000, throttle=100),
        entry("streamable", items=10_000),
        entry("streamable", "groups of 4096", group=4096),
        entry("faster_fifo", items=100_000),
        entry("faster_fifo", "1000 at a time", items=500_000, many=1000),
        entry("dask", items=1_000),
        entry("dask", "bag of 8", items=100_000, bag=8),
        entry("ray_tasks", items=2_000),
        entry("ray_tasks", "batches of 4096", batch=4096),
        entry("ray_data", items=20_000),
        entry("ray_data", "2 blocks, map_batches", items=200_000, blocks=2),
    ]


def one_by_one() -> list[Entry]:
    """Return those that send each int by itself."""
    return [
        entry("mpengine", "stage(batch=1)", one_by_one="batch"),
        entry("mpengine", "stage(buffer=1)", one_by_one="buffer"),
        entry("mpengine", "MAX_BATCH = 1", one_by_one="patch"),
        entry("pool"),
        entry("executor", items=10_000),
    ]


def three() -> list[Entry]:
    """Return those that do three trivial stages; fused by hand is no rival, but is shown."""
    return [
        US,
        entry("mpengine", "not fused", control=True, fuse=False),
        *(
            entry("pool", f"{chunk} a chunk, fused by hand", control=True, by_hand=True, chunk=chunk)
            for chunk in (4096, 16384)
        ),
        entry("executor", "16384 a chunk, fused by hand", control=True, by_hand=True, chunk=16384),
        entry("pool", items=10_000),
        *(entry("pool", f"{chunk} a chunk", chunk=chunk) for chunk in (1024, 4096, 16384, 65536)),
        entry("pool", "map", method="map", chunk=None),
        entry("executor", items=5_000),
        *(entry("executor", f"{chunk} a chunk", chunk=chunk) for chunk in (4096, 16384)),
        entry("loky", items=5_000),
        entry("loky", "16384 a chunk", chunk=16384),
        entry("joblib", items=100_000),
        entry("joblib", "4096 a batch", items=100_000, batch=4096),
        entry("mpire", items=50_000),
        entry("mpire", "4096 a chunk", items=50_000, chunk=4096),
        entry("pebble", items=5_000),
        entry("pebble", "4096 a chunk", items=50_000, chunk=4096),
        entry("pypeln", items=2_000),
        entry("pypeln", "maxsize 1000", items=2_000, maxsize=1000),
        entry("pipevine", items=2_000),
        entry("pipevine", "buffer 100", items=2_000, buffer=100),
        entry("pyper", items=5_000),
        entry("pyper", "throttle 100", items=5_000, throttle=100),
        entry("streamable", items=5_000),
        *(entry("streamable", f"groups of {group}", group=group) for group in (4096, 16384)),
        entry("faster_fifo", items=50_000),
        entry("faster_fifo", "1000 at a time", items=250_000, many=1000),
        entry("dask", items=300),
        entry("dask", "bag of 8", items=100_000, bag=8),
        entry("ray_tasks", items=500),
        entry("ray_tasks", "batches of 4096", batch=4096),
        entry("ray_data", items=10_000),
        entry("ray_data", "2 blocks, map_batches", items=100_000, blocks=2),
    ]


def fused_pools() -> list[Entry]:
    """Return pools whose stages are fused by hand, for work that takes its time."""
    return [
        entry("pool", "map, fused by hand", by_hand=True, method="map", chunk=None),
        *(entry("pool", f"{chunk} a chunk, fused by hand", by_hand=True, chunk=chunk) for chunk in (1, 4)),
        entry("executor", "fused by hand", by_hand=True),
        entry("executor", "4 a chunk, fused by hand", by_hand=True, chunk=4),
    ]


def profiles() -> list[Entry]:
    """Return those that do random profiles: all that may get near."""
    return [
        US,
        BARE,
        *fused_pools(),
        entry("loky", "fused by hand", by_hand=True),
        entry("joblib", "fused by hand", by_hand=True),
        entry("mpire", "fused by hand", by_hand=True),
        entry("pebble", "fused by hand", by_hand=True),
        entry("streamable", "fused by hand", by_hand=True),
        entry("pyper"),
    ]


def cpu() -> list[Entry]:
    """Return those that do a pipeline of 1 : 4 : 0.5 ms."""
    return [
        *profiles(),
        entry("mpengine", "not fused", control=True, fuse=False),
        entry("pool", "8 a chunk", chunk=8),
        entry("pypeln"),
        entry("pypeln", "maxsize 100", maxsize=100),
        entry("pipevine"),
        entry("pipevine", "buffer 20", buffer=20),
        entry("pyper", "throttle 100", throttle=100),
        entry("streamable"),
        entry("faster_fifo"),
        entry("faster_fifo", "fused by hand", by_hand=True),
        entry("dask"),
        entry("dask", "8 at a time, fused by hand", window=8, by_hand=True),
        entry("ray_tasks"),
        entry("ray_tasks", "8 at a time, fused by hand", window=8, by_hand=True),
        entry("ray_data"),
    ]


def arrays() -> list[Entry]:
    """Return those that hand arrays of 8 MB from stage to stage."""
    few = 40
    return [
        entry("mpengine", "two stages", fuse=False),
        entry("mpengine", "as it fuses them", control=True),
        BARE,
        entry("pool", items=few),
        entry("pool", "fused by hand", control=True, by_hand=True, items=few),
        entry("executor", items=few),
        entry("executor", "fused by hand", control=True, by_hand=True, items=few),
        entry("loky", items=few),
        entry("joblib", items=few),
        entry("joblib", "as they come", returns="generator", items=few),
        entry("mpire", items=few),
        entry("pebble", items=few),
        entry("pypeln", items=few),
        entry("pypeln", "maxsize 4", maxsize=4, items=few),
        entry("pipevine", items=few),
        entry("pyper", items=few),
        entry("pyper", "throttle 4", throttle=4, items=few),
        entry("streamable", items=few),
        entry("faster_fifo", "64 MB of queue", size_bytes=64_000_000, items=few),
        entry("dask", items=few),
        entry("dask", "8 at a time", window=8, items=few),
        entry("ray_tasks"),
        entry("ray_tasks", "8 at a time", window=8),
        entry("ray_tasks", "8 at a time, fused by hand", control=True, window=8, by_hand=True),
        entry("ray_data", items=few),
    ]


def payloads(size: int, chunk: int) -> list[Entry]:
    """Return those that hand bytes to and fro; ``chunk`` is how many of them a pool may take at once."""
    queue_bytes = max(1_000_000, 4 * size)
    few = 2_000
    chunked = [entry(peer, f"{chunk} a chunk", chunk=chunk) for peer in ("pool", "executor", "loky", "mpire", "pebble")]
    return [
        US,
        entry("pool", items=20_000),
        entry("executor", items=few),
        entry("loky", items=few),
        entry("joblib"),
        entry("joblib", "as they come", returns="generator"),
        entry("mpire"),
        entry("pebble", items=few),
        *(chunked if chunk > 1 else ()),
        entry("pypeln", "maxsize 100", items=few, maxsize=min(100, 4 * chunk)),
        entry("pyper", "throttle 100", items=few, throttle=min(100, 4 * chunk)),
        *([entry("streamable", f"groups of {chunk}", group=chunk)] if chunk > 1 else [entry("streamable")]),
        entry("faster_fifo", size_bytes=queue_bytes),
        *([entry("faster_fifo", f"{chunk} at a time", many=chunk, size_bytes=max(queue_bytes, 4 * chunk * size))]
          if chunk > 1 else ()),
        entry("dask", "8 at a time", items=500, window=8),
        entry("ray_tasks", "8 at a time", items=few, window=8),
    ]  # fmt: skip
