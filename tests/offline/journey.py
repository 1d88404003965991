"""Commands of a study, one after another in one process, by a user and on a machine whose names are
known: `journey.py COMMANDS.json`.
"""

import contextlib
import getpass
import importlib
import json
import os
import pkgutil
import pwd
import socket
import sys
from pathlib import Path

USER, HOST = "user-of-jane-doe", "ward-7-scanner"


def be_somebody() -> None:
    """Whoever asks who and where this is gets these names."""
    system, me = os.uname(), pwd.getpwuid(os.getuid())
    os.uname = lambda: os.uname_result(
        (system.sysname, HOST, system.release, system.version, system.machine)
    )
    pwd.getpwuid = lambda uid: pwd.struct_passwd((USER, *me[1:]))
    getpass.getuser = os.getlogin = lambda: USER
    socket.gethostname = socket.getfqdn = lambda *_: HOST


def import_everything() -> None:
    """Every module of the package; those of the window where napari is there."""
    import nanopinn

    for module in pkgutil.walk_packages(nanopinn.__path__, "nanopinn."):
        if not module.name.endswith("__main__"):
            with contextlib.suppress(ImportError if "napari" in module.name else ()):
                importlib.import_module(module.name)


def run(command: list[str]) -> int:
    from nanopinn.cli import main

    sys.argv = ["nanopinn", *command]
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


if __name__ == "__main__":
    be_somebody()
    import_everything()
    for package in ("SALib", "emcee", "dcmri"):
        with contextlib.suppress(ImportError):
            importlib.import_module(package)
    codes = [run(command) for command in json.loads(Path(sys.argv[1]).read_text())]
    print("exit codes:", codes)
