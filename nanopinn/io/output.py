"""One writer at a time for one output, by a lock of the kernel: it ends with its process, however
that ends.

Outputs that one run at a time claims, and that are whole or absent whatever ends the run.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

from nanopinn.errors import OutputError
from nanopinn.io.volumes import sync_folder

try:
    import fcntl
except ImportError:  # Windows has none
    fcntl = None  # type: ignore[assignment]

#: Outputs that the running code holds: what claims an output and what writes it need not know of
#: each other.
_LOCKED_PATHS: ContextVar[frozenset[Path]] = ContextVar("_HELD", default=frozenset())

#: What a file system without locks says (NFS without its lock service, some FUSE).
_LOCKING_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)


@contextmanager
def exclusive_lock(out: Path) -> Iterator[None]:
    """Hold an output, against other processes and other threads; whoever holds it already may hold
    it again.

    The lock is on ``.NAME.lock`` beside the output, which is taken away at the end. A killed
    process leaves the file, but no lock.

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
            # while it is held: who opened it before finds that it has no name any more
            file.unlink()
        os.close(handle)


def _open_locked(file: Path, out: Path) -> int:
    """An open file that this process alone has locked."""
    while True:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise OutputError(
                f"{file.parent} cannot be written: {error.strerror}. Choose another folder for"
                " `out`."
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
            f"Another run is writing {out} ({owner}). Wait for its end, or choose another `out`."
        ) from error
    except OSError as error:
        if error.errno not in _LOCKING_UNSUPPORTED:
            raise OutputError(
                f"{out} cannot be locked: {error.strerror}. Choose another folder for `out`."
            ) from error
        warnings.warn(
            f"The file system of {out} has no locks: two runs that write there at once are not told"
            " apart.",
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


@contextmanager
def reserve_output_folder(out: Path, *, overwrite: bool) -> Iterator[None]:
    """Hold an output folder, before anything is computed and until it is written; what killed runs
    left beside it is cleared.

    Raises:
        OutputError: it holds something and ``overwrite`` is false, it is no result, another run is
            writing it, or its parent cannot be written.
    """
    with exclusive_lock(out):
        _remove_leftovers(out)
        _check_overwrite(out, overwrite)
        yield


@contextmanager
def atomic_output_folder(out: Path, *, overwrite: bool) -> Iterator[Path]:
    """A folder to fill under a temporary name, renamed into place at the end.

    Raises:
        OutputError: as :func:`claimed`, or it cannot be written.
    """
    with reserve_output_folder(out, overwrite=overwrite):
        part = _beside(out, "part")
        try:
            part.mkdir()
            yield part
            _flush_folder_tree(part)
            _replace_folder(part, out)
        except OSError as error:
            raise OutputError(f"{out} cannot be written: {error.strerror}.") from error
        finally:
            shutil.rmtree(part, ignore_errors=True)


@contextmanager
def reserve_output_file(out: Path, *, overwrite: bool) -> Iterator[None]:
    """Hold an output file, as :func:`claimed` does a folder.

    Raises:
        OutputError: it exists and ``overwrite`` is false, or as :func:`claimed`.
    """
    with exclusive_lock(out):
        _remove_leftovers(out)
        if out.exists() and not overwrite:
            raise OutputError(
                f"{out} exists already. Choose another file for `out`, or set `overwrite`."
            )
        yield


def _check_overwrite(out: Path, overwrite: bool) -> None:
    if _is_absent_or_empty(out):
        return
    if not overwrite:
        raise OutputError(
            f"{out} exists already. Choose another folder for `out`, or set `overwrite`."
        )
    if not (out / "provenance.json").is_file():
        raise OutputError(
            f"{out} is not a result folder and will not be overwritten. Choose another"
            " folder for `out`."
        )


def _beside(out: Path, what: str) -> Path:
    place = canonical_path(out)
    return place.with_name(f".{place.name}.{what}-{os.getpid()}")


def _replace_folder(part: Path, out: Path) -> None:
    """Rename: at every moment the old result or the new one is whole on the disk, under its own
    name or one that is recognised.
    """
    old = _beside(out, "old")
    replaces = out.exists()
    if replaces:
        os.replace(out, old)
    try:
        os.replace(part, out)
    except BaseException:
        if replaces:
            os.replace(old, out)
        raise
    sync_folder(part.parent)
    if replaces:
        os.replace(old, part)  # from here on it may be half of a folder
        _remove(part)


def _flush_folder_tree(folder: Path) -> None:
    """Bring the names of all that was written to the disk; the files themselves are there."""
    for place, _, _ in os.walk(folder, topdown=False):
        sync_folder(Path(place))


def _remove_leftovers(out: Path) -> None:
    """Take away what killed runs left beside an output; no living one has anything there, because
    this one holds the lock.

    A result that was renamed aside and not yet replaced is put back.
    """
    place = canonical_path(out)
    left = re.compile(rf"\.{re.escape(place.name)}\.(?:(part|old)-\d+|[a-z0-9_]{{8}}\.part)")
    try:
        for path in sorted(place.parent.iterdir()):
            found = left.fullmatch(path.name)
            if found and found[1] == "old" and _is_absent_or_empty(place):
                os.replace(path, place)
            elif found:
                _remove(path)
    except OSError as error:
        raise OutputError(
            f"{place.parent} cannot be cleared of what a killed run left: {error.strerror}."
        ) from error


def _is_absent_or_empty(place: Path) -> bool:
    return not place.exists() or (place.is_dir() and not any(place.iterdir()))


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
