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

_ASK = (
    "import sys, importlib.util as u;"
    "print(sys.executable, '%d.%d' % sys.version_info[:2],"
    " *(bool(u.find_spec(name)) for name in ('ipykernel', 'debugpy')))"
)
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
    if name.strip(_LETTERS):
        raise CtrtError(
            f"kernel install: the name {name!r} is not lower-case letters, digits, '-', '_', '.'"
        )
    engine.image(values.image, progress=report)
    python, version, has_kernel, debugs = _ask(engine, values.image, values.python)
    arguments = [sys.executable, "-m", "ctrt_kernel.inside", "-f", "{connection_file}"]
    arguments += ["--image", str(reference), "--python", python]
    if not has_kernel:
        packages = _packages(familiar, version)
        debugs = os.path.isdir(f"{packages}/debugpy")
        arguments += ["--packages", packages]
    for volume in values.volume:
        arguments += ["--volume", volume]
    specification = {
        "argv": arguments,
        "display_name": values.display_name or f"Python {version} ({familiar})",
        "language": "python",
        "metadata": {"debugger": debugs},
    }
    directory = f"{_data_directory(values.sys_prefix)}/kernels/{name}"
    os.makedirs(directory, exist_ok=True)
    with open(f"{directory}/kernel.json.new", "w", encoding="utf-8") as file:
        json.dump(specification, file, indent=1)
    os.replace(f"{directory}/kernel.json.new", f"{directory}/kernel.json")
    return Text(f"the kernel {name} runs in {familiar}")


def _ask(engine: Engine, image: str, wanted: str | None) -> tuple[str, str, bool, bool]:
    """The image's interpreter, its version, and whether it has ipykernel and debugpy."""
    last: CtrtError | None = None
    for python in [wanted] if wanted else ["python3", "python", "/usr/bin/python3"]:
        try:
            prepared = engine.prepare(image, [python, "-c", _ASK], RUN.parse(["--entrypoint", ""]))
            words = engine.start(prepared).collect().check().text().split()
        except CtrtError as error:
            last = error
            continue
        return words[0], words[1], words[2] == "True", words[3] == "True"
    raise CtrtError(f"kernel install: {image} has no Python that starts: {last}")


def _packages(image: str, version: str) -> str:
    """The directory of this environment's ipykernel, for an image that has none."""
    import importlib.util
    import sys

    own = "{}.{}".format(*sys.version_info[:2])
    if own != version:
        raise CtrtError(
            f"kernel install: {image} has no ipykernel, and the one here is for Python {own}, not "
            f"{version}; install ipykernel in the image, or ctrt in an environment of that Python"
        )
    found = importlib.util.find_spec("ipykernel")
    if found is None or not found.origin:
        raise CtrtError(
            f"kernel install: {image} has no ipykernel, and there is none here either; "
            "install it with: pip install ipykernel"
        )
    return os.path.dirname(os.path.dirname(found.origin))


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
