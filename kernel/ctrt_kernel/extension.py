"""The IPython extension: it brings the magics and their completion, and ends what they began."""

from __future__ import annotations

import atexit
import difflib
import shlex
import sys
from typing import TYPE_CHECKING

from IPython.core.getipython import get_ipython

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

_CELLS = ("caps", "container", "image", "unshare")


def load_ipython_extension(shell: InteractiveShell) -> None:
    """Register the magics; a second call changes nothing."""
    from ctrt_kernel import completion
    from ctrt_kernel.magics import CtrtMagics

    shell.register_magics(CtrtMagics)
    matchers = shell.Completer.custom_matchers
    if completion.matcher not in matchers:
        matchers.append(completion.matcher)
    for transform in (without_body, mistyped):
        if transform not in shell.input_transformers_cleanup:
            shell.input_transformers_cleanup.append(transform)
    if hasattr(shell, "kernel"):
        from ctrt_kernel import world

        world.register()
    atexit.register(close)


def unload_ipython_extension(shell: InteractiveShell) -> None:
    """Take the magics away again, and end what they started."""
    from ctrt_kernel import completion
    from ctrt_kernel.magics import CtrtMagics

    for kind, names in CtrtMagics.magics.items():
        for name in names:
            shell.magics_manager.magics[kind].pop(name, None)
    matchers = shell.Completer.custom_matchers
    if completion.matcher in matchers:
        matchers.remove(completion.matcher)
    for transform in (without_body, mistyped):
        if transform in shell.input_transformers_cleanup:
            shell.input_transformers_cleanup.remove(transform)
    if hasattr(shell, "kernel"):
        from ctrt_kernel import world

        world.unregister()
    atexit.unregister(close)
    close()


def without_body(lines: list[str]) -> list[str]:
    """Make a cell magic of ours that has nothing below its line a line magic.

    `%%container IMAGE ls` says all there is to say, but IPython answers it with a UsageError.
    """
    filled = [line for line in lines if line.strip()]
    if len(filled) == 1 and _cell_magic(filled[0]) in _CELLS:
        return [filled[0][1:]]
    return lines


def _cell_magic(line: str) -> str:
    """The name of the cell magic that a line begins with; "" if it does with none."""
    return line[2:].split(None, 1)[0] if line.startswith("%%") and line[2:].strip() else ""


def mistyped(lines: list[str]) -> list[str]:
    """Make a cell magic that is almost one of ours an error.

    IPython prints that there is none and goes on, which tests of notebooks take for success.
    """
    name = _cell_magic(lines[0]) if lines else ""
    shell = get_ipython()
    if not name.isidentifier() or shell is None or shell.find_cell_magic(name) is not None:
        return lines
    near = difflib.get_close_matches(name, _CELLS, 1, 0.75)
    if not near:
        return lines
    return [f"%ctrt there-is-no-magic {shlex.quote(name)} {near[0]}\n"]


def close() -> None:
    """End registries and the containers that are not detached, and wait until they are gone."""
    magics = sys.modules.get("ctrt_kernel.magics")
    if magics is not None:
        magics.stop_servers()
    # Nothing is imported here: an engine that was never used has nothing to end.
    engine = sys.modules.get("ctrt.engine")
    if engine is not None:
        engine.close_all()
