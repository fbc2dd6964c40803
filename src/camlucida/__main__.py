"""``python -m camlucida``: the command, where it is not on the path."""

from camlucida.cli import main

if __name__ == "__main__":
    main()
