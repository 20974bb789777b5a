"""Images of this machine's own programs: complete, at the same paths, the same every time."""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from images_tools import archive

from ctrt.errors import CtrtError
from ctrt.images import layers
from ctrt.images.hostimage import from_host
from ctrt.images.store import Image, Store

ROOT = os.geteuid() == 0
needs_busybox = pytest.mark.skipif(not shutil.which("busybox"), reason="needs busybox")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


def contents(store: Store, made: Image) -> dict[str, tarfile.TarInfo]:
    (layer,) = made.layers
    with archive(gzip.decompress(Path(store.blob_path(layer.digest)).read_bytes())) as tar:
        return {info.name: info for info in tar}


def inside(store: Store, made: Image, *command: str) -> str:
    """Run a program of the image with the image as its root."""
    (path,) = layers.unpack(store, made, layers.Unpacker("root" if ROOT else "single"))
    chroot = shutil.which("chroot", path="/usr/sbin:/usr/bin:/sbin:/bin") or "chroot"
    prefix = [chroot] if ROOT else ["/usr/bin/unshare", "-r", chroot]
    return subprocess.run(
        [*prefix, path, *command], capture_output=True, text=True, check=True, env={}
    ).stdout


@needs_busybox
def test_busybox_brings_its_applets(store: Store) -> None:
    made = from_host(store, "localhost/bb", ["busybox"])
    assert made.reference == "localhost/bb:latest"
    assert made.config["config"]["Cmd"] == ["/bin/sh"]
    assert made.config["config"]["Env"] == [
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    ]
    assert made.config["history"] == [{"created_by": "ctrt image from-host busybox"}]
    said = inside(
        store, made, "/bin/sh", "-c", "ls -ld /tmp /root | cut -c1-10; id -un; cat /etc/group"
    )
    assert said.split() == ["drwx------", "drwxrwxrwt", "root", "root:x:0:", "nogroup:x:65534:"]
    names = contents(store, made)
    assert os.path.islink("/bin") == names["bin"].issym()
    place = "usr/bin" if names["bin"].issym() else "bin"
    assert names[f"{place}/ls"].linkname.endswith("busybox")


def test_a_program_brings_its_libraries_at_their_paths(store: Store) -> None:
    made = from_host(store, "localhost/tools", ["bash", "ls", "/usr/bin/env"])
    assert "hello" in inside(store, made, "/bin/bash", "-c", "echo hello; ls -l /bin/bash")
    assert inside(store, made, "/usr/bin/env", "A=1") == "A=1\n"
    assert inside(store, made, "/bin/sh", "-c", "echo $0") == "/bin/sh\n"
    for name, info in contents(store, made).items():
        assert not name.startswith("/")
        assert ".." not in name.split("/")
        assert (info.uid, info.gid) == (0, 0)
        on_host = "/" + name
        if name.startswith("etc/") or not os.path.lexists(on_host):
            continue
        if info.isfile():
            assert info.size == os.path.getsize(on_host), name
        if info.issym() and not name.endswith("/sh"):
            assert info.linkname == os.readlink(on_host)


def test_the_first_program_is_the_command_without_a_shell(store: Store) -> None:
    made = from_host(store, "localhost/true", ["true", "ls"])
    assert made.config["config"]["Cmd"] == [shutil.which("true")]
    names = contents(store, made)
    assert not {"bin/sh", "usr/bin/sh"} & set(names)


def test_the_same_files_give_the_same_image(store: Store, tmp_path: Path) -> None:
    first = from_host(store, "localhost/a", ["sh", "ls"])
    other = from_host(Store(str(tmp_path / "other")), "localhost/b", ["sh", "ls"])
    assert first.digest == other.digest
    assert from_host(store, "localhost/c", ["ls", "sh"]).layers[0].digest == first.layers[0].digest


def test_a_script_brings_its_interpreter(store: Store, tmp_path: Path) -> None:
    direct, by_env, nested = (tmp_path / name for name in ("direct", "byenv", "nested"))
    direct.write_text("#!/bin/sh\necho direct\n")
    by_env.write_text("#!/usr/bin/env -S sh\necho env\n")
    nested.write_text(f"#!{direct} x\n")
    for path in (direct, by_env, nested):
        path.chmod(0o755)
    made = from_host(store, "localhost/scripts", [str(direct), str(by_env), str(nested)])
    assert inside(store, made, str(direct)) == "direct\n"
    assert inside(store, made, str(by_env)) == "env\n"
    assert made.config["config"]["Cmd"] == [str(direct)]


def test_more_files(store: Store, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "sub/file").write_text("text")
    (tree / "link").symlink_to("sub/file")
    made = from_host(
        store, "localhost/f", ["cat"], files=[(str(tree), "/srv/data"), ("/etc/hostname", "/h")]
    )
    assert inside(store, made, shutil.which("cat") or "", "/srv/data/link") == "text"
    assert inside(store, made, shutil.which("cat") or "", "/h") == Path("/etc/hostname").read_text()
    with pytest.raises(CtrtError, match=r"^x must be an absolute path in the image$"):
        from_host(store, "localhost/f", ["cat"], files=[("/etc/hostname", "x")])
    with pytest.raises(CtrtError, match=r"^/none cannot be read: No such file or directory$"):
        from_host(store, "localhost/f", ["cat"], files=[("/none", "/x")])


@pytest.mark.skipif(not ROOT, reason="file capabilities need root")
def test_capabilities_and_set_id_bits(store: Store, tmp_path: Path) -> None:
    if not shutil.which("setcap"):
        pytest.skip("needs setcap")
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for path in (ours, theirs):
        shutil.copy(shutil.which("true") or "", path)
    subprocess.run(["setcap", "cap_net_raw+ep", str(ours)], check=True)
    os.chown(theirs, 1234, 1234)
    theirs.chmod(0o6755)
    made = from_host(store, "localhost/caps", [str(ours), str(theirs)])
    (path,) = layers.unpack(store, made, layers.Unpacker())
    there = path + str(ours)
    assert os.getxattr(there, "security.capability") == os.getxattr(ours, "security.capability")
    looks = os.stat(path + str(theirs))
    assert (looks.st_uid, looks.st_mode & 0o7777) == (0, 0o755), "nobody becomes root by it"


def elf(interpreter: bytes) -> bytes:
    """A 64-bit ELF file with one program header, PT_INTERP."""
    head = b"\x7fELF\2\1\1" + bytes(9) + (2).to_bytes(2, "little") + (62).to_bytes(2, "little")
    head += (1).to_bytes(4, "little") + bytes(8) + (64).to_bytes(8, "little") + bytes(8 + 4)
    head += b"".join(n.to_bytes(2, "little") for n in (64, 56, 1, 0, 0, 0))
    entry = (3).to_bytes(4, "little") + bytes(4) + (120).to_bytes(8, "little") + bytes(16)
    entry += len(interpreter).to_bytes(8, "little") * 2 + bytes(8)
    return head + entry + interpreter


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "there is no program PATH on this machine"),
        (
            b"#!/none/python\n",
            "the script PATH needs /none/python, which this machine does not have",
        ),
        (
            elf(b"/lib/none.so\0"),
            "PATH needs the loader /lib/none.so, which this machine does not have",
        ),
        (b"\x7fELF\2\1", "PATH is a broken ELF file"),
        (b"#!PATH\n", "PATH is a script whose interpreter is a script, again and again"),
    ],
)
def test_a_program_that_cannot_be_taken(
    store: Store, tmp_path: Path, content: bytes | None, sentence: str
) -> None:
    path = tmp_path / "program"
    if content is not None:
        path.write_bytes(content.replace(b"PATH", os.fsencode(path)))
        path.chmod(0o755)
    with pytest.raises(CtrtError) as caught:
        from_host(store, "localhost/x", [str(path)])
    assert str(caught.value) == sentence.replace("PATH", str(path))
    assert store.images() == []


def test_a_program_that_is_not_in_path(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/bin:relative")
    with pytest.raises(CtrtError) as caught:
        from_host(store, "localhost/x", ["nonesuch"])
    assert str(caught.value) == (
        "there is no program nonesuch on this machine (looked in /bin:relative:/usr/local/sbin:"
        "/usr/local/bin:/usr/sbin:/usr/bin:/sbin)"
    )
    with pytest.raises(CtrtError, match=r"needs a program to start; none is given for localhost/x"):
        from_host(store, "localhost/x", [])


def test_a_missing_library_is_named(store: Store, tmp_path: Path) -> None:
    if not shutil.which("cc"):
        pytest.skip("needs a C compiler")
    (tmp_path / "l.c").write_text("int f(void) { return 0; }")
    (tmp_path / "p.c").write_text("int f(void); int main(void) { return f(); }")
    library, program = str(tmp_path / "libgone.so"), str(tmp_path / "p")
    subprocess.run(["cc", "-shared", "-o", library, str(tmp_path / "l.c")], check=True)
    subprocess.run(["cc", "-o", program, str(tmp_path / "p.c"), library], check=True)
    os.unlink(library)
    with pytest.raises(CtrtError) as caught:
        from_host(store, "localhost/x", [program])
    assert str(caught.value) == (
        f"{program} needs the library {library}, which this machine does not have"
    )
