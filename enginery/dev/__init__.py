"""The local services of `enginery dev` and `make demo`: an S3 server, a Prefect server and a real Triton server.

Services that already run are used again:

    with services.session(log=print) as running:
        print(running.addresses())
"""

from typing import TYPE_CHECKING

from enginery.core.late import door

if TYPE_CHECKING:
    from enginery.dev import services
    from enginery.dev.ready import free_port, wait_until_ready
    from enginery.dev.servers import (
        BUCKET,
        HEALTH,
        REGISTRY,
        TITLES,
        aws_environment,
        in_environment,
        newest_toolchain,
        prefect_command,
        prefect_environment,
    )
    from enginery.dev.services import Services
else:
    __getattr__ = door(__name__, __file__)
