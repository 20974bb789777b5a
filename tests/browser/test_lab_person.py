"""What a person does in a notebook with containers: complete, answer, interrupt, look."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import nbformat
import pytest
from playwright.sync_api import expect

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "kernel"))
from inside_images import PYTHON_IMAGE, missing, python_image

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import Lab, LabPage
    from playwright.sync_api import Locator

IMAGE = "localhost/person/shell"


@pytest.fixture(scope="module", autouse=True)
def image(lab: Lab) -> None:
    """An image in the store of the server's kernels."""
    from ctrt.engine import Engine
    from ctrt.images.hostimage import from_host

    engine = Engine(str(lab.settings.parent / "ctrt"))
    from_host(engine.store, IMAGE, ["sh", "base64", "cat", "grep", "ls", "mount", "sleep"])
    engine.close()


def _open(lab_page: LabPage, *cells: str, kernel: str = "ctrt") -> None:
    spec = {"name": kernel, "display_name": kernel, "language": "python"}
    code = [nbformat.v4.new_code_cell(cell) for cell in cells]
    notebook = nbformat.v4.new_notebook(cells=code, metadata={"kernelspec": spec})
    lab_page.open("person.ipynb", notebook)
    lab_page.wait_for_kernel()


def _cell(lab_page: LabPage, number: int) -> Locator:
    return lab_page.page.locator(".jp-CodeCell").nth(number)


def _press_shift_enter(lab_page: LabPage, number: int = 0) -> Locator:
    """Click into a cell and run it by the keys; its output."""
    _cell(lab_page, number).locator(".cm-content").click()
    lab_page.page.keyboard.press("Shift+Enter")
    return _cell(lab_page, number).locator(".jp-OutputArea")


def _keep(lab_page: LabPage, name: str, bottom: Locator) -> None:
    """A picture of the notebook's upper part, down to an element."""
    area = lab_page.page.locator(".jp-MainAreaWidget:visible").first.bounding_box()
    end = bottom.bounding_box()
    assert area is not None
    assert end is not None
    height = min(end["y"] + end["height"] + 24, area["y"] + area["height"]) - area["y"]
    lab_page.page.screenshot(
        path=lab_page.screenshots / f"{name}.png", clip={**area, "height": height}
    )


def test_complete_an_image_s_name(lab_page: LabPage) -> None:
    _open(lab_page, "%%container localhost/per")
    page = lab_page.page
    editor = page.locator(".jp-CodeCell .cm-content")
    editor.click()
    page.keyboard.press("End")
    page.keyboard.press("Tab")
    expect(page.locator(".jp-Completer")).to_contain_text(f"{IMAGE}:latest")
    lab_page.screenshot("completion")
    page.keyboard.press("Enter")
    expect(editor).to_contain_text(f"%%container {IMAGE}")


def test_answer_a_question(lab_page: LabPage) -> None:
    _open(lab_page, f"%%container -t {IMAGE}\nprintf 'Your name? '; read name; echo Hello, $name!")
    page = lab_page.page
    output = _press_shift_enter(lab_page)
    question = page.locator(".jp-Stdin-input")
    expect(question).to_be_visible()
    _keep(lab_page, "question", question)
    question.fill("Ada")
    question.press("Enter")
    expect(output).to_contain_text("Hello, Ada!")


def test_interrupt(lab_page: LabPage) -> None:
    _open(lab_page, f"%%container {IMAGE}\necho ready; exec sleep 600")
    output = _press_shift_enter(lab_page)
    expect(output).to_contain_text("ready")
    lab_page.page.locator('[data-command="notebook:interrupt-kernel"]').first.click()
    expect(output).to_contain_text("KeyboardInterrupt")
    lab_page.wait_for_kernel()
    _keep(lab_page, "interrupt", _cell(lab_page, 1))


def test_run_save_and_read_it_again(lab_page: LabPage) -> None:
    """As somebody who gets the notebook: other than its author they have never trusted it."""
    _open(lab_page, f"%%container --graph {IMAGE}\necho it ran")
    expect(_press_shift_enter(lab_page)).to_contain_text("it ran")
    page = lab_page.page
    page.keyboard.press("Control+s")
    page.wait_for_function("!window.jupyterapp.shell.currentWidget.context.model.dirty")
    saved = nbformat.read(lab_page.lab.notebooks / "person.ipynb", as_version=4)
    saved.cells[0].source += "  # as sent"
    lab_page.open("sent.ipynb", saved)
    lab_page.node("mnt[1]").click()
    expect(lab_page.view.locator(".ctrt-drawer")).to_contain_text("mount")
    trusted = "window.jupyterapp.shell.currentWidget.content.widgets.every(c => c.model.trusted)"
    assert page.evaluate(trusted) is False


def test_hostile_output_is_text(lab_page: LabPage) -> None:
    evil = "<img src=x onerror=window.pwned=1><script>window.pwned=1</script>"
    _open(
        lab_page,
        f"%%container {IMAGE}\ncat <<'E'\n{evil}\nE\n"
        "printf '\\377\\376 \\033]0;title\\007 \\033[2J \\033]8;;javascript:1\\007 end'",
    )
    output = _press_shift_enter(lab_page)
    expect(output).to_contain_text(evil)
    expect(output).to_contain_text("end")
    assert output.locator("img, script, a[href^='javascript']").count() == 0
    assert lab_page.page.evaluate("window.pwned") is None


def test_a_cell_with_chosen_capabilities(lab_page: LabPage) -> None:
    _open(lab_page, "%%caps --drop ALL --add net_raw --graph\ngrep CapEff /proc/self/status")
    output = _press_shift_enter(lab_page)
    expect(output).to_contain_text("CapEff:\t0000000000002000")
    expect(lab_page.view.locator(".ctrt-graph .ctrt-button").first).to_be_visible()
    lab_page.screenshot("caps")
    assert lab_page.faults(".ctrt-view") == []


@pytest.fixture
def slow_registry(lab: Lab) -> Iterator[tuple[str, threading.Event]]:
    """An image in a registry behind a line that is slow until the event is set."""
    from ctrt.engine import Engine
    from ctrt.images.hostimage import from_host
    from ctrt.images.serve import Server

    engine = Engine(str(lab.settings.parent / "elsewhere"))
    big = lab.settings.parent / "big"
    big.write_bytes(os.urandom(3_000_000))
    from_host(engine.store, "localhost/demo/large", ["sh"], files=[(str(big), "/big")])
    server = Server(engine.store).start_in_thread()
    fast = threading.Event()
    line = socket.create_server(("127.0.0.1", 0))

    def copy(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 15):
                if not fast.is_set():
                    time.sleep(0.05)
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)

    def carry(near: socket.socket) -> None:
        with near, socket.create_connection(("127.0.0.1", server.port)) as far:
            back = threading.Thread(target=copy, args=(far, near))
            back.start()
            copy(near, far)
            back.join()

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=carry, args=(line.accept()[0],), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    yield f"localhost:{line.getsockname()[1]}/demo/large", fast
    line.shutdown(socket.SHUT_RDWR)
    line.close()
    server.stop()
    engine.destroy()


def test_a_pull_with_its_bar(lab_page: LabPage, slow_registry: tuple[str, threading.Event]) -> None:
    name, fast = slow_registry
    _open(lab_page, f"%ctrt pull {name}", "%ctrt rmi " + name)
    page = lab_page.page
    output = _press_shift_enter(lab_page)
    bar = output.locator(".progress-bar")
    expect(bar).to_be_visible()
    page.wait_for_function(
        "parseFloat(document.querySelector('.jp-OutputArea .progress-bar').style.width) > 20"
    )
    _keep(lab_page, "pull", _cell(lab_page, 1))
    fast.set()
    expect(output).to_contain_text("demo/large:latest")
    expect(bar).to_have_count(0)
    _press_shift_enter(lab_page, 1)
    fast.clear()
    page.get_by_role("tab", name="Containers", exact=True).click()
    panel = page.locator("#ctrt-world")
    panel.get_by_role("textbox", name="Image to pull").fill(name)
    panel.get_by_role("button", name="Pull").click()
    expect(panel.locator("progress, [role=progressbar]").first).to_be_visible()
    fast.set()
    images = panel.get_by_role("region", name="Images")
    expect(images).to_contain_text("demo/large")
    images.get_by_role("button", name=f"Remove {name}").click()
    lab_page.confirm("Remove")
    expect(images).not_to_contain_text("demo/large")


def test_an_image_as_a_kernel_and_its_debugger(lab_page: LabPage, lab: Lab) -> None:
    if missing():
        pytest.skip(missing())
    from ctrt.engine import Engine
    from ctrt.engine.verbs import VERBS

    engine = Engine(str(lab.settings.parent / "ctrt"))
    python_image(engine)
    before = os.environ.get("JUPYTER_DATA_DIR")
    os.environ["JUPYTER_DATA_DIR"] = str(lab.settings.parent / "data")
    try:
        VERBS["kernel"](engine, ["install", "--image", PYTHON_IMAGE, "--name", "inside"])
    finally:
        del os.environ["JUPYTER_DATA_DIR"]
        if before is not None:
            os.environ["JUPYTER_DATA_DIR"] = before
        engine.close()
    _open(
        lab_page,
        "import os, socket\nprint('process', os.getpid(), 'on', socket.gethostname())\n"
        "print([name for _, name in socket.if_nameindex()])",
        "names = ['Ada', 'Grace']\nfor name in names:\n    print('hello', name)",
        kernel="inside",
    )
    expect(_press_shift_enter(lab_page)).to_contain_text("process 2 on python\n['lo']")
    page = lab_page.page
    page.locator('[data-command="debugger:restart-debug"], .jp-DebuggerBugButton').first.click()
    # It is on as soon as it knows the variables.
    expect(page.locator(".jp-DebuggerVariables")).to_contain_text("socket")
    _cell(lab_page, 1).locator(".cm-breakpoint-gutter .cm-gutterElement").nth(3).click()
    expect(page.locator(".jp-DebuggerBreakpoints")).to_contain_text("3")
    _press_shift_enter(lab_page, 1)
    expect(page.locator(".jp-DebuggerCallstack")).to_contain_text("<module>")
    lab_page.screenshot("kernel")
    page.locator('[data-command="debugger:continue"]').first.click()


def test_build_an_image_in_a_cell(lab_page: LabPage) -> None:
    name = "localhost/person/built"
    _open(
        lab_page,
        f"%%image {name}\nFROM {IMAGE}\nRUN echo hello > /greeting\nCMD cat /greeting",
        f"%%container {name} cat /greeting",
    )
    lab_page.run_all()
    expect(lab_page.page.locator(".jp-OutputArea").last).to_have_text("hello\n")
    lab_page.screenshot("build")


def test_values_and_files(lab_page: LabPage) -> None:
    _open(
        lab_page,
        "names = ['Ada', 'Grace']",
        f"%%container --put names=/data/names.json --out text {IMAGE}\ncat /data/names.json",
        f"%%container --json found {IMAGE}\necho '{{\"names\": 2}}'",
        "text, found",
    )
    lab_page.run_all()
    value = _cell(lab_page, 3)
    expect(value).to_contain_text("""('["Ada", "Grace"]', {'names': 2})""")
    _keep(lab_page, "values", value)


def test_jobs_and_terminals(lab_page: LabPage) -> None:
    _open(
        lab_page,
        f"%%container --bg=clock {IMAGE}\nfor i in 1 2 3; do echo tick $i; sleep 0.3; done",
        f"%%container --as one --cap-add SYS_ADMIN {IMAGE}\nmount -t tmpfs none /tmp",
        f"%%container --as two {IMAGE}\ngrep -c ' /tmp ' /proc/mounts || echo not here",
        "%%container --in one\ngrep ' /tmp ' /proc/mounts",
        "clock.wait(), clock.text()",
    )
    lab_page.run_all()
    job = _cell(lab_page, 0)
    expect(job).to_contain_text("runs in the background")
    expect(job).to_contain_text("tick 3")
    expect(_cell(lab_page, 2)).to_contain_text("0\nnot here")
    expect(_cell(lab_page, 3)).to_contain_text("none /tmp tmpfs")
    last = _cell(lab_page, 4)
    expect(last).to_contain_text(r"(0, 'tick 1\ntick 2\ntick 3\n')")
    _keep(lab_page, "terminals", last)


def test_the_lecture_s_unshare(lab_page: LabPage) -> None:
    look = "id -u; hostname lesson; hostname; cat /proc/uptime; ls -d /proc/[0-9]*"
    _open(
        lab_page,
        f"%%unshare -r --uts --pid --fork --mount-proc --time --boottime 86400\n{look}",
        "%unshare --user --map-user=1000 id",
    )
    lab_page.run_all()
    expect(_cell(lab_page, 0)).to_contain_text("0\nlesson\n")
    last = _cell(lab_page, 1)
    expect(last.locator(".jp-OutputArea")).to_contain_text("uid=1000")
    _keep(lab_page, "unshare", last)


def test_two_terminals_of_a_lesson_on_mounts(lab_page: LabPage) -> None:
    _open(
        lab_page,
        "%%unshare --as one -Urm\nmount -t tmpfs none /srv; mkdir /srv/disk\n"
        "mount -t tmpfs disk /srv/disk; mount --make-shared /srv/disk",
        "%%unshare --in one --as two -m --propagation unchanged\n"
        "mkdir /srv/disk/here; mount -t tmpfs two /srv/disk/here",
        "%%unshare --in one\ngrep two /proc/mounts",
        "%ctrt graph mounts --below /srv one two",
        "%ctrt ps",
    )
    lab_page.run_all()
    expect(_cell(lab_page, 2)).to_contain_text("two /srv/disk/here tmpfs")
    expect(lab_page.view).to_contain_text("Mounts of one and of two")
    last = _cell(lab_page, 4)
    expect(last).to_contain_text("kept for cells, by unshare")
    _keep(lab_page, "sandboxes", last)


def test_a_flood_leaves_the_page_alive(lab_page: LabPage) -> None:
    _open(
        lab_page,
        f"%%container {IMAGE}\ni=0; while test $i -lt 300000; do i=$((i+1)); echo $i; done",
        "len(_output.text().splitlines()), _output",
    )
    lab_page.run_all()
    flood = _cell(lab_page, 0)
    expect(flood).to_contain_text("which is too much for a page. All of it: _output.text()")
    expect(flood.locator(".jp-OutputArea-output").last).to_contain_text("\n300000\n")
    expect(_cell(lab_page, 1)).to_contain_text("(300000, 2.0 MB of output: .text(), .save(path))")
    assert "rate exceeded" not in lab_page.page.locator(".jp-Notebook").inner_text()


def test_a_start_step_by_step(lab_page: LabPage) -> None:
    _open(lab_page, f"%%container --step {IMAGE}\necho it ran")
    page = lab_page.page
    output = _press_shift_enter(lab_page)
    question = page.locator(".jp-Stdin-input").last
    for step in range(1, 4):
        expect(output).to_contain_text(re.compile(rf"\b{step}/\d+ "))
        expect(question).to_be_visible()
        if step < 3:
            asked = question.element_handle()
            question.press("Enter")
            asked.wait_for_element_state("hidden")  # it stays for a moment
            expect(output).to_contain_text(re.compile(rf"\b{step + 1}/\d+ "))
    _keep(lab_page, "step", question)
    question.fill("c")
    question.press("Enter")
    expect(output).to_contain_text("it ran")


def test_rich_output_and_two_containers(lab_page: LabPage) -> None:
    svg = '<svg xmlns="http://www.w3.org/2000/svg" width="80" height="40">'
    svg += '<rect width="80" height="40" rx="8" fill="#5A3FA0"/></svg>'
    _open(
        lab_page,
        f"%%container --display {IMAGE}\n"
        f"echo '{svg}' | ctrt-display svg\necho '<b>bold</b> from inside' | ctrt-display html",
        f"%%container --as one {IMAGE}\necho hello > /greeting",
        "%%container --in one\ncat /greeting",
        f"%%container --graph {IMAGE}\ntrue",
    )
    lab_page.run_all()
    page = lab_page.page
    expect(page.locator(".jp-OutputArea img")).to_have_count(1)
    expect(page.locator(".jp-OutputArea b")).to_have_text("bold")
    expect(page.locator(".jp-CodeCell").nth(2)).to_contain_text("hello")
    lab_page.screenshot("rich")
    expect(lab_page.view).to_be_visible()
    lab_page.view.scroll_into_view_if_needed()
    lab_page.screenshot("picture")
    assert lab_page.faults(".ctrt-view") == []
    page.get_by_role("tab", name="Containers", exact=True).click()
    expect(page.locator("#ctrt-world")).to_contain_text("one")
    lab_page.screenshot("panel")
    assert lab_page.faults("#ctrt-world") == []
    lab_page.theme("JupyterLab Dark")
    assert lab_page.faults(".ctrt-view") == []
    assert lab_page.faults("#ctrt-world") == []
    lab_page.screenshot("panel-dark")
