"""Notebook 7 in a browser: the picture, the widget, and the panel beside the one document."""

from __future__ import annotations

from typing import TYPE_CHECKING

import nbformat
from playwright.sync_api import expect

if TYPE_CHECKING:
    from conftest import LabPage

CELLS = (
    "%ctrt graph --live host",
    "%ctrt graph ids host",
)


def test_picture_widget_and_panel(lab_page: LabPage) -> None:
    spec = {"name": "ctrt", "display_name": "ctrt", "language": "python"}
    code = [nbformat.v4.new_code_cell(cell) for cell in CELLS]
    notebook = nbformat.v4.new_notebook(cells=code, metadata={"kernelspec": spec})
    nbformat.write(notebook, lab_page.lab.notebooks / "seven.ipynb")
    page = lab_page.page
    page.goto(f"{lab_page.lab.url}/notebooks/seven.ipynb?token={lab_page.lab.token}")
    lab_page.wait_for_kernel()
    lab_page.run_all()
    widget, picture = lab_page.view.first, lab_page.view.last
    expect(lab_page.view).to_have_count(2)
    expect(widget.locator("h3")).to_have_text("the host")
    expect(picture.locator(".ctrt-graph .ctrt-button").first).to_be_visible()
    picture.locator("tr.ctrt-line").first.click()
    expect(picture.locator(".ctrt-drawer")).to_be_visible()
    page.evaluate("window.jupyterapp.commands.execute('ctrt:show-containers')")
    panel = page.locator("#ctrt-world")
    expect(panel.get_by_role("region", name="Images")).to_be_visible()
    panel.get_by_role("button", name="Network of the machine").click()
    expect(page.locator(".ctrt-tab .ctrt-view h3")).to_have_text("Networks")
    lab_page.screenshot("notebook-seven")
    # Notebook's own: its shortcuts and its file browser fail so without any extension as well.
    own = ("'schema'", "filebrowser:open-path")
    lab_page.errors[:] = [e for e in lab_page.errors if not any(word in e for word in own)]
