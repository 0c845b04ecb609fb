"""Whether the texts for a calibration are there, and of a kind that the converter reads."""

from collections.abc import Iterator
from pathlib import Path

from enginery.backends.request import Request
from enginery.backends.tensorrt.calibration import is_path
from enginery.findings import Finding

PATH = "convert.calibration.dataset"


def calibration_findings(request: Request, *, reads_files: bool) -> Iterator[Finding]:
    """What is wrong with the data set.

    Args:
        request: the target, which is calibrated.
        reads_files: whether its converter reads a file of texts; the releases' own scripts read a directory or know
            a name.
    """
    dataset = request.convert.calibration.dataset
    if dataset is None or not is_path(dataset):
        return
    place = Path(dataset).expanduser()
    if not place.exists():
        yield Finding("E155", PATH, f"there is no {place} to calibrate with", "correct the path, or give a name")
    elif place.is_dir() and not any(place.iterdir()):
        yield Finding("E155", PATH, f"{place} is empty: nothing to calibrate with", "put the texts there")
    elif place.is_file() and not reads_files:
        remedy = f"give a directory with only {place.name} in it, or use convert.converter: modelopt"
        yield Finding("E156", PATH, f"the release's scripts read a directory of texts; {place.name} is a file", remedy)
