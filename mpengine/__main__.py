"""``python -m mpengine``: the command line."""

import sys

from mpengine.cli import main

if __name__ == "__main__":
    sys.exit(main())
