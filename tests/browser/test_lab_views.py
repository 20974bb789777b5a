"""The views in tabs, as a person uses them: click, read, keys, filter, light and dark."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbformat
import pytest
from playwright.sync_api import expect

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Lab, LabPage
    from playwright.sync_api import Locator

IMAGE = "localhost/views/shell"
ROOT = Path(__file__).resolve().parents[2]
RUN = f"%%container --bg=job{{0}} --name {{0}} {IMAGE}\nexec sleep 600"


@pytest.fixture(scope="module", autouse=True)
def image(lab: Lab) -> None:
    """An image in the store of the server's kernels."""
    from ctrt.engine import Engine
    from ctrt.images.hostimage import from_host

    engine = Engine(str(lab.settings.parent / "ctrt"))
    from_host(engine.store, IMAGE, ["sh", "sleep", "ls", "cat", "hostname"])
    engine.close()


def _open(lab_page: LabPage, *names: str) -> Locator:
    """A notebook whose kernel runs containers with these names, and the panel."""
    spec = {"name": "ctrt", "display_name": "ctrt", "language": "python"}
    cells = [nbformat.v4.new_code_cell(RUN.format(name)) for name in names]
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": spec})
    lab_page.open("views.ipynb", notebook)
    lab_page.wait_for_kernel()
    lab_page.run_all()
    lab_page.page.get_by_role("tab", name="Containers", exact=True).click()
    panel = lab_page.page.locator("#ctrt-world")
    for name in names:
        expect(panel.locator(f'.ctrt-world-container[data-name="{name}"]')).to_be_visible()
    return panel


def _more(lab_page: LabPage, panel: Locator, name: str, entry: str) -> None:
    panel.get_by_role("button", name=f"More {name}").click()
    lab_page.page.get_by_role("menuitem", name=entry).click()


@pytest.mark.timeout(600)
def test_each_view_in_a_tab(lab_page: LabPage) -> None:
    page = lab_page.page
    panel = _open(lab_page, "one", "two")
    views: list[tuple[str, Callable[[], None], str, str]] = [
        # what it is called here, how it is opened, its title, a shape or row that it has
        (
            "system",
            lambda: panel.get_by_role("button", name="Namespaces of the machine").click(),
            "Namespaces of this machine",
            "user[host]",
        ),
        (
            "cgroups",
            lambda: panel.get_by_role("button", name="cgroups of the machine").click(),
            "cgroups",
            "/",
        ),
        (
            "network",
            lambda: panel.get_by_role("button", name="Network of the machine").click(),
            "Networks",
            "net[host]",
        ),
        (
            "ids",
            lambda: _more(lab_page, panel, "one", "User and Group Ids"),
            "Ids of container one",
            "user[1]",
        ),
        (
            "stack",
            lambda: _more(lab_page, panel, "one", "Who Started It"),
            "From the machine's first process to container one",
            "sleep",
        ),
        (
            "difference",
            lambda: _more(lab_page, panel, "one", "Compare with two"),
            "From one to two",
            "namespaces",
        ),
        (
            "layers",
            lambda: panel.get_by_role("button", name=f"Layers {IMAGE}").click(),
            f"Layers of {IMAGE}",
            "/etc/",
        ),
    ]
    for name, show, title, thing in views:
        show()
        # Tabs that are behind are in the page, too.
        tab = page.locator(".ctrt-tab:not(.lm-mod-hidden *)").filter(
            has=page.locator(".ctrt-view h3", has_text=title), visible=True
        )
        view = tab.locator(".ctrt-view")
        expect(view.locator("h3")).to_have_text(title)
        if name == "difference":  # a drawing that is but a list is not shown beside the table
            expect(view.locator(".ctrt-graph")).to_be_hidden()
            view.locator("tr.ctrt-line", has_text=thing).first.click()
            page.keyboard.press("Enter")
        else:
            shape = view.locator(f'.ctrt-graph .ctrt-button[aria-label*="{thing}"]').first
            shape.locator(".ctrt-label").click()
        drawer = view.locator(".ctrt-drawer")
        expect(drawer).to_be_visible()
        expect(drawer.locator(".ctrt-meaning, dd").first).not_to_be_empty()
        lab_page.screenshot(f"view-{name}-light")
        page.keyboard.press("Escape")
        expect(drawer).to_be_hidden()

        # By the keyboard alone.
        page.keyboard.press("/")
        page.keyboard.press("Enter")
        page.keyboard.press("End")
        page.keyboard.press("Home")
        expect(view.locator("tr.ctrt-line").first).to_be_focused()
        page.keyboard.press("Enter")
        expect(drawer).to_be_visible()
        page.keyboard.press("Escape")
        expect(drawer).to_be_hidden()
        page.keyboard.press("/")
        page.keyboard.type("no such thing")
        expect(view.get_by_role("status")).to_have_text(re.compile(r"^0 of \d+ rows?$"))
        page.keyboard.press("Escape")
        expect(view.get_by_role("status")).to_have_text(re.compile(r"^\d+ rows?$"))
        assert lab_page.faults(".ctrt-tab") == [], name
    lab_page.theme("JupyterLab Dark")
    for name, show, title, _ in views:
        show()
        expect(
            page.locator(".ctrt-tab .ctrt-view h3", has_text=title).locator("visible=true")
        ).to_have_text(title)
        assert lab_page.faults(".ctrt-tab") == [], name
        lab_page.screenshot(f"view-{name}-dark")


def _prompt(lab_page: LabPage, command: str, wanted: str) -> None:
    """Type a command in the terminal in front, and wait for words that it prints."""
    terminal = lab_page.page.locator(".jp-Terminal:visible")
    expect(terminal).to_be_visible()
    terminal.locator("textarea").focus()
    lab_page.page.wait_for_function(
        "text => window.jupyterapp.shell.currentWidget.content._term.buffer.active"
        ".getLine(0)?.translateToString().trim() !== ''",
        arg="",
    )
    lab_page.page.keyboard.type(command + "\n")
    lab_page.page.wait_for_function(
        """wanted => {
            const buffer = window.jupyterapp.shell.currentWidget.content._term.buffer.active;
            const lines = Array.from({length: buffer.length}, (_, i) =>
                buffer.getLine(i)?.translateToString().trim());
            return lines.includes(wanted);
        }""",
        arg=wanted,
    )


def test_a_terminal_inside(lab_page: LabPage, lab: Lab) -> None:
    panel = _open(lab_page, "hugo")
    # One that is not the kernel's own.
    store = str(lab.settings.parent / "ctrt")
    call = "from ctrt.cli.main import command; command()"
    start = [sys.executable, "-c", call, "--root", store]
    subprocess.run(
        [*start, "run", "-d", "--name", "ida", IMAGE, "sleep", "600"], check=True, cwd=ROOT
    )
    try:
        panel.get_by_role("button", name="Terminal hugo").click()
        _prompt(lab_page, "hostname", "hugo")
        lab_page.screenshot("terminal")
        panel.locator('.ctrt-world-container[data-name="ida"]').click(button="right")
        lab_page.page.get_by_role("menuitem", name="Open a Terminal inside").click()
        expect(lab_page.page.get_by_role("tab", name="ida", exact=True)).to_be_visible()
        _prompt(lab_page, "hostname", "ida")
        lab_page.page.keyboard.type("exit\n")
        expect(lab_page.page.get_by_role("tab", name="ida", exact=True)).to_have_count(0)
    finally:
        panel.get_by_role("button", name="Stop ida").click()
        lab_page.confirm("Stop")
        expect(panel.locator('.ctrt-world-container[data-name="ida"]')).to_have_count(0)


def test_a_terminal_elsewhere_is_refused_in_a_sentence(lab_page: LabPage) -> None:
    panel = _open(lab_page, "jan")
    kernel = "window.jupyterapp.shell.currentWidget.sessionContext.session.kernel"
    # As if this kernel ran on another machine.
    code = "import ctrt_kernel.world as w; w._here = str"
    lab_page.page.evaluate(f"code => {kernel}.requestExecute({{code}}).done", code)
    panel.get_by_role("button", name="Terminal jan").click()
    terminal = lab_page.page.locator(".jp-Terminal:visible")
    expect(terminal).to_be_visible()
    lab_page.page.wait_for_function(
        "window.jupyterapp.shell.currentWidget.content._term?.buffer.active.getLine(0)"
        "?.translateToString().includes('runs elsewhere')"
    )


def test_both_renderers_draw_the_same(lab_page: LabPage, saved: Any) -> None:
    """The shapes and lines of the newer views: in SVG by Python, and on the page."""
    from ctrt.draw import Picture
    from ctrt.draw._scene import Column, Edge, Node, Row, Scene

    nodes = (
        Node("a", None, "user", "segment", 100, 60, 120, 34, label="0-65535"),
        Node("b", None, "user", "segment", 140, 160, 120, 34, label="1-9", border="dashed"),
        Node("c", None, "cgroup", "trapezoid", 300, 60, 150, 32, label="one", sub="8 MB"),
        Node("d", None, "net", "chip", 300, 200, 90, 32, label="v1"),
        Node("e", None, "net", "chip", 300, 260, 90, 32, label="v2"),
    )
    edges = (
        Edge("a", "b", "ribbon", ((100, 94), (220, 94), (260, 160), (140, 160))),
        Edge("d", "e", "veth", ((390, 216), (410, 216), (410, 276), (390, 276))),
        Edge("d", "e", "link", ((340, 232), (340, 260)), "end"),
        Edge("d", "e", "link", ((360, 232), (360, 240)), "both"),
    )
    rows = tuple(Row(node.id, None, node.kind, (node.label,)) for node in nodes)
    columns = (Column("name", "Name"),)
    picture = Picture(Scene("ids", "Both", "", 480, 320, columns, rows, nodes, edges, {}), ())
    lab_page.open("both.ipynb", saved(picture.json()))
    page = lab_page.page
    expect(lab_page.view.locator(".ctrt-graph .ctrt-button")).to_have_count(len(nodes))
    # The two are put into one page, and the browser tells what each of their shapes is.
    found = page.evaluate(
        """svg => {
            const place = document.createElement('div');
            place.innerHTML = svg;
            document.body.append(place);
            const told = shapes => Array.from(shapes, shape => {
                const {x, y, width, height} = shape.getBBox();
                const {fill, stroke} = getComputedStyle(shape);
                // On the page a line between processes has the contrast of words.
                const quiet = shape.closest('.ctrt-branch, .s-branch, .f-branch');
                const colour = stroke === 'none' ? fill : stroke;
                return [x, y, width, height, quiet ? '' : colour].join(' ');
            });
            const mine = document.querySelector('.jp-Notebook .ctrt-graph');
            const both = [
                told(place.querySelectorAll('.line, [fill-opacity="0.16"]')),
                told(mine.querySelectorAll(
                    '.ctrt-segment > .ctrt-shape, .ctrt-trapezoid > .ctrt-shape,'
                    + '.ctrt-edge > :not(.ctrt-head-of-arrow)')),
            ];
            const heads = [
                place.querySelectorAll('path.f-branch').length,
                mine.querySelectorAll('.ctrt-head-of-arrow').length,
            ];
            place.remove();
            return {both, heads};
        }""",
        picture.svg(),
    )
    python, typescript = map(sorted, found["both"])
    assert found["heads"] == [1, 1]
    assert [shape for shape in typescript if shape not in python] == []
