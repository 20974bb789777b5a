"""What a person does in a notebook with containers: complete, answer, interrupt, look."""

from __future__ import annotations

from typing import TYPE_CHECKING

import nbformat
import pytest
from playwright.sync_api import expect

if TYPE_CHECKING:
    from conftest import Lab, LabPage

IMAGE = "localhost/person/shell"


@pytest.fixture(scope="module", autouse=True)
def image(lab: Lab) -> None:
    """An image in the store of the server's kernels."""
    from ctrt.engine import Engine
    from ctrt.images.hostimage import from_host

    engine = Engine(str(lab.settings.parent / "ctrt"))
    from_host(engine.store, IMAGE, ["sh", "base64", "cat", "ls", "sleep"])
    engine.close()


def _open(lab_page: LabPage, *cells: str) -> None:
    spec = {"name": "ctrt", "display_name": "ctrt", "language": "python"}
    code = [nbformat.v4.new_code_cell(cell) for cell in cells]
    notebook = nbformat.v4.new_notebook(cells=code, metadata={"kernelspec": spec})
    lab_page.open("person.ipynb", notebook)
    lab_page.wait_for_kernel()


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
    page.evaluate("void window.jupyterapp.commands.execute('notebook:run-all-cells')")
    question = page.locator(".jp-Stdin-input")
    expect(question).to_be_visible()
    lab_page.screenshot("question")
    question.fill("Ada")
    question.press("Enter")
    expect(page.locator(".jp-OutputArea").last).to_contain_text("Hello, Ada!")


def test_interrupt(lab_page: LabPage) -> None:
    _open(lab_page, f"%%container {IMAGE}\necho ready; exec sleep 600")
    page = lab_page.page
    page.evaluate("void window.jupyterapp.commands.execute('notebook:run-all-cells')")
    output = page.locator(".jp-OutputArea").last
    expect(output).to_contain_text("ready")
    page.evaluate("void window.jupyterapp.commands.execute('notebook:interrupt-kernel')")
    expect(output).to_contain_text("KeyboardInterrupt")
    lab_page.wait_for_kernel()
    lab_page.screenshot("interrupt")


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
