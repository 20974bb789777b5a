"""The verb about Jupyter kernels: any image with a Python as a kernel.

It writes, lists and removes kernel specifications, which are small JSON files, and needs no Jupyter
for that.
"""

from __future__ import annotations

import os

from ctrt.engine.options import RUN, Option, Table
from ctrt.engine.verbs.base import MANY, Listing, Text, Verb
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
_STARTS = ("-m", "ctrt_kernel.inside")
"""What a kernel of ours has after its interpreter, and no other one."""


def _kernel(engine: Engine, values: Values, report: Report) -> Text | Listing:
    does, *names = values.operands
    if does == "install":
        if names:
            raise CtrtError(f"kernel install: it takes --name NAME, not {' '.join(names)}")
        return _install(engine, values, report)
    if does not in ("list", "remove", "uninstall"):
        import difflib

        near = difflib.get_close_matches(does, ("install", "list", "remove", "uninstall"), 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise CtrtError(f"kernel: expected install, list or remove, got {does}{hint}")
    for option in _TABLE.options:
        if option.key != "sys_prefix" and getattr(values, option.key) != option.default:
            raise CtrtError(f"kernel {does}: {option.names[-1]} goes only with kernel install")
    if does != "list":
        return _remove(does, names, values.sys_prefix)
    if names:
        raise CtrtError(f"kernel list: expected no name, got {' '.join(names)}")
    return Listing(
        ("NAME", "IMAGE", "DISPLAY NAME", "PLACE"),
        [(k.name, k.image, k.display_name, k.place) for k in made(values.sys_prefix)],
    )


class Made:
    """A kernel that `ctrt kernel install` has made; `place` is the directory of all kernels."""

    __slots__ = ("display_name", "image", "name", "place")

    def __init__(self, place: str, name: str, image: str, display_name: str) -> None:
        self.place = place
        self.name = name
        self.image = image
        self.display_name = display_name


def made(sys_prefix: bool = False) -> list[Made]:
    """The kernels that ctrt has made: this user's, then this environment's; or only the latter."""
    found = (_read(place, name) for place in _places(sys_prefix) for name in _names(place))
    return [kernel for kernel in found if kernel is not None]


def _places(sys_prefix: bool) -> list[str]:
    wanted = (True,) if sys_prefix else (False, True)
    return list(dict.fromkeys(f"{_data_directory(where)}/kernels" for where in wanted))


def _names(place: str) -> list[str]:
    try:
        return sorted(os.listdir(place))
    except OSError:
        return []


def _read(place: str, name: str) -> Made | None:
    """The kernel of that name, if it is one of ours."""
    import json

    from ctrt.oci.reference import parse

    try:
        with open(f"{place}/{name}/kernel.json", encoding="utf-8") as file:
            specification = json.load(file)
        arguments = specification["argv"]
        if tuple(arguments[1:3]) != _STARTS:
            return None
        image = parse(arguments[arguments.index("--image") + 1]).familiar()
        return Made(place, name, image, str(specification.get("display_name", "")))
    # What anybody may have written: no JSON, or JSON of another shape.
    except (OSError, ValueError, RecursionError, LookupError, TypeError, AttributeError, CtrtError):
        return None


def _remove(does: str, names: list[str], sys_prefix: bool) -> Text:
    """Remove all that are named, or none."""
    import shutil

    if not names:
        raise CtrtError(f"kernel {does}: name a kernel, as ctrt kernel list shows it")
    kernels = [_named(does, name, sys_prefix) for name in dict.fromkeys(names)]
    for kernel in kernels:
        directory = f"{kernel.place}/{kernel.name}"
        try:
            if os.path.islink(directory):
                os.unlink(directory)
            else:
                shutil.rmtree(directory)
        except OSError as error:
            raise CtrtError(f"kernel {does}: {directory}: {error.strerror}") from None
    return Text("\n".join(f"the kernel {k.name} is no longer in {k.place}" for k in kernels))


def _named(does: str, name: str, sys_prefix: bool) -> Made:
    """The kernel that has this name. Raises CtrtError if there is none, or somebody else's."""
    known = made(sys_prefix)
    for kernel in known:
        if kernel.name == name:
            return kernel
    for place in _places(sys_prefix):
        if name in _names(place):
            raise CtrtError(
                f"kernel {does}: the kernel {name} in {place} was not made by ctrt kernel install"
            )
    import difflib

    near = difflib.get_close_matches(name, [kernel.name for kernel in known], 1)
    hint = f"did you mean {near[0]}?" if near else "see ctrt kernel list"
    raise CtrtError(f"kernel {does}: there is no kernel {name!r}; {hint}")


def _install(engine: Engine, values: Values, report: Report) -> Text:
    import json
    import sys

    from ctrt.oci.reference import parse

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
    arguments = [sys.executable, *_STARTS, "-f", "{connection_file}"]
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
        # The command does without `site`, which is what sets sys.prefix in a virtual environment.
        place = os.path.dirname(os.path.dirname(sys.executable))
        place = place if os.path.exists(f"{place}/pyvenv.cfg") else sys.prefix
        return f"{place}/share/jupyter"
    home = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    return os.environ.get("JUPYTER_DATA_DIR") or f"{home}/jupyter"


_TABLE = Table(
    "kernel",
    "Make a Jupyter kernel that runs in a container of an image; list those, or remove them.",
    "install | list | remove KERNEL...",
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
)
VERBS = [Verb(_TABLE, _kernel, MANY)]
