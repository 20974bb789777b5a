"""A narrow window, as on a projector with the panel open: nothing is out of reach."""

from __future__ import annotations

from typing import TYPE_CHECKING

import nbformat
import pytest
from conftest import MIME
from playwright.sync_api import expect

if TYPE_CHECKING:
    from typing import Any

    from conftest import Lab, LabPage
    from playwright.sync_api import Locator

IMAGE = "localhost/narrow/shell"
RUN = f"%%container --bg=job --name narrow {IMAGE}\nexec sleep 600"
HIDDEN = "room => room.scrollWidth - room.clientWidth - room.scrollLeft"
WIDTH, HEIGHT = 760, 960


@pytest.fixture(scope="module", autouse=True)
def image(lab: Lab) -> None:
    """An image in the store of the server's kernels."""
    from ctrt.engine import Engine
    from ctrt.images.hostimage import from_host

    engine = Engine(str(lab.settings.parent / "ctrt"))
    from_host(engine.store, IMAGE, ["sh", "sleep"])
    engine.close()


def _panel(lab_page: LabPage, picture: dict[str, Any]) -> Locator:
    """A notebook with a cell that starts a job and a saved picture, and the panel beside it."""
    lab_page.page.set_viewport_size({"width": WIDTH, "height": HEIGHT})
    output = nbformat.v4.new_output("display_data", {MIME: picture, "text/plain": "a picture"})
    notebook = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_code_cell(RUN),
            nbformat.v4.new_markdown_cell("The picture of before is below."),
            nbformat.v4.new_raw_cell(""),
            nbformat.v4.new_code_cell("", outputs=[output]),
        ],
        metadata={"kernelspec": {"name": "ctrt", "display_name": "ctrt", "language": "python"}},
    )
    lab_page.open("narrow.ipynb", notebook)
    lab_page.wait_for_kernel()
    lab_page.page.get_by_role("tab", name="Containers", exact=True).click()
    return lab_page.page.locator("#ctrt-world")


def _scrolls_to_its_end_and_back(lab_page: LabPage, room: Locator) -> None:
    assert room.evaluate(HIDDEN) > 0
    focused = (
        "document.activeElement.getAttribute('aria-label') ?? document.activeElement.dataset.id"
    )
    before = lab_page.page.evaluate(focused)
    for _ in range(10):
        lab_page.page.keyboard.press("Shift+ArrowRight")
    assert room.evaluate(HIDDEN) <= 1
    assert lab_page.page.evaluate(focused) == before
    lab_page.screenshot("narrow-right")
    for _ in range(10):
        lab_page.page.keyboard.press("Shift+ArrowLeft")
    assert room.evaluate("room => room.scrollLeft") == 0


def test_wide_drawings_and_tables_scroll_by_the_keyboard(
    lab_page: LabPage, picture: dict[str, Any]
) -> None:
    _panel(lab_page, picture)
    graph = lab_page.view.locator(".ctrt-graph")
    lab_page.view.scroll_into_view_if_needed()
    lab_page.node("user[host]").focus()
    _scrolls_to_its_end_and_back(lab_page, graph)
    room = graph.bounding_box()
    for shape in graph.locator(".ctrt-button").all():
        shape.focus()
        box = shape.bounding_box()
        assert room is not None
        assert box is not None
        assert box["x"] < room["x"] + room["width"]
        assert box["x"] + box["width"] > room["x"]
    lab_page.row("user[host]").focus()
    _scrolls_to_its_end_and_back(lab_page, lab_page.view.locator(".ctrt-table"))


def test_the_buttons_of_a_job_stand_in_one_line(lab_page: LabPage, picture: dict[str, Any]) -> None:
    panel = _panel(lab_page, picture)
    lab_page.page.evaluate("window.jupyterapp.commands.execute('notebook:run-cell')")
    lab_page.view.scroll_into_view_if_needed()
    boxes = []
    for word in ("Graph", "Terminal", "Output", "Stop"):
        button = panel.get_by_role("button", name=f"{word} narrow", exact=True)
        expect(button).to_be_visible()
        boxes.append(button.bounding_box())
    lab_page.screenshot("narrow-panel")
    assert len({box["y"] for box in boxes if box}) == 1
    more = panel.get_by_role("button", name="More narrow", exact=True)
    row, box = panel.locator(".ctrt-world-container").bounding_box(), more.bounding_box()
    assert row is not None
    assert box is not None
    assert box["x"] + box["width"] <= row["x"] + row["width"]
