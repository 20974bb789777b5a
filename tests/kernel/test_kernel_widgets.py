"""Live pictures as Python has them, and what of them stays where there is no kernel."""

from __future__ import annotations

import base64
import re
import subprocess
import sys

import nbformat
import pytest
from kernel_tools import IMAGE, PROJECT, Kernel
from nbclient import NotebookClient
from nbconvert import HTMLExporter

WIDGET = "application/vnd.jupyter.widget-view+json"
PICTURE = "application/vnd.ctrt.graph.v1+json"
VIEWS = {
    "ContainerGraph('kin')": "Container kin",
    "NamespaceGraph('kin')": "Namespaces of container kin",
    "NamespaceGraph()": "Namespaces of this machine",
    "MountGraph('kin')": "Mounts of container kin",
    "MountGraph('host', 'kin')": "Mounts of the host and of kin",
    "CapabilityGraph('kin')": "Capabilities of container kin",
    "IdGraph('kin')": "Ids of container kin",
    "CgroupGraph('kin')": "cgroups of container kin",
    "NetworkGraph('kin')": "Network of container kin",
    "StackGraph('kin')": "From the machine's first process to container kin",
    "DifferenceGraph('host', 'kin')": "From the host to kin",
    f"LayerGraph('{IMAGE}')": f"Layers of {IMAGE}",
}


@pytest.fixture(scope="module")
def seen(kernel: Kernel) -> Kernel:
    """A kernel that runs a container."""
    kernel.good(f"%%container --bg=job --name kin {IMAGE}\nexec sleep 600")
    kernel.good("from ctrt.widgets import *")
    kernel.is_read = True
    return kernel


@pytest.mark.parametrize("widget", VIEWS)
def test_each_view_is_a_widget_too(seen: Kernel, widget: str) -> None:
    found = seen.good(widget).result
    assert set(found) == {"text/plain", "image/svg+xml", PICTURE, WIDGET}
    assert found[PICTURE]["title"] == VIEWS[widget]
    assert found["text/plain"].startswith(VIEWS[widget].split()[0])
    assert seen.good(f"repr({widget})").result["text/plain"][0] in "\"'"


def test_it_is_followed_while_it_is_live(seen: Kernel) -> None:
    seen.good(
        "import threading, time\n"
        "def followers(): return sum(t.name == 'ctrt live graph' for t in threading.enumerate())\n"
        "before = followers()\n"
        "graph = NamespaceGraph('kin', live=True, seconds=0.05)\n"
        "chosen = []\n"
        "graph.observe(lambda change: chosen.append(change['new']), 'selected')\n"
        "graph.selected = 'user:1'"
    )
    assert seen.good("followers() - before, graph.live, chosen").result["text/plain"] == (
        "(1, True, ['user:1'])"
    )
    seen.good("graph.live = False\nwhile followers() > before: time.sleep(0.05)")
    assert seen.good("followers() - before").result["text/plain"] == "0"
    seen.good("graph.live = True; graph.close()\nwhile followers() > before: time.sleep(0.05)")
    assert seen.good("followers() - before").result["text/plain"] == "0"


def test_a_target_that_is_not_there(seen: Kernel) -> None:
    assert seen.bad("NamespaceGraph('nobody', live=True)").startswith(
        "CtrtError: there is no running container 'nobody'; these run:"
    )
    assert seen.bad("DifferenceGraph('host', 'nobody')").startswith("CtrtError: there is no")


def test_without_jupyter_it_is_said(seen: Kernel) -> None:
    code = "import sys; sys.modules['anywidget'] = None\nfrom ctrt.widgets import NamespaceGraph"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=PROJECT, check=False
    )
    assert done.stderr.splitlines()[-1] == (
        "ctrt.errors.CtrtError: ctrt.widgets needs the package anywidget: "
        "pip install 'ctrt[jupyter]'"
    )


def test_a_saved_notebook_shows_it_on_any_page() -> None:
    """What nbviewer, GitHub and VS Code without this extension make of it: a picture, and text."""
    code = "from ctrt.widgets import NamespaceGraph\nNamespaceGraph('host', live=True)"
    cells = [nbformat.v4.new_code_cell(cell) for cell in (code, "%ctrt graph --live host")]
    spec = {"name": "ctrt", "display_name": "ctrt", "language": "python"}
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": spec})
    NotebookClient(notebook, timeout=60).execute()
    saved = nbformat.reads(nbformat.writes(notebook), as_version=4)
    nbformat.validate(saved)
    for cell, title in zip(saved.cells, ("Namespaces of the host", "the host"), strict=True):
        (output,) = cell.outputs
        # The widget would need a net, or the kernel that is gone.
        assert set(output.data) == {"text/plain", "image/svg+xml", PICTURE}
        assert output.data["text/plain"].startswith(f"{title}\n")
    page, _ = HTMLExporter().from_notebook_node(saved)
    pictures = re.findall(r'<img[^>]* src="data:image/svg\+xml;base64,([^"]+)"', page, re.DOTALL)
    assert len(pictures) == 2
    assert all("<title" in base64.b64decode(picture).decode() for picture in pictures)
    assert WIDGET not in page.replace(f'type="{WIDGET}"', "")


def test_it_shows_what_changes_until_it_is_stopped(seen: Kernel) -> None:
    """A picture that was being drawn when it was stopped comes too late."""
    seen.good(
        "import threading\n"
        "from ctrt_kernel.widgets import LiveGraph\n"
        "looks, told, drawing, stopped = [], [], threading.Event(), threading.Event()\n"
        "def draw():\n"
        "    looks.append(1)\n"
        "    if len(looks) == 5:\n"
        "        drawing.set(); stopped.wait(20)\n"
        "    return {'title': ['a', 'a', 'b', 'b', 'late'][len(looks) - 1]}\n"
        "shown = LiveGraph(draw, seconds=0.01, live=False)\n"
        "shown.observe(lambda change: told.append(change['new']['title']), 'graph')\n"
        "before = threading.enumerate()\n"
        "shown.live = True\n"
        "(follower,) = [t for t in threading.enumerate() if t not in before]\n"
        "assert drawing.wait(20)\n"
        "shown.stop(); stopped.set(); follower.join(20)"
    )
    assert seen.good("len(looks), told, shown.graph['title']").result["text/plain"] == (
        "(5, ['b'], 'b')"
    )
