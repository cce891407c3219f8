"""Locks on disks that do not support the system's locks."""

import errno
import os
import socket

import pytest

from vae.runs.run_dir import RunFolderInUseError, is_locked, run_lock
from vae.utils.locks import fcntl


@pytest.fixture(params=[errno.ENOLCK, errno.EACCES])
def no_flock(request, monkeypatch):
    def fail(*_):
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(fcntl, "flock", fail)


@pytest.mark.usefixtures("no_flock")
def test_a_disk_without_flock_locks_by_a_file(tmp_path):
    with run_lock(tmp_path):
        assert is_locked(tmp_path)
        with pytest.raises(RunFolderInUseError, match=rf"process {os.getpid()} on the host "):
            run_lock(tmp_path).__enter__()
    assert not is_locked(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("no_flock")
def test_a_lock_file_of_another_host_is_named_with_its_remedy(tmp_path):
    left = tmp_path / ".lock.soft"
    left.write_text("17\nnode-\x1b7\n")
    words = rf"process 17 on the host node-\\x1b7, as {left} says; if .* remove this file"
    with pytest.raises(RunFolderInUseError, match=words):
        run_lock(tmp_path).__enter__()
    assert is_locked(tmp_path)
    left.unlink()
    with run_lock(tmp_path):
        pass


@pytest.mark.usefixtures("no_flock")
def test_a_lock_file_of_a_dead_process_of_this_host_does_not_count(tmp_path):
    (tmp_path / ".lock").touch()  # left by a host with flock
    (tmp_path / ".lock.soft").write_text(f"{2**22 + 1}\n{socket.gethostname()}\n")
    assert not is_locked(tmp_path)
    with run_lock(tmp_path):
        assert is_locked(tmp_path)
