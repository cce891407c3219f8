"""Start the servers of a cluster on this machine, wait for them, and stop them."""

import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import contextmanager

import pytest

START = 30  # seconds that a server may take to answer, on a busy machine


def find_commands(names, remedy, folders=("/usr/sbin",)):
    """Return the path of each command; give up without them.

    Args:
        remedy: the command that installs them.
        folders: searched after PATH.
    """
    path = os.pathsep.join([os.environ["PATH"], *map(str, folders)])
    found = {name: shutil.which(name, path=path) for name in names}
    if missing := [name for name, command in found.items() if command is None]:
        give_up(f"no {', '.join(missing)}: {remedy}")
    return found


def give_up(why):
    """Skip the test, or fail it in CI, where nothing is to be missing."""
    (pytest.fail if os.environ.get("REQUIRE_CLUSTER") else pytest.skip)(why)


def free_port():
    """Return a port of 127.0.0.1 on which no server listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextmanager
def running(command, log, stop=signal.SIGTERM, **options):
    """Run a server in the foreground and stop it at the end.

    Args:
        log: file for its output.
        stop: the signal that ends it.
    """
    with log.open("w") as output:
        server = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, **options)
    try:
        yield server
    finally:
        server.send_signal(stop)
        try:
            server.wait(START)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def wait_for(command, expected, logs, **options):
    """Call a command until it prints the expected text.

    Args:
        logs: files of the servers' output, for the message of a failure.
    """
    deadline = time.monotonic() + START
    while True:
        done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
        if expected in done.stdout:
            return
        if time.monotonic() > deadline:
            pytest.fail(done.stderr + "".join(log.read_text() for log in logs))
        time.sleep(0.1)
