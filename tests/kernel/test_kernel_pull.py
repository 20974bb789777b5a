"""Pulling from a cell: a line of progress that leaves no trace, and a registry in the kernel."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from kernel_tools import IMAGE, Kernel

from ctrt.images.serve import Server
from ctrt.images.store import Store

WIDGET = "application/vnd.jupyter.widget-view+json"


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    """A registry with an image that no kernel's store has yet; its address."""
    from ctrt.images.hostimage import from_host

    elsewhere = Store(str(tmp_path / "elsewhere"))
    from_host(elsewhere, "localhost/far/shell", ["sh", "true"])
    server = Server(elsewhere)
    server.start_in_thread()
    yield f"localhost:{server.port}"
    server.stop()


def test_progress_leaves_no_trace_that_nbval_sees(kernel: Kernel, registry: str) -> None:
    kernel.good("import ctrt_kernel.progress as progress; progress.QUIET_SECONDS = 0")
    first = kernel.good(f"%%container {registry}/far/shell\necho pulled")
    shown = [m for m in first.messages if m.kind == "display_data"]
    assert [set(m.content["data"]) for m in shown] == [{WIDGET}]
    opened = [m.content["data"]["state"] for m in first.messages if m.kind == "comm_open"]
    (bar,) = (state for state in opened if state["_model_name"] == "FloatProgressModel")
    assert bar["value"] <= bar["max"]
    told = [m.content["data"].get("state", {}) for m in first.messages if m.kind == "comm_msg"]
    assert any(str(state.get("value", "")).startswith("1 layer, ") for state in told)
    kinds = [m.kind for m in first.messages if m.kind in ("clear_output", "stream")]
    assert kinds == ["clear_output", "stream"]
    assert first.stream("stdout") == "pulled\n"
    assert first.stream("stderr") == ""
    second = kernel.good(f"%%container {registry}/far/shell\necho pulled")
    assert [m.kind for m in second.messages if not m.kind.startswith("comm")] == [
        "execute_input",
        "stream",
    ]
    kernel.good("progress.QUIET_SECONDS = 0.5")


def test_a_line_magic_leaves_the_output_before_it_alone(kernel: Kernel, registry: str) -> None:
    kernel.good("import ctrt_kernel.progress as progress; progress.QUIET_SECONDS = 0")
    outcome = kernel.good(f"print('before')\n%ctrt pull {registry}/far/shell")
    assert "clear_output" not in [m.kind for m in outcome.messages]
    updates = [m.content["data"] for m in outcome.messages if m.kind == "update_display_data"]
    assert updates == [{}]
    assert outcome.result == {"text/plain": f"{registry}/far/shell:latest"}
    kernel.good("progress.QUIET_SECONDS = 0.5")


def test_a_registry_that_lives_as_long_as_the_kernel(fresh_kernel: Kernel) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    said = f"the images of the store are served at localhost:{port}"
    code = f"%ctrt registry serve --port {port}"
    assert fresh_kernel.good(code).result["text/plain"] == said
    assert fresh_kernel.good(code).result["text/plain"] == said
    name = f"localhost:{port}/test/shell"
    assert fresh_kernel.good(f"%ctrt pull {name}").result["text/plain"] == f"{name}:latest"
    assert fresh_kernel.good(f"%%container {name}\necho hi").stream("stdout") == "hi\n"
    fresh_kernel.good(f"%ctrt rmi {name}")
    assert IMAGE in fresh_kernel.good("%ctrt images").result["text/plain"]
    fresh_kernel.stop()
    with socket.socket() as probe, pytest.raises(ConnectionRefusedError):
        probe.connect(("127.0.0.1", port))
