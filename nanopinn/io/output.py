"""Output folders and files: written by one run at a time, and complete or absent.

One run at a time has an output, by a file lock that the system releases when the process ends.
Output is written under a temporary name and renamed.
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

#: Outputs that the running code has locked, so that nested calls for one output succeed.
_LOCKED_PATHS: ContextVar[frozenset[Path]] = ContextVar("_LOCKED_PATHS", default=frozenset())

#: Errors of a file system without locks (NFS without its lock service, some FUSE).
_LOCKING_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)


@contextmanager
def exclusive_lock(out: Path) -> Iterator[None]:
    """Lock an output against other processes and threads; nested calls succeed.

    The lock is on ``.NAME.lock`` beside the output, which is deleted at the end. A killed process
    leaves the file but no lock.

    Args:
        out: output file or folder.

    Raises:
        OutputError: another run has the lock, or the folder cannot be written.
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
            # before the lock ends: a process that has opened it notices that it is deleted
            file.unlink()
        os.close(handle)


def _open_locked(file: Path, out: Path) -> int:
    """Open a file and lock it for this process."""
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
        os.close(handle)  # its last owner deleted the file meanwhile


def _lock(handle: int, out: Path) -> None:
    """Lock an open file, or warn where the file system has no locks."""
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
            f"The file system of {out} has no locks: two runs that write there at the same time are"
            " not detected.",
            stacklevel=3,
        )


def _write_owner(handle: int) -> None:
    with suppress(OSError):  # for messages only: a full disk is reported when results are written
        os.ftruncate(handle, 0)
        os.write(handle, f"process {os.getpid()} on {socket.gethostname()}".encode())


def canonical_path(out: Path) -> Path:
    """Absolute path of an output, with links of its folder resolved."""
    place = Path(os.path.abspath(out))
    return place.parent.resolve() / place.name


def _is_same_file(handle: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), file.stat())
    except FileNotFoundError:
        return False


@contextmanager
def reserve_output_folder(out: Path, *, overwrite: bool) -> Iterator[None]:
    """Reserve an output folder before the computation until it is written.

    Files that killed runs left beside it are deleted.

    Args:
        out: the folder.
        overwrite: whether an earlier result there may be replaced.

    Raises:
        OutputError: it is not empty and ``overwrite`` is false, it is not a result, another run is
            writing it, or its parent cannot be written.
    """
    with exclusive_lock(out):
        _remove_leftovers(out)
        _check_overwrite(out, overwrite)
        yield


@contextmanager
def atomic_output_folder(out: Path, *, overwrite: bool) -> Iterator[Path]:
    """Make a folder under a temporary name and rename it at the end.

    Args:
        out: final name of the folder.
        overwrite: whether an earlier result there may be replaced.

    Yields:
        The temporary folder.

    Raises:
        OutputError: as :func:`reserve_output_folder`, or it cannot be written.
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
    """Reserve an output file, as :func:`reserve_output_folder` does a folder.

    Args:
        out: the file.
        overwrite: whether an existing file may be replaced.

    Raises:
        OutputError: it exists and ``overwrite`` is false, another run is writing it, or its parent
            cannot be written.
    """
    with exclusive_lock(out):
        _remove_leftovers(out)
        if out.exists() and not overwrite:
            raise OutputError(
                f"{out} exists already. Choose another file for `out`, or set `overwrite`."
            )
        yield


def _check_overwrite(out: Path, overwrite: bool) -> None:
    """Refuse a folder that must not be replaced."""
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
    """Hidden name of this process beside an output."""
    place = canonical_path(out)
    return place.with_name(f".{place.name}.{what}-{os.getpid()}")


def _replace_folder(part: Path, out: Path) -> None:
    """Replace a folder so that at any moment the old or the new result is complete on the disk.

    It then has its own name or one that :func:`_remove_leftovers` restores.
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
        os.replace(old, part)  # from here on it may be incomplete
        _remove(part)


def _flush_folder_tree(folder: Path) -> None:
    """Flush all folders to the disk; the files themselves are flushed already."""
    for place, _, _ in os.walk(folder, topdown=False):
        sync_folder(Path(place))


def _remove_leftovers(out: Path) -> None:
    """Delete what killed runs left beside an output, and restore a result not yet replaced.

    No running process has files there, because this one has the lock.
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
            f"Files of a killed run in {place.parent} cannot be deleted: {error.strerror}."
        ) from error


def _is_absent_or_empty(place: Path) -> bool:
    return not place.exists() or (place.is_dir() and not any(place.iterdir()))


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
