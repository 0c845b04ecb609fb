"""`python -m enginery.cli` is the command line."""

from enginery.cli.app import main

if __name__ == "__main__":
    main()
