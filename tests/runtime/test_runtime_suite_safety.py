"""What a container cannot reach of the runtime that starts it, and cannot put in its way."""

from __future__ import annotations

import os
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest
from bundles import Runtime, host_pids, until

from ctrt.runtime.operations import stand_in
from ctrt.runtime.operations.context import REFUSED

_TOLD_BY_PYTHON = "#!/proc/self/exe\nimport os\nprint(os.readlink('/proc/self/exe'))\n"


def _host_libraries(config: dict[str, Any]) -> None:
    """What the host's interpreter needs to run inside, which an attacker's image would bring."""
    for path in ("/usr/lib", "/lib", "/lib64"):
        if Path(path).is_dir():
            mount = {"destination": path, "type": "bind", "source": path, "options": ["rbind"]}
            config["mounts"].append(mount)


@pytest.fixture
def evil(runtime: Runtime) -> Runtime:
    """A root file system with a program whose interpreter is whoever executes it."""
    copy = runtime.home / "rootfs"
    subprocess.run(["cp", "-a", runtime.rootfs, copy], check=True)
    (copy / "evil").write_text(_TOLD_BY_PYTHON)
    (copy / "evil").chmod(0o755)
    runtime.rootfs = copy
    return runtime


@pytest.mark.parametrize("args", [["/evil"], ["/proc/self/exe", "/evil"]])
def test_the_first_program_is_not_run_by_the_host_s_interpreter(
    evil: Runtime, args: list[str]
) -> None:
    evil.config(*args, change=_host_libraries)
    done = evil.call("run", "one", check=False)
    assert (done.returncode, done.stdout) == (127, "")


def test_an_exec_is_not_run_by_the_host_s_interpreter(evil: Runtime) -> None:
    evil.config("sleep", "1000", change=_host_libraries)
    evil.quiet("run", "--detach", "one")
    done = evil.call("exec", "one", "/evil", check=False)
    assert (done.returncode, done.stdout) == (127, "")


def test_a_started_program_is_not_run_by_the_host_s_interpreter(evil: Runtime) -> None:
    evil.config("/evil", change=_host_libraries)
    evil.quiet("create", "one")
    evil.call("start", "one")
    evil.await_status("one", "stopped")
    assert evil.stdout == ""


def test_the_stand_in_tells_what_was_refused(tmp_path: Path) -> None:
    """Every machine's program is an ELF file for it; this machine's own is executed."""
    for machine, number in (("x86_64", 62), ("aarch64", 183)):
        image = stand_in.image(machine, 1, "/nowhere")
        assert image.startswith(b"\x7fELF\x02\x01\x01")
        assert struct.unpack_from("<H", image, 18) == (number,)
        assert struct.unpack_from("<Q", image, 64 + 32) == (len(image),)
    if os.uname().machine not in ("x86_64", "aarch64"):
        return
    program = tmp_path / "program"
    program.write_bytes(stand_in.image(os.uname().machine, 1, "/nowhere"))
    program.chmod(0o755)
    done = subprocess.run([program], capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (127, REFUSED + b"\x02")
    # The pipe is closed: it was executed by itself, and does not go on.
    done = subprocess.run(["sh", "-c", f"exec {program} >&-"], check=False, timeout=60)
    assert done.returncode == 127


@pytest.mark.parametrize("name", ["proc", "sys"])
def test_a_link_is_no_place_for_a_kernel_s_file_system(runtime: Runtime, name: str) -> None:
    copy = runtime.home / "rootfs"
    subprocess.run(["cp", "-a", runtime.rootfs, copy], check=True)
    (copy / name).rmdir()
    (copy / name).symlink_to("/tmp")
    runtime.rootfs = copy
    runtime.config("true")
    done = runtime.call("run", "one", check=False)
    assert done.returncode == 1
    assert "must be mounted on ordinary directory" in done.stderr


def _over(destination: str, **more: Any) -> dict[str, Any]:
    mount = {"type": "bind", "source": "/etc/hostname", "options": ["bind"]}
    return {**mount, "destination": destination, **more}


@pytest.mark.parametrize(
    ("mount", "words"),
    [
        (_over("/proc/self/attr/exec"), "is inside /proc"),
        (_over("/proc/1/../sys/kernel"), "is inside /proc"),
        ({"type": "tmpfs", "source": "tmpfs", "destination": "/proc/"}, "not of type proc"),
        (_over("/proc", source="/etc"), "not of type proc"),
    ],
)
def test_nothing_but_proc_is_at_proc(runtime: Runtime, mount: dict[str, Any], words: str) -> None:
    runtime.config("true", change=lambda config: config["mounts"].append(mount))
    done = runtime.call("run", "one", check=False)
    assert done.returncode == 1
    assert "cannot be mounted because it is" in done.stderr
    assert words in done.stderr


def test_files_of_proc_may_be_shown_in_another_way(both: Runtime) -> None:
    shown = both.home / "uptime"
    shown.write_text("1.00 2.00\n")
    mount = _over("/proc/uptime", source=str(shown))
    both.config("cat", "/proc/uptime", change=lambda config: config["mounts"].append(mount))
    assert both.call("run", "--no-mount-fallback", "one").stdout == "1.00 2.00\n"


def test_the_host_s_proc_may_be_bound(rootless: Runtime) -> None:
    """As a user without a pid namespace of the container's own has to."""

    def bind(config: dict[str, Any]) -> None:
        host_pids(config)
        options = ["rbind", "nosuid", "nodev", "noexec"]
        config["mounts"][0] = _over("/proc", type="none", source="/proc", options=options)

    rootless.config("readlink", "/proc/self/ns/pid", change=bind)
    assert rootless.call("run", "one").stdout.strip() == os.readlink("/proc/self/ns/pid")


def test_a_right_to_execute_counts_as_the_kernel_sees_it(runtime: Runtime) -> None:
    """CAP_DAC_OVERRIDE executes what the user's bits do not let it."""
    copy = runtime.home / "rootfs"
    subprocess.run(["cp", "-a", runtime.rootfs, copy], check=True)
    program = copy / "only-root" / "echo"
    program.parent.mkdir()
    program.write_bytes((copy / "bin" / "busybox").read_bytes())
    program.chmod(0o744)
    runtime.rootfs = copy

    def user(capabilities: list[str]) -> Any:
        def change(config: dict[str, Any]) -> None:
            config["process"]["user"] = {"uid": 1000, "gid": 100}
            names = ("bounding", "effective", "permitted", "inheritable", "ambient")
            config["process"]["capabilities"] = dict.fromkeys(names, capabilities)

        return change

    runtime.config("/only-root/echo", "ran", change=user([]))
    refused = runtime.call("run", "one", check=False)
    assert (refused.returncode, "permission denied" in refused.stderr) == (1, True)
    runtime.config("/only-root/echo", "ran", change=user(["CAP_DAC_OVERRIDE"]))
    assert runtime.call("run", "one").stdout == "ran\n"


def test_a_program_s_missing_interpreter_is_told_once(runtime: Runtime) -> None:
    copy = runtime.home / "rootfs"
    subprocess.run(["cp", "-a", runtime.rootfs, copy], check=True)
    (copy / "script").write_text("#!/nowhere\n")
    (copy / "script").chmod(0o755)
    runtime.rootfs = copy
    told = "exec /script: no such file or directory"
    runtime.config("/script")
    done = runtime.call("run", "one", check=False)
    assert (done.returncode, done.stderr) == (1, f"{told}\n")  # nothing else, as runc has it
    runtime.quiet("create", "one")
    done = runtime.call("start", "one", check=False)
    assert (done.returncode, told in done.stderr) == (1, True)
    runtime.call("delete", "--force", "one")
    runtime.config("sleep", "1000")
    runtime.quiet("run", "--detach", "one")
    done = runtime.call("exec", "one", "/script", check=False)
    assert (done.returncode, told in done.stderr) == (255, True)
    until(lambda: len(runtime.call("ps", "--format", "json", "one").stdout.split(",")) == 1, "one")


@pytest.mark.parametrize("action", ["SCMP_ACT_ERRNO", "SCMP_ACT_KILL_PROCESS"])
@pytest.mark.parametrize("call", ["memfd_create", "execveat", "fcntl"])
def test_a_filter_that_keeps_the_stand_in_away_keeps_no_program_away(
    runtime: Runtime, call: str, action: str
) -> None:
    rule = {"names": [call], "action": action}
    seccomp = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}

    def change(config: dict[str, Any]) -> None:
        config["linux"]["seccomp"] = seccomp

    runtime.config("/bin/echo", "ran", change=change)
    assert runtime.call("run", "one").stdout == "ran\n"
    runtime.config("/etc/passwd", change=change)
    done = runtime.call("run", "one", check=False)
    assert (done.returncode, "permission denied" in done.stderr) == (1, True)
