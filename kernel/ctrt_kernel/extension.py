"""The IPython extension: it brings the magics and their completion, and ends what they began."""

from __future__ import annotations

import atexit
import difflib
import sys
from typing import TYPE_CHECKING, Any

from IPython.core.getipython import get_ipython
from IPython.core.inputtransformer2 import make_tokens_by_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from IPython.core.interactiveshell import InteractiveShell

_CELLS = ("caps", "container", "image", "unshare")
_ALL = (*_CELLS, "ctrt")


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
    if len(filled) == 1 and _cell_magic(filled[0]) in _ALL:
        return [filled[0][1:]]
    return lines


def _cell_magic(line: str) -> str:
    """The name of the cell magic that a line begins with; "" if it does with none."""
    return line[2:].split(None, 1)[0] if line.startswith("%%") and line[2:].strip() else ""


def mistyped(lines: list[str]) -> list[str]:
    """Make a magic that is almost one of ours an error.

    IPython prints that there is none and goes on, which tests of notebooks take for success.
    """
    shell = get_ipython()
    if shell is None or not lines:
        return lines
    if lines[0].startswith("%%"):
        better = _better(_cell_magic(lines[0]), "%%", shell.find_cell_magic)
        return [better] if better else lines
    found = {
        number: better
        for number, line in enumerate(lines)
        if line.startswith("%")
        and (better := _better(line[1:].split(" ", 1)[0].strip(), "%", shell.find_magic))
    }
    if not found:
        return lines
    # Not those in the middle of a string or of brackets.
    begins = {tokens[0].start[0] - 1 for tokens in make_tokens_by_line(lines) if tokens}
    return [found[n] if n in found and n in begins else line for n, line in enumerate(lines)]


def _better(name: str, sign: str, find: Callable[[str], Any]) -> str:
    """The line that says which magic of ours was meant; "" if none was."""
    if not name.isidentifier() or find(name) is not None:
        return ""
    near = difflib.get_close_matches(name, _ALL, 1, 0.75)
    return f"%ctrt there-is-no-magic {sign}{name} {sign}{near[0]}\n" if near else ""


def close() -> None:
    """End registries and the containers that are not detached, and wait until they are gone."""
    magics = sys.modules.get("ctrt_kernel.magics")
    if magics is not None:
        magics.stop_servers()
    # Nothing is imported here: an engine that was never used has nothing to end.
    engine = sys.modules.get("ctrt.engine")
    if engine is not None:
        engine.close_all()
