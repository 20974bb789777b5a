"""The widget in a live kernel: it draws, and Python learns what the reader does."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import nbformat
import pytest
from conftest import AXE, MODULE
from playwright.sync_api import expect

if TYPE_CHECKING:
    from typing import Literal

    from conftest import LabPage
    from playwright.sync_api import Browser, Page

SHOW = """\
import json
from ctrt_kernel.widgets import GraphWidget
picture = json.load(open({path!r}))
widget = GraphWidget(picture)
widget
"""
DISPLAY = """\
import json
from IPython.display import display
display({{"application/vnd.ctrt.graph.v1+json": json.load(open({path!r}))}}, raw=True)
"""
STEER = """\
widget.selected = "net:1"
widget.filter = "user[1]"
"""
REPLACE = """\
widget.show({**picture, "title": "Another", "rows": picture["rows"][:4]})
"""


def _run(lab_page: LabPage, code: str) -> str:
    """Run code in the notebook's kernel, and give back what it printed."""
    printed: str = lab_page.page.evaluate(
        """async code => {
            const panel = window.jupyterapp.shell.currentWidget;
            const kernel = panel.sessionContext.session.kernel;
            const future = kernel.requestExecute({code});
            let printed = '';
            future.onIOPub = message => {
                if (message.header.msg_type === 'stream') printed += message.content.text;
                if (message.header.msg_type === 'error') printed += message.content.evalue;
            };
            await future.done;
            return printed;
        }""",
        code,
    )
    return printed


def _comes(lab_page: LabPage, code: str, wanted: str) -> None:
    """Wait for what a widget's message brings: a subshell reads it, so a cell may overtake it."""
    end = time.monotonic() + 10
    while (printed := _run(lab_page, code)) != wanted:
        assert time.monotonic() < end, printed
        lab_page.page.wait_for_timeout(50)


def _notebook(code: str) -> nbformat.NotebookNode:
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    cell = nbformat.v4.new_code_cell(code)
    return nbformat.v4.new_notebook(cells=[cell], metadata={"kernelspec": kernel})


def test_a_picture_from_a_running_cell_keeps_its_words(
    lab_page: LabPage, data_path: str, picture: dict[str, Any]
) -> None:
    lab_page.open("live.ipynb", _notebook(DISPLAY.format(path=data_path)))
    lab_page.wait_for_kernel()
    lab_page.run_all()
    expect(lab_page.view).to_be_visible()
    # Boxes are drawn before what stands in them, so the order is another.
    labels = sorted(node["label"] for node in picture["nodes"] if len(node["label"]) < 12)
    drawn = lab_page.view.locator(".ctrt-graph .ctrt-label").all_text_contents()
    assert sorted(label for label in drawn if len(label) < 12) == labels
    assert any(label.endswith("…") for label in drawn), "the long name is not cut"


def test_the_widget_and_python_follow_each_other(lab_page: LabPage, data_path: str) -> None:
    lab_page.open("widget.ipynb", _notebook(SHOW.format(path=data_path)))
    lab_page.wait_for_kernel()
    lab_page.run_all()
    expect(lab_page.view).to_be_visible()
    expect(lab_page.view.locator("h3")).to_have_text("Container busybox")

    lab_page.node("mnt[1]").click()
    expect(lab_page.row("mnt[1]")).to_have_attribute("aria-selected", "true")
    _comes(lab_page, "print(widget.selected)", "mnt:1\n")
    lab_page.view.locator("input").fill("process")
    _comes(lab_page, "print(widget.filter)", "process\n")
    lab_page.screenshot("widget-light")

    assert _run(lab_page, STEER) == ""
    expect(lab_page.row("net[1]")).to_have_attribute("aria-selected", "true")
    expect(lab_page.view.locator("input")).to_have_value("user[1]")

    assert _run(lab_page, REPLACE) == ""
    expect(lab_page.view.locator("h3")).to_have_text("Another")
    expect(lab_page.view.locator(".ctrt-drawer")).to_be_visible()
    assert _run(lab_page, "print(repr(widget))") == "GraphWidget('Another')\n"


FOLLOW = """\
from ctrt.widgets import NamespaceGraph
widget = NamespaceGraph("host", live=True)
widget
"""


def _choose(lab_page: LabPage, row: int) -> str:
    """Click a row, and give back its id as the page knows it."""
    line = lab_page.view.locator("tr.ctrt-line").nth(row)
    line.click()
    expect(line).to_have_attribute("aria-selected", "true")
    expect(lab_page.view.locator(".ctrt-drawer")).to_be_visible()
    return line.locator(".ctrt-name").get_attribute("title") or ""


def _save(page: Page) -> None:
    page.keyboard.press("Control+s")
    page.wait_for_function("!window.jupyterapp.shell.currentWidget.context.model.dirty")


def test_it_survives_reload_restart_and_a_second_window(lab_page: LabPage) -> None:
    page = lab_page.page
    lab_page.open("survive.ipynb", _notebook(FOLLOW))
    lab_page.wait_for_kernel()
    lab_page.run_all()
    asked = "print(widget.graph['rows'][{row}]['id'] == widget.selected)"
    expect(lab_page.view).to_have_count(1)
    _choose(lab_page, 0)
    _comes(lab_page, asked.format(row=0), "True\n")
    _save(page)

    page.reload()
    lab_page.wait_for_kernel()
    live = page.locator(".ctrt-live .ctrt-view")
    expect(live).to_be_visible()
    expect(lab_page.view).to_have_count(1)
    expect(lab_page.view.locator("tr.ctrt-line").first).to_have_attribute("aria-selected", "true")
    _choose(lab_page, 1)
    _comes(lab_page, asked.format(row=1), "True\n")

    second = page.context.new_page()
    second.goto(
        f"{lab_page.lab.url}/lab/workspaces/two/tree/survive.ipynb?token={lab_page.lab.token}"
    )
    other = second.locator(".ctrt-live .ctrt-view")
    expect(other.locator("tr.ctrt-line").nth(1)).to_have_attribute("aria-selected", "true")
    other.locator("tr.ctrt-line").first.click()
    expect(lab_page.view.locator("tr.ctrt-line").first).to_have_attribute("aria-selected", "true")
    second.close()

    page.evaluate("window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()")
    lab_page.wait_for_kernel()
    # Its kernel is gone, and what it showed can still be walked.
    _choose(lab_page, 2)
    page.reload()
    lab_page.wait_for_kernel()
    expect(lab_page.view).to_have_count(1)
    _choose(lab_page, 1)
    expect(page.get_by_text("Error displaying widget", exact=False).locator("visible=true")
           ).to_have_count(0)  # fmt: skip
    expect(live).to_have_count(0)
    lab_page.run_all()
    expect(live).to_be_visible()
    expect(lab_page.view).to_have_count(1)


def test_a_saved_one_that_nobody_trusts_is_a_picture(lab_page: LabPage) -> None:
    page = lab_page.page
    lab_page.open("trusted.ipynb", _notebook(FOLLOW))
    lab_page.wait_for_kernel()
    lab_page.run_all()
    expect(lab_page.view).to_be_visible()
    _save(page)
    saved = nbformat.read(lab_page.lab.notebooks / "trusted.ipynb", as_version=4)
    assert "widgets" not in saved.metadata
    saved.cells[0].source += "# as somebody else has it"
    for session in lab_page.lab.call("GET", "api/sessions"):
        lab_page.lab.call("DELETE", f"api/sessions/{session['id']}")
    lab_page.open("foreign.ipynb", saved)
    _choose(lab_page, 0)
    trusted = "window.jupyterapp.shell.currentWidget.content.widgets.every(c => c.model.trusted)"
    assert page.evaluate(trusted) is False
    expect(page.locator(".ctrt-live")).to_have_count(0)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_module_needs_nothing_of_jupyterlab(
    browser: Browser, picture: dict[str, Any], scheme: Literal["light", "dark"]
) -> None:
    """A page of another program, as an export or another front end makes one."""
    context = browser.new_context(color_scheme=scheme, viewport={"width": 900, "height": 700})
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.set_content("<!doctype html><meta charset=utf-8><body><div id=place></div>")
    page.evaluate(
        """async ([code, graph]) => {
            const blob = new Blob([code], { type: 'text/javascript' });
            const module = await import(URL.createObjectURL(blob));
            const state = (window.state = { graph, selected: '', filter: '' });
            const model = {
                get: (key) => state[key],
                set: (key, value) => { state[key] = value; },
                on() {}, off() {}, save_changes() {},
            };
            module.default.render({ model, el: document.getElementById('place') });
        }""",
        [MODULE.read_text(), picture],
    )
    view = page.locator(".ctrt-view")
    view.locator('.ctrt-graph .ctrt-node[aria-label*="mnt[1]"]').click()
    expect(view.locator(".ctrt-drawer")).to_be_visible()
    chosen = page.evaluate("state.selected")
    assert chosen in [row["id"] for row in picture["rows"]]
    ground = view.evaluate("view => getComputedStyle(view).backgroundColor")
    dark = sum(int(part) for part in ground.removeprefix("rgb(").rstrip(")").split(",")) < 384
    assert dark == (scheme == "dark")
    page.evaluate(AXE.read_text())
    found = page.evaluate(
        "axe.run('.ctrt-view', { runOnly: ['color-contrast', 'scrollable-region-focusable'] })"
    )
    assert [fault["nodes"][0]["html"] for fault in found["violations"]] == []
    assert errors == []
    context.close()
