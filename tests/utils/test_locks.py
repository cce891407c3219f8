"""Locks on disks that do not support the system's locks."""

import errno
import logging
import os
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.tiny_source import wait_until
from vae.data.celeba.download import download
from vae.runs.run_dir import RunFolderInUseError, is_locked, run_lock
from vae.utils.locks import fcntl


@pytest.fixture(autouse=True, params=[errno.ENOLCK, errno.EACCES])
def no_flock(request, monkeypatch):
    def fail(*_):
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(fcntl, "flock", fail)


def test_a_disk_without_flock_locks_by_a_file(tmp_path):
    with run_lock(tmp_path):
        assert is_locked(tmp_path)
        with pytest.raises(RunFolderInUseError, match=rf"process {os.getpid()} on the host "):
            run_lock(tmp_path).__enter__()
    assert not is_locked(tmp_path)
    assert list(tmp_path.iterdir()) == []


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


def test_a_lock_file_of_a_dead_process_of_this_host_does_not_count(tmp_path):
    (tmp_path / ".lock").touch()  # left by a host with flock
    (tmp_path / ".lock.soft").write_text(f"{2**22 + 1}\n{socket.gethostname()}\n")
    assert not is_locked(tmp_path)
    with run_lock(tmp_path):
        assert is_locked(tmp_path)


def test_a_wait_for_another_hosts_download_is_said(tmp_path, monkeypatch, caplog):
    """Nobody would know why the start hangs, or which file to remove."""
    monkeypatch.setattr("torchvision.datasets.CelebA.file_list", [])
    (left := tmp_path / ".download.lock.soft").write_text("17\nnode-7\n")
    with caplog.at_level(logging.INFO), ThreadPoolExecutor() as threads:
        waiting = threads.submit(download, tmp_path)
        try:
            wait_until(lambda: f"process 17 on the host node-7, as {left} says" in caplog.text, 20)
        finally:
            left.unlink()
        waiting.result(20)
