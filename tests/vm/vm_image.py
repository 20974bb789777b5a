"""The disk image of the test machine: Debian's packages, kept as long as the recipe is the same.

The packages come from where this machine's apt gets its own. What is made lies in
CACHE/vm/HASH, where the hash is that of this file and of the files in guest/: a change of the
recipe makes a new image, and takes the old one away.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

GUEST = Path(__file__).resolve().parent / "guest"
KERNEL = "linux-image-cloud-amd64"
PACKAGES = """
    systemd-sysv libpam-systemd dbus dbus-user-session python3 apparmor selinux-utils
    policycoreutils secilc kmod iproute2 procps util-linux libcap2-bin libseccomp2 uidmap
    busybox-static podman crun criu
""".split()
DRIVERS = ["virtio_pci", "virtio_blk", "virtio_console"]
USER = "student"  # an ordinary user with subordinate ids, whose systemd runs from boot on
OTHER_USER = "guest"  # one without
ROOTFS = "/srv/rootfs"  # busybox, for bundles


class Image(NamedTuple):
    """What a machine boots from."""

    disk: Path
    kernel: Path
    initrd: Path


def _run(*command: str | Path, stdin: bytes | None = None, cwd: Path | None = None) -> str:
    done = subprocess.run(
        [str(word) for word in command], input=stdin, capture_output=True, check=False, cwd=cwd
    )
    if done.returncode != 0:
        raise RuntimeError(
            f"{command[0]} ended with {done.returncode}: {done.stderr.decode(errors='replace')}"
        )
    return done.stdout.decode()


def _sources() -> tuple[str, str]:
    """This machine's own lines of Debian for apt, and the name of the release."""
    lines: dict[str, set[str]] = {}
    found = _run(
        "apt-get", "indextargets", "--format", "$(REPO_URI) $(CODENAME) $(COMPONENT)",
        "Created-By: Packages", "Origin: Debian",
    )  # fmt: skip
    for line in found.splitlines():
        uri, codename, component = line.split()
        if component == "main":
            lines.setdefault(codename, set()).add(uri)
    if not lines:
        raise RuntimeError("apt knows of no Debian here: run apt-get update first")
    release = min(lines, key=len)  # bookworm, and not bookworm-security
    return release, "".join(
        f"deb {uri} {codename} main\n" for codename, uris in lines.items() for uri in sorted(uris)
    )


def _root(root: Path) -> None:
    """Unpack and set up Debian."""
    release, sources = _sources()
    options = root.parent / "apt.conf"
    options.write_text(_run("apt-config", "dump", "Acquire"))  # a proxy, if there is one
    _run(
        "mmdebstrap", "--quiet", "--variant=essential", "--format=directory",
        f"--aptopt={options}",
        "--dpkgopt=path-exclude=/usr/share/doc/*",
        "--dpkgopt=path-exclude=/usr/share/man/*",
        "--dpkgopt=path-exclude=/usr/share/locale/*",
        f"--include={','.join(PACKAGES)}",
        release, root, "-", stdin=sources.encode(),
    )  # fmt: skip
    _run("chroot", root, "sh", "-euc", SETUP)
    guest = root / "usr/lib/ctrt-vm"
    guest.mkdir()
    for name in ("agent.py", "init", "policy.cil"):
        shutil.copy(GUEST / name, guest / name)
    (guest / "init").chmod(0o755)
    service = "ctrt-agent.service"
    shutil.copy(GUEST / service, root / "etc/systemd/system" / service)
    _run("chroot", root, "systemctl", "enable", service)
    _run("chroot", root, "secilc", "-M", "true", "-o", "/etc/selinux/ctrt/policy/policy.33",
         "-f", "/etc/selinux/ctrt/contexts/files/file_contexts", "/usr/lib/ctrt-vm/policy.cil",
    )  # fmt: skip


# What is switched off would only make the boot longer.
SETUP = f"""
useradd --create-home --shell /bin/bash {USER}
useradd --create-home --shell /bin/bash {OTHER_USER}
sed -i /^{OTHER_USER}:/d /etc/subuid /etc/subgid
mkdir -p /var/lib/systemd/linger
touch /var/lib/systemd/linger/{USER} /etc/fstab
echo ctrt-vm >/etc/hostname
printf '127.0.0.1 localhost ctrt-vm\n' >/etc/hosts
systemctl mask --quiet apparmor.service systemd-journal-flush.service systemd-random-seed.service \\
    systemd-update-utmp.service getty@tty1.service serial-getty@ttyS0.service getty.target \\
    systemd-tmpfiles-clean.timer dpkg-db-backup.timer fstrim.timer e2scrub_all.timer \\
    e2scrub_reap.service podman-restart.service podman-auto-update.timer podman.socket \\
    modprobe@drm.service modprobe@efi_pstore.service systemd-machine-id-commit.service \\
    podman.service podman-auto-update.service systemd-pcrphase.service \\
    systemd-pcrphase-sysinit.service
rm -f /etc/machine-id
dbus-uuidgen --ensure=/etc/machine-id
python3 -m venv --without-pip /opt/ctrt
mkdir -p /etc/selinux/ctrt/policy /etc/selinux/ctrt/contexts/files
printf 'SELINUX=permissive\nSELINUXTYPE=ctrt\n' >/etc/selinux/config
mkdir /srv/rootfs
cd /srv/rootfs
mkdir -p bin dev etc proc sys tmp
chmod 1777 tmp
cp /bin/busybox bin
for name in $(/bin/busybox --list); do [ -e bin/$name ] || ln bin/busybox bin/$name; done
"""


def _kernel(work: Path, root: Path) -> None:
    """Fetch the kernel; its drivers go into the image, and those of the disk into the initrd."""
    depends = _run("apt-cache", "depends", KERNEL)
    package = next(line.split()[-1] for line in depends.splitlines() if "linux-image-" in line[2:])
    _run("apt-get", "download", "-o", "APT::Sandbox::User=root", package, cwd=work)
    _run("dpkg", "-x", next(work.glob("*.deb")), work / "linux")
    (kernel,) = (work / "linux/boot").glob("vmlinuz-*")
    kernel.rename(work / "made/vmlinuz")
    release = kernel.name.removeprefix("vmlinuz-")
    shutil.copytree(work / f"linux/lib/modules/{release}", root / f"usr/lib/modules/{release}")
    _run("chroot", root, "depmod", release)

    initrd = work / "initrd"
    (initrd / "bin").mkdir(parents=True)
    shutil.copy(root / "usr/bin/busybox", initrd / "bin/busybox")
    shutil.copy(GUEST / "initrd-init", initrd / "init")
    (initrd / "init").chmod(0o755)
    there = f"usr/lib/modules/{release}"
    here = initrd / f"lib/modules/{release}"
    here.mkdir(parents=True)
    wanted = _run("chroot", root, "modprobe", "-S", release, "-a", "--show-depends", *DRIVERS)
    lines = []
    for line in wanted.splitlines():
        path = line.removeprefix("insmod ").split()[0].partition(f"{release}/")[2]
        (here / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / there / path, here / path)
        lines.append(path)
    keep = []
    for line in (root / there / "modules.dep").read_text().splitlines():
        if line.partition(":")[0] in lines:
            keep.append(line)
    (here / "modules.dep").write_text("\n".join(keep) + "\n")
    names = "\n".join(str(path.relative_to(initrd)) for path in sorted(initrd.rglob("*")))
    with (work / "made/initrd").open("wb") as file:
        subprocess.run(
            ["busybox", "cpio", "-o", "-H", "newc"],
            input=names.encode(), stdout=file, stderr=subprocess.DEVNULL, cwd=initrd, check=True,
        )  # fmt: skip


def _make(made: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="ctrt-vm-", dir=made.parent) as name:
        work = Path(name)
        (work / "made").mkdir()
        root = work / "root"
        root.mkdir()
        _run("apt-get", "update", "-qq")  # old lists name packages that are gone
        _root(root)
        _kernel(work, root)
        _run(
            "mke2fs", "-q", "-t", "ext4", "-E", "lazy_itable_init=0", "-O", "^has_journal",
            "-d", root, work / "made/disk", "3G",
        )  # fmt: skip
        (work / "made").rename(made)


def image(cache: Path) -> Image:
    """The image of this recipe, made if it is not there yet (about a minute)."""
    recipe = hashlib.sha256()
    for path in sorted([Path(__file__), *GUEST.iterdir()]):
        recipe.update(path.name.encode() + b"\0" + path.read_bytes())
    folder = cache / "vm"
    folder.mkdir(parents=True, exist_ok=True)
    made = folder / recipe.hexdigest()[:16]
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            for old in os.scandir(folder):
                if old.is_dir():
                    shutil.rmtree(old.path)
            _make(made)
    return Image(made / "disk", made / "vmlinuz", made / "initrd")
