"""The command line: one file per verb, one verb per arrow of the loop."""


def main() -> None:
    """Run the program `prefloop`."""
    from prefloop.cli.app import run

    run()
