"""Compiled seccomp filters, kept in a directory under the hash of their profiles.

Finding one costs a file's reading; the compiler is only imported where there is none yet.
"""

from __future__ import annotations

import marshal
import posix as os  # `os` itself takes long to import: ospath.py
import sys

if sys.version_info >= (3, 12):  # hashlib would load OpenSSL
    from _sha2 import sha256
else:
    from _sha256 import sha256

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class SeccompError(ValueError):
    """A profile that cannot be compiled; the text names the place in it."""


def cached(profile: dict[str, Any], directory: str) -> bytes:
    """The BPF program of an OCI seccomp profile, compiled at most once.

    Raises SeccompError.
    """
    # The first letter is the compiler's version. Version 2 of marshal writes equal values equally.
    machine = os.uname().machine
    key = sha256(b"4" + machine.encode() + marshal.dumps(profile, 2)).hexdigest()
    path = f"{directory}/{key}.bpf"
    try:
        with open(path, "rb") as file:
            checksum, program = file.read(32), file.read()
        # A crash of the machine can leave a file that is not whole.
        if checksum == sha256(program).digest():
            return bytes(program)
    except OSError:
        pass
    from os import makedirs

    from ctrt.linux.seccomp import compile_profile

    compiled = compile_profile(profile)
    makedirs(directory, mode=0o700, exist_ok=True)
    temporary = f"{path}.{os.urandom(4).hex()}"
    with open(temporary, "wb") as file:
        file.write(sha256(compiled).digest() + compiled)
    os.replace(temporary, path)
    return compiled
