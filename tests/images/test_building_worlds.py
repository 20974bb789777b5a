"""A build as root, as a user with subordinate ids and as one with a single id."""

from __future__ import annotations

import os

import pytest

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason="root is needed to become the users of the worlds"
)

RECIPE = """FROM localhost/tools AS first
RUN --mount=type=bind,source=a.txt,target=/a --mount=type=cache,target=/cache,mode=1777 \\
    --mount=type=tmpfs,target=/scratch --mount=type=secret,id=token \\
    cp /a /copied; cat /run/secrets/token > /scratch/x; wc -c < /scratch/x > /said; \\
    echo line >> /cache/log; wc -l < /cache/log >> /said; id -u >> /said
RUN mkdir -p /tree/sub && ln -s sub /tree/link && chmod 2750 /tree/sub && rm /etc/group
FROM localhost/tools
COPY --from=first /copied /said /from/
COPY --from=first /tree /tree
COPY --chmod=640 a.txt /
RUN cat /a.txt /from/copied && stat -c %a /tree/sub /a.txt
CMD ["cat", "/from/said"]
"""


def test_a_build(world):
    context = world.home / "context"
    made = world.run("mkdir", "-p", str(context))
    assert made.returncode == 0, made.stderr
    for name, text in (("a.txt", "A\n"), ("Containerfile", RECIPE), ("token", "tiger")):
        world.run("sh", "-c", f"cat > {context}/{name}", stdin=text)
    tools = ["sh", "cat", "cp", "wc", "id", "mkdir", "ln", "chmod", "rm", "stat", "chown", "ls"]
    result = world.ctrt("image", "from-host", "--name", "localhost/tools", *tools)
    assert result.returncode == 0, result.stderr
    build = ["build", "-t", "localhost/built", "--secret", f"id=token,src={context}/token"]
    for lines in (1, 2):
        result = world.ctrt(*build, "--no-cache", str(context))
        assert result.returncode == 0, result.stderr
        assert "A\nA\n2750\n640\n" in result.stderr
        result = world.ctrt("run", "localhost/built")
        assert (result.stdout, result.returncode) == (f"5\n{lines}\n0\n", 0), result.stderr
    result = world.ctrt(*build, str(context))
    assert result.stderr.count("--> from the cache") == 6, "what RUN left is known now"
    result = world.ctrt("run", "localhost/built", "ls", "/tree/link/..", "/run")
    assert "secrets" not in result.stdout
    caches = world.root / "cache/mounts"
    assert [path.name for path in caches.iterdir() if path.is_dir()]
    result = world.ctrt("prune")
    assert result.returncode == 0, result.stderr
    assert not [path.name for path in caches.iterdir() if path.is_dir()]


def test_owners_of_a_build(world):
    """Whoever has subordinate ids gives files away as root does; who has one id is told."""
    context = world.home / "owners"
    world.run("mkdir", "-p", str(context))
    world.run("sh", "-c", f"cat > {context}/Containerfile", stdin=(
        "FROM localhost/tools\nRUN --mount=type=secret,id=x,uid=5,gid=6 "
        "stat -c '%u %g %a' /run/secrets/x; touch /f && chown 7:8 /f\n"
        "RUN stat -c '%u %g' /f\n"
    ))  # fmt: skip
    world.run("sh", "-c", f"cat > {context}/x", stdin="y")
    world.ctrt("image", "from-host", "--name", "localhost/tools", "sh", "stat", "touch", "chown")
    result = world.ctrt("build", "-t", "localhost/owners", "--secret", f"id=x,src={context}/x",
                        str(context))  # fmt: skip
    if world.name == "single":
        assert result.returncode != 0
        assert "the ids 5:6 are not among those that you may use" in result.stderr
        assert "Traceback" not in result.stderr
    else:
        assert result.returncode == 0, result.stderr
        assert "5 6 400\n" in result.stderr
        assert "7 8\n" in result.stderr


def test_the_host_s_network_and_one_layer(world):
    context = world.home / "network"
    world.run("mkdir", "-p", str(context))
    world.run("sh", "-c", f"cat > {context}/Containerfile", stdin=(
        "FROM localhost/tools\nRUN ls /sys/class/net | cat > /own\n"
        "RUN --network=host ls /sys/class/net | cat > /host; touch /gone\nRUN rm /gone\n"
        'CMD ["cat", "/own", "/host"]\n'
    ))  # fmt: skip
    world.ctrt("image", "from-host", "--name", "localhost/tools", "sh", "ls", "cat", "touch", "rm")
    result = world.ctrt("build", "--squash", "-q", "-t", "localhost/net", str(context))
    assert result.returncode == 0, result.stderr
    result = world.ctrt("run", "localhost/net")
    assert result.stdout == "lo\n" + world.run("ls", "/sys/class/net").stdout, result.stderr
    assert world.ctrt("diff", "localhost/net").stdout == "A /host\nA /own\n"
