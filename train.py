"""Train: ``python train.py --help`` lists what can be set."""

import sys

from snnrepro.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
