import fcntl
import json
import os
import socket
import subprocess
import sys
import time
from contextlib import suppress

import pytest

from nnunetv2_airway.io import files
from nnunetv2_airway.io.files import (
    CannotWriteError,
    alone_in,
    atomic_path,
    lock,
    read_record,
    write_json,
    write_record,
)


def test_a_finished_file_replaces_the_old_one_and_nothing_else_stays(tmp_path):
    target = tmp_path / "case.nii.gz"
    target.write_text("old")
    with atomic_path(target) as temporary:
        assert temporary.name == target.name
        temporary.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("error", [RuntimeError("unexpected pos 576 vs 534"), OSError(28, "No space left on device")])
def test_a_failure_leaves_the_old_file_and_names_it(tmp_path, error):
    target = tmp_path / "case.nii.gz"
    target.write_text("old")
    with (
        pytest.raises(OSError, match=r"cannot write .*case\.nii\.gz: (unexpected|No space).*kept"),
        atomic_path(target) as temporary,
    ):
        temporary.write_text("half")
        raise error
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_what_a_killed_process_has_left_is_removed_but_not_what_a_living_one_writes(tmp_path):
    target, other = tmp_path / "case.json", tmp_path / "other.json"
    script = (
        "import os, sys, time; from pathlib import Path; from nnunetv2_airway.io.files import atomic_path\n"
        "with atomic_path(Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_text('half'); print('writing', flush=True); sys.stdin.read()\n"
        "    temporary.write_text('whole')"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", script, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for file in (target, target, other)
    ]
    for process in processes:
        assert process.stdout.readline() == b"writing\n"
    for process in processes[1:]:
        process.kill()
        process.wait()
    assert len(list(tmp_path.glob(".partial-*"))) == 3
    write_json(target, {})
    assert len(list(tmp_path.glob(".partial-*"))) == 2, "that of the living one, and that of another file"
    processes[0].communicate()
    assert processes[0].returncode == 0 and target.read_text() == "whole"
    write_json(other, {})
    assert sorted(tmp_path.iterdir()) == [target, other]


def test_what_a_container_has_left_is_removed_when_nobody_can_write_it_any_more(tmp_path, monkeypatch):
    target, other = tmp_path / "case.json", tmp_path / "other.json"
    monkeypatch.setattr(files, "HOST", "a container")
    for file in (target, other):
        with monkeypatch.context() as killed, suppress(KeyboardInterrupt):
            killed.setattr(files.shutil, "rmtree", lambda *_, **__: None)
            with atomic_path(file) as temporary:
                temporary.write_text("half")
                raise KeyboardInterrupt
    left = sorted(tmp_path.glob(".partial-*"))
    assert len(left) == 2
    monkeypatch.setattr(files, "HOST", "the next one")
    write_json(target, {})
    assert sorted(tmp_path.glob(".partial-*")) == left, "it may be written at this moment"
    long_ago = time.time() - 2 * files.ABANDONED
    for folder in left:
        for entry in (*folder.iterdir(), folder):
            os.utime(entry, (long_ago, long_ago))
    write_json(target, {})
    write_json(other, {})
    assert sorted(tmp_path.iterdir()) == [target, other]


def test_the_content_is_on_the_disk_before_its_name(tmp_path, monkeypatch):
    done = []

    def fsync(descriptor):
        assert fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR  # which Windows asks for
        done.append(os.fstat(descriptor).st_size)

    replace = os.replace
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", lambda *names: done.append("named") or replace(*names))
    write_json(tmp_path / "a.json", {})
    assert done == [3, "named"]


def test_records_that_are_not_as_they_were_written_count_for_nothing(tmp_path):
    file, record = tmp_path / "a.json", {"case": "a", "figures": [1.25, None, "x"], "nested": {"1": 0.1}}
    write_record(file, record)
    assert read_record(file) == record
    text = file.read_text()
    for place in range(len(text)):
        file.write_text(text[:place] + ("7" if text[place] != "7" else "8") + text[place + 1 :])
        found = read_record(file)
        assert found == {} or {name: found.get(name) for name in record} == record
        file.write_text(text[:place])
        assert read_record(file) == {} or place == len(text) - 1
    file.write_text(text.replace("1.25", "1.5"))
    assert read_record(file) == {}
    assert read_record(tmp_path / "none.json") == {}


def test_one_process_at_a_time_works_in_a_folder(tmp_path):
    script = (
        "import sys; from pathlib import Path; from nnunetv2_airway.io.files import alone_in\n"
        "with alone_in(Path(sys.argv[1]), wait=sys.argv[2] == 'wait'):\n    print('in', flush=True); sys.stdin.read()"
    )

    def start(wait):
        line = [sys.executable, "-c", script, str(tmp_path), wait]
        return subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    first = start("wait")
    assert first.stdout.readline() == "in\n"
    refused = start("no").communicate(timeout=60)[1]
    who = f"another process works in {tmp_path} (process {first.pid} on {socket.gethostname()}, since 20"
    assert who in refused and f"if there is no such process, delete {tmp_path / '.lock'}" in refused
    second = start("wait")
    assert who in second.stdout.readline()
    first.kill()  # a lock does not outlive its process
    assert second.stdout.readline() == "in\n"
    second.communicate(timeout=60)


def test_a_lock_that_its_process_has_removed_is_none(tmp_path, monkeypatch):
    """Between opening the file and locking it, the process that had locked it may end."""
    lockf = fcntl.lockf
    file = tmp_path / ".lock"
    monkeypatch.setattr(fcntl, "lockf", lambda *arguments: file.unlink() or lockf(*arguments))
    with pytest.raises(BlockingIOError, match="removed by the process"), lock(file):
        pass


def test_a_lock_of_another_user(tmp_path, monkeypatch):
    (tmp_path / ".lock").write_text("process 7 on far, since yesterday")

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(files, "lock", refuse)
    with (
        pytest.raises(CannotWriteError, match=r"\.lock: Permission denied; locked there: process 7 on far"),
        alone_in(tmp_path),
    ):
        pass


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[enforce fail] . unexpected pos 576\nframe #0: c10", "[enforce fail] . unexpected pos 576"),
        ("Exception thrown in SimpleITK R: /a/b.cxx:90:\nitk::ERROR: no space", "no space"),
        (
            "Exception thrown in SimpleITK R: /b.cxx:77:\nITK ERROR: Image(0x56): Zero-valued spacing.\nRefusing it\n",
            "Zero-valued spacing.; Refusing it",
        ),
        ("", "RuntimeError"),
    ],
)
def test_the_line_that_says_the_cause(text, line):
    assert files.main_line(RuntimeError(text)) == line


def test_write_json(tmp_path):
    write_json(tmp_path / "a.json", {"a": [1, 2]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": [1, 2]}
