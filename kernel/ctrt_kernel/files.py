"""Files of a cell for its container: its script, the variables of `--put`, `ctrt-display`.

Each is written into a directory of this process and bind-mounted read-only. The mount keeps the
file, so its name here goes as soon as the container has started. A program of the host's finds its
script and `ctrt-display` here, where they stay until that has ended.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from typing import TYPE_CHECKING, Any, Self

from ctrt.engine.verbs import VERBS
from ctrt.errors import CtrtError
from ctrt_kernel.words import encoded

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ctrt.engine import Engine
    from ctrt.engine.options import Values

SCRIPT_PATH = "/run/ctrt/cell"
"""Where a script that is a file is found in its container."""

KEPT_SCRIPT_PATH = "/.ctrt-cell"
"""The same in a container that runs already: a directory that every one has."""


class Files:
    """Files for one container; a context manager that takes them away here."""

    def __init__(self, values: Values) -> None:
        self._volumes: list[str] = getattr(values, "volume", [])
        self._given = len(self._volumes)
        self._directory = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._directory:
            shutil.rmtree(self._directory, ignore_errors=True)

    def taken(self) -> Files:
        """These files, for somebody else to take away; this one has none any more."""
        other = Files.__new__(Files)
        vars(other).update(vars(self))
        self._directory = ""
        return other

    def add(self, path: str, data: bytes, mode: int = 0o444) -> None:
        """A file at that absolute path of the container."""
        self._volumes.append(f"{self._write(data, mode)}:{path}:ro")

    def on_path(self, name: str, data: bytes, path: str) -> str:
        """That PATH with a directory behind it which has this program, for one of the host's."""
        return f"{path}:{os.path.dirname(self._write(data, 0o555, f'bin/{name}'))}"

    def _write(self, data: bytes, mode: int, name: str = "") -> str:
        if not self._directory:
            self._directory = tempfile.mkdtemp(prefix="ctrt-cell-")
            os.chmod(self._directory, 0o711)
        source = f"{self._directory}/{name or len(self._volumes)}"
        if (directory := os.path.dirname(source)) != self._directory:
            os.mkdir(directory)
            os.chmod(directory, 0o755)
        with open(source, "wb") as file:
            file.write(data)
        os.chmod(source, mode)
        return source

    def copy_into(self, engine: Engine, name: str) -> None:
        """Copy them into a container that runs already, instead of mounting them."""
        for volume in self._volumes[self._given :]:
            source, path, _ = volume.split(":")
            VERBS["cp"](engine, [source, f"{name}:{path}"])

    def script(self, body: bytes, path: str | None = SCRIPT_PATH) -> list[str]:
        """The words that run a script; one with `#!` needs the interpreter in the image.

        With no path it is for a program of the host's.
        """
        interpreter = ["/bin/sh"]
        if body.startswith(b"#!"):
            # As the kernel does it: one interpreter, and at most one argument (execve(2)).
            line = body[2:].split(b"\n", 1)[0].decode(errors="surrogateescape").strip()
            interpreter = line.split(None, 1)
            if not interpreter or not interpreter[0].startswith("/"):
                raise CtrtError(
                    f"the cell begins with #!{line}, which is no absolute path of an "
                    "interpreter; write #!/usr/bin/python3 or #!/usr/bin/env python3"
                )
        if path is None:
            return [*interpreter, self._write(body, 0o555)]
        self.add(path, body, 0o555)
        return [*interpreter, path]

    def put(self, words: Sequence[str], variables: Mapping[str, Any]) -> None:
        """The files that `--put VAR=/PATH` asks for."""
        for word in words:
            name, equals, path = word.partition("=")
            if not equals or not path.startswith("/") or ":" in path or path.endswith("/"):
                raise CtrtError(
                    f"--put {word!r} is not VAR=/PATH, with an absolute path of a file that "
                    "holds no ':'"
                )
            if name not in variables:
                import difflib

                near = difflib.get_close_matches(name, list(variables), 1)
                hint = f"; did you mean {near[0]}?" if near else ""
                raise CtrtError(f"--put {word!r}: there is no variable {name!r}{hint}")
            self.add(path, _bytes(word, variables[name]))


def _bytes(word: str, value: Any) -> bytes:
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    if isinstance(value, str):
        return encoded(f"--put {word!r}", value)
    import json

    try:
        return json.dumps(value, ensure_ascii=False).encode()
    except (TypeError, ValueError) as error:
        raise CtrtError(
            f"--put {word!r}: a {type(value).__name__} is no text, no bytes, and JSON cannot "
            f"hold it: {error}"
        ) from None
