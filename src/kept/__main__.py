"""The `kept` command, and `python -m kept`."""

from kept.interrupt import guard


def main() -> None:
    """Run `kept` with the process's arguments, and exit with its code."""
    guard()
    from kept.cli import main as run  # takes a while, in which Ctrl-C can arrive

    run()


if __name__ == "__main__":
    main()
