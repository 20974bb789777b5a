"""Unpacking: what honest layers become, and what hostile ones do not.

As root the layers are root's; as anybody else the same is tested with every owner squashed.
"""

from __future__ import annotations

import gzip
import io
import os
import random
import signal
import stat
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from images_tools import digest, image, leftovers, member, tar

from ctrt.errors import CtrtError
from ctrt.images import _tar, _tree, _unpack, layers
from ctrt.images.progress import Progress
from ctrt.images.store import Store

ROOT = os.geteuid() == 0
WORLD = "root" if ROOT else "single"
OPAQUE = ("trusted" if ROOT else "user") + ".overlay.opaque"
needs_root = pytest.mark.skipif(not ROOT, reason="only root gives files away")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


def unpack(store: Store, *parts: bytes, packed: bool = True) -> list[str]:
    made = image(store, *parts, packed=packed)
    return layers.unpack(store, made, layers.Unpacker(WORLD))


def one(store: Store, *members: bytes) -> Path:
    (path,) = unpack(store, tar(*members))
    return Path(path)


def is_whiteout(path: Path) -> bool:
    return _tree.is_whiteout(os.lstat(path))


def is_opaque(path: Path) -> bool:
    try:
        return os.getxattr(path, OPAQUE) == b"y"
    except OSError:
        return False


# -- honest layers -----------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [True, False], ids=["gzip", "plain"])
def test_files_directories_and_links(store: Store, packed: bool) -> None:
    layer = tar(
        member("./", kind="dir", mode=0o750, mtime=5),
        member("./etc/", kind="dir", mode=0o555, mtime=1_234_567_890),
        member("./etc/motd", b"hello\n", mode=0o640, mtime=1_500_000_000),
        member("etc/link", kind="symlink", link="/etc/motd", mtime=7),
        member("etc/hard", kind="link", link="./etc/motd"),
        member("etc/pipe", kind="fifo", mode=0o622),
        member("tmp", kind="dir", mode=0o1777),
        member("big", b"0123456789abcdef" * 200_000),
        member("empty"),
        member("su", b"#", mode=0o6755),
    )
    (path,) = unpack(store, layer, packed=packed)
    root = Path(path)
    assert sorted(p.name for p in root.iterdir()) == ["big", "empty", "etc", "su", "tmp"]
    assert stat.S_IMODE(root.stat().st_mode) == 0o750
    assert root.stat().st_mtime == 5
    assert stat.S_IMODE((root / "etc").stat().st_mode) == 0o555
    assert (root / "etc").stat().st_mtime == 1_234_567_890
    motd = root / "etc/motd"
    assert motd.read_text() == "hello\n"
    assert stat.S_IMODE(motd.stat().st_mode) == 0o640
    assert motd.stat().st_mtime == 1_500_000_000
    assert (root / "etc/hard").samefile(motd)
    assert os.readlink(root / "etc/link") == "/etc/motd"
    assert os.lstat(root / "etc/link").st_mtime == 7
    assert stat.S_ISFIFO(os.lstat(root / "etc/pipe").st_mode)
    assert stat.S_IMODE(os.lstat(root / "etc/pipe").st_mode) == 0o622
    assert stat.S_IMODE((root / "tmp").stat().st_mode) == 0o1777
    assert (root / "big").read_bytes() == b"0123456789abcdef" * 200_000
    assert (root / "empty").read_bytes() == b""
    assert stat.S_IMODE((root / "su").stat().st_mode) == 0o6755


def test_times_have_nanoseconds_and_may_be_old(store: Store) -> None:
    root = one(
        store,
        member("new", pax={"mtime": "1700000000.123456789"}),
        member("old", pax={"mtime": "-1.5"}),
        member("dir", kind="dir", pax={"mtime": "3.25"}),
        member("dir/x"),
    )
    assert (root / "new").stat().st_mtime_ns == 1700000000_123456789
    assert (root / "old").stat().st_mtime_ns == -1_500_000_000
    assert (root / "dir").stat().st_mtime_ns == 3_250_000_000


def test_names_that_are_not_utf8_or_long(store: Store) -> None:
    odd = b"caf\xe9\n\x01"
    long = "d" * 200 + "/" + "e" * 200
    root = one(
        store,
        member(os.fsdecode(odd), b"1"),
        member(long, b"2"),
        member("gnu" + "n" * 200, b"3", form=tarfile.GNU_FORMAT),
        member("gl", kind="symlink", link="t" * 150, form=tarfile.GNU_FORMAT),
        member("pl", kind="symlink", link="t" * 150),
        member("p" * 90 + "/" + "q" * 90, b"4", form=tarfile.USTAR_FORMAT),
        member("größe", b"5"),
    )
    assert (Path(os.fsdecode(os.fsencode(root) + b"/" + odd))).read_text() == "1"
    assert (root / long).read_text() == "2"
    assert (root / ("gnu" + "n" * 200)).read_text() == "3"
    assert os.readlink(root / "gl") == os.readlink(root / "pl") == "t" * 150
    assert (root / ("p" * 90) / ("q" * 90)).read_text() == "4"
    assert (root / "größe").read_text() == "5"


@needs_root
def test_owners_devices_and_capabilities(store: Store) -> None:
    capability = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0"
    root = one(
        store,
        member("d", kind="dir", owner=(7, 8), mode=0o2770),
        member("d/f", owner=(1000, 1001)),
        member("d/root", b""),
        member("big", owner=(3_000_000_000, 3_000_000_001), mode=0o4711),
        member("l", kind="symlink", link="x", owner=(5, 6)),
        member("null", kind="char", device=(1, 3), mode=0o666, owner=(0, 5)),
        member("disk", kind="block", device=(259, 70_000), mode=0o600),
        member(
            "ping",
            owner=(0, 1),
            pax={
                "SCHILY.xattr.security.capability": capability.decode("utf-8", "surrogateescape"),
                "SCHILY.xattr.user.note": "hello",
                "SCHILY.xattr.trusted.overlay.redirect": "/etc",
            },
        ),
    )
    looks = [os.lstat(root / name) for name in ("d", "d/f", "l")]
    assert [(s.st_uid, s.st_gid) for s in looks] == [(7, 8), (1000, 1001), (5, 6)]
    assert (root / "d/root").stat().st_gid == 0, "not inherited from the set-gid directory"
    big = (root / "big").stat()
    assert (big.st_uid, big.st_gid, stat.S_IMODE(big.st_mode)) == (
        3_000_000_000, 3_000_000_001, 0o4711,
    )  # fmt: skip
    null = os.lstat(root / "null")
    assert stat.S_ISCHR(null.st_mode)
    assert (null.st_rdev, stat.S_IMODE(null.st_mode), null.st_gid) == (os.makedev(1, 3), 0o666, 5)
    disk = os.lstat(root / "disk")
    assert stat.S_ISBLK(disk.st_mode)
    assert disk.st_rdev == os.makedev(259, 70_000)
    assert os.getxattr(root / "ping", "security.capability") == capability
    assert os.getxattr(root / "ping", "user.note") == b"hello"
    assert sorted(os.listxattr(root / "ping")) == ["security.capability", "user.note"]
    image_ = store.find("localhost/test")
    assert image_ is not None
    assert layers.notes(store, image_, layers.Unpacker()) == [
        '"ping": the attribute trusted.overlay.redirect is not allowed in an image'
    ]


def test_devices_have_stand_ins_without_root(store: Store) -> None:
    made = image(store, tar(member("dev/null", kind="char", device=(1, 3), mode=0o666)))
    how = layers.Unpacker("single")
    (path,) = layers.unpack(store, made, how)
    assert path.endswith(".single/diff"), "kept apart from root's"
    found = os.lstat(os.path.join(path, "dev/null"))
    assert (stat.S_ISREG(found.st_mode), found.st_size) == (True, 0)
    assert layers.notes(store, made, how) == [
        '"dev/null" is a device, which only root can make; an empty file stands in for it'
    ]


def test_whiteouts(store: Store) -> None:
    root = one(
        store,
        member("etc", kind="dir"),
        member("etc/.wh.passwd"),
        member("var/.wh..wh..opq"),
        member("var/new"),
        member(".wh..wh.plnk"),
        member("etc/.wh..hidden"),
    )
    assert sorted(p.name for p in root.iterdir()) == ["etc", "var"]
    assert is_whiteout(root / "etc/passwd")
    assert is_whiteout(root / "etc/.hidden")
    assert is_opaque(root / "var")
    assert not is_opaque(root / "etc")
    assert [p.name for p in (root / "var").iterdir()] == ["new"]


@pytest.mark.parametrize("order", [1, -1])
def test_a_whiteout_hides_only_what_is_below(store: Store, order: int) -> None:
    root = one(
        store,
        *[member(".wh.d"), member("d/x", b"new")][::order],
        *[member(".wh.f"), member("f", b"new")][::order],
    )
    assert (root / "d/x").read_text() == "new"
    assert is_opaque(root / "d")
    assert (root / "f").read_text() == "new"


def test_later_entries_replace_earlier_ones(store: Store) -> None:
    root = one(
        store,
        member("a", b"1"),
        member("a", b"2"),
        member("b", b"1"),
        member("b", kind="dir"),
        member("b/x"),
        member("c/deep/x"),
        member("c", kind="symlink", link="b"),
        member("d", kind="symlink", link="/etc"),
        member("d", b"file"),
        member("e", kind="dir", mode=0o700),
        member("e/x"),
        member("e", kind="dir", mode=0o711),
    )
    assert (root / "a").read_text() == "2"
    assert (root / "b/x").exists()
    assert is_opaque(root / "b"), "the file hid what lower layers have there"
    assert os.readlink(root / "c") == "b"
    assert (root / "d").read_text() == "file"
    assert not (root / "d").is_symlink()
    assert (root / "e/x").exists()
    assert stat.S_IMODE((root / "e").stat().st_mode) == 0o711


def test_links_on_the_way_are_followed_inside(store: Store) -> None:
    root = one(
        store,
        member("usr/bin", kind="dir"),
        member("bin", kind="symlink", link="usr/bin"),
        member("bin/sh", b"sh"),
        member("abs", kind="symlink", link="/usr"),
        member("abs/lib/x", b"x"),
        member("up", kind="symlink", link="../../../usr/../usr/bin"),
        member("up/y", b"y"),
        member("hard", kind="link", link="bin/sh"),
        member("dangling", kind="symlink", link="made/later"),
        member("dangling/z", b"z"),
    )
    assert (root / "usr/bin/sh").read_text() == "sh"
    assert (root / "usr/lib/x").read_text() == "x"
    assert (root / "usr/bin/y").read_text() == "y"
    assert (root / "hard").samefile(root / "usr/bin/sh")
    assert (root / "made/later/z").read_text() == "z"


def test_hard_links_to_files_of_lower_layers_are_copied_up(store: Store) -> None:
    base = tar(
        member("usr", kind="dir", mode=0o711, mtime=11),
        member("usr/tool", b"tool", mode=0o4755, mtime=12),
        member("gone", b"g"),
        member("s", kind="symlink", link="x"),
    )
    top = tar(
        member("a", kind="link", link="usr/tool"),
        member("b/c", kind="link", link="a"),
        member("t", kind="link", link="s"),
        member("later", kind="link", link="usr/tool"),
        member("later", b"mine"),
    )
    upper, lower = map(Path, unpack(store, base, top))
    assert (upper / "a").read_text() == "tool"
    assert (upper / "a").samefile(upper / "usr/tool")
    assert (upper / "b/c").samefile(upper / "a")
    assert not (upper / "a").samefile(lower / "usr/tool")
    assert stat.S_IMODE((upper / "a").stat().st_mode) == 0o4755
    assert (upper / "a").stat().st_mtime == 12
    assert stat.S_IMODE((upper / "usr").stat().st_mode) == 0o711
    assert (upper / "usr").stat().st_mtime == 11
    assert os.readlink(upper / "t") == "x"
    assert (upper / "later").read_text() == "mine"


@pytest.mark.parametrize(
    "hiding",
    [
        [member("usr/.wh.tool")],
        [member(".wh.usr")],
        [member("usr/.wh..wh..opq")],
    ],
    ids=["whiteout", "parent", "opaque"],
)
def test_a_hidden_lower_file_cannot_be_linked(store: Store, hiding: list[bytes]) -> None:
    base = tar(member("usr/tool", b"tool"))
    for parts in (
        (base, tar(*hiding, member("x", kind="link", link="usr/tool"))),
        (base, tar(*hiding), tar(member("x", kind="link", link="usr/tool"))),
    ):
        with pytest.raises(CtrtError, match=r'"x" is a hard link to "usr/tool", which is missing$'):
            unpack(store, *parts)
        assert leftovers(store) == []


def test_directories_that_no_entry_describes_look_as_below(store: Store) -> None:
    base = tar(
        member("./", kind="dir", mode=0o751, mtime=3),
        member("tmp", kind="dir", mode=0o1777, mtime=4),
        member("home", kind="dir", mode=0o700),
    )
    middle = tar(member("home", kind="dir", mode=0o710, mtime=5))
    top = tar(member("tmp/x"), member("home/u/file"), member("new/x"))
    upper = Path(unpack(store, base, middle, top)[0])
    assert stat.S_IMODE(upper.stat().st_mode) == 0o751
    assert upper.stat().st_mtime == 3
    assert stat.S_IMODE((upper / "tmp").stat().st_mode) == 0o1777
    assert (upper / "tmp").stat().st_mtime == 4
    assert stat.S_IMODE((upper / "home").stat().st_mode) == 0o710
    assert (upper / "home").stat().st_mtime == 5
    for path in (upper / "home/u", upper / "new"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o755
        assert path.stat().st_mtime == 0, "no time of the day in a layer"


def test_the_topmost_comes_first_and_shared_layers_are_made_once(store: Store) -> None:
    a, b, c = (tar(member(name, name.encode())) for name in "abc")
    first = image(store, a, b, name="ab")
    second = image(store, a, c, name="ac")
    how = layers.Unpacker(WORLD)
    ab, ac = layers.unpack(store, first, how), layers.unpack(store, second, how)
    assert [os.listdir(path) for path in ab] == [["b"], ["a"]]
    assert [os.listdir(path) for path in ac] == [["c"], ["a"]]
    assert ab[1] == ac[1]
    before = os.stat(ab[0]).st_ino
    assert layers.unpack(store, first, how) == ab
    assert os.stat(ab[0]).st_ino == before


def test_many_layers_are_unpacked_by_several_processes(store: Store) -> None:
    parts = [tar(member("same", str(n).encode()), member(f"only{n}")) for n in range(40)]
    seen: list[Progress] = []
    made = image(store, *parts)
    paths = layers.unpack(store, made, layers.Unpacker(WORLD), progress=seen.append)
    assert [Path(path, "same").read_text() for path in paths] == [str(n) for n in range(39, -1, -1)]
    assert [p.status for p in seen] == ["unpacking"] * 40 + ["unpacked"] * 40
    assert not os.listdir(store.path("tmp"))


def test_an_image_without_layers_has_an_empty_directory(store: Store) -> None:
    (path,) = unpack(store)
    assert os.listdir(path) == []


def test_more_directories_than_may_be_open(store: Store) -> None:
    names = [f"d{n}/e{n}/f" for n in range(400)]
    links = [member(f"l{n}/x", kind="link", link=f"d{n}/e{n}/f") for n in range(0, 400, 7)]
    root = one(store, *(member(name, name.encode()) for name in names), *links)
    assert all((root / name).read_text() == name for name in names)
    assert (root / "l7/x").samefile(root / "d7/e7/f")


def test_gzip_in_several_members_and_padding(store: Store) -> None:
    layer = tar(member("x", os.urandom(3_000_000)))
    cut = len(layer) // 3
    packed = b"".join(gzip.compress(part) for part in (layer[:cut], layer[cut:], b"")) + bytes(700)
    made = image(store, layer, blobs=[packed])
    (path,) = layers.unpack(store, made, layers.Unpacker(WORLD))
    assert os.path.getsize(os.path.join(path, "x")) == 3_000_000


def test_an_archive_without_an_end_mark(store: Store) -> None:
    (path,) = unpack(store, member("x", b"1"))
    assert Path(path, "x").read_text() == "1"


def test_an_archive_without_padding_at_its_end(store: Store) -> None:
    """So `umoci insert` writes them: the archive is never closed."""
    (path,) = unpack(store, member("x", b"old\n")[:516])
    assert Path(path, "x").read_text() == "old\n"


def test_the_same_tree_as_tar_makes(store: Store, tmp_path: Path) -> None:
    """A random tree, packed by tarfile, against what tar(1) unpacks."""
    rng = random.Random(5)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        directories = [""]
        for n in range(300):
            info = tarfile.TarInfo(f"{rng.choice(directories)}n{n}")
            info.mtime = rng.randrange(2_000_000_000)
            info.mode = rng.choice([0o755, 0o700, 0o4755, 0o2755, 0o1777, 0o644 | 0o100])
            data = b""
            what = rng.random()
            if what < 0.3:
                info.type = tarfile.DIRTYPE
                directories.append(info.name + "/")
            elif what < 0.5:
                info.type, info.linkname = tarfile.SYMTYPE, rng.choice(["a", "b/c"])
            else:
                data = rng.randbytes(rng.randrange(3000))
                info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    layer = out.getvalue()
    other = tmp_path / "other"
    other.mkdir(mode=0o755)
    command = ["tar", "--delay-directory-restore", "-xpf", "-", "-C", str(other)]
    subprocess.run(command, input=layer, check=True)
    (path,) = unpack(store, layer)

    def listing(root: str) -> list[tuple[object, ...]]:
        found = []
        for place, dirs, files in os.walk(root):
            for name in dirs + files:
                full = os.path.join(place, name)
                looks = os.lstat(full)
                kind = stat.S_IFMT(looks.st_mode)
                content: object = None
                if stat.S_ISREG(looks.st_mode):
                    content = Path(full).read_bytes()
                elif stat.S_ISLNK(looks.st_mode):
                    content = os.readlink(full)
                found.append(
                    (os.path.relpath(full, root), kind, stat.S_IMODE(looks.st_mode),
                     looks.st_uid, looks.st_gid, looks.st_mtime, content)
                )  # fmt: skip
        return sorted(found)

    assert listing(path) == listing(str(other))


# -- hostile layers ----------------------------------------------------------------------------

HEADER = member("x", b"")
HOSTILE = {
    "dot-dot": (
        [member("a/../../evil")],
        '"a/../../evil" leaves the image with ".."',
    ),
    "dot-dot inside": (
        [member("a/../evil")],
        '"a/../evil" leaves the image with ".."',
    ),
    "hard link out": (
        [member("x", kind="link", link="../outside/secret")],
        '"../outside/secret" leaves the image with ".."',
    ),
    "hard link to a host file": (
        [member("x", kind="link", link="/etc/hostname")],
        '"x" is a hard link to "etc/hostname", which is missing',
    ),
    "hard link by a link": (
        [
            member("out", kind="symlink", link="/etc"),
            member("x", kind="link", link="out/hostname"),
        ],
        '"x" is a hard link to "out/hostname", which is missing',
    ),
    "hard link to a directory": (
        [member("d", kind="dir"), member("x", kind="link", link="d")],
        '"x" is a hard link to a directory',
    ),
    "hard link to the root": (
        [member("x", kind="link", link="./")],
        '"x" is a hard link to a directory',
    ),
    "a file as a directory": (
        [member("a", b"1"), member("a/b", b"2")],
        '"a" is a file where a directory is needed',
    ),
    "links in a circle": (
        [member("a", kind="symlink", link="b"), member("b", kind="symlink", link="a"),
         member("a/x")],
        '"a" is behind too many symbolic links',
    ),
    "very deep": (
        [member("d/" * 300 + "x")],
        f'"{"d/" * 100}" is more than 200 directories deep',
    ),
    "deep by links": (
        [
            member("d/" * 150, kind="dir"),
            member("l", kind="symlink", link="d/" * 149 + "d"),
            member("l/" + "e/" * 100 + "x"),
        ],
        f'"l/{"e/" * 99}" is more than 200 directories deep',
    ),
    "a long name": (
        [member("n" * 256)],
        f'the name "{"n" * 200}" is too long for a file name',
    ),
    "no name": ([member("./", b"", kind="file")], None),
    "a whiteout of nothing": ([member("d/.wh.")], 'the whiteout "d/.wh." names nothing'),
    "a whiteout of the parent": ([member("d/.wh...")], 'the whiteout "d/.wh..." names nothing'),
    "an unknown kind": (
        [member("x", kind=b"Q")],
        "\"x\" is of a kind that tar(5) does not know (b'Q')",
    ),
    "a sparse file of no known version": (
        [member("x", b"1", pax={"GNU.sparse.major": "2", "GNU.sparse.minor": "0"})],
        '"x" is a sparse file of a version that nobody knows',
    ),
    "a sparse file without a map": (
        [member("x", b"1", pax={"GNU.sparse.major": "1", "GNU.sparse.minor": "0"})],
        '"x" has a broken map of its sparse data',
    ),
    "a sparse file whose map goes backwards": (
        [member("x", bytes(4), pax={"GNU.sparse.map": "8,2,4,2", "GNU.sparse.size": "16"})],
        '"x" has a broken map of its sparse data',
    ),
    "a sparse file whose map goes beyond its end": (
        [member("x", bytes(4), pax={"GNU.sparse.map": "8,4", "GNU.sparse.size": "10"})],
        '"x" has a broken map of its sparse data',
    ),
    "a sparse file that is larger than the world": (
        [member("x", b"", pax={"GNU.sparse.map": "", "GNU.sparse.size": str(1 << 50)})],
        "it grows to more than 1024 MiB when it is unpacked",
    ),
    "a broken checksum": (
        [HEADER[:100] + b"0000777\0" + HEADER[108:]],
        "a header of its tar archive is broken (wrong checksum)",
    ),
    "not a tar": (
        [b"\x7fELF" + b"\1" * 1020],
        "a header of its tar archive has a number that is not octal",
    ),
    "a broken extended header": (
        [member("x", b"99 path=y\n", kind=b"x")],
        "an extended (PAX) header of its tar archive is broken",
    ),
    "a huge extended header": (
        [member("x", b"1" * (1 << 20) + b"1", kind=b"L")],
        "an extended header has more than 1 MiB",
    ),
    "a time beyond all": (
        [member("x", pax={"mtime": "9" * 30})],
        '"x" has an impossible time',
    ),
    "a time that is none": (
        [member("x", pax={"mtime": "soon"})],
        '"x" has a broken mtime in its extended header',
    ),
    "no owner": (
        [member("x", pax={"uid": "4294967295"})],
        '"x" has an impossible owner (4294967295:0)',
    ),
    "a device beyond all": (
        [member("x", kind="char", device=(4096, 0))],
        '"x" has an impossible device number',
    ),
    "a NUL in a link": (
        [member("x", kind="symlink", link="l", pax={"linkpath": "a\0b"})],
        '"x" has a NUL character in its name',
    ),
    "a NUL in an attribute": (
        [member("x", pax={"SCHILY.xattr.user.a\0b": "1"})],
        '"x" has an attribute with a NUL character in its name',
    ),
    "a name with control characters": (
        [member("\x1b[31m/../x")],
        '"\\x1b[31m/../x" leaves the image with ".."',
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_layer_leaves_no_trace(store: Store, tmp_path: Path, case: str) -> None:
    members, sentence = HOSTILE[case]
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    layer = tar(member("good", b"1"), *members)
    if sentence is None:
        unpack(store, layer)
        return
    name = digest(gzip.compress(layer, mtime=0))[7:19]
    with pytest.raises(CtrtError) as caught:
        unpack(store, layer)
    assert str(caught.value) == (f"cannot unpack localhost/test:latest: layer {name}: {sentence}")
    assert leftovers(store) == []
    assert sorted(os.listdir(tmp_path)) == ["outside", "store"]
    assert [(p.name, p.read_text()) for p in outside.iterdir()] == [("secret", "secret")]
    assert (outside / "secret").stat().st_nlink == 1


def test_entries_that_point_outside_land_inside(store: Store, tmp_path: Path) -> None:
    """What chroot would do: nothing outside is touched, and the layer is as it says."""
    target = tmp_path / "target"
    target.mkdir()
    escape = f"../../../../../../../..{target}"
    root = one(
        store,
        member("/abs", b"1"),
        member("l", kind="symlink", link=str(target)),
        member("l/x", b"2"),
        member("m", kind="symlink", link=escape),
        member("m/y", b"3"),
        member("l/.wh.z"),
        member("m/.wh..wh..opq"),
        member("n", kind="symlink", link=str(target / "file")),
        member("n", b"4"),
    )
    inside = root / str(target).lstrip("/")
    assert list(target.iterdir()) == []
    assert (root / "abs").read_text() == "1"
    assert (inside / "x").read_text() == "2"
    assert (inside / "y").read_text() == "3"
    assert is_whiteout(inside / "z")
    assert is_opaque(inside)
    assert (root / "n").read_text() == "4"
    assert not (root / "n").is_symlink()


@pytest.mark.parametrize(
    ("blob", "sentence"),
    [
        (lambda tar: gzip.compress(tar)[:-20], "its gzip data ends too early"),
        (lambda tar: gzip.compress(tar)[:40], "its gzip data ends too early"),
        (lambda tar: gzip.compress(tar)[:-5] + b"12345", "its gzip data is broken (incorrect "),
        (lambda tar: b"\x1f\x8b\x08" + b"\0" * 50, None),
        (lambda tar: gzip.compress(tar) + b"more", "something that is not gzip follows its gzip"),
        (lambda tar: gzip.compress(tar[:1000]), "it ends in the middle of an entry"),
        (lambda tar: tar[:700], "it ends in the middle of an entry"),
        (
            lambda tar: b"\x28\xb5\x2f\xfd" + tar,
            "its zstd data is broken (",
        ),
        (lambda tar: b"", "its content has the digest sha256:e3b0c44298fc"),
    ],
)
def test_a_broken_blob_leaves_no_trace(store: Store, blob: object, sentence: str | None) -> None:
    layer = tar(member("x", os.urandom(2000)))
    made = image(store, layer, blobs=[blob(layer)])  # type: ignore[operator]
    with pytest.raises(CtrtError) as caught:
        layers.unpack(store, made, layers.Unpacker(WORLD))
    start = f"cannot unpack localhost/test:latest: layer {made.layers[0].digest[7:19]}: "
    assert str(caught.value).startswith(start + (sentence or "its gzip data"))
    assert "\n" not in str(caught.value)
    assert leftovers(store) == []


def test_content_with_another_digest_is_refused(store: Store) -> None:
    other = digest(b"other")
    layer = tar(member("x"))
    made = image(store, layer, diff_ids=[other])
    with pytest.raises(CtrtError) as caught:
        layers.unpack(store, made, layers.Unpacker(WORLD))
    assert str(caught.value) == (
        f"cannot unpack localhost/test:latest: layer {made.layers[0].digest[7:19]}: its content"
        f" has the digest {digest(layer)}, but the image's configuration says {other}"
    )
    assert leftovers(store) == []


def test_one_broken_layer_among_many_leaves_no_trace(store: Store) -> None:
    good = [tar(member(f"f{n}", b"x" * n)) for n in range(9)]
    with pytest.raises(CtrtError, match=r'"a/\.\./b" leaves the image'):
        unpack(store, *good, tar(member("a/../b")))
    assert leftovers(store) == []
    assert len(unpack(store, *good)) == 9


def test_a_bomb_is_stopped(store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """1 GiB of zeros is 1 MiB; the bound is lowered here so that the test is quick."""
    blob = tmp_path / "blob"
    blob.write_bytes(gzip.compress(tar(member("zero", bytes(50 << 20)))))
    into = tmp_path / "into"
    into.mkdir()
    monkeypatch.setattr(_unpack, "ALWAYS_BYTES", 10 << 20)
    order = {
        "into": str(into),
        "blob": str(blob),
        "size": blob.stat().st_size,
        "diff_id": digest(b""),
    }
    with pytest.raises(_unpack.BrokenLayerError) as caught:
        _unpack._extract(order, WORLD)
    assert str(caught.value) == "it grows to more than 10 MiB when it is unpacked"
    assert (into / "zero").stat().st_size <= 10 << 20


@pytest.mark.parametrize(
    "kept",
    [
        lambda n: member(f"d{n}", kind="dir", pax={"SCHILY.xattr.user.x": "x" * 60_000}),
        lambda n: member(f"l{n}", kind="link", link=f"{'y' * 200}/" * 190 + str(n)),
        lambda n: member("/".join(f"{part}{n}{'z' * 190}" for part in range(150))),
    ],
    ids=["attributes", "links", "implied"],
)
def test_what_is_kept_until_the_end_of_a_layer_is_bounded(
    store: Store, monkeypatch: pytest.MonkeyPatch, kept: Callable[[int], bytes]
) -> None:
    """A small blob of many directories or links must not fill the memory."""
    monkeypatch.setattr(_tree, "MAX_KEPT_BYTES", 1 << 20)
    into = store.path("into")
    os.makedirs(into)
    blob = store.path("blob")
    Path(blob).write_bytes(data := tar(*map(kept, range(60))))
    order = {"into": into, "blob": blob, "size": len(data), "diff_id": digest(data)}
    with pytest.raises(_unpack.BrokenLayerError) as caught:
        _unpack._extract(order, WORLD)
    assert str(caught.value) == "it has more directories and links than there is memory for"


def test_a_header_of_many_records_takes_no_longer_than_it_is_long() -> None:
    """Quadratic work in 1 MiB would be seconds, for each of a thousand headers in a small blob."""
    spent = []
    for count in (20_000, 160_000):
        begin = time.process_time()
        assert _tar._pax(b"6 a=b\n" * count) == {b"a": b"b"}
        spent.append(time.process_time() - begin)
    assert spent[1] < 8 * spent[0] * 3


def test_a_disk_that_is_full_is_a_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    blob = tmp_path / "blob"
    blob.write_bytes(tar(member("x", b"1")))
    into = tmp_path / "into"
    into.mkdir()
    monkeypatch.setattr(_unpack, "RESERVE_BYTES", 1 << 60)  # more than is free
    order = {"into": str(into), "blob": str(blob), "size": 1, "diff_id": digest(b"")}
    with pytest.raises(_unpack.BrokenLayerError) as caught:
        _unpack._extract(order, WORLD)
    assert str(caught.value) == "there is no space left on the disk for it"
    assert list(into.iterdir()) == []


def test_a_killed_unpacker_leaves_nothing_in_the_way(store: Store) -> None:
    made = image(store, tar(member("x", b"1")))

    def die(argv: list[str]) -> int:
        os.makedirs(os.path.join(os.path.dirname(argv[-1]), "half"))
        return 137

    with pytest.raises(CtrtError) as caught:
        layers.unpack(store, made, layers.Unpacker(WORLD, die))
    assert str(caught.value) == (
        "cannot unpack localhost/test:latest: the program that unpacks layers ended with status"
        " 137 and no answer"
    )
    assert leftovers(store) == []
    assert len(layers.unpack(store, made, layers.Unpacker(WORLD))) == 1


def test_removing_a_tree_follows_no_link_and_opens_what_is_closed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("")
    tree = tmp_path / "tree"
    (tree / "a/b").mkdir(parents=True)
    (tree / "a/link").symlink_to(outside)
    (tree / "closed").mkdir()
    (tree / "closed/x").write_text("")
    (tree / "closed").chmod(0)
    _tree.remove_tree(str(tree))
    assert not tree.exists()
    assert (outside / "kept").exists()
    _tree.remove_tree(str(tree))


def test_a_damaged_archive_is_always_a_sentence(store: Store, tmp_path: Path) -> None:
    """Bytes changed at random: whatever comes of it, it is said, and stays inside."""
    rng = random.Random(11)
    good = tar(
        member("d", kind="dir"),
        member("d/file", b"x" * 700),
        member("d/ü" + "n" * 120, b"1", pax={"mtime": "1.5", "SCHILY.xattr.user.a": "b"}),
        member("l", kind="symlink", link="d"),
        member("l/h", kind="link", link="d/file"),
        member("d/.wh.gone"),
        member("g" * 120, b"1", form=tarfile.GNU_FORMAT),
    )
    outside = tmp_path / "x"
    outside.mkdir()
    for n in range(300):
        damaged = bytearray(good)
        for _ in range(rng.randrange(1, 4)):
            block = rng.randrange(len(good) // 512) * 512
            damaged[block + rng.choice([*range(160), *range(257, 345)])] = rng.randrange(256)
            if damaged[block + 257 : block + 262] == b"ustar" and rng.random() < 0.9:
                header = damaged[block : block + 512]
                header[148:156] = b" " * 8
                damaged[block + 148 : block + 156] = b"%06o\0 " % sum(header)
        into = outside / str(n)
        into.mkdir()
        blob = tmp_path / "blob"
        blob.write_bytes(damaged)
        order = {"into": str(into), "blob": str(blob), "size": len(good), "diff_id": digest(good)}
        try:
            _unpack._extract(order, WORLD)
        except _unpack.BrokenLayerError as error:
            assert str(error).isprintable()  # noqa: PT017
    assert len(os.listdir(outside)) == 300
    assert sorted(os.listdir(tmp_path)) == ["blob", "x"]


INTERRUPTED = """
import sys, os, signal; sys.path[:0] = eval(sys.argv[1])
from ctrt.images.store import Store
from ctrt.images import layers
store = Store(sys.argv[2])
def tell(progress):
    print("unpacking", flush=True)
try:
    layers.unpack(store, store.find("localhost/test"), layers.Unpacker(sys.argv[3]), progress=tell)
except KeyboardInterrupt:
    print(os.listdir(store.path("tmp")) + os.listdir(store.path("layers")))
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_unpacking_can_be_interrupted(store: Store, how: signal.Signals) -> None:
    layer = tar(member("big", bytes(250 << 20)))
    image(store, layer, blobs=[gzip.compress(layer, 1)])
    child = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, repr([p for p in sys.path if p]), store.root, WORLD],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "unpacking\n"
    while not any(names for _, _, names in os.walk(store.path("tmp")) if "big" in names):
        time.sleep(0.01)
    child.send_signal(how)
    rest = child.communicate()[0]
    assert rest == ("[]\n" if how == signal.SIGINT else "")
    assert os.listdir(store.path("layers")) == []
    deadline = time.monotonic() + 60
    while os.listdir(store.path("tmp")) and time.monotonic() < deadline:
        Store(store.root).clean()  # a program that lost its parent is left to end by itself
        time.sleep(0.05)
    assert os.listdir(store.path("tmp")) == []
