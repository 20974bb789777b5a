"""The tour and the course, as a reader opens them: run from top to bottom in JupyterLab."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import nbformat
import pytest
from playwright.sync_api import expect

if TYPE_CHECKING:
    from conftest import LabPage

NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "notebooks").glob("*.ipynb"))


@pytest.mark.timeout(600)
@pytest.mark.usefixtures("notebook_ports")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs_and_draws(lab_page: LabPage, path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    assert notebook.metadata.kernelspec.name == "ctrt"
    code = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    for cell in code:
        cell.outputs, cell.execution_count = [], None
    lab_page.open(path.name, notebook)
    lab_page.wait_for_kernel()
    page = lab_page.page
    page.evaluate("window.jupyterapp.commands.execute('notebook:run-all-cells')")
    page.wait_for_function(
        """count => window.jupyterapp.shell.currentWidget.content.widgets
            .filter(cell => cell.model.executionCount != null).length >= count""",
        arg=len(code),
        timeout=500_000,
    )
    lab_page.wait_for_kernel()
    errors = page.evaluate(
        """() => window.jupyterapp.shell.currentWidget.content.widgets.flatMap(
            cell => cell.model.outputs?.toJSON() ?? [])
            .filter(output => output.output_type === 'error').map(output => output.evalue)"""
    )
    # Cells that show a refusal on purpose carry nbval's tag.
    expected = sum("raises-exception" in cell.metadata.get("tags", []) for cell in code)
    assert len(errors) == expected, errors
    picture = lab_page.view.last
    picture.scroll_into_view_if_needed()
    shapes = ".ctrt-main:not(.ctrt-list) .ctrt-graph .ctrt-button, .ctrt-list .ctrt-line"
    expect(picture.locator(shapes).first).to_be_visible()
    lab_page.screenshot(f"{path.stem}-light")
    lab_page.theme("JupyterLab Dark")
    lab_page.screenshot(f"{path.stem}-dark")
