"""A client of one Triton server: its control API, and the `generate` endpoint."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from enginery.core.errors import RolloutError
from enginery.core.late import late

if TYPE_CHECKING:
    import urllib3
    from tritonclient import http as tritonclient_http
    from tritonclient import utils as tritonclient_utils
    from tritonclient.http import InferenceServerClient
else:
    tritonclient_http = late("tritonclient.http")
    tritonclient_utils = late("tritonclient.utils")
    urllib3 = late("urllib3")

CONNECT_SECONDS = 5.0
CONTROL_SECONDS = 30.0
LOAD_SECONDS = 3600.0
"""Reading a large engine takes minutes."""
GENERATE_SECONDS = 300.0
HTTP_OK = 200
HTTP_SERVER_ERROR = 500
SEE_LOG = "see the server's log"


class TritonClient:
    """A Triton server at a URL such as `http://triton-h100:8000`. Several threads may call it at once.

    A method that fails raises `RolloutError`, which names the server. It is transient if the server cannot be reached.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    def require_ready(self) -> None:
        """Raise an error if the server does not take requests. It may still be starting."""
        with self._control() as control:
            ready = bool(control.is_server_ready())
        if not ready:
            raise RolloutError(
                "the Triton server is not ready", subject=self.url, remedy="wait until it has started", transient=True
            )

    def ready(self, model: str, version: int | None = None) -> bool:
        """Whether this version of the model takes requests. Without a version: whether any version does."""
        with self._control() as control:
            return bool(control.is_model_ready(model, "" if version is None else str(version)))

    def model_config(self, name: str) -> dict[str, Any] | None:
        """The configuration of a loaded model, or None if it is not loaded."""
        with self._control() as control:
            return dict(control.get_model_config(name)) if control.is_model_ready(name) else None

    def server(self) -> str:
        """The server's name and version."""
        with self._control() as control:
            facts = control.get_server_metadata()
        return f"{facts.get('name', 'server')} {facts.get('version', '')}".strip()

    def index(self) -> list[dict[str, Any]]:
        """Every model version that the server knows, with its state and, if it failed, the reason."""
        with self._control() as control:
            return list(control.get_model_repository_index())

    def load(self, name: str) -> None:
        """Load a model, or reload it if its files have changed. Returns when it takes requests.

        Raises:
            RolloutError: with Triton's reason when the model fails to load. The previous version still serves.
        """
        with self._control(LOAD_SECONDS, f"model {name} failed to load") as control:
            control.load_model(name)

    def unload(self, name: str) -> None:
        """Unload a model, if it is loaded. Requests in progress are still answered."""
        with self._control() as control:
            control.unload_model(name)

    def generate(
        self, model: str, payload: Mapping[str, object], *, timeout: float = GENERATE_SECONDS
    ) -> dict[str, Any]:
        """The model's answer to one request; `timeout` in seconds."""
        url = f"{self.url}/v2/models/{quote(model)}/generate"
        limits = urllib3.Timeout(connect=CONNECT_SECONDS, read=timeout)
        try:
            with urllib3.PoolManager(retries=False, timeout=limits) as pool:
                answer = pool.request("POST", url, json=dict(payload))
        except urllib3.exceptions.HTTPError as error:
            raise self._unreachable(error) from error
        if answer.status != HTTP_OK:
            problem = f"model {model} answered {answer.status}: {answer.data.decode(errors='replace')[:1000]}"
            transient = answer.status >= HTTP_SERVER_ERROR
            raise RolloutError(problem, subject=self.url, remedy=SEE_LOG, transient=transient)
        return dict(answer.json())

    @contextmanager
    def _control(self, seconds: float = CONTROL_SECONDS, refusal: str = "refused") -> Iterator["InferenceServerClient"]:
        place = urlsplit(self.url)
        # A new client for each call: gevent's connections belong to the thread that opened them.
        client = tritonclient_http.InferenceServerClient(
            place.netloc, connection_timeout=CONNECT_SECONDS, network_timeout=seconds, ssl=place.scheme == "https"
        )
        try:
            yield client
        except tritonclient_utils.InferenceServerException as error:
            raise RolloutError(f"{refusal}: {error.message()}", subject=self.url, remedy=SEE_LOG) from error
        except OSError as error:
            raise self._unreachable(error) from error
        finally:
            client.close()

    def _unreachable(self, error: Exception) -> RolloutError:
        return RolloutError(
            f"the Triton server cannot be reached: {error or type(error).__name__}",
            subject=self.url,
            remedy="start it (`enginery dev up` starts one here), or correct rollout.endpoints",
            transient=True,
        )
