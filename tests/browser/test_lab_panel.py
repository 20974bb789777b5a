"""The side panel, as a person uses it: look, click, type, restart, reload, and a second window."""

from __future__ import annotations

from typing import TYPE_CHECKING

import nbformat
import pytest
from playwright.sync_api import expect

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Lab, LabPage
    from playwright.sync_api import Locator

IMAGE = "localhost/panel/shell"
RUN = f"%%container --bg=job --name {{name}} {IMAGE}\necho hello from {{name}}; exec sleep 600"


@pytest.fixture(scope="module", autouse=True)
def image(lab: Lab) -> None:
    """An image in the store of the server's kernels."""
    from ctrt.engine import Engine
    from ctrt.images.hostimage import from_host

    engine = Engine(str(lab.settings.parent / "ctrt"))
    from_host(engine.store, IMAGE, ["sh", "sleep", "ls", "cat"])
    engine.close()


def _notebook(*cells: str, kernel: str = "ctrt") -> nbformat.NotebookNode:
    spec = {"name": kernel, "display_name": kernel, "language": "python"}
    code = [nbformat.v4.new_code_cell(cell) for cell in cells]
    return nbformat.v4.new_notebook(cells=code, metadata={"kernelspec": spec})


@pytest.fixture
def opened(lab_page: LabPage) -> Callable[..., Locator]:
    """Opens a notebook with these cells, and the panel beside it."""

    def start(*cells: str, kernel: str = "ctrt", name: str = "panel.ipynb") -> Locator:
        lab_page.open(name, _notebook(*cells, kernel=kernel))
        lab_page.wait_for_kernel()
        lab_page.page.get_by_role("tab", name="Containers", exact=True).click()
        panel = lab_page.page.locator("#ctrt-world")
        expect(panel).to_be_visible()
        return panel

    return start


def test_look_and_act(lab_page: LabPage, opened: Callable[..., Locator]) -> None:
    panel = opened(RUN.format(name="anna"))
    expect(panel.get_by_role("region", name="Images")).to_contain_text(IMAGE)
    expect(panel.get_by_role("region", name="Containers", exact=True)).to_contain_text(
        "None is running."
    )
    lab_page.run_all()
    row = panel.locator(".ctrt-world-container")
    expect(row).to_contain_text("anna")
    lab_page.screenshot("panel-light")
    panel.get_by_role("button", name="Graph anna").click()
    view = lab_page.page.locator(".ctrt-tab .ctrt-view")
    expect(view).to_be_visible()
    expect(view).to_contain_text("Container anna")
    view.locator(".ctrt-graph .ctrt-node").nth(1).click()
    expect(view.locator(".ctrt-drawer")).to_be_visible()
    lab_page.screenshot("panel-graph-light")
    lab_page.theme("JupyterLab Dark")
    lab_page.screenshot("panel-graph-dark")
    panel.get_by_role("button", name="Output anna").click()
    expect(lab_page.page.locator(".ctrt-tab > pre")).to_have_text("hello from anna\n")
    panel.get_by_role("button", name="Stop anna").click()
    expect(lab_page.page.get_by_role("dialog")).to_contain_text("what they wrote is gone")
    lab_page.screenshot("panel-question-dark")
    lab_page.confirm("Cancel")
    expect(panel.get_by_role("button", name="Stop anna")).to_be_focused()
    expect(row).to_have_count(1)
    panel.get_by_role("button", name="Stop anna").click()
    lab_page.confirm("Stop")
    expect(row).to_have_count(0)
    expect(panel.get_by_role("status")).to_have_text("stop anna: done")
    expect(lab_page.page.get_by_role("tab", name="anna (ended)")).to_be_attached()


def test_by_the_context_menu_and_the_keyboard(
    lab_page: LabPage, opened: Callable[..., Locator]
) -> None:
    panel = opened(RUN.format(name="bert"))
    lab_page.run_all()
    row = panel.locator(".ctrt-world-container")
    row.click(button="right")
    lab_page.page.get_by_role("menuitem", name="Open the Graph").click()
    expect(lab_page.page.locator(".ctrt-tab .ctrt-view")).to_be_visible()
    panel.get_by_role("button", name="Graph bert").focus()
    for _ in range(3):
        lab_page.page.keyboard.press("Tab")
    expect(panel.get_by_role("button", name="Stop bert")).to_be_focused()
    lab_page.page.keyboard.press("Enter")
    expect(lab_page.page.get_by_role("dialog")).to_contain_text("Stop bert?")
    lab_page.page.keyboard.press("Enter")
    expect(row).to_have_count(0)


def test_while_a_cell_runs(lab_page: LabPage, opened: Callable[..., Locator]) -> None:
    panel = opened(f"%%container --name carla {IMAGE}\nexec sleep 600")
    lab_page.page.evaluate("void window.jupyterapp.commands.execute('notebook:run-all-cells')")
    panel.get_by_role("button", name="Stop carla").click()
    lab_page.confirm("Stop")
    expect(panel.locator(".ctrt-world-container")).to_have_count(0)
    lab_page.wait_for_kernel()
    assert "ended with status" in lab_page.page.locator(".jp-OutputArea").inner_text()


def test_a_restarted_kernel_and_a_reloaded_page(
    lab_page: LabPage, opened: Callable[..., Locator]
) -> None:
    panel = opened(RUN.format(name="dora"))
    lab_page.run_all()
    expect(panel).to_contain_text("dora")
    lab_page.page.reload()
    panel = lab_page.page.locator("#ctrt-world")
    expect(panel).to_contain_text("dora")
    lab_page.wait_for_kernel()
    lab_page.page.evaluate(
        "window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()"
    )
    # What the kernel had started went with it.
    expect(panel.locator(".ctrt-world-container")).to_have_count(0)
    expect(panel.get_by_role("region", name="Images")).to_contain_text(IMAGE)
    lab_page.wait_for_kernel()
    lab_page.run_all()
    expect(panel).to_contain_text("dora")


def test_a_second_window(lab_page: LabPage, opened: Callable[..., Locator]) -> None:
    panel = opened(RUN.format(name="emil"))
    lab_page.run_all()
    expect(panel).to_contain_text("emil")
    second = lab_page.page.context.new_page()
    second.goto(
        f"{lab_page.lab.url}/lab/workspaces/two/tree/panel.ipynb?token={lab_page.lab.token}"
    )
    second.get_by_role("tab", name="Containers", exact=True).click()
    other = second.locator("#ctrt-world")
    expect(other).to_contain_text("emil", timeout=60_000)
    other.get_by_role("button", name="Stop emil").click()
    lab_page.confirm("Stop", page=second)
    expect(other.locator(".ctrt-world-container")).to_have_count(0)
    expect(panel.locator(".ctrt-world-container")).to_have_count(0)
    second.close()


def test_a_kernel_without_ctrt(lab_page: LabPage, opened: Callable[..., Locator]) -> None:
    panel = opened("1", kernel="python3")
    expect(panel).to_contain_text("This kernel has no ctrt yet.")
    panel.get_by_role("button", name="Load ctrt").click()
    expect(panel.get_by_role("region", name="Images")).to_contain_text(IMAGE)


def test_what_cannot_be_done_is_said(lab_page: LabPage, opened: Callable[..., Locator]) -> None:
    panel = opened("1")
    panel.get_by_role("textbox", name="Image to pull").fill("Not An Image")
    panel.get_by_role("button", name="Pull").click()
    expect(panel.get_by_role("status")).to_contain_text("Not An Image")


def test_a_reader_who_wants_no_questions(lab_page: LabPage, opened: Callable[..., Locator]) -> None:
    cells = (f"%%container --as {name} {IMAGE}\ntrue" for name in ("fritz", "greta"))
    panel = opened(*cells, "%%unshare --as hugo -Ur /bin/sh\ntrue")
    lab_page.run_all()
    expect(panel.get_by_role("region", name="Sandboxes")).to_contain_text("kept for cells")
    panel.get_by_role("button", name="Stop fritz").click()
    lab_page.page.get_by_role("dialog").get_by_role("checkbox").check()
    lab_page.confirm("Stop")
    rows = panel.locator(".ctrt-world-container")
    expect(rows).to_have_count(2)
    for left, name in ((1, "greta"), (0, "hugo")):
        panel.get_by_role("button", name=f"Stop {name}").click()
        expect(rows).to_have_count(left)


def test_menu_palette_and_launcher(lab_page: LabPage, opened: Callable[..., Locator]) -> None:
    panel = opened("1")
    page = lab_page.page
    page.get_by_role("menuitem", name="View", exact=True).click()
    expect(page.get_by_role("menuitem", name="Containers", exact=True)).to_be_visible()
    page.keyboard.press("Escape")
    page.evaluate("window.jupyterapp.shell.collapseLeft()")
    expect(panel).to_be_hidden()
    page.evaluate("window.jupyterapp.commands.execute('launcher:create')")
    page.locator('.jp-LauncherCard[title*="containers"]').click()
    expect(panel).to_be_visible()
