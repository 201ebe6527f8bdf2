"""The other processes of a training: the first one starts `python -m polytask.training.partner RUN RANK COUNT PORT`."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from polytask.errors import UserError
from polytask.training.together import Place
from polytask.training.train import assist


def main() -> None:
    """Train along, and report on what was the standard output."""
    # Ctrl-C goes to all processes of a terminal, and SIGTERM often does: the first one decides what becomes of it.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_the_first, daemon=True).start()
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as channel:
        os.dup2(2, 1)  # what anything prints goes to the log

        def report(**message: Any) -> None:
            # A line of its own, whatever was printed before.
            channel.write(f"\n{json.dumps(message)}\n")
            channel.flush()

        root, *numbers = sys.argv[1:]
        try:
            assist(Path(root), Place(*map(int, numbers)), ready=lambda: report(ready=True))
        except UserError as error:
            report(error=str(error))
            sys.exit(2)


def _end_with_the_first() -> None:
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    main()
