"""`python -m enginery` is the command line."""

from enginery.cli import main

if __name__ == "__main__":
    main()
