"""Entry point of the program: errors become one paragraph and an exit code, signals a message.

The module installs its signal handlers before it imports anything, because the imports take
seconds in which a user may press Ctrl-C.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from types import FrameType

#: Message of a command of a study, which has two doses.
_AMBIGUOUS_DOSE = (
    "No such option: --dose. Give --contrast-dose for the contrast agent (mmol/kg), or --drug-dose"
    " for the drug (such as 5mg/kg)."
)
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class _SignalHandler:
    """Ends the work at the first signal and the process at the second.

    Files on the disk are complete at any moment.
    """

    signalled = False

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        if self.signalled:
            os.write(2, b"Interrupted.\n")
            os._exit(130)
        self.signalled = True
        raise KeyboardInterrupt


def main() -> None:
    """Run the command of the command line and end the process."""
    stop = _SignalHandler()
    for s in _SIGNALS:
        if signal.getsignal(s) is not signal.SIG_IGN:  # ignored under nohup
            signal.signal(s, stop)
    code, message = _run_command()
    for s in _SIGNALS:
        signal.signal(s, signal.SIG_IGN)  # nothing is left to stop
    if message:
        print(message, file=sys.stderr, flush=True)
    if stop.signalled:
        with suppress(OSError):
            sys.stdout.flush()
        # Python would end with SIGINT instead of 130 if the signal came while a module was imported
        os._exit(code)
    sys.exit(code)


def _run_command() -> tuple[int, str]:
    """Run the command; returns its exit code and the message to print."""
    options: Mapping[str, str] = {}
    try:
        from nanopinn.cli.app import app
        from nanopinn.cli.error_text import find_command_options
        from nanopinn.cli.options import expand_multivalue_options

        options = find_command_options(app, sys.argv[1:])
        if "contrast_dose" in options and "--dose" in (w.partition("=")[0] for w in sys.argv[1:]):
            return 2, _AMBIGUOUS_DOSE
        app(expand_multivalue_options(sys.argv[1:]))
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
        return code, "Interrupted; nothing was written." if code == 130 else ""
    except KeyboardInterrupt:
        return 130, "Interrupted; nothing was written."
    except Exception as error:
        from nanopinn.cli.exit_status import CommandStatus

        ending = CommandStatus.from_error(error, options)
        return ending.exit_code, ending.message
    return 0, ""
