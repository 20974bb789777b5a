"""What skopeo and buildah pushed to a real registry runs, in each of the three worlds."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason="root is needed to become the users of the worlds"
)


def run(*command):
    subprocess.run(command, check=True, capture_output=True, text=True)


@pytest.fixture(scope="module")
def pushed(start_registry, tmp_path_factory):
    """A registry with a busybox image in three shapes: two manifests, and layers of buildah's."""
    host = start_registry()
    place = tmp_path_factory.mktemp("pushed")
    root = place / "root"
    (root / "bin").mkdir(parents=True)
    shutil.copy(shutil.which("busybox"), root / "bin" / "busybox")
    (root / "bin" / "sh").symlink_to("busybox")
    run("umoci", "init", "--layout", f"{place}/oci")
    run("umoci", "new", "--image", f"{place}/oci:1")
    run("umoci", "insert", "--image", f"{place}/oci:1", str(root), "/")
    run(
        *("umoci", "config", "--image", f"{place}/oci:1", "--config.cmd", "/bin/sh"),
        *("--config.cmd", "-c", "--config.cmd", "echo its own command"),
    )
    for name, kind in (("oci", "oci"), ("docker", "v2s2")):
        run(
            *("skopeo", "copy", "-q", "--dest-tls-verify=false", "--format", kind),
            *(f"oci:{place}/oci:1", f"docker://{host}/{name}:1"),
        )
    storage = ("--root", f"{place}/storage", "--runroot", f"{place}/run", "--storage-driver=vfs")
    made = subprocess.run(
        ["buildah", *storage, "from", "scratch"], check=True, capture_output=True, text=True
    ).stdout.strip()
    run("buildah", *storage, "copy", made, str(root), "/")
    run("buildah", *storage, "config", "--cmd", "/bin/sh -c 'echo its own command'", made)
    run("buildah", *storage, "commit", made, "built")
    run(
        *("buildah", *storage, "push", "--tls-verify=false"),
        *("built", f"docker://{host}/built:1"),
    )
    return host


@pytest.mark.parametrize("name", ["oci", "docker", "built"])
def test_it_runs(world, pushed, name):
    result = world.ctrt("run", f"{pushed}/{name}:1")
    assert (result.stdout, result.returncode) == ("its own command\n", 0), result.stderr
    given = world.ctrt("run", f"{pushed}/{name}:1", "/bin/sh", "-c", "echo $$ $0", "word")
    assert given.stdout == "1 word\n", given.stderr
    assert world.ctrt("rmi", f"{pushed}/{name}:1").returncode == 0


def test_a_tag_that_is_not_there_is_one_sentence(world, pushed):
    result = world.ctrt("run", f"{pushed}/oci:2")
    assert result.returncode == 125
    assert result.stderr.startswith(f"ctrt: cannot pull {pushed}/oci:2: ")
    assert result.stderr.count("\n") == 1
