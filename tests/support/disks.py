"""Small and unwritable disks; runs with simulated failures."""

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
    subprocess.run(["umount", str(disk)], capture_output=True)


def fill(disk):
    with open(disk / "others", "wb", buffering=0) as file:
        for size in (1 << 16, 1 << 10, 1):
            try:
                while True:
                    file.write(b"0" * size)
            except OSError:
                continue


class Trouble:
    """Makes `cause` happen before a checkpoint is written for the n-th time.

    What the run ends in is written to the file `said`.
    """

    def __init__(self, number, cause, said):
        self.number, self.cause, self.said, self.seen = number, cause, said, 0

    def __call__(self):
        from vae.runs.run import Run

        save, train = Run._save, Run.train

        def counted_save(run, name):
            self.seen += 1
            if self.seen == self.number:
                self.cause()
            save(run, name)

        def told(run):
            try:
                return train(run)
            except Exception as error:
                self.said.write_text(f"{type(error).__name__}: {error}")
                raise

        Run._save, Run.train = counted_save, told
