"""Run notebooks headless, as `make demo` and `make notebooks` do.

    demo.py DIRECTORY              execute a copy of the tour there, with an HTML copy beside it
    demo.py --store [NOTEBOOK...]  execute notebooks (all) and store their outputs in themselves

The store is a private one that is removed at the end, so nothing is left but the results.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from glob import glob

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbconvert import HTMLExporter

from ctrt.engine import Engine

NOTEBOOKS = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "notebooks")
TOUR = f"{NOTEBOOKS}/00-tour.ipynb"


def execute(path: str) -> nbformat.NotebookNode:
    """The notebook at a path, executed with a private store."""
    notebook = nbformat.read(path, as_version=4)
    root = tempfile.mkdtemp(prefix="ctrt-demo-")
    os.environ["CTRT_ROOT"] = f"{root}/store"
    # The notebook's own interpreter is the one that runs this, whatever else is on PATH.
    os.environ["PATH"] = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"
    try:
        NotebookClient(
            notebook,
            timeout=120,
            resources={"metadata": {"path": root}},
            store_widget_state=False,
            coalesce_streams=True,
        ).execute()
    finally:
        Engine(f"{root}/store").destroy()
        shutil.rmtree(root)
    return notebook


def clean(notebook: nbformat.NotebookNode) -> None:
    """Take out what would differ from run to run: times, bars that have gone, kernel details."""
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("data") != {}]
    notebook.metadata.pop("widgets", None)
    notebook.metadata["language_info"] = {"name": "python"}


def executed(path: str) -> tuple[nbformat.NotebookNode, float]:
    """A notebook with the outputs of this run, and the seconds that it took; exits if it fails."""
    start = time.monotonic()
    try:
        notebook = execute(path)
    except CellExecutionError as error:
        sys.exit(f"{path} failed: {error}")
    clean(notebook)
    return notebook, time.monotonic() - start


def store(paths: list[str]) -> None:
    """Execute notebooks and store their outputs in themselves."""
    for path in paths:
        notebook, seconds = executed(path)
        nbformat.write(notebook, path)
        print(f"stored the outputs of {path}, which ran in {seconds:.0f} s")


def demo(directory: str) -> None:
    """Execute a copy of the tour in a directory."""
    notebook, seconds = executed(TOUR)
    os.makedirs(directory, exist_ok=True)
    nbformat.write(notebook, f"{directory}/00-tour.ipynb")
    body, _ = HTMLExporter().from_notebook_node(notebook)
    with open(f"{directory}/00-tour.html", "w", encoding="utf-8") as file:
        file.write(body)
    print(f"the tour ran in {seconds:.0f} s; the executed notebook and an HTML copy are in")
    print(f"  {directory}/00-tour.ipynb")
    print(f"  {directory}/00-tour.html")


def main(arguments: list[str]) -> None:
    """Do what the command line says."""
    if arguments[:1] == ["--store"]:
        store(arguments[1:] or sorted(glob(f"{NOTEBOOKS}/*.ipynb")))
    else:
        demo(os.path.abspath(arguments[0]))


if __name__ == "__main__":
    main(sys.argv[1:])
