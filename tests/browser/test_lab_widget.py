"""The widget in a live kernel: it draws, and Python learns what the reader does."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import nbformat
from playwright.sync_api import expect

if TYPE_CHECKING:
    from conftest import LabPage

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
