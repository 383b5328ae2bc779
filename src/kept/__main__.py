"""The `kept` command, and `python -m kept`."""

import gc
from typing import Final

from kept.interrupt import guard

YOUNG: Final = 20_000  # objects, after which the collector looks at those that are new


def main() -> None:
    """Run `kept` with the process's arguments, and exit with its code."""
    guard()
    # What is imported stays, and the collector would walk it again and again on the way.
    gc.set_threshold(YOUNG, 10, 10)
    from kept.cli import main as run  # takes a while, in which Ctrl-C can arrive

    run()


if __name__ == "__main__":
    main()
