"""PostgreSQL from Debian's package, run by a user that is not root, data in the part's folder."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

from deploy import process
from deploy.part import Part

USER = "edgerad"


def binaries() -> Path | None:
    """Return the folder of initdb and postgres (Debian keeps them off the PATH), newest version first, or None."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: -int(path.parts[4]))
    if found:
        return found[0].parent
    elsewhere = shutil.which("initdb")
    return Path(elsewhere).resolve().parent if elsewhere else None


class Postgres(Part):
    """One PostgreSQL cluster with a database `edgerad`."""

    programs = ("postgres",)
    stop_signal = signal.SIGINT  # "fast": SIGTERM would wait for clients to leave
    kill_signal = signal.SIGQUIT  # "immediate": no checkpoint, so the next start recovers, and no process stays behind

    def endpoints(self) -> dict[str, str]:
        """Return the SQLAlchemy URL."""
        return {"database": f"postgresql+psycopg://{USER}@127.0.0.1:{self.port()}/edgerad"}

    @property
    def url(self) -> str:
        """SQLAlchemy URL of the database `edgerad`."""
        return self.endpoints()["database"]

    def _start(self) -> None:
        """Make the cluster if it is new, start the server, wait until it answers."""
        tools = binaries()
        if tools is None:
            msg = "PostgreSQL is not installed (apt-get install postgresql)"
            raise process.PartError(msg)
        data = self.folder / "data"
        if "made" not in process.recall(self.folder):
            shutil.rmtree(data, ignore_errors=True)  # of a first start that was cut short
            data.mkdir(mode=0o700)
            self._hand_over(data)
            initdb = [str(tools / "initdb"), "-D", str(data), "-U", USER, "-A", "trust", "-E", "UTF8", "--no-sync"]
            process.run([*self._as_user(), *initdb])
            process.remember(self.folder, made=True)
        options = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port()),
            "unix_socket_directories": "",
            "max_connections": "100",
            "shared_buffers": "64MB",
        }
        settings = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        process.spawn(self.folder, "postgres", [*self._as_user(), str(tools / "postgres"), "-D", str(data), *settings])
        process.wait(self._answers, "PostgreSQL", self.folder, "postgres")
        self._ensure_database("edgerad")

    def new_database(self, name: str) -> str:
        """Create an empty database and return its URL."""
        self._ensure_database(name)
        return self.url.removesuffix("edgerad") + name

    def _ensure_database(self, name: str) -> None:
        import psycopg

        with psycopg.connect(self._address("postgres"), autocommit=True) as connection:
            known = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,)).fetchone()
            if not known:
                connection.execute(psycopg.sql.SQL("CREATE DATABASE {}").format(psycopg.sql.Identifier(name)))

    def _address(self, database: str) -> str:
        return f"host=127.0.0.1 port={self.port()} user={USER} dbname={database} connect_timeout=3"

    def _answers(self) -> bool:
        import psycopg

        try:
            psycopg.connect(self._address("postgres")).close()
        except psycopg.OperationalError:
            return False
        return True

    def _as_user(self) -> list[str]:
        """Return the words before a command that make it run as another user than root, who may not run PostgreSQL."""
        return ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.geteuid() == 0 else []

    def _hand_over(self, folder: Path) -> None:
        if os.geteuid() == 0:
            shutil.chown(folder, "postgres", "postgres")
            self.folder.chmod(0o711)
            walk = subprocess.run([*self._as_user(), "test", "-w", str(folder)], check=False)
            if walk.returncode:
                msg = f"the user postgres cannot reach {folder}; choose a folder whose parents all may enter (mode 711)"
                raise process.PartError(msg)
