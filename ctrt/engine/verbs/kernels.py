"""The verb about Jupyter kernels: any image with a Python as a kernel.

It writes a kernel specification, which is a small JSON file, and needs no Jupyter for that.
"""

from __future__ import annotations

import os

from ctrt.engine.options import RUN, Option, Table
from ctrt.engine.verbs.base import ONE, Text, Verb
from ctrt.errors import CtrtError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ctrt.engine import Engine
    from ctrt.engine.options import Values
    from ctrt.engine.verbs.base import Report

_ASK = """
import os, platform, sys, sysconfig, importlib.util as u
libc = platform.libc_ver()
print(sys.executable, '%d.%d' % sys.version_info[:2], sysconfig.get_platform(),
      '-'.join(libc) if libc[0] else 'musl',
      *(bool(u.find_spec(name)) for name in ('ipykernel', 'debugpy')))
"""
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789-_."


def _kernel(engine: Engine, values: Values, report: Report) -> Text:
    import json
    import sys

    from ctrt.oci.reference import parse

    if values.operands != ["install"]:
        raise CtrtError(f"kernel: expected install, got {' '.join(values.operands)}")
    if not values.image:
        raise CtrtError("kernel install: name an image, as in: --image python:3.12")
    reference = parse(values.image)
    familiar = reference.familiar()
    name = values.name or "ctrt-" + "".join(c if c in _LETTERS else "-" for c in familiar.lower())
    if name.strip(_LETTERS) or name.startswith("."):
        raise CtrtError(
            f"kernel install: the name {name!r} is not lower-case letters, digits, '-', '_', and "
            "'.' but at its beginning"
        )
    engine.image(values.image, progress=report)
    python = _ask(engine, values.image, values.python)
    arguments = [sys.executable, "-m", "ctrt_kernel.inside", "-f", "{connection_file}"]
    arguments += ["--image", str(reference), "--python", python.path]
    debugs = python.debugs
    if not python.has_kernel:
        packages = _packages(engine, familiar, python)
        debugs = os.path.isdir(f"{packages}/debugpy")
        arguments += ["--packages", packages]
    for volume in values.volume:
        arguments += ["--volume", volume]
    specification = {
        "argv": arguments,
        "display_name": values.display_name or f"Python {python.version} ({familiar})",
        "language": "python",
        "metadata": {"debugger": debugs},
    }
    directory = f"{_data_directory(values.sys_prefix)}/kernels/{name}"
    os.makedirs(directory, exist_ok=True)
    with open(f"{directory}/kernel.json.new", "w", encoding="utf-8") as file:
        json.dump(specification, file, indent=1)
    os.replace(f"{directory}/kernel.json.new", f"{directory}/kernel.json")
    return Text(f"the kernel {name} runs in {familiar}")


class _Python:
    """An image's interpreter; what it can import depends on its version, platform and libc.

    `platform` is as sysconfig.get_platform() has it (linux-x86_64), `libc` glibc-2.36 or musl.
    """

    __slots__ = ("debugs", "has_kernel", "libc", "path", "platform", "version")

    def __init__(self, words: list[str]) -> None:
        self.path, self.version, self.platform, self.libc = words[:4]
        self.has_kernel, self.debugs = (word == "True" for word in words[4:])


def _ask(engine: Engine, image: str, wanted: str | None) -> _Python:
    """The image's interpreter, and whether it has ipykernel and debugpy."""
    last: CtrtError | None = None
    for python in [wanted] if wanted else ["python3", "python", "/usr/bin/python3"]:
        try:
            prepared = engine.prepare(image, [python, "-c", _ASK], RUN.parse(["--entrypoint", ""]))
            words = engine.start(prepared).collect().check().text().split()
        except CtrtError as error:
            last = error
            continue
        return _Python(words)
    raise CtrtError(f"kernel install: {image} has no Python that starts: {last}")


def _packages(engine: Engine, image: str, python: _Python) -> str:
    """A directory with an ipykernel for an image that has none.

    It is this environment's own where both Pythons are of a kind; else pip fetches one.
    """
    import importlib.util
    import platform
    import sys
    import sysconfig

    own = "{}.{}".format(*sys.version_info[:2])
    libc, _, version = python.libc.partition("-")
    here = platform.libc_ver()[0] or "musl"
    fits = sysconfig.get_platform() == python.platform and here == libc
    found = importlib.util.find_spec("ipykernel")
    if own == python.version and fits and found is not None and found.origin:
        return os.path.dirname(os.path.dirname(found.origin))
    machine = python.platform.removeprefix("linux-").replace("-", "_")
    return _fetched(engine, image, python, _wheels(libc, version, machine))


def _wheels(libc: str, version: str, machine: str) -> list[str]:
    """The platforms of wheels that run with a C library: PEP 600, PEP 656."""
    if libc == "musl":
        return [f"musllinux_1_{minor}_{machine}" for minor in (2, 1)]
    try:
        newest = int(version.split(".")[1])
    except (ValueError, IndexError):
        newest = 17
    names = [f"manylinux_2_{minor}_{machine}" for minor in range(newest, 4, -1)]
    return [*names, *(f"manylinux{year}_{machine}" for year in (2014, 2010, 1))]


def _fetched(engine: Engine, image: str, python: _Python, platforms: list[str]) -> str:
    """A directory that pip has filled for that kind of Python; it stays for the next kernel."""
    import glob
    import shutil
    import subprocess
    import sys
    import zipfile

    kind = f"{python.version}-{python.platform}-{python.libc}"
    place = engine.store.path("kernel-packages", kind)
    if os.path.isdir(place):
        return place
    wheels, aside = f"{place}.{os.getpid()}.wheels", f"{place}.{os.getpid()}"
    # `pip install --target` would not ask whether a package takes the other version.
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--dest", wheels, "--only-binary", ":all:", "--python-version", python.version]
    for name in platforms:
        command += ["--platform", name]
    # What packages need for their version, pip asks this Python, not the other one.
    command += ["ipykernel", "typing_extensions"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if line.strip()]
            why = next((line for line in said if line.startswith("ERROR")), (said or ["?"])[-1])
            raise CtrtError(
                f"kernel install: {image} has no ipykernel, and pip cannot fetch one for "
                f"Python {python.version} ({python.libc}): {why.removeprefix('ERROR: ')}; "
                "install ipykernel in the image, or ctrt in an environment of that Python"
            )
        for wheel in glob.glob(f"{glob.escape(wheels)}/*.whl"):
            with zipfile.ZipFile(wheel) as packed:
                packed.extractall(aside)
        os.rename(aside, place)
    finally:
        for directory in (wheels, aside):
            shutil.rmtree(directory, ignore_errors=True)
    return place


def _data_directory(sys_prefix: bool) -> str:
    """Where Jupyter looks for kernels: this environment's directory, or the user's."""
    import sys

    if sys_prefix:
        return f"{sys.prefix}/share/jupyter"
    home = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    return os.environ.get("JUPYTER_DATA_DIR") or f"{home}/jupyter"


VERBS = [
    Verb(
        Table(
            "kernel",
            "Make a Jupyter kernel that runs in a container of an image.",
            "install",
            [
                Option("--image", "the image; it needs a Python", metavar="IMAGE"),
                Option("--name", "the kernel's name", metavar="NAME"),
                Option("--display-name", "the name in menus", metavar="TEXT"),
                Option("--python", "the interpreter in the image", metavar="PATH"),
                Option("--sys-prefix", "for this environment instead of this user"),
                Option(
                    "-v --volume",
                    "bind-mount; the notebook's folder always is",
                    metavar="SOURCE:DIR[:OPTIONS]",
                    kind="list",
                ),
            ],
        ),
        _kernel,
        ONE,
    ),
]
