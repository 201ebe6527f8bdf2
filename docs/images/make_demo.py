"""Make demo.svg: what `polytask demo` leaves on a terminal, as a picture.

    python docs/images/make_demo.py

The command runs in a terminal of its own, so the picture shows a real run.
"""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import tempfile
import termios
from pathlib import Path

from rich.console import Console
from rich.text import Text

WIDTH, HEIGHT = 96, 60
SHOWN_UNTIL = "Next:"
"""The hints after the tables are left out."""

_TOKENS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\r\n]|[^\x1b\r\n]+")


def run_in_terminal(command: list[str]) -> str:
    """What `command` writes to a terminal, control sequences included."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", HEIGHT, WIDTH, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color"}
    written = []
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(command, stdout=theirs, stderr=theirs, cwd=folder, env=environment) as process,
    ):
        os.close(theirs)
        while True:
            try:
                chunk = os.read(ours, 65536)
            except OSError:  # Linux says so when the other side is closed
                break
            if not chunk:
                break
            written.append(chunk)
    if process.returncode:
        raise SystemExit(b"".join(written).decode(errors="replace"))
    return b"".join(written).decode()


def last_screen(output: str) -> list[str]:
    """The lines that are left after a live display has been redrawn many times."""
    lines, row = [""], 0
    for token in _TOKENS.findall(output):
        if token == "\n":
            row += 1
            if row == len(lines):
                lines.append("")
        elif re.fullmatch(r"\x1b\[\d*A", token):
            row -= int(token[2:-1] or 1)
        elif token == "\x1b[2K":
            lines[row] = ""
        elif token != "\r" and (not token.startswith("\x1b") or token.endswith("m")):
            lines[row] += token
    return lines


def main() -> None:
    """Write demo.svg beside this file."""
    polytask = Path(sys.executable).with_name("polytask")
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    console.print(Text.assemble(("$ ", "dim"), ("polytask demo", "bold")))
    for line in last_screen(run_in_terminal([str(polytask), "demo"])):
        if line.startswith(SHOWN_UNTIL):
            break
        console.print(Text.from_ansi(line), no_wrap=True)
    target = Path(__file__).with_name("demo.svg")
    console.save_svg(str(target), title="polytask demo")
    print(target)


if __name__ == "__main__":
    main()
