"""``python -m sepclr_med`` is the same as ``sepclr-med``."""

from sepclr_med.cli import main

if __name__ == "__main__":
    main()
