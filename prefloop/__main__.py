"""`python -m prefloop` is `prefloop`."""

from prefloop.cli import main

if __name__ == "__main__":
    main()
