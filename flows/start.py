"""What the console script calls: interrupts are taken before anything that takes time is loaded."""

from flows.interrupt import watch


def main() -> None:
    """Run the command line."""
    watch.begin()
    from flows.cli import main as run

    run()
