"""A PostgreSQL server with a database of its own, on a free port of this machine."""

import os
import pwd
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from signal import SIGINT

from sqlalchemy import URL

from tests.support.cluster import find_commands, free_port, running, wait_for

USER = "nobody"  # for a root who runs the tests: PostgreSQL refuses root
PASSWORD = "swordfish"


@contextmanager
def postgres_server():
    """Start a server; yield the URL of a database without its password, which is `PASSWORD`."""
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: path.parent.name)
    names = ("initdb", "postgres", "pg_isready")
    commands = find_commands(names, "apt install postgresql", folders=reversed(versions))
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    options = {"cwd": folder}
    if os.getuid() == 0:
        account = pwd.getpwnam(USER)
        os.chown(folder, account.pw_uid, account.pw_gid)
        options |= {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    (folder / "password").write_text(PASSWORD)
    (folder / "password").chmod(0o644)
    initdb = [commands["initdb"], f"--pgdata={folder}/data", "--username=sweeper", "--no-sync"]
    initdb += ["--auth=scram-sha-256", f"--pwfile={folder}/password", "--encoding=UTF8"]
    port = free_port()
    server = [commands["postgres"], "-D", f"{folder}/data", "-p", str(port), "-F"]
    server += ["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="]
    log = folder / "server.log"
    ready = [commands["pg_isready"], "--host=127.0.0.1", f"--port={port}"]
    try:
        subprocess.run([*initdb, "--locale=C"], check=True, capture_output=True, **options)
        with running(server, log, stop=SIGINT, **options):
            wait_for(ready, "accepting connections", [log], **options)
            url = URL.create("postgresql+psycopg", "sweeper", None, "127.0.0.1", port, "postgres")
            yield url.render_as_string()
    finally:
        shutil.rmtree(folder)
