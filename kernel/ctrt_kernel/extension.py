"""The IPython extension: it brings the magics and their completion, and ends what they began."""

from __future__ import annotations

import atexit
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell


def load_ipython_extension(shell: InteractiveShell) -> None:
    """Register the magics; a second call changes nothing."""
    from ctrt_kernel import completion
    from ctrt_kernel.magics import CtrtMagics

    shell.register_magics(CtrtMagics)
    matchers = shell.Completer.custom_matchers
    if completion.matcher not in matchers:
        matchers.append(completion.matcher)
    if without_body not in shell.input_transformers_cleanup:
        shell.input_transformers_cleanup.append(without_body)
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
    if without_body in shell.input_transformers_cleanup:
        shell.input_transformers_cleanup.remove(without_body)
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
    if len(filled) == 1 and filled[0].startswith(("%%container ", "%%unshare ")):
        return [filled[0][1:]]
    return lines


def close() -> None:
    """End registries and the containers that are not detached, and wait until they are gone."""
    magics = sys.modules.get("ctrt_kernel.magics")
    if magics is not None:
        magics.stop_servers()
    # Nothing is imported here: an engine that was never used has nothing to end.
    engine = sys.modules.get("ctrt.engine")
    if engine is not None:
        engine.close_all()
