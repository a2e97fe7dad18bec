"""Train: ``python train.py --help`` lists what can be set."""

import sys

from snnrepro.start import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
