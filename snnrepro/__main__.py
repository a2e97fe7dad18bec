"""``python -m snnrepro COMMAND``."""

from snnrepro.start import main

if __name__ == "__main__":
    raise SystemExit(main())
