"""A real JupyterLab and a real browser.

The server runs from this tree: its extension, its kernel specification and its Python packages
are the ones built and written here, in directories of its own that are thrown away.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import nbformat
import pytest
from playwright.sync_api import expect, sync_playwright

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import Browser, Locator, Page

ROOT = Path(__file__).resolve().parents[2]
EXTENSION = ROOT / "labextension" / "dist"
MODULE = ROOT / "kernel" / "ctrt_kernel" / "static" / "graph.js"
AXE = ROOT / "labextension" / "node_modules" / "axe-core" / "axe.min.js"
DATA = Path(__file__).parent / "data"
MIME = "application/vnd.ctrt.graph.v1+json"
START_SECONDS = 180
WAIT_MS = 60_000
OF_A_RESTART = "Canceled future for create_subshell_request"
"""JupyterLab's own: a kernel was restarted while it was asked for a subshell, for any comm."""
expect.set_options(timeout=30_000)

CHROMIUM_FLAGS = [
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--no-first-run",
    "--no-sandbox",
]


class Lab(NamedTuple):
    """A running server: its address, its token, and where its notebooks and settings are."""

    url: str
    token: str
    notebooks: Path
    settings: Path

    def call(self, method: str, path: str) -> Any:
        """One request to the server's own interface, answered with JSON or nothing."""
        request = urllib.request.Request(
            f"{self.url}/{path}",
            method=method,
            headers={"Authorization": f"token {self.token}"},
        )
        with urllib.request.urlopen(request, timeout=20) as answer:
            body = answer.read()
        return json.loads(body) if body else None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _environment(home: Path) -> dict[str, str]:
    share = home / "share"
    (share / "labextensions").mkdir(parents=True)
    (share / "labextensions" / "jupyterlab-ctrt").symlink_to(EXTENSION)
    (share / "kernels").symlink_to(ROOT / "kernel" / "kernelspecs")
    config = home / "config"
    (config / "labconfig").mkdir(parents=True)
    page = {"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}}
    (config / "labconfig" / "page_config.json").write_text(json.dumps(page))
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("JUPYTER", "XDG"))
    }
    python_path = [str(ROOT), str(ROOT / "kernel"), os.environ.get("PYTHONPATH", "")]
    return {
        **kept,
        "CTRT_ROOT": str(home / "ctrt"),
        "HOME": str(home),
        "IPYTHONDIR": str(home / "ipython"),
        "JUPYTER_CONFIG_DIR": str(config),
        "JUPYTER_DATA_DIR": str(home / "data"),
        "JUPYTER_PATH": str(share),
        "JUPYTER_PLATFORM_DIRS": "1",
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
        "PYTHONPATH": os.pathsep.join(filter(None, python_path)),
    }


@contextlib.contextmanager
def running_lab(home: Path) -> Iterator[Lab]:
    """JupyterLab on a free port of the loopback interface, with its files in `home`."""
    if not (EXTENSION / "package.json").exists() or not MODULE.exists():
        pytest.fail("labextension/ is not built: run `npm ci && npm run build:prod` in it")
    notebooks = home / "notebooks"
    notebooks.mkdir()
    log = home / "server.log"
    token = secrets.token_hex(16)
    port = _free_port()
    command = [
        *(sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", f"--port={port}"),
        "--ServerApp.port_retries=0",
        f"--ServerApp.root_dir={notebooks}",
        f"--IdentityProvider.token={token}",
        "--LabApp.expose_app_in_browser=True",
        "--JupyterNotebookApp.expose_app_in_browser=True",
        "--LabApp.news_url=None",
        *(["--allow-root"] if os.geteuid() == 0 else []),
    ]
    with log.open("wb") as output:
        server = subprocess.Popen(
            command,
            cwd=notebooks,
            env=_environment(home),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    found = Lab(f"http://127.0.0.1:{port}", token, notebooks, home / "settings")
    try:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                found.call("GET", "api/status")
                break
            except OSError:
                if server.poll() is not None or time.monotonic() > deadline:
                    pytest.fail(f"JupyterLab did not start:\n{log.read_text()[-4000:]}")
                time.sleep(0.2)
        yield found
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


@contextlib.contextmanager
def running_browser() -> Iterator[Browser]:
    """Chromium without a window."""
    program = os.environ.get("CTRT_CHROMIUM") or shutil.which("chromium")
    if program is None:
        pytest.fail("no chromium on PATH: install Debian's chromium, or name one in CTRT_CHROMIUM")
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=program, args=CHROMIUM_FLAGS)
        yield running
        running.close()


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A JupyterLab for all tests."""
    with running_lab(tmp_path_factory.mktemp("lab")) as running:
        yield running


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A Chromium for all tests."""
    with running_browser() as running:
        yield running


class LabPage:
    """A JupyterLab in a browser tab, and what a reader does there."""

    def __init__(self, page: Page, lab: Lab, screenshots: Path) -> None:
        self.page = page
        self.lab = lab
        self.screenshots = screenshots
        self.errors: list[str] = []
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.set_default_timeout(WAIT_MS)

    def open(self, name: str, notebook: nbformat.NotebookNode) -> None:
        """Save a notebook into the server's directory and open it."""
        nbformat.write(notebook, self.lab.notebooks / name)
        self.page.goto(f"{self.lab.url}/lab/tree/{name}?reset&token={self.lab.token}")
        self.page.wait_for_selector(".jp-Notebook .jp-Cell")

    @property
    def view(self) -> Locator:
        """The picture; a notebook of these tests has one."""
        return self.page.locator(".ctrt-view")

    def node(self, label: str) -> Locator:
        """The shape in the graph whose spoken words hold a label."""
        return self.view.locator(f'.ctrt-graph .ctrt-node[aria-label*="{label}"]')

    def row(self, label: str) -> Locator:
        """The row of the table with this first cell."""
        return self.view.locator("tr.ctrt-line").filter(
            has=self.page.locator(f'.ctrt-name[title="{label}"]')
        )

    def theme(self, name: str) -> None:
        """Switch the theme as the settings menu does."""
        self.page.evaluate(
            "theme => window.jupyterapp.commands.execute('apputils:change-theme', {theme})", name
        )
        light = "false" if "Dark" in name else "true"
        self.page.wait_for_selector(f'body[data-jp-theme-light="{light}"]', state="attached")
        self.page.wait_for_selector("#jupyterlab-splash", state="detached")

    def wait_for_kernel(self, status: str = "idle") -> None:
        """Wait until the notebook's kernel is there and has this status."""
        self.page.wait_for_function(
            """status => {
                const panel = window.jupyterapp?.shell.currentWidget;
                return panel?.sessionContext?.session?.kernel?.status === status;
            }""",
            arg=status,
        )

    def run_all(self) -> None:
        """Run all cells and wait for the last one."""
        self.page.evaluate("window.jupyterapp.commands.execute('notebook:run-all-cells')")
        self.wait_for_kernel()

    def confirm(self, word: str, *, page: Page | None = None) -> None:
        """Answer the question in front with the button of that word."""
        dialog = (page or self.page).get_by_role("dialog")
        dialog.get_by_role("button", name=word, exact=True).click()

    def faults(self, place: str) -> list[str]:
        """What axe-core finds serious in a part of the page that is seen."""
        self.page.evaluate(AXE.read_text())
        found: dict[str, Any] = self.page.evaluate("place => axe.run(place)", place)
        return [
            f"{fault['id']}: {fault['nodes'][0]['html'][:200]}"
            for fault in found["violations"]
            if fault["impact"] in ("serious", "critical")
        ]

    def screenshot(self, name: str) -> None:
        """Keep what is seen now, for people to look at."""
        self.page.screenshot(path=self.screenshots / f"{name}.png")


@pytest.fixture
def lab_page(browser: Browser, lab: Lab, tmp_path: Path) -> Iterator[LabPage]:
    """A fresh tab; afterwards no kernel is left and no script has failed."""
    screenshots = Path(os.environ.get("CTRT_SCREENSHOTS") or tmp_path)
    screenshots.mkdir(parents=True, exist_ok=True)
    # The theme of the test before.
    shutil.rmtree(lab.settings, ignore_errors=True)
    context = browser.new_context(
        viewport={"width": 1280, "height": 960}, permissions=["clipboard-read", "clipboard-write"]
    )
    page = LabPage(context.new_page(), lab, screenshots)
    yield page
    context.close()
    for session in lab.call("GET", "api/sessions"):
        with contextlib.suppress(OSError):
            lab.call("DELETE", f"api/sessions/{session['id']}")
    assert [error for error in page.errors if OF_A_RESTART not in error] == []


@pytest.fixture
def data_path() -> str:
    """Where the small picture is on disk."""
    return str(DATA / "namespaces.json")


@pytest.fixture
def picture() -> dict[str, Any]:
    """A small picture of a container's namespaces."""
    found: dict[str, Any] = json.loads((DATA / "namespaces.json").read_text())
    return found


@pytest.fixture
def saved() -> Callable[[dict[str, Any]], nbformat.NotebookNode]:
    """A notebook with one output, as it is found on disk: not trusted, not run."""

    def build(picture: dict[str, Any]) -> nbformat.NotebookNode:
        output = nbformat.v4.new_output(
            "display_data",
            {MIME: picture, "image/svg+xml": "<svg/>", "text/plain": "a picture"},
        )
        cell = nbformat.v4.new_code_cell("%ctrt graph busybox", outputs=[output])
        return nbformat.v4.new_notebook(cells=[cell])

    return build
