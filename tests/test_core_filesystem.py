"""SQLite files that several processes share lie on a local disk, or the answer is one line"""

import subprocess
import sys

import pytest
from mlops_nb.cli import main
from mlops_nb.core import filesystem
from mlops_nb.core.errors import BadInput
from helpers.namespaces import may_mount

SHARE = [("/", "ext4")]


def test_the_kernel_is_asked(tmp_path):
    "A file system that was mounted a moment ago is seen, in a mount namespace of its own"
    if why := may_mount():
        pytest.skip(why)
    inside = tmp_path / "a b" / "deep"
    inside.mkdir(parents=True)
    code = f"from mlops_nb.core.filesystem import kind_of; print(kind_of({str(inside / 'x' / 'ledger.db')!r}), kind_of({str(tmp_path)!r}))"
    asked = 'mount -t tmpfs tmpfs "$1" && exec "$2" -c "$3"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-ec", asked, "sh", inside, sys.executable, code],
        capture_output=True,
        text=True,
        check=True,
    )
    kind, around = done.stdout.split()
    assert (kind, around) == ("tmpfs", filesystem.kind_of(tmp_path))


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "lustre", "gpfs", "beegfs", "remote"])
def test_network_file_systems_are_refused(kind, tmp_path):
    with pytest.raises(BadInput, match="network file system") as told:
        filesystem.need_local_disk(tmp_path / "ledger.db", "[stores] ledger", [*SHARE, (str(tmp_path), kind)])
    assert "MLOPS_STORES_LEDGER" in str(told.value)


@pytest.mark.parametrize(
    "kind", ["ext4", "xfs", "btrfs", "overlay", "tmpfs", "zfs", "apfs", "fuseblk", "fuse.ntfs-3g", ""]
)
def test_local_disks_are_not(kind, tmp_path):
    table = [*SHARE, (str(tmp_path), kind)]
    filesystem.need_local_disk(tmp_path / "ledger.db", "[stores] ledger", table)
    assert filesystem.kind_of(tmp_path / "ledger.db", table) == kind


def test_a_project_on_a_share(home, tmp_path, monkeypatch, capsys):
    "`init` refuses in one line, and works with the ledger on a local disk"
    share, local = tmp_path / "share", tmp_path / "local"
    share.mkdir()
    local.mkdir()
    monkeypatch.setattr(filesystem, "mounts", lambda: [*SHARE, (str(share), "nfs4")])
    assert main(["init", str(share)]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and "nfs4" in said.err
    assert not (share / ".mlops" / "ledger.db").exists()
    monkeypatch.setenv("MLOPS_STORES_LEDGER", str(local / "ledger.db"))
    assert main(["init", str(share)]) == 0
    assert (local / "ledger.db").is_file()


def test_nobody_says(tmp_path, monkeypatch):
    "In a jail without /proc nothing is known, and nothing is refused"
    opened = open
    gone = {"/proc/self/mountinfo": "/nowhere/mountinfo"}
    monkeypatch.setattr("builtins.open", lambda path, *a, **k: opened(gone.get(path, path), *a, **k))
    monkeypatch.setattr(filesystem.sys, "platform", "linux")
    assert filesystem.mounts() == [] and filesystem.kind_of(tmp_path) == ""
    filesystem.need_local_disk(tmp_path, "[stores] ledger")
