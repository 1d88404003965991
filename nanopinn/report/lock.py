"""One writer at a time for one output, by a lock of the kernel: it ends with its process, however that ends."""

from __future__ import annotations

import errno
import os
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

from nanopinn.errors import OutputError

try:
    import fcntl
except ImportError:  # Windows has none
    fcntl = None  # type: ignore[assignment]

#: Outputs that the running code holds: what claims an output and what writes it need not know of each other.
_LOCKED_PATHS: ContextVar[frozenset[Path]] = ContextVar("_HELD", default=frozenset())

#: What a file system without locks says (NFS without its lock service, some FUSE).
_LOCKING_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)


@contextmanager
def exclusive_lock(out: Path) -> Iterator[None]:
    """Hold an output, against other processes and other threads; whoever holds it already may hold it again.

    The lock is on ``.NAME.lock`` beside the output, which is taken away at the end. A killed process leaves the file, but no lock.

    Raises:
        OutputError: another run holds it, or the folder cannot be written.
    """
    place = canonical_path(out)
    if place in _LOCKED_PATHS.get():
        yield
        return
    file = place.with_name(f".{place.name}.lock")
    handle = _open_locked(file, out)
    token = _LOCKED_PATHS.set(_LOCKED_PATHS.get() | {place})
    try:
        yield
    finally:
        _LOCKED_PATHS.reset(token)
        with suppress(OSError):
            file.unlink()  # while it is held: who opened it before finds that it has no name any more
        os.close(handle)


def _open_locked(file: Path, out: Path) -> int:
    """An open file that this process alone has locked."""
    while True:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise OutputError(
                f"{file.parent} cannot be written: {error.strerror}. Give another folder to --out."
            ) from error
        try:
            _lock(handle, out)
            if _is_same_file(handle, file):
                _write_owner(handle)
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # its last owner took the file away meanwhile


def _lock(handle: int, out: Path) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        owner = os.read(handle, 200).decode(errors="replace").strip() or "another process"
        raise OutputError(
            f"Another run is writing {out} ({owner}). Wait for its end, or give another --out."
        ) from error
    except OSError as error:
        if error.errno not in _LOCKING_UNSUPPORTED:
            raise OutputError(
                f"{out} cannot be locked: {error.strerror}. Give another folder to --out."
            ) from error
        warnings.warn(
            f"The file system of {out} has no locks: two runs that write there at once are not told apart.",
            stacklevel=3,
        )


def _write_owner(handle: int) -> None:
    with suppress(OSError):  # a courtesy: a full disk is found out when there is something to lose
        os.ftruncate(handle, 0)
        os.write(handle, f"process {os.getpid()} on {socket.gethostname()}".encode())


def canonical_path(out: Path) -> Path:
    """The absolute name of an output, one for all ways to write it."""
    place = Path(os.path.abspath(out))
    return place.parent.resolve() / place.name


def _is_same_file(handle: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), file.stat())
    except FileNotFoundError:
        return False
