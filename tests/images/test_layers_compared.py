"""What ctrt unpacks against what umoci and podman unpack, entry by entry."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import os
import pwd
import shutil
import signal
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from conftest import LIST, listing, merged, needs, run
from images_tools import image, member, tar

from ctrt.images import layers
from ctrt.images.store import Store

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="owners and devices need root")
CAPABILITY = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0".decode("utf-8", "surrogateescape")
USER = "ctrttest"
AS_USER = ("runuser", "-u", USER, "--")
EMPTY = hashlib.sha256(b"").hexdigest()


SPARSE = {
    "old": ["--format=gnu"],
    "0.0": ["--format=posix", "--sparse-version=0.0"],
    "0.1": ["--format=posix", "--sparse-version=0.1"],
    "1.0": ["--format=posix", "--sparse-version=1.0"],
}


def sparse(name: str, form: list[str], place: Path) -> bytes:
    """A file with holes as GNU tar writes it; the archive's end marks are left out."""
    path = place / name
    with open(path, "wb") as file:
        file.write(b"begin")
        for at in range(1, 40):  # more pieces than the old format's header holds
            file.seek(at << 17)
            file.write(b"piece %d" % at)
        file.truncate(9 << 20)
    os.utime(path, ns=(10**18, 10**18 + 123_000_000))
    made = subprocess.run(
        ["tar", "-b1", "-C", str(place), "-S", *form, "--owner=7", "--group=8", "-cf", "-", name],
        capture_output=True, check=True,
    ).stdout  # fmt: skip
    return made[:-1024]


def torture(place: Path) -> list[bytes]:
    """Two layers with everything that a layer may hold."""
    nano = {"mtime": "1700000000.123456789"}
    below = tar(
        member("./", kind="dir", mode=0o755, pax=nano),
        member("etc/", kind="dir", mode=0o755, pax=nano),
        member("etc/passwd", b"root:x:0:0\n", pax=nano),
        member("etc/shadow", b"secret", mode=0, pax={"mtime": "0.5"}),
        member("old/", kind="dir", pax=nano),
        member("old/gone", b"1"),
        member("old/kept", b"2", pax={"mtime": "-5.25"}),
        member("opaque/", kind="dir", mode=0o700, owner=(3, 4)),
        member("opaque/below", b"b"),
        member("opaque/deep/", kind="dir"),
        member("opaque/deep/below", b"b"),
        member("file-then-dir", b"f"),
        member("dir-then-file/", kind="dir"),
        member("dir-then-file/x", b"f"),
        member("link-then-dir", kind="symlink", link="/etc"),
        member("bin/", kind="dir"),
        member("bin/su", b"#!su", mode=0o4755, pax=nano),
        member("bin/wall", b"#!wall", mode=0o2755, owner=(0, 5)),
        member("bin/ping", b"#!ping", pax={"SCHILY.xattr.security.capability": CAPABILITY}),
        member("bin/attr", b"a", pax={"SCHILY.xattr.user.colour": "gr\u00fcn"}),
        member("sticky/", kind="dir", mode=0o1777, pax={"SCHILY.xattr.user.dir": "d", **nano}),
        member("setgid/", kind="dir", mode=0o2775, owner=(0, 50), pax=nano),
        member("dev/", kind="dir"),
        member("dev/null", kind="char", device=(1, 3), mode=0o666),
        member("dev/loop", kind="block", device=(7, 200), mode=0o660, owner=(0, 6)),
        member("dev/fifo", kind="fifo", mode=0o622, owner=(1, 2)),
        member("hard/", kind="dir", pax=nano),
        member("hard/a", b"hard", owner=(9, 9), pax=nano),
        member("hard/b", kind="link", link="hard/a", owner=(9, 9), pax=nano),
        member("hard/c", kind="link", link="./hard/b", owner=(9, 9), pax=nano),
        member("n" * 255, b"long"),
        member("p/" * 60 + "deep", b"deep", form=tarfile.GNU_FORMAT),
        member("p/" * 60 + "link", kind="symlink", link="t" * 300, form=tarfile.GNU_FORMAT),
        member("latin-\udce9", b"not UTF-8"),
        member("new\nline and \t tab", b"odd"),
        member("absolute", kind="symlink", link="/etc/passwd", owner=(11, 12), pax=nano),
        member("dangling", kind="symlink", link="../../nowhere"),
        member("owner", b"o", owner=(60000, 60001)),
        member("empty", b""),
        member("implied/without/entries/file", b"i"),
        *(sparse(f"sparse-{name}", form, place) for name, form in SPARSE.items() if name != "old"),
    )  # fmt: skip
    above = tar(
        member("etc/", kind="dir", mode=0o751, owner=(2, 2), pax=nano),
        member("etc/passwd", b"changed\n"),
        member("old/", kind="dir", pax=nano),
        member("old/.wh.gone"),
        member("opaque/", kind="dir", mode=0o750, pax=nano),
        member("opaque/.wh..wh..opq"),
        member("opaque/above", b"a"),
        member("file-then-dir/", kind="dir", pax=nano),
        member("file-then-dir/x", b"x"),
        member("dir-then-file", b"now a file"),
        member("link-then-dir/", kind="dir", pax=nano),
        member("link-then-dir/x", b"x"),
        member("hard/", kind="dir", pax=nano),
        member("hard/d", b"alone"),
        member("pair-1", b"pair"),
        member("pair-2", kind="link", link="pair-1"),
    )
    return [below, above]


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory, debian: Path) -> dict[str, Any]:
    """Both images in a store, and the same as an OCI layout for the others."""
    needs("skopeo", "umoci")
    place = tmp_path_factory.mktemp("compared")
    store = Store(str(place / "store"))
    images = {"torture": image(store, *torture(place), name="localhost/torture")}
    plain = debian.read_bytes()
    images["debian"] = image(store, plain, name="localhost/debian",
                             blobs=[gzip.compress(plain, 1, mtime=0)])  # fmt: skip
    for name in images:
        run("skopeo", "copy", "-q", f"oci:{store.root}:localhost/{name}:latest",
            f"oci:{place}/oci:{name}")  # fmt: skip
    return {"store": store, "place": place, **images}


def compare(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert ours["links"] == theirs["links"]
    for found in (ours, theirs):
        found["entries"]["."][3] = None  # mounting has touched it
    names = ours["entries"].keys() ^ theirs["entries"].keys()
    assert not names
    different = {
        name: (looks, theirs["entries"][name])
        for name, looks in ours["entries"].items()
        if looks != theirs["entries"][name]
    }
    assert different == {}


def unpacked(layout: dict[str, Any], name: str) -> dict[str, Any]:
    store, made = layout["store"], layout[name]
    assert layers.notes(store, made, layers.Unpacker("root")) == []
    return merged(layers.unpack(store, made, layers.Unpacker("root")))


def without_times(found: dict[str, Any], names: set[str]) -> dict[str, Any]:
    """Leave out the times of directories that the archive does not describe: nobody says them."""
    for name in names & found["entries"].keys():
        found["entries"][name][3] = None
    return found


IMPLIED = {"implied", "implied/without", "implied/without/entries"} | {
    "p/" * depth + "p" for depth in range(60)
}


@pytest.mark.parametrize("name", ["torture", "debian"])
def test_the_same_tree_as_umoci_makes(layout: dict[str, Any], name: str) -> None:
    place = layout["place"] / f"umoci-{name}"
    run("umoci", "unpack", "--image", f"{layout['place']}/oci:{name}", str(place))
    ours, theirs = unpacked(layout, name), listing(str(place / "rootfs"))
    if name == "torture":
        ours, theirs = without_times(ours, IMPLIED), without_times(theirs, IMPLIED)
    compare(ours, theirs)


@pytest.mark.parametrize("name", ["torture", "debian"])
def test_the_same_tree_as_podman_makes(
    layout: dict[str, Any], name: str, podman: list[str]
) -> None:
    identity = run(*podman, "pull", "-q", f"oci:{layout['place']}/oci:{name}").strip()
    place = run(*podman, "image", "mount", identity).strip()
    try:
        ours, theirs = unpacked(layout, name), listing(place)
    finally:
        run(*podman, "image", "umount", identity)
    for found in (ours, theirs):
        found["entries"].get("old/kept", {3: 0})[3] = None  # podman knows no time before 1970
    if name == "torture":
        ours, theirs = without_times(ours, IMPLIED), without_times(theirs, IMPLIED)
    compare(ours, theirs)
    run(*podman, "rmi", "-f", identity)


@pytest.mark.parametrize("version", SPARSE)
def test_sparse_files_as_gnu_tar_reads_them_with_their_holes(
    store: Store, tmp_path: Path, version: str
) -> None:
    """The old format too, which umoci and podman do not know."""
    archive = tar(sparse(f"sparse-{version}", SPARSE[version], tmp_path), member("after", b"x"))
    made = image(store, archive, name="localhost/sparse")
    (ours,) = layers.unpack(store, made, layers.Unpacker("root"))
    other = tmp_path / "other"
    other.mkdir()
    subprocess.run(["tar", "-xpf", "-", "-C", str(other)], input=archive, check=True)
    run("touch", "-r", str(other), ours)
    compare(listing(ours), listing(str(other)))
    assert os.stat(f"{ours}/sparse-{version}").st_blocks * 512 < 1 << 20 < 9 << 20


@pytest.fixture(scope="module")
def rootless(layout: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What an ordinary user's unpacking makes, as that user's own namespace shows it."""
    try:
        user = pwd.getpwnam(USER)
    except KeyError:
        subprocess.run(["useradd", "--create-home", USER], check=True)
        user = pwd.getpwnam(USER)
    for table in ("/etc/subuid", "/etc/subgid"):
        if f"{USER}:" not in Path(table).read_text():
            with open(table, "a") as file:
                file.write(f"{USER}:100000:65536\n")
    source, place = layout["store"], layout["place"] / "rootless"
    for above in (place, *place.parents):
        if above.exists() and above.stat().st_mode & 0o001 == 0:
            above.chmod(above.stat().st_mode | 0o011)
    for name in ("torture", "debian"):
        run("skopeo", "copy", "-q", f"oci:{source.root}:localhost/{name}:latest",
            f"oci:{place}:localhost/{name}:latest")  # fmt: skip
    run("chown", "-R", f"{USER}:{user.pw_gid}", str(place))
    spawn = ROOTLESS.format(packages=str(Path(layers.__file__).parents[2]))
    found = {}
    for name in ("torture", "debian"):
        said = run(*AS_USER, "/usr/bin/python3", "-I", "-S", "-c", spawn, str(place), name, cwd="/")
        inside = (*AS_USER, "unshare", "--map-auto", "-r", "-m")
        found[name] = merged(said.split(), inside, "userxattr,")
    return found


def without_devices(found: dict[str, Any]) -> set[str]:
    """Take the devices out, which an ordinary user cannot make; their names."""
    gone = {
        entry
        for entry, (mode, *_) in found["entries"].items()
        if int(mode, 8) & 0o170000 in (0o020000, 0o060000)
    }
    for entry in gone:
        del found["entries"][entry]
    return gone


@pytest.mark.parametrize("name", ["torture", "debian"])
def test_the_same_tree_rootless(
    layout: dict[str, Any], rootless: dict[str, dict[str, Any]], name: str
) -> None:
    """With subordinate ids, seen from the user's own namespace, all is as root sees it."""
    ours, theirs = deepcopy(rootless[name]), unpacked(layout, name)
    for entry in without_devices(theirs):
        assert ours["entries"].pop(entry)[5] == EMPTY, "an empty file stands in"
    compare(ours, theirs)


@pytest.fixture(scope="module")
def rootless_podman(rootless: object) -> Iterator[list[str]]:
    """podman of an ordinary user with a store of its own."""
    needs("podman")
    place = Path(tempfile.mkdtemp(prefix="ctrt-rp-", dir="/var/tmp"))  # podman wants a short path
    run("chown", USER, str(place))
    words = [
        *AS_USER, "env", "-i", f"HOME={place}", f"XDG_RUNTIME_DIR={place}", f"--chdir={place}",
        "PATH=/usr/bin:/bin:/usr/sbin:/sbin",
        "podman", "--root", f"{place}/p", "--runroot", f"{place}/r", "--tmpdir", f"{place}/t",
        "--storage-driver=vfs",
    ]  # fmt: skip
    yield words
    run(*words, "unshare", "rm", "-rf", f"{place}/p")
    for noted in place.rglob("pause.pid"):  # what holds podman's user namespace
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(noted.read_text()), signal.SIGTERM)
    shutil.rmtree(place)


@pytest.mark.parametrize("name", ["torture", "debian"])
def test_the_same_tree_as_rootless_podman_makes(
    layout: dict[str, Any],
    rootless: dict[str, dict[str, Any]],
    rootless_podman: list[str],
    name: str,
) -> None:
    """Owners, modes, capabilities and all else, as each user's own namespace shows them."""
    identity = run(*rootless_podman, "pull", "-q", f"oci:{layout['place']}/oci:{name}").strip()
    at = rootless_podman.index("podman")
    mount = " ".join([*rootless_podman[at:], "image", "mount", identity])
    listed = run(*rootless_podman, "unshare", "/bin/sh", "-c",
                 f"exec /usr/bin/python3 -I -c '{LIST}' $({mount})")  # fmt: skip
    ours, theirs = deepcopy(rootless[name]), json.loads(listed)
    for entry in without_devices(unpacked(layout, name)):
        # podman leaves them out without a word.
        assert (ours["entries"].pop(entry)[5], entry in theirs["entries"]) == (EMPTY, False)
    for found in (ours, theirs):
        found["entries"].get("old/kept", {3: 0})[3] = None  # podman knows no time before 1970
    if name == "torture":
        ours, theirs = without_times(ours, IMPLIED), without_times(theirs, IMPLIED)
    compare(ours, theirs)


ROOTLESS = """
import subprocess, sys
sys.path.insert(0, {packages!r})
from ctrt.images import layers
from ctrt.images.store import Store
store = Store(sys.argv[1])
how = layers.Unpacker("subordinate", lambda words: subprocess.run(
    ["unshare", "--map-auto", "-r", *words]).returncode)
print(*layers.unpack(store, store.find("localhost/" + sys.argv[2]), how))
"""
