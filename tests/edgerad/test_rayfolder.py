"""Ray's folder is short, private and ours; one that somebody else made is refused in one line."""

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgerad import rayfolder
from edgerad.preflight import CannotStart

OWN = f"edgerad-{os.geteuid()}"
SOCKET = "/ray" + rayfolder.LONGEST


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder with a short path: pytest's own are too long for Ray."""
    with tempfile.TemporaryDirectory(prefix="rf-", dir="/tmp") as folder:
        yield Path(folder)


def test_the_folder_is_private_though_ray_opens_what_is_in_it(short: Path) -> None:
    before = os.umask(0)
    try:
        folder = rayfolder.choose([short], SOCKET)
    finally:
        os.umask(before)
    assert folder == short / OWN
    assert folder.stat().st_mode & 0o777 == 0o700
    assert rayfolder.choose([short]) == folder, "the next start takes the same"


def test_a_socket_of_ray_fits_exactly_where_the_longest_path_is_allowed(short: Path) -> None:
    """The limit is the kernel's: one byte more and no socket can be bound."""
    room = rayfolder.SOCKET_BYTES - len(rayfolder.LONGEST) - len(f"/{OWN}/ray")
    fits = short / ("x" * (room - len(str(short)) - 1))
    fits.mkdir()
    path = Path(str(rayfolder.choose([fits], SOCKET)) + SOCKET)
    path.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
    too_long = fits.with_name(fits.name + "x")
    too_long.mkdir()
    with pytest.raises(CannotStart, match=r"longer than Ray's sockets allow.*set TMPDIR"):
        rayfolder.choose([too_long], SOCKET)
    assert rayfolder.choose([too_long, short], SOCKET) == short / OWN
    assert rayfolder.choose([too_long, short]) == too_long / OWN, "other files may have long paths"
    umlauts = short / ("ü" * (room // 2))
    umlauts.mkdir()
    with pytest.raises(CannotStart):
        rayfolder.choose([umlauts], SOCKET)  # bytes count, not letters


def test_sessions_lie_where_sockets_fit_and_temporary_files_where_the_administrator_says(
    short: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("long-" * 20)
    long.mkdir()
    monkeypatch.setattr(rayfolder, "SHORT", (short,))
    for parent, sessions in ((long, short), (short, short)):
        monkeypatch.setattr(tempfile, "tempdir", str(parent))
        assert rayfolder.prepare() == (sessions / OWN / "ray", parent / OWN / "tmp")
        assert (parent / OWN / "tmp").stat().st_mode & 0o777 == 0o700
    (long / OWN).chmod(0o777)
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with pytest.raises(CannotStart, match="can be written to by other users"):
        rayfolder.prepare()


def test_a_folder_that_others_can_write_to_is_refused(short: Path) -> None:
    (short / OWN).mkdir()
    for mode in (0o777, 0o720, 0o702, 0o1777):
        (short / OWN).chmod(mode)
        with pytest.raises(CannotStart, match=f"can be written to by other users .mode {mode:04o}") as refusal:
            rayfolder.choose([short, *rayfolder.SHORT])
        assert "\n" not in str(refusal.value)
    (short / OWN).chmod(0o755)
    rayfolder.choose([short])
    assert (short / OWN).stat().st_mode & 0o777 == 0o700, "what others could only read is closed"


def test_a_link_or_a_file_in_the_place_of_the_folder_is_refused(short: Path, tmp_path: Path) -> None:
    (short / OWN).symlink_to(tmp_path)
    with pytest.raises(CannotStart, match="is no folder"):
        rayfolder.choose([short])
    (short / OWN).unlink()
    (short / OWN).touch()
    with pytest.raises(CannotStart, match="is no folder"):
        rayfolder.choose([short])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to another user")
def test_a_folder_of_another_user_is_refused(short: Path) -> None:
    (short / OWN).mkdir(mode=0o700)
    os.chown(short / OWN, 12345, 12345)
    with pytest.raises(CannotStart, match=r"belongs to another user \(uid 12345\)"):
        rayfolder.choose([short])


def test_a_parent_in_which_others_can_replace_the_folder_is_passed_over(short: Path) -> None:
    loose, sticky = short / "loose", short / "sticky"
    for folder, mode in ((loose, 0o777), (sticky, 0o1777)):
        folder.mkdir()
        folder.chmod(mode)
    assert rayfolder.choose([loose, sticky]) == sticky / OWN
    with pytest.raises(CannotStart, match="no sticky bit"):
        rayfolder.choose([loose])


def test_a_parent_that_is_not_there_is_passed_over(short: Path) -> None:
    with pytest.raises(CannotStart, match="gone: No such file or directory"):
        rayfolder.choose([short / "gone"])


def test_the_folder_of_former_versions_is_closed(short: Path, tmp_path: Path) -> None:
    former = short / f"edgerad-ray-{os.geteuid()}"
    former.mkdir()
    former.chmod(0o777)
    rayfolder.close_former(short)
    assert former.stat().st_mode & 0o777 == 0o700
    former.rmdir()
    tmp_path.chmod(0o755)
    former.symlink_to(tmp_path)
    rayfolder.close_former(short)
    assert tmp_path.stat().st_mode & 0o777 == 0o755, "a link is left alone"


def dead_pid() -> int:
    """Return the pid of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_sessions_of_ended_clusters_are_removed_but_for_the_newest(tmp_path: Path) -> None:
    gone = dead_pid()
    ended = [tmp_path / f"session_2026-01-0{day}_10-00-00_000001_{gone}" for day in (1, 2, 3)]
    alive = tmp_path / f"session_2026-01-01_09-00-00_000001_{os.getpid()}"
    other = tmp_path / "something_else"
    for folder in (*ended, alive, other):
        (folder / "logs").mkdir(parents=True)
    (tmp_path / "session_latest").symlink_to(ended[2])
    rayfolder.remove_ended(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [alive.name, ended[2].name, other.name, "session_latest"]
    )


def test_a_folder_without_sessions_is_fine(tmp_path: Path) -> None:
    rayfolder.remove_ended(tmp_path)
    assert list(tmp_path.iterdir()) == []
