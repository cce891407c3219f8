"""CelebA in its full size: what its lists take."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.celeba_stand_in import NUM
from tests.celeba_stand_in import names as all_names
from tests.cli import ROOT
from tests.data.celeba.standing_in import ATTRIBUTE_LIST, IMAGES, PARTITION, known

READ = """
import json, sys, time
from pathlib import Path
from tests.data.celeba.standing_in import source

def megabytes(which):  # of this process alone: ru_maxrss begins with its parent's
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{which}:")[1].split()[0]) / 1024

Path("/proc/self/clear_refs").write_text("5")  # VmHWM counts from here
before, started = megabytes("VmRSS"), time.monotonic()
faces = source(Path(sys.argv[1]))
ones = sum(int(faces.labels(split)["attributes"].values.sum()) for split in faces.sizes())
took = megabytes("VmHWM") - before, time.monotonic() - started
print(json.dumps([faces.sizes(), ones, *took]))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="tells memory on Linux")
def test_lists_of_full_size_take_little_memory(celeba_made, tmp_path):
    head, *lines = (celeba_made("official") / ATTRIBUTE_LIST).read_text().splitlines()[1:]
    tails = [line[10:] for line in lines]
    names = all_names(NUM)
    values = "".join(f"{name}{tails[n % 30]}\n" for n, name in enumerate(names))
    (tmp_path / ATTRIBUTE_LIST).write_text(f"{NUM}\n{head}\n{values}")
    splits = "".join(f"{name} {n * 3 // NUM}\n" for n, name in enumerate(names))
    (tmp_path / PARTITION).write_text(splits)
    (tmp_path / IMAGES).mkdir()
    shutil.copy(celeba_made("official") / IMAGES / names[0], tmp_path / IMAGES)

    done = subprocess.run(
        [sys.executable, "-c", READ, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    sizes, ones, megabytes, seconds = json.loads(done.stdout)
    assert set(sizes.values()) == {NUM // 3}
    whole, rest = divmod(NUM, 30)
    expected = known()["attributes"]
    assert ones == whole * expected.sum() + expected[:rest].sum()
    assert 10 < megabytes < 300
    assert seconds < 20
