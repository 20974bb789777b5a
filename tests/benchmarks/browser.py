"""From Shift-Enter to the first output on the page, in JupyterLab in Chromium.

The cells of notebook.py, in turns. The page itself takes the times: from the key to the moment
when the cell's output has text, so that what JupyterLab and the page take counts for all.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import nbformat

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "browser"))

from conftest import LabPage, running_browser, running_lab
from notebook import cells, measure, podman_image, report

if TYPE_CHECKING:
    from playwright.sync_api import Page

IMAGE = "localhost/benchmark/shell"
BODY = "read up idle </proc/uptime; echo $up"  # another one each time
WATCH = """number => {
    const book = document.querySelector('.jp-Notebook');
    // Elements may be made anew, so they are looked up each time.
    const text = () => book.querySelectorAll('.jp-CodeCell')[number]
        ?.querySelector('.jp-Cell-outputArea')?.textContent ?? '';
    const before = text();
    let start = 0;
    window.taken = -1;
    const key = event => { if (event.key === 'Enter') start ||= performance.now(); };
    window.addEventListener('keydown', key, { capture: true });
    const watcher = new MutationObserver(() => {
        const now = text();
        if (start && now.trim() && now !== before) {
            watcher.disconnect();
            window.removeEventListener('keydown', key, { capture: true });
            window.taken = performance.now() - start;
        }
    });
    watcher.observe(book, { childList: true, subtree: true, characterData: true });
}"""
STATUS = "window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.status"
POLL_MS = 50
LONGEST_SECONDS = 30


def first_output(page: Page, number: int) -> float:
    """Milliseconds from the key to the first output of a cell."""
    page.locator(".jp-CodeCell").nth(number).locator(".cm-content").click()
    page.evaluate(WATCH, number)
    page.keyboard.press("Shift+Enter")
    wait(page, "window.taken >= 0")
    wait(page, f"{STATUS} === 'idle'")
    return float(page.evaluate("window.taken"))


def wait(page: Page, condition: str) -> None:
    """Ask again and again until something is true in the page."""
    end = time.monotonic() + LONGEST_SECONDS
    while not page.evaluate(condition):
        if time.monotonic() > end:
            raise SystemExit(f"this does not come true in the page: {condition}")
        page.wait_for_timeout(POLL_MS)


def main() -> None:
    """Measure and print a table."""
    from ctrt.engine import Engine
    from ctrt.images.hostimage import from_host

    podmans = podman_image()
    with tempfile.TemporaryDirectory(prefix="ctrt-bench-") as home:
        os.environ["CTRT_ROOT"] = f"{home}/ctrt"
        engine = Engine()
        from_host(engine.store, IMAGE, ["sh"])
        engine.close()
        compared = cells(IMAGE, podmans, BODY)
        spec = {"name": "ctrt", "display_name": "ctrt", "language": "python"}
        notebook = nbformat.v4.new_notebook(
            cells=[nbformat.v4.new_code_cell(code) for code in compared.values()],
            metadata={"kernelspec": spec},
        )
        places = {code: number for number, code in enumerate(compared.values())}
        try:
            with running_lab(Path(home)) as lab, running_browser() as browser:
                page = LabPage(browser.new_page(), lab, Path(home))
                page.open("speed.ipynb", notebook)
                page.wait_for_kernel()
                report(measure(compared, lambda code: first_output(page.page, places[code])))
        finally:
            Engine().destroy()
            if podmans:
                subprocess.run(["podman", "rmi", podmans], capture_output=True, check=False)


if __name__ == "__main__":
    main()
