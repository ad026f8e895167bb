"""``python -m tsslbp`` is the command ``tsslbp``."""

import os
import sys

from tsslbp import processes
from tsslbp.cli import main

if __name__ == "__main__":
    code = main()
    if processes.stuck():
        os._exit(code)
    sys.exit(code)
