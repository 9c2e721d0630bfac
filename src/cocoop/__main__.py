"""`python -m cocoop`: the command line."""

from cocoop.cli import main

if __name__ == "__main__":
    main()
