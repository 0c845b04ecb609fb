# ruff: noqa: INP001  a script of the Makefile, not a module
"""Shortens pip's output to a line every few seconds: `pip install … | python pip_news.py`.

It imports the standard library only, because nothing is installed yet.
"""

import queue
import signal
import sys
import threading
import time

NEWS_SECONDS = 3.0
SILENCE_SECONDS = 10.0
WORTH = ("Collecting ", "Downloading ", "Installing ", "Building ", "Using cached ")
LINE_LENGTH = 66


def main() -> None:
    """Print every few seconds what pip does. While pip prints nothing, repeat that every ten seconds."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends pip, and then this program ends
    lines: queue.Queue[str | None] = queue.Queue()
    threading.Thread(target=_read, args=(lines,), daemon=True).start()
    started = printed = time.monotonic()
    doing = "starting pip"
    while True:
        try:
            line = lines.get(timeout=0.5)
        except queue.Empty:
            line = ""
        if line is None:
            return
        now = time.monotonic()
        news = line.strip()
        if news.startswith(WORTH):
            doing = news if len(news) <= LINE_LENGTH else f"{news[:LINE_LENGTH]} …"
        if now - printed >= (NEWS_SECONDS if news.startswith(WORTH) else SILENCE_SECONDS):
            sys.stdout.write(f"{now - started:5.1f} s  {doing}\n")
            sys.stdout.flush()
            printed = now


def _read(lines: "queue.Queue[str | None]") -> None:
    for line in sys.stdin:
        lines.put(line)
    lines.put(None)


if __name__ == "__main__":
    main()
