"""Out of memory, and many runs in one process."""

import os
import sys
from pathlib import Path
from unittest import mock

import pytest
import torch

from tests.support.killed_runs import CONTEXT
from tests.support.run_files import state_of
from tests.support.sweep_processes import finish as finish_sweep
from tests.support.sweep_processes import start, summaries, wait_until
from tests.support.train_command import TINY, call_train
from vae.runs.compose import compose
from vae.runs.failures import is_out_of_memory, translate_resource_errors
from vae.runs.run_dir import read_summary
from vae.training.trainer import Trainer
from vae.utils.errors import UserError

RUN = [*TINY, "hydra.run.dir=run"]


@pytest.mark.parametrize(
    ("error", "lacks"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ..."), True),
        (RuntimeError("could not create a primitive"), True),  # oneDNN
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (OSError("out of memory"), False),
    ],
)
def test_out_of_memory_errors_are_recognised(error, lacks, tmp_path):
    config = compose(["data.batch_size=48", "trainer.precision=fp32"])
    with (
        pytest.raises(UserError if lacks else type(error)) as caught,
        translate_resource_errors(config, tmp_path),
    ):
        raise error
    assert is_out_of_memory(error) == lacks
    if lacks:
        text = str(caught.value)
        assert "out of memory at step 0: data.batch_size=48 images of 64 px" in text
        assert "Try data.batch_size=24 or smaller model.channels or trainer.precision=bf16" in text
    else:
        assert caught.value is error


def test_out_of_memory_in_a_step(tmp_path, monkeypatch, capsys):
    """One message with what to change, and the last good checkpoint."""
    update = Trainer.train_step

    def greedy(trainer, images):
        if trainer.step < 5:
            return update(trainer, images)
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    with mock.patch.object(Trainer, "train_step", greedy):
        code, out, err = call_train(RUN, tmp_path, monkeypatch, capsys)
    assert code == 1
    assert "Traceback" not in out + err
    assert "out of memory at step 5: data.batch_size=16 images of 16 px" in err
    assert f"The last good checkpoint is {tmp_path}/run/checkpoints/last.pt." in err
    summary = read_summary(tmp_path / "run")
    assert summary["status"] == "failed"
    assert "Try data.batch_size=8 or smaller model.channels" in summary["error"]
    assert state_of(tmp_path / "run")["step"] == 4


def test_out_of_memory_in_the_validation(tmp_path, monkeypatch, capsys):
    """Its batches are not those of data.batch_size, which is not advised to be changed."""
    with mock.patch(
        "vae.training.metrics.evaluate_split", side_effect=lambda *_, **__: torch.empty(1 << 60)
    ):
        code, out, err = call_train(RUN, tmp_path, monkeypatch, capsys)
    assert code == 1
    assert "Traceback" not in out + err
    assert "out of memory validating at step 4: 128 images of 16 px" in err
    assert "Try smaller model.channels or trainer.precision=bf16. There is no checkpoint" in err
    assert "data.batch_size" not in read_summary(tmp_path / "run")["error"]


def runs_in_one_process(jobs, folder, connection):
    """Return (MiB of memory, threads, open files) after each run."""
    import gc

    from tests.support.killed_runs import composed, train

    for number in range(jobs):
        config = composed(f"seed={number}", "wandb.mode=offline")
        train(folder.with_name(f"run-{number}"), config)
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        held = pages * os.sysconf("SC_PAGE_SIZE") / 2**20
        connection.send(
            (held, len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd")))
        )


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells")
def test_ten_runs_in_one_process_hold_no_more_than_two(folder):
    receiver, sender = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=runs_in_one_process, args=(10, folder, sender))
    process.start()
    sender.close()  # or nothing would say that the process has died
    held = [receiver.recv() for _ in range(10)]
    process.join()
    print(held)
    (memory, *counts), (memory_after_all, *counts_after_all) = held[1], held[-1]
    assert memory_after_all <= 1.1 * memory, held
    for after_two, after_all in zip(counts, counts_after_all, strict=True):
        assert after_all <= after_two + 2, held  # what is just ending is not what is left


def held_by(pid):
    """Its memory in MiB, and its threads; how many files are open depends on the moment."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20, len(os.listdir(f"/proc/{pid}/task"))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells")
def test_a_sweep_of_ten_runs_holds_no_more_than_one_of_two(tmp_path):
    """Neither the process that the user started nor the server that the runs are forked from.

    Both are looked at while another run trains: after the last one they report, and end.
    """
    process = start(["seed=range(11)", "sweep.name=s"], tmp_path)
    folder, held = tmp_path / "multirun" / "s", {}
    for number in (2, 10):
        wait_until(lambda: len(summaries(folder)) >= number, 300)  # noqa: B023
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        held[number] = [held_by(pid) for pid in (process.pid, *children)]
    code, out = finish_sweep(process)
    assert code == 0, out
    print(held)
    assert len(held[2]) == len(held[10]) > 1
    for (memory, threads), (memory_at_10, threads_at_10) in zip(held[2], held[10], strict=True):
        assert memory_at_10 <= 1.1 * memory, held
        assert threads_at_10 <= threads + 2, held
