"""Compressed files, by the ends of their names: ``.gz`` and ``.xz`` as the standard library has them, ``.zst``.

All three formats allow one compressed file behind another (a member, a stream, a frame), and read as if they were one.
So a file that is written can be cut off behind any of them.
"""

from __future__ import annotations

import importlib.util
import io
from pathlib import PurePath
from typing import IO, TYPE_CHECKING, Any, Protocol, cast

from mpengine.errors import PipelineError, SourceError

if TYPE_CHECKING:
    import os

SUFFIXES = {".gz": "gzip", ".xz": "xz", ".zst": "zstd"}
BUFFER_BYTES = 1 << 16
PIECE_BYTES = 1 << 13
"""Compressed bytes that are unpacked at once: what comes of them is in memory as a whole."""


class Compressor(Protocol):
    """Makes one member."""

    def compress(self, content: bytes, /) -> bytes:
        """Take in more; return what is ready."""

    def flush(self) -> bytes:
        """End the member; return the rest of it."""


def compression_of(path: str | os.PathLike[str] | None) -> str | None:
    """Return how a file is compressed, by its name: ``"gzip"``, ``"xz"`` or ``"zstd"``; None: not at all.

    Raises:
        PipelineError: what that takes is not installed.
    """
    kind = None if path is None else SUFFIXES.get(PurePath(path).suffix.lower())
    if kind == "zstd":
        need("zstandard", "zstd", f"{PurePath(path or '').name} is compressed with Zstandard")
    return kind


def plain_name(path: str | os.PathLike[str]) -> PurePath:
    """Return the path without the end that tells of compression: the format is told by what stands before it."""
    pure = PurePath(path)
    return pure.with_suffix("") if pure.suffix.lower() in SUFFIXES else pure


def need(module: str, extra: str, what: str) -> None:
    """Refuse what takes a package that is not installed.

    Args:
        module: the package's module.
        extra: the extra of this package that brings it.
        what: what takes it, as a sentence.

    Raises:
        PipelineError: it is not there; names the extra.
    """
    if importlib.util.find_spec(module) is None:
        raise PipelineError(f"{what}, which takes {module}: pip install 'mpengine[{extra}]'")


def decompressed(raw: io.RawIOBase, kind: str | None) -> IO[bytes]:
    """Return what is in a file, unpacked while it is read.

    Args:
        raw: the file.
        kind: see ``compression_of``.
    """
    if kind == "gzip":
        import gzip

        return cast("IO[bytes]", gzip.GzipFile(fileobj=raw, mode="rb"))
    if kind == "xz":
        import lzma

        return lzma.LZMAFile(raw)  # type: ignore[arg-type]  # raw files will do
    return io.BufferedReader(_ZstdFile(raw) if kind == "zstd" else raw, BUFFER_BYTES)


def errors_of(kind: str | None) -> tuple[type[Exception], ...]:
    """Return what reading a compressed file raises when it is damaged or cut off."""
    if kind == "gzip":
        import zlib

        return (EOFError, OSError, zlib.error)
    if kind == "xz":
        import lzma

        return (EOFError, OSError, lzma.LZMAError)
    if kind == "zstd":
        import zstandard

        return (EOFError, OSError, zstandard.ZstdError)
    return (OSError,)


def compressor(kind: str) -> Compressor:
    """Return what makes the next member.

    Args:
        kind: see ``compression_of``.
    """
    if kind == "gzip":
        import zlib

        return zlib.compressobj(6, zlib.DEFLATED, 31)  # 31: with gzip's head and tail, which names no time
    if kind == "xz":
        import lzma

        return lzma.LZMACompressor()
    import zstandard

    return cast("Compressor", zstandard.ZstdCompressor().compressobj())


class _ZstdFile(io.RawIOBase):
    """Frames of Zstandard, one behind the other; the library's own reader takes a frame that is cut off for whole."""

    def __init__(self, raw: io.RawIOBase) -> None:
        import zstandard

        self._raw = raw
        self._context = zstandard.ZstdDecompressor()
        self._frame: Any = None
        self._ahead = b""
        self._unpacked = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._unpacked:
            piece = self._ahead or self._raw.read(PIECE_BYTES)
            self._ahead = b""
            if not piece:
                if self._frame is not None:
                    raise EOFError("Compressed file ended before the end-of-stream marker was reached")
                return 0
            if self._frame is None:
                self._frame = self._context.decompressobj()
            self._unpacked = memoryview(self._frame.decompress(piece))
            if self._frame.eof:
                self._ahead, self._frame = self._frame.unused_data, None
        count = min(len(buffer), len(self._unpacked))
        buffer[:count] = self._unpacked[:count]
        self._unpacked = self._unpacked[count:]
        return count


def damage(name: str, error: Exception) -> SourceError:
    """Return the error of a file that cannot be read any further."""
    if isinstance(error, EOFError):
        return SourceError(f"{name} is cut off: its compressed content has no end")
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return SourceError(f"cannot read {name}: {reason}")
