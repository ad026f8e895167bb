"""``python -m tsslbp`` is the command ``tsslbp``."""

import sys

from tsslbp.cli import main

if __name__ == "__main__":
    sys.exit(main())
