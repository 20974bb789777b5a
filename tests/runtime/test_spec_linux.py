"""Kernel parameters and seccomp agents, where runtimes agree on more than the specification."""

from __future__ import annotations

import json
import os
import socket
from typing import Any

import pytest
from bundles import Runtime


def with_sysctl(**values: str) -> Any:
    def change(config: dict[str, Any]) -> None:
        config["linux"]["sysctl"] = {name.replace("__", "."): text for name, text in values.items()}

    return change


def test_the_host_name_is_no_kernel_parameter(runtime: Runtime) -> None:
    """It would be set beside the property of that name."""
    runtime.config("true", change=with_sysctl(kernel__hostname="other"))
    refused = runtime.call("run", "one", check=False)
    assert refused.returncode == 1
    assert "the property hostname sets it" in refused.stderr


def test_the_domain_name_is_one_in_a_uts_namespace(runtime: Runtime) -> None:
    show = ("cat", "/proc/sys/kernel/domainname")
    runtime.config(*show, change=with_sysctl(kernel__domainname="example.org"))
    runtime.quiet("run", "one")
    assert runtime.stdout == "example.org\n"
    with open("/proc/sys/kernel/domainname") as file:
        assert file.read() != "example.org\n"

    def change(config: dict[str, Any]) -> None:
        with_sysctl(kernel__domainname="example.org")(config)
        config["linux"]["namespaces"].remove({"type": "uts"})
        del config["hostname"]

    runtime.config(*show, change=change)
    refused = runtime.call("run", "two", check=False)
    assert refused.returncode == 1
    assert "belongs to the uts namespace" in refused.stderr


def with_agent(path: str) -> Any:
    def change(config: dict[str, Any]) -> None:
        config["linux"]["seccomp"] = {
            "defaultAction": "SCMP_ACT_ALLOW",
            "listenerPath": path,
            "listenerMetadata": "words",
        }

    return change


@pytest.mark.parametrize("privileges", [True, False])
def test_an_agent_is_told_though_no_rule_asks_it(runtime: Runtime, privileges: bool) -> None:
    path = str(runtime.home / "agent.sock")

    def change(config: dict[str, Any]) -> None:
        with_agent(path)(config)
        config["process"]["noNewPrivileges"] = not privileges

    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen(1)
        server.settimeout(20)
        runtime.config("sleep", "1000", change=change)
        runtime.quiet("run", "--detach", "one")
        connection, _ = server.accept()
        with connection:
            data, (notify,), _, _ = socket.recv_fds(connection, 65536, 4)
    os.close(notify)
    told = json.loads(data)
    assert told["metadata"] == "words"
    assert told["pid"] == runtime.pid("one")
    assert told["state"]["id"] == "one"


def test_an_agent_that_no_rule_asks_may_be_missing(runtime: Runtime) -> None:
    runtime.config("echo", "here", change=with_agent(f"{runtime.home}/nobody.sock"))
    runtime.quiet("run", "one")
    assert runtime.stdout == "here\n"
