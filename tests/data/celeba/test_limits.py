"""Time and memory of CelebA's lists at full size."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.celeba_shards import ATTRIBUTE_LIST, IMAGES, PARTITION, known
from tests.support.celeba_stand_in import NUM
from tests.support.celeba_stand_in import names as all_names
from tests.support.train_command import ROOT

READ = """
import json, sys, time
from pathlib import Path
from tests.support.celeba_shards import source

def megabytes(which):  # of this process alone: ru_maxrss begins with its parent's
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{which}:")[1].split()[0]) / 1024

Path("/proc/self/clear_refs").write_text("5")  # VmHWM counts from here
before, started = megabytes("VmRSS"), time.process_time()
faces = source(Path(sys.argv[1]))
labels = [faces.labels(split) for split in faces.sizes()]
took = megabytes("VmHWM") - before, time.process_time() - started
sums = {kind: sum(int(label[kind].values.sum()) for label in labels) for kind in labels[0]}
print(json.dumps([faces.sizes(), sums, *took]))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="tells memory on Linux")
def test_lists_of_full_size_take_little_time_and_memory(celeba_made, tmp_path):
    names = all_names(NUM)
    for file in (ATTRIBUTE_LIST, "identity_CelebA.txt", "list_landmarks_align_celeba.txt"):
        lines = (celeba_made("official") / file).read_text().splitlines(keepends=True)
        head, tails = lines[:-30], [line[10:] for line in lines[-30:]]
        values = (f"{name}{tails[n % 30]}" for n, name in enumerate(names))
        (tmp_path / file).write_text("".join([*head, *values]))
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
    sizes, sums, megabytes, seconds = json.loads(done.stdout)
    assert set(sizes.values()) == {NUM // 3}
    whole, rest = divmod(NUM, 30)
    assert sums == {kind: whole * v.sum() + v[:rest].sum() for kind, v in known().items()}
    assert 10 < megabytes < 300
    assert seconds < 6  # of the processor's time; half a second where nothing else goes on
