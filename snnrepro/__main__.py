"""``python -m snnrepro COMMAND``."""

from snnrepro.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
