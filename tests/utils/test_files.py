"""Reads and writes in untrusted folders: regular files, temporary names, links."""

import logging.config
import os
import socket

import pytest
import yaml

from vae.runs.compose import CONF
from vae.utils.errors import UserError, exit_with_error
from vae.utils.files import (
    open_regular,
    read_json,
    read_rows,
    read_text,
    read_yaml,
    reject_unsafe_entries,
    remove_unfinished,
    write_atomically,
    write_json,
    write_text_atomically,
)

DEAD = 2**22 + 1  # no process has such a number: Linux stops before


@pytest.fixture
def folder(tmp_path):
    """An empty folder, beside which other files may lie."""
    found = tmp_path / "folder"
    found.mkdir()
    return found


def test_temporary_names_cannot_be_foreseen(folder):
    names = set()
    for _ in range(20):
        write_atomically(folder / "a.json", lambda file: names.add(file.name) or file.touch())
    assert len(names) == 20
    assert all(name.startswith(f".a.json.{os.getpid()}.") for name in names)
    assert [file.name for file in folder.iterdir()] == ["a.json"]


def test_a_temporary_file_that_exists_is_not_written_to(folder, monkeypatch):
    monkeypatch.setattr("secrets.token_hex", lambda count: "0" * 2 * count)
    victim = folder / "victim"
    victim.write_text("mine")
    temporary = folder / f".a.json.{os.getpid()}.{'0' * 16}.tmp"
    for place in (temporary.symlink_to, temporary.hardlink_to):
        place(victim)
        with pytest.raises(FileExistsError):
            write_text_atomically(folder / "a.json", "theirs")
        assert victim.read_text() == "mine"
        temporary.unlink(missing_ok=True)


def test_a_link_in_the_place_of_the_file_is_replaced(folder):
    victim = folder / "victim"
    victim.write_text("mine")
    for name in ("a.json", "before.json"):
        (folder / name).symlink_to(victim)
    write_atomically(folder / "a.json", lambda file: file.write_text("{}"), "before.json")
    write_json(folder / "a.json", {"a": 1})
    assert read_json(folder / "a.json") == {"a": 1}
    assert not (folder / "a.json").is_symlink()
    assert victim.read_text() == "mine"


def test_only_the_temporary_files_of_dead_processes_are_removed(folder):
    (folder / "checkpoints").mkdir()
    living = [f".a.{os.getpid()}.{'0' * 16}.tmp", f".a.{os.getpid()}.tmp", "a.tmp", ".a.tmp"]
    dead = [f".a.{DEAD}.{'0' * 16}.tmp", f".a.{DEAD}.tmp", f".a.{'9' * 30}.tmp"]
    for name in (*living, *dead):
        (folder / "checkpoints" / name).touch()
    remove_unfinished(folder)
    assert sorted(file.name for file in (folder / "checkpoints").iterdir()) == sorted(living)


def test_only_regular_files_are_read(folder, monkeypatch):
    os.mkfifo(folder / "pipe")
    monkeypatch.chdir(folder)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket")  # a path may have 107 bytes
    for path in (folder / "pipe", folder / "socket", folder, "/dev/zero", folder / "none"):
        with pytest.raises(OSError, match=r"not a regular file|No such|device or address"):
            open_regular(path)
    assert read_json(folder / "pipe") == {}


def test_large_files_are_not_read(folder):
    sparse = folder / "sparse"
    sparse.touch()
    os.truncate(sparse, 1 << 32)
    for read in (read_text, read_yaml, lambda path: open_regular(path, 1000)):
        with pytest.raises(OSError, match="too large: 4,295 MB of at most"):
            read(sparse)
    assert read_json(sparse) == {}
    os.truncate(sparse, (1 << 32) + 1)
    with pytest.raises(OSError, match="too large: 4,295 MB of at most"):
        next(read_rows(sparse))


@pytest.mark.parametrize(
    "name", [".hidden/a", "a/b/c/d", "wandb/run-1/debug-core.log", "wandb/run-1/logs/debug.log"]
)
@pytest.mark.parametrize("target", ["../folder2", "/nowhere/x", "/", "/dev/null"])
def test_links_out_of_a_folder_are_refused(name, target, folder, tmp_path):
    (tmp_path / "folder2").mkdir()
    path = folder / name
    path.parent.mkdir(parents=True)
    path.symlink_to(target if target[0] == "/" else tmp_path / "folder2")
    with pytest.raises(UserError, match=f"{path}: is a link to .*, outside of {folder}"):
        reject_unsafe_entries(folder)
    reject_unsafe_entries(folder, "b(/.*)?")  # other entries of it
    path.unlink()
    path.symlink_to("nothing")  # within the folder
    reject_unsafe_entries(folder)


def test_rows_of_a_large_file_are_read(folder):
    """Past damaged lines, one larger than MAX_LINE among them."""
    path = folder / "metrics.jsonl"
    path.write_text('{"step": 1}\n[1]\n')
    os.truncate(path, (1 << 28) + 1)  # a hole: it takes no space
    with open(path, "a") as file:
        file.write('\n{"step": 2}\n{"ste')
    assert list(read_rows(path)) == [(f'{{"step": {n}}}\n', {"step": n}) for n in (1, 2)]


def test_an_error_that_ends_the_process_is_printable(capsys):
    with pytest.raises(SystemExit) as stop:
        exit_with_error("run\x1b[31m: failed")
    assert (stop.value.code, capsys.readouterr().err) == (1, "error: run\\x1b[31m: failed\n")


def test_links_of_submitit_stay_when_a_sweep_is_moved(folder):
    (folder / ".submitit").mkdir()
    link = folder / ".submitit" / ".submission_file_0123abc.sh"
    link.symlink_to("/elsewhere/sweep/.submitit/7/7_submission.sh")
    reject_unsafe_entries(folder)
    link.rename(folder / ".submission_file_0123abc.sh")
    with pytest.raises(UserError, match=r"is a link to"):
        reject_unsafe_entries(folder)


def test_log_records_have_one_line_each():
    configured = yaml.safe_load((CONF / "train.yaml").read_text())["hydra"]["job_logging"]
    config = logging.config.DictConfigurator({"version": 1})
    formatter = config.configure_formatter(configured["formatters"]["simple"])
    record = logging.LogRecord("vae", 20, "", 0, "%s: é", ("a\nb\x1b[31m\u2028.png",), None)
    assert formatter.format(record).endswith(r" a\nb\x1b[31m\u2028.png: é")
