#!/bin/sh
# ctrt-runtime: the OCI runtime. An isolated interpreter that skips `site` starts in half the
# time. Where the package is not beside the interpreter (an editable install), `site` is asked
# where it is.
here=${0%/*}
[ -x "$here/python3" ] || here=$(dirname "$(readlink -f "$0")")
exec "$here/python3" -I -S -c '
import gc, sys
gc.disable()  # nothing here lives long enough to be worth collecting
path = sys.executable.rpartition("/bin/")[0] + "/lib/python%d.%d/site-packages" % sys.version_info[:2]
try:
    import marshal, posix
    place = path + "/ctrt/__pycache__/bundle." + sys.implementation.cache_tag
    file = posix.open(place, posix.O_RDONLY)
    bundle = type(sys)("ctrt.cli.bundle")
    bundle.__file__ = path + "/ctrt/cli/bundle.py"
    exec(marshal.loads(posix.read(file, int(posix.read(file, 16)))), bundle.__dict__)
    bundle.install(file)
    posix.close(file)
    sys.modules[bundle.__name__] = bundle
    sys.path.insert(0, path)
except Exception:
    try:
        open(path + "/ctrt/cli/runtime/main.py").close()
        sys.path.insert(0, path)
    except OSError:
        import site
        site.main()
from ctrt.cli.runtime.main import command
command()
' "$@"
