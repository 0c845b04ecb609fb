"""What a step prints goes to its task run's log, marked as Enginery's own so that a console can show just that."""

from prefect import get_run_logger

from enginery.core.progress import Log

OWN = "enginery_line"


def run_log() -> Log:
    """A function that takes lines for the log of the current run."""
    logger = get_run_logger()

    def log(line: str) -> None:
        logger.info("%s", line, extra={OWN: True})

    return log
