"""A saved notebook, never trusted, without a kernel: its pictures are drawn and can be walked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from playwright.sync_api import expect

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import LabPage
    from nbformat import NotebookNode

    Saved = Callable[[dict[str, Any]], NotebookNode]

EVIL = ["<img src=x onerror='window.pwned=1'>", "</svg><script>window.pwned=1</script>"]


def _no_kernel(lab_page: LabPage) -> None:
    assert lab_page.lab.call("GET", "api/kernels") == []


def _without_kernel(notebook: NotebookNode) -> NotebookNode:
    """A kernel that no server has: nothing can be started, even by mistake."""
    notebook.metadata["kernelspec"] = {"name": "none", "display_name": "None", "language": "none"}
    return notebook


def _open(lab_page: LabPage, name: str, notebook: NotebookNode) -> None:
    lab_page.open(name, _without_kernel(notebook))
    # JupyterLab asks what to use instead.
    dialog = lab_page.page.locator(".jp-Dialog")
    dialog.get_by_role("button", name="No Kernel", exact=True).click()
    expect(lab_page.view).to_be_visible()


def test_untrusted_notebook_draws_without_kernel(
    lab_page: LabPage, saved: Saved, picture: dict[str, Any]
) -> None:
    _open(lab_page, "untrusted.ipynb", saved(picture))
    expect(lab_page.view.locator(".ctrt-graph .ctrt-button")).to_have_count(len(picture["nodes"]))
    expect(lab_page.view.locator("tr.ctrt-line")).to_have_count(len(picture["rows"]))
    expect(lab_page.row("mnt[1]")).to_be_visible()
    trusted = lab_page.page.evaluate(
        "window.jupyterapp.shell.currentWidget.content.widgets.every(c => c.model.trusted)"
    )
    assert trusted is False
    lab_page.screenshot("untrusted-light")
    _no_kernel(lab_page)


def test_click_on_a_shape_selects_the_row_and_opens_the_drawer(
    lab_page: LabPage, saved: Saved, picture: dict[str, Any]
) -> None:
    _open(lab_page, "click.ipynb", saved(picture))
    lab_page.node("mnt[1]").click()
    expect(lab_page.row("mnt[1]")).to_have_attribute("aria-selected", "true")
    drawer = lab_page.view.locator(".ctrt-drawer")
    expect(drawer).to_be_visible()
    detail = picture["details"]["mnt:1"]
    for text in (detail["meaning"], detail["raw"][0]["line"], detail["command"], detail["man"]):
        expect(drawer).to_contain_text(text)
    box, shape = drawer.bounding_box(), lab_page.node("mnt[1]").bounding_box()
    assert box is not None
    assert shape is not None
    assert box["x"] >= shape["x"] + shape["width"], "the drawer covers the shape that was clicked"
    lab_page.screenshot("click-light")
    drawer.get_by_role("button", name="Copy the command").click()
    expect(drawer.get_by_text("Copied")).to_be_visible()
    assert lab_page.page.evaluate("navigator.clipboard.readText()") == detail["command"]
    lab_page.row("user[1]").click()
    expect(lab_page.node("user[1]")).to_have_attribute("aria-pressed", "true")
    expect(drawer).to_contain_text("524288")


def test_keyboard_alone_is_enough(lab_page: LabPage, saved: Saved, picture: dict[str, Any]) -> None:
    _open(lab_page, "keyboard.ipynb", saved(picture))
    page = lab_page.page
    cells = page.locator(".jp-Notebook .jp-Cell").count()
    lab_page.view.locator("input").focus()
    page.keyboard.press("Enter")
    expect(lab_page.row("user[host]")).to_be_focused()
    # Letters that are commands of the notebook: delete, insert above, insert below.
    for key in "ddab":
        page.keyboard.press(key)
    assert page.locator(".jp-Notebook .jp-Cell").count() == cells
    for _ in range(4):
        page.keyboard.press("ArrowDown")
    expect(lab_page.row("mnt[1]")).to_have_attribute("aria-selected", "true")
    expect(lab_page.node("mnt[1]")).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("Enter")
    drawer = lab_page.view.locator(".ctrt-drawer")
    expect(drawer).to_contain_text(picture["details"]["mnt:1"]["meaning"])
    page.keyboard.press("g")
    expect(lab_page.node("mnt[1]")).to_be_focused()
    page.keyboard.press("ArrowRight")
    expect(lab_page.row("uts[1]")).to_have_attribute("aria-selected", "true")
    page.keyboard.press("Escape")
    expect(drawer).to_be_hidden()
    page.keyboard.press("?")
    expect(lab_page.view.locator(".ctrt-legend")).to_be_visible()
    lab_page.screenshot("legend-light")
    page.keyboard.press("?")
    expect(lab_page.view.locator(".ctrt-legend")).to_be_hidden()
    page.keyboard.press("g")
    expect(lab_page.row("uts[1]")).to_be_focused()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    expect(lab_page.row("user[1]")).to_have_attribute("aria-expanded", "false")
    expect(lab_page.row("mnt[1]")).to_have_count(0)


def test_filter_shows_matches_with_what_is_above_them(
    lab_page: LabPage, saved: Saved, picture: dict[str, Any]
) -> None:
    _open(lab_page, "filter.ipynb", saved(picture))
    lab_page.row("user[host]").focus()
    lab_page.page.keyboard.press("/")
    lab_page.page.keyboard.type("httpd")
    rows = lab_page.view.locator("tr.ctrt-line .ctrt-name")
    expect(rows).to_have_text(["user[host]", "user[1]", "pid[1]", "httpd"])
    expect(lab_page.view.get_by_role("status")).to_have_text(f"1 of {len(picture['rows'])} rows")
    assert "ctrt-dim" not in (lab_page.node("httpd").get_attribute("class") or "")
    assert "ctrt-dim" in (lab_page.node("uts[1]").get_attribute("class") or "")
    lab_page.page.keyboard.press("Escape")
    expect(rows).to_have_count(len(picture["rows"]))


def test_a_switch_of_the_theme_is_followed(
    lab_page: LabPage, saved: Saved, picture: dict[str, Any]
) -> None:
    _open(lab_page, "theme.ipynb", saved(picture))
    lab_page.row("user[1]").click()
    label = lab_page.node("mnt[1]").locator(".ctrt-label")
    expect(label).to_have_css("fill", "rgb(31, 95, 191)")
    lab_page.screenshot("theme-light")
    lab_page.theme("JupyterLab Dark")
    expect(label).to_have_css("fill", "rgb(125, 180, 255)")
    lab_page.screenshot("theme-dark")
    lab_page.theme("JupyterLab Light")
    expect(label).to_have_css("fill", "rgb(31, 95, 191)")


def test_markup_in_a_picture_stays_text(
    lab_page: LabPage, saved: Saved, picture: dict[str, Any]
) -> None:
    row, node = picture["rows"][4], picture["nodes"][4]
    picture["title"] = picture["description"] = EVIL[1]
    row["cells"] = [EVIL[0], EVIL[1], EVIL[0]]
    row["kind"] = node["kind"] = EVIL[0]
    node.update(label=EVIL[1], sub=EVIL[0], icon=EVIL[0], code=EVIL[1], shape=EVIL[0])
    picture["details"][row["id"]] = {
        "meaning": EVIL[0],
        "raw": [{"path": EVIL[1], "line": EVIL[0]}],
        "man": "javascript:window.pwned=1",
        "command": EVIL[1],
    }
    _open(lab_page, "hostile.ipynb", saved(picture))
    lab_page.view.locator("tr.ctrt-line").nth(4).click()
    lab_page.page.keyboard.press("?")
    drawer = lab_page.view.locator(".ctrt-drawer")
    expect(drawer).to_contain_text(EVIL[0])
    expect(drawer).to_contain_text(EVIL[1])
    expect(lab_page.view.locator("h3")).to_have_text(EVIL[1])
    assert lab_page.view.locator("img, script, iframe, a").count() == 0
    assert lab_page.page.evaluate("window.pwned") is None


def test_what_is_not_a_picture_is_said_in_one_sentence(
    lab_page: LabPage, saved: Saved, picture: dict[str, Any]
) -> None:
    picture["nodes"][3]["x"] = "left"
    _open(lab_page, "wrong.ipynb", saved(picture))
    expect(lab_page.view).to_contain_text(
        "This picture cannot be drawn: nodes[3].x should be a number"
    )
