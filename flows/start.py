"""What the console script calls: interrupts are taken before anything that takes time is loaded."""

from pairloom.flows.interrupt import watch


def main() -> None:
    """Run the command line."""
    watch.begin()
    from pairloom.flows.cli import main as run

    run()
