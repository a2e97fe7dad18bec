"""Evaluate a finished run: ``python evaluate.py run=RUN_ID timesteps=1,2,4,6``."""

import sys

from snnrepro.start import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
