"""The kernel: IPython's, with the magics loaded, and with an end that leaves no container behind.

All that a cell can do is in the extension, which any Python kernel can load. Here is what only
a kernel can: its name, its help menu, and what happens at shutdown.
"""

from __future__ import annotations

import locale
import os
import signal
import threading
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from ipykernel.ipkernel import IPythonKernel

import ctrt
from ctrt_kernel import completion, extension

if TYPE_CHECKING:
    from collections.abc import Awaitable

_MANUAL = "https://man7.org/linux/man-pages"
_PAGES = (
    ("namespaces(7)", "man7/namespaces.7"),
    ("user_namespaces(7)", "man7/user_namespaces.7"),
    ("mount_namespaces(7)", "man7/mount_namespaces.7"),
    ("capabilities(7)", "man7/capabilities.7"),
    ("cgroups(7)", "man7/cgroups.7"),
    ("unshare(1)", "man1/unshare.1"),
)


class CtrtKernel(IPythonKernel):
    """A Python kernel with containers."""

    implementation = "ctrt"
    implementation_version = ctrt.__version__

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.help_links = [
            {"text": name, "url": f"{_MANUAL}/{path}.html"} for name, path in _PAGES
        ] + self.help_links[:2]
        _route_comm_replies()
        _leave_a_locale_that_is_missing()
        self.shell.extension_manager.load_extension("ctrt")

    @property
    def banner(self) -> str:
        """The first lines of a console."""
        return (
            f"ctrt {ctrt.__version__}: Linux containers you can see. "
            "Try %%container? or %ctrt --help.\n" + self.shell.banner
        )

    def do_complete(self, code: str, cursor_pos: int | None) -> dict[str, Any] | Awaitable[Any]:
        """Complete; a cell's script is no Python, so nothing of Python is offered in it."""
        position = len(code) if cursor_pos is None else cursor_pos
        if not completion.in_script(code, position):
            return super().do_complete(code, cursor_pos)
        token, found = completion.offered(code[:position])
        start = position - len(token)
        types = [{"start": start, "end": position, "text": w.text, "type": w.kind} for w in found]
        return {
            "status": "ok",
            "matches": [word.text for word in found],
            "cursor_start": start,
            "cursor_end": position,
            "metadata": {"_jupyter_types_experimental": types},
        }

    def do_inspect(
        self, code: str, cursor_pos: int, detail_level: int = 0, omit_sections: Any = ()
    ) -> dict[str, Any] | Awaitable[Any]:
        """Explain; options, images and commands of a cell of ours are explained by us."""
        text = completion.explained(code, cursor_pos)
        if not text and not completion.in_script(code, cursor_pos):
            return super().do_inspect(code, cursor_pos, detail_level, omit_sections)
        data = {"text/plain": text} if text else {}
        return {"status": "ok", "found": bool(text), "data": data, "metadata": {}}

    async def do_execute(self, *given: Any, **named: Any) -> dict[str, Any]:
        """Run a cell, and answer also who presses stop again while it ends.

        IPython would lose the error, and ipykernel the reply, to a KeyboardInterrupt that comes
        then: a frontend would show the cell as running for ever.
        """
        self.shell._last_traceback = None  # noqa: SLF001 - what this cell shows
        try:
            reply: dict[str, Any] = await super().do_execute(*given, **named)
        except KeyboardInterrupt:
            reply = {
                "status": "error",
                "ename": "KeyboardInterrupt",
                "evalue": "",
                "execution_count": self.shell.execution_count - 1,
                "user_expressions": {},
                "payload": [],
            }
        finally:
            if threading.current_thread() is threading.main_thread():
                # As it is between cells; ipykernel sets it anew before the next.
                signal.signal(signal.SIGINT, signal.SIG_IGN)
        if reply.get("ename") == "KeyboardInterrupt" and not self.shell._last_traceback:  # noqa: SLF001
            name, value = reply["ename"], reply["evalue"]
            reply["traceback"] = [f"{name}: {value}" if value else name]
            error = {"ename": name, "evalue": value, "traceback": reply["traceback"]}
            self.send_response(self.iopub_socket, "error", error)
        return reply

    def do_shutdown(self, restart: bool) -> dict[str, Any]:
        """End the containers before the kernel answers, so that nothing of it outlives it."""
        extension.close()
        return super().do_shutdown(restart)


def _route_comm_replies() -> None:
    """Let a widget answer while a cell runs.

    ipykernel 7.4.0 sends the answer of a widget's message to the subshell that last published
    on its comm, instead of the one that the frontend named: it then waits for the cell's end.
    """
    if version("ipykernel") != "7.4.0":
        return
    from ipykernel.comm.comm import BaseComm

    if hasattr(BaseComm, "_reply_subshell_for"):
        BaseComm._reply_subshell_for = lambda _self, _data, default: default  # noqa: SLF001


def _leave_a_locale_that_is_missing() -> None:
    """Give programs of cells a locale that this machine has.

    Where ssh or a hub brought the name of one that is not installed, the C library takes C, and
    bash and perl say so in every cell: the notebook would not give the same text as elsewhere.
    """
    before = locale.setlocale(locale.LC_ALL)
    for name in ("", "C.UTF-8", "C"):
        try:
            locale.setlocale(locale.LC_ALL, name)
        except locale.Error:
            continue
        locale.setlocale(locale.LC_ALL, before)
        if name:
            os.environ["LC_ALL"] = name
        return
