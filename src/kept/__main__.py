"""`python -m kept`: the command line."""

from kept.cli import main

if __name__ == "__main__":
    main()
