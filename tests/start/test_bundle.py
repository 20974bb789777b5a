"""The bundle: commands import from it, and nothing that happens to it harms them."""

from __future__ import annotations

import marshal
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "ctrt"


class Installed:
    """A package and its command in an environment of their own."""

    def __init__(self, directory: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", directory], check=True)
        self.package = next(directory.glob("lib/python*/site-packages")) / "ctrt"
        shutil.copytree(PACKAGE, self.package, ignore=shutil.ignore_patterns("__pycache__"))
        self.command = directory / "bin" / "ctrt-runtime"
        shutil.copy(PACKAGE / "cli" / "ctrt-runtime.sh", self.command)
        self.command.chmod(0o755)
        self.main = self.package / "cli" / "runtime" / "main.py"
        name = f"bundle.{sys.implementation.cache_tag}"
        self.bundle = self.package / "__pycache__" / name

    def does(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([self.command, *words], check=False, capture_output=True, text=True)

    def says(self, *words: str) -> str:
        done = self.does(*words)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    def version(self) -> str:
        return self.says("--version").split()[0]

    def forget_compiled(self) -> None:
        for path in self.package.rglob("*.pyc"):
            path.unlink()


@pytest.fixture
def installed(tmp_path: Path) -> Installed:
    return Installed(tmp_path / "environment")


def test_the_first_command_writes_it_and_the_next_import_from_it(installed: Installed) -> None:
    assert installed.version() == "ctrt-runtime"
    written = installed.bundle.stat().st_ino
    installed.forget_compiled()
    features = installed.says("features")
    # The interpreter compiles what it imports from a source.
    assert list(installed.package.rglob("*.pyc")) == []
    assert installed.bundle.stat().st_ino == written
    installed.bundle.unlink()
    assert installed.says("features") == features
    assert list(installed.package.rglob("*.pyc")) != []


def test_a_changed_source_counts(installed: Installed) -> None:
    installed.version()
    before = installed.bundle.stat().st_ino
    text = installed.main.read_text()
    installed.main.write_text(text.replace('print(f"ctrt-runtime version', 'print(f"another'))
    assert installed.version() == "another"
    assert installed.bundle.stat().st_ino != before
    installed.forget_compiled()
    assert installed.version() == "another"
    assert list(installed.package.rglob("*.pyc")) == []


def test_what_is_imported_together_comes_by_one_read(installed: Installed, tmp_path: Path) -> None:
    installed.version()
    trace = installed.bundle.parent / "trace"
    command = [
        "strace",
        "-f",
        "-e",
        "trace=openat",
        "-o",
        trace,
        installed.command,
        "--root",
        tmp_path,
    ]
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    done = subprocess.run(
        [*command, "start", "none"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.stderr == "ctrt-runtime: container does not exist: none\n"
    lines = trace.read_text().splitlines()
    # By the wrapper, and by a few parts.
    assert sum(installed.bundle.name in line for line in lines) <= 5
    assert not [line for line in lines if ".pyc" in line and "/encodings/" not in line]


def test_an_error_still_names_its_line(installed: Installed) -> None:
    records = installed.package / "runtime" / "records.py"
    text = records.read_text()
    line = "    if not identifier:\n"
    records.write_text(text.replace(line, "    1 / 0\n" + line))
    installed.does("--debug", "state", "one")
    told = installed.does("--debug", "state", "one").stderr
    number = text[: text.index(line)].count("\n") + 1
    assert f'records.py", line {number}, in check_id' in told
    assert "ZeroDivisionError" in told
    written = installed.bundle.stat().st_ino
    assert "ZeroDivisionError" in installed.does("--debug", "state", "one").stderr
    assert installed.bundle.stat().st_ino == written


def test_one_that_another_version_wrote_is_replaced(installed: Installed) -> None:
    installed.version()
    whole = installed.bundle.read_bytes()
    head = 16 + int(whole[:16])
    index = marshal.loads(whole[head + 16 :])
    other = marshal.dumps({name: ("a.py", 0, 0, 0, *place) for name, place in index.items()})
    installed.bundle.write_bytes(whole[:head] + b"%016d" % len(other) + other)
    damaged = installed.bundle.stat().st_ino
    assert installed.version() == "ctrt-runtime"
    good = installed.bundle.stat().st_ino
    assert good != damaged
    installed.forget_compiled()
    assert installed.version() == "ctrt-runtime"
    assert list(installed.package.rglob("*.pyc")) == []
    assert installed.bundle.stat().st_ino == good


def test_a_copied_environment_has_modules_of_its_own(installed: Installed, tmp_path: Path) -> None:
    installed.version()
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-a", tmp_path / "environment", copy], check=True)
    shutil.rmtree(installed.package)
    command = copy / "bin" / "ctrt-runtime"
    for path in copy.rglob("*.pyc"):
        path.unlink()
    done = subprocess.run([command, "features"], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert list(copy.rglob("*.pyc")) == [], "the bundle that came along was not used"


def test_a_module_that_is_gone_is_not_imported(installed: Installed) -> None:
    installed.version()
    (installed.package / "runtime" / "records.py").unlink()
    assert "records" in installed.does("--version").stderr


@pytest.mark.parametrize("kept", [0, 10, 16, 5_000, 30_000, 400_000])
@pytest.mark.parametrize("end", ["cut", "zeros"])
def test_a_damaged_one_is_not_used(installed: Installed, kept: int, end: str) -> None:
    installed.version()
    whole = installed.bundle.read_bytes()
    rest = b"" if end == "cut" else bytes(len(whole) - kept)
    installed.bundle.write_bytes(whole[:kept] + rest)
    assert installed.version() == "ctrt-runtime"
    installed.says("features")
    assert installed.version() == "ctrt-runtime"


def test_where_it_cannot_be_written_it_is_done_without(installed: Installed) -> None:
    (installed.package / "__pycache__").write_text("in the way")
    assert installed.version() == "ctrt-runtime"
    assert installed.version() == "ctrt-runtime"
    assert (installed.package / "__pycache__").read_text() == "in the way"
