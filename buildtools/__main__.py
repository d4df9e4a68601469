"""``python -m buildtools`` is the program ``buildtools``."""

from buildtools.program import main

if __name__ == "__main__":
    main()
