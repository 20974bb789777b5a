"""A saved picture in viewers without JavaScript of ours: nbconvert, nbviewer, VS Code."""

from __future__ import annotations

import base64
import re

import nbformat

from ctrt import draw, observe


def test_nbconvert_shows_the_svg_and_no_json() -> None:
    from nbconvert import HTMLExporter

    picture = draw.container(observe.snapshot(), title="One container")
    bundle = picture._repr_mimebundle_()
    output = nbformat.v4.new_output("display_data", bundle)
    cell = nbformat.v4.new_code_cell("%ctrt graph one", outputs=[output])
    page, _ = HTMLExporter(template_name="lab").from_notebook_node(
        nbformat.v4.new_notebook(cells=[cell])
    )
    shown = re.search(r'src="data:image/svg\+xml;base64,([^"]+)"', page)
    svg = base64.b64decode(shown[1]).decode() if shown else page
    assert "<title" in svg
    assert "One container</title>" in svg
    assert "<desc" in svg
    assert '"version": 1' not in page


def test_every_form_that_a_viewer_may_choose_is_there() -> None:
    bundle = draw.container(observe.snapshot(), title="One container")._repr_mimebundle_()
    assert list(bundle) == [
        "text/plain",
        "image/svg+xml",
        "application/vnd.ctrt.graph.v1+json",
    ]
    assert bundle["text/plain"].startswith("One container")
