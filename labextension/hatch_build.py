"""What the Python build calls for the JavaScript half of the wheel.

It is not called where the built files are there already; an editable install always calls it.
"""

from __future__ import annotations

import os
import shutil
from typing import Any

BUILT = ("kernel/ctrt_kernel/static/graph.js", "labextension/dist/static/style.js")


def build(target_name: str, version: str, **options: Any) -> None:
    """Build with npm, as hatch-jupyter-builder's `npm_builder` does.

    Ends with one sentence where there is no npm and nothing was built before.
    """
    from hatch_jupyter_builder import npm_builder

    if version == "editable" and all(os.path.exists(path) for path in BUILT):
        return
    if shutil.which("npm") is None:
        raise SystemExit(
            "ctrt's JupyterLab extension is not built and npm is not on PATH: "
            "install node 20.19 or newer, or build from the source archive, which holds it built"
        )
    npm_builder(target_name, version, **options)
