"""Command line as `python -m cocoop`."""

from cocoop.cli import main

if __name__ == "__main__":
    main()
