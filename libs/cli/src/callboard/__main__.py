"""The command `callboard`, which ends in an orderly way when it is told to stop, from its first line on."""

from callboard.stopping import end_when_told


def main() -> None:
    """Run the command with the arguments of this process."""
    end_when_told()
    from callboard.main import app  # it takes half a second of a slow machine

    app()


if __name__ == "__main__":
    main()
