"""Files that are either whole or not there, and folders that one process works in at a time."""

import csv
import errno
import hashlib
import json
import math
import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from hashlib import blake2b
from itertools import count
from pathlib import Path

import numpy as np

try:
    import fcntl
except ImportError:  # Windows: nothing is locked there
    fcntl = None

LOCK = ".lock"
"""Name of the file by which a folder is locked."""
CHECKSUM = "checksum"
"""Key in records."""
FULL = 2**20
"""Bytes left on a disk that is as good as full."""
HOST = socket.gethostname()
ABANDONED = 86400
"""Age in seconds at which nobody writes a temporary file any more, on whatever machine."""


class CannotWriteError(OSError):
    """A result cannot be written; the next one most likely cannot either."""


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Give a temporary path of the same file name, and rename it to ``target`` when the block ends without error.

    The temporary file lies in a hidden folder beside the target: same file system, same file ending (libraries choose
    the format by it), and never taken for a case by nnU-Net if the process is killed. What a killed process has left is
    removed when the same file is written again.

    Raises:
        CannotWriteError: the file is named; what was there before is kept.
    """
    target = Path(target)
    try:
        with _temporary_folder(target) as folder:
            temporary = folder / target.name
            yield temporary
            with temporary.open("rb+") as written:  # Windows wants it writable
                os.fsync(written.fileno())  # the content before the name, also where the power fails
            os.replace(temporary, target)  # noqa: PTH105, the atomic one by name
    except (OSError, RuntimeError) as error:  # torch, blosc2 and ITK raise the latter
        raise CannotWriteError(
            f"cannot write {target}: {_cause(error, target.parent)}; what was there before is kept"
        ) from error


def _cause(error: Exception, folder: Path) -> str:
    with suppress(OSError):
        if not isinstance(error, PermissionError) and shutil.disk_usage(folder).free < FULL:
            return "the disk is full"
    return (isinstance(error, OSError) and error.strerror) or main_line(error)


@contextmanager
def _temporary_folder(target: Path) -> Iterator[Path]:
    """Make a hidden folder for one write of a file, and remove those of processes that are gone."""
    of_file, of_host = (blake2b(text.encode(), digest_size=4).hexdigest() for text in (target.name, HOST))
    for leftover in target.parent.glob(f".partial-{of_file}-*"):
        with suppress(OSError):
            # between machines there may be no locks
            if leftover.name.startswith(f".partial-{of_file}-{of_host}-") or _age(leftover) > ABANDONED:
                with lock(leftover / LOCK) as held:
                    if held:
                        shutil.rmtree(leftover, ignore_errors=True)
                leftover.rmdir()  # NFS keeps the lock's file as long as it is open
    with ExitStack() as stack:
        while True:
            folder = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".partial-{of_file}-{of_host}-"))
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            with suppress(BlockingIOError, FileNotFoundError):  # another process has just taken it for a leftover
                stack.enter_context(lock(folder / LOCK))
                break
        yield folder


def _age(folder: Path) -> float:
    return time.time() - max(entry.stat().st_mtime for entry in (folder, *folder.iterdir()))


@contextmanager
def lock(file: Path) -> Iterator[bool]:
    """Create a file and lock it, and remove it at the end; the lock ends with the process, however that ends.

    Yields:
        Whether it is locked; False where the system has no locks.

    Raises:
        BlockingIOError: another process has locked it; the file says which.
    """
    with file.open("ab", buffering=0) as stream:
        try:
            # a record lock: it works between machines on NFS, and forked worker processes do not inherit it
            fcntl and fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = fcntl is not None
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise BlockingIOError(*error.args, str(file)) from error
            held = False
        if held and not os.fstat(stream.fileno()).st_nlink:
            raise BlockingIOError(errno.EAGAIN, "removed by the process that had locked it", str(file))
        if held:
            with suppress(OSError):  # a full disk can be locked, too
                stream.truncate(0)
                stream.write(f"process {os.getpid()} on {HOST}, since {time.strftime('%Y-%m-%d %H:%M:%S')}".encode())
        try:
            yield held
        finally:
            if held:
                file.unlink(missing_ok=True)


@contextmanager
def alone_in(folder: Path, *, wait: bool = True) -> Iterator[None]:
    """Let one process at a time work in a folder.

    Args:
        folder: has to be there.
        wait: for the other process; says so, and again every ten minutes.

    Raises:
        RuntimeError: another process works there, and this one is not to wait.
        CannotWriteError: the folder cannot be written to, or another user has locked it.
    """
    file = folder / LOCK
    with ExitStack() as stack:
        for attempt in count():
            try:
                stack.enter_context(lock(file))
                break
            except BlockingIOError:
                other = f"another process works in {folder} ({_content(file)})"
                if not wait:
                    raise RuntimeError(
                        f"{other}: wait until it has ended, or stop it first; if there is no such process, "
                        f"delete {file}"
                    ) from None
                if attempt % 600 == 0:
                    print(f"{other}; waiting until it has ended", flush=True)
                time.sleep(1)
            except OSError as error:
                theirs = f"; locked there: {_content(file)}" if file.exists() else ""
                raise CannotWriteError(f"cannot write {file}: {_cause(error, folder)}{theirs}") from error
        yield


def _content(file: Path) -> str:
    with suppress(OSError):
        return file.read_text(encoding="utf-8", errors="replace") or "it cannot say more, its disk is full"
    return "it has just ended"


def write_text(target: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with atomic_path(target) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(target: Path, content: dict) -> None:
    """Write a JSON file, whole or not at all."""
    write_text(target, json.dumps(content, indent=2) + "\n")


def write_record(target: Path, record: dict) -> None:
    """Write a JSON file that ``read_record`` can tell to be as it was written."""
    write_json(target, {**record, CHECKSUM: _checksum(record)})


def read_record(file: Path) -> dict:
    """Read what ``write_record`` wrote; empty where there is nothing, or where it is damaged."""
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        checksum = record.pop(CHECKSUM, None)  # earlier versions wrote none
    except (OSError, ValueError, AttributeError, TypeError):
        return {}
    return record if checksum in (None, _checksum(record)) else {}


def read_arrays(file: Path) -> dict[str, np.ndarray]:
    """Read an NPZ file; empty where there is nothing, or where it is damaged: what is read then may be anything."""
    try:
        with np.load(file) as content:
            return dict(content)
    except Exception:
        return {}


def digest_of(file: Path) -> str:
    """Return a digest of a file's content, by which a later run knows it again."""
    digest = hashlib.blake2b(digest_size=16)
    with file.open("rb") as stream:
        while part := stream.read(2**20):
            digest.update(part)
    return digest.hexdigest()


def _checksum(record: dict) -> str:
    return blake2b(json.dumps(record, sort_keys=True).encode(), digest_size=8).hexdigest()


def without_nan(value):
    """Return nested figures as JSON has them: None for nan."""
    if isinstance(value, dict):
        return {name: without_nan(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [without_nan(entry) for entry in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def write_csv(target: Path, header: Sequence[str], rows: Iterable[Sequence]) -> None:
    """Write a CSV file, whole or not at all; None becomes an empty cell."""
    with atomic_path(target) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows((header, *rows))


def main_line(error: Exception) -> str:
    """Return in one line what an error says: of ITK's, all behind its own file names and addresses."""
    text = str(error).strip() or type(error).__name__
    own = re.split(r"ERROR: (?:\w+\(0x[0-9a-f]+\): )?", text, maxsplit=1)
    lines = own[1].splitlines() if len(own) == 2 else text.splitlines()[:1]
    return "; ".join(line.strip() for line in lines if line.strip())
