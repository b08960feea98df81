"""A PostgreSQL server for a test, on loopback, from Debian's package. Nothing of it outlives the block."""

import os
import shutil
import socket
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path


def programs():
    """The folder of the newest installed server's programs; None without a server."""
    paths = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    return paths[-1].parent if paths else None


@contextmanager
def server():
    """Starts a server, and yields (its SQLAlchemy URL, start, stop).

    PostgreSQL refuses to run as root, who becomes the package's user postgres.
    """
    folder, bin_folder = Path(tempfile.mkdtemp(prefix="postgres-")), programs()
    as_user = []
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres")
        as_user = ["runuser", "-u", "postgres", "--"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def run(program, *arguments):
        subprocess.run(
            [*as_user, str(bin_folder / program), "-D", str(folder / "data"), *arguments],
            check=True,
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=60,
        )

    run("initdb", "-A", "trust", "-U", "tests", "--no-sync")

    def start():
        options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1"
        run("pg_ctl", "-w", "-l", str(folder / "log"), "-o", options, "start")

    def stop():
        run("pg_ctl", "-m", "immediate", "stop")

    start()
    try:
        yield f"postgresql://tests@127.0.0.1:{port}/postgres", start, stop
    finally:
        stop()
        shutil.rmtree(folder)
