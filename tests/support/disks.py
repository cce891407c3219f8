"""Small and unwritable disks."""

import shutil
import subprocess

import pytest


@pytest.fixture
def small_disk(tmp_path):
    """Mounts a disk of so many bytes, where this user may: `small_disk(size)` is its folder."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def mount(size, *options):
        words = ",".join([f"size={size}", *options])
        command = ["mount", "-t", "tmpfs", "-o", words, "tmpfs", str(disk)]
        if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("may not mount")
        return disk

    yield mount
    subprocess.run(["umount", "--lazy", str(disk)], capture_output=True)  # a log may be open


def fill(disk):
    with open(disk / "others", "wb", buffering=0) as file:
        for size in (1 << 16, 1 << 10, 1):
            try:
                while True:
                    file.write(b"0" * size)
            except OSError:
                continue
