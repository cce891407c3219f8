"""A Slurm cluster of one node, which belongs to the user who runs the tests.

It has ports and a folder of its own, and leaves a Slurm of this machine alone: SLURM_CONF leads the
commands to it. It needs no root.
"""

import os
import pwd
import re
import shutil
import socket
import subprocess
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.support.cluster import find_commands, free_port, running, wait_for

COMMANDS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel", "sinfo")


@contextmanager
def slurm_cluster():
    """Start munged, slurmctld and slurmd; yield the environment of a shell that uses them."""
    commands = find_commands(COMMANDS, "apt install slurm-wlm munge")
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # short: sockets have paths of <= 107 bytes
    write_configuration(folder, commands["slurmd"])
    environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
    munged = [commands["munged"], "--foreground", "--force", f"--socket={folder}/munge.socket"]
    munged += [f"--{kind}-file={folder}/munge.{kind}" for kind in ("key", "pid", "seed", "log")]
    servers = {
        "munged": munged,
        "slurmctld": [commands["slurmctld"], "-D"],
        "slurmd": [commands["slurmd"], "-D"],
    }
    state = [commands["sinfo"], "--noheader", "--format=%T"]
    try:
        with ExitStack() as stack:
            for name, command in servers.items():
                stack.enter_context(running(command, folder / f"{name}.log", env=environment))
            wait_for(state, "idle", logs=folder.glob("*.log"), env=environment)
            try:
                yield environment
            finally:  # jobs outlive slurmd
                subprocess.run([commands["scancel"], f"--user={user_name()}"], env=environment)
                wait_for(state, "idle", logs=folder.glob("*.log"), env=environment)
    finally:
        shutil.rmtree(folder)


def write_configuration(folder, slurmd):
    """Write a cluster's configuration and key: one node with two CPUs and 4 GB."""
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "munge.key").chmod(0o600)
    (folder / "state").mkdir()
    (folder / "spool").mkdir()
    # Control groups need privileges. Slurm can do without since 23.02; before, it touches those
    # of version 1 only when a job is limited by them.
    version = subprocess.check_output([slurmd, "-V"], text=True)
    old = tuple(map(int, re.search(r"(\d+)\.(\d+)", version).groups())) < (23, 2)
    plugin = "cgroup/v1" if old else "disabled"
    (folder / "cgroup.conf").write_text(f"CgroupPlugin={plugin}\n")
    host = socket.gethostname().partition(".")[0]
    (folder / "slurm.conf").write_text(f"""\
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={free_port()}
SlurmdPort={free_port()}
SlurmUser={user_name()}
SlurmdUser={user_name()}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
KillWait=10
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=4000
PartitionName=main Nodes={host} Default=YES
""")


def user_name():
    """Return the name of the user who runs the tests."""
    return pwd.getpwuid(os.getuid()).pw_name
