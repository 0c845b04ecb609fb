"""Which releases of a project the user's own package indexes have.

Their addresses, and how they are reached, come from pip's configuration only. A project page is read with
`pypi-simple`, in HTML (PEP 503) or JSON (PEP 691). Passwords come with the address or from `.netrc`; pip's keyring is
not used.
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import url2pathname

from packaging.utils import canonicalize_name

from enginery.core.errors import ToolchainError
from enginery.core.late import late
from enginery.core.text import without_sign_in
from enginery.releases.listing import ListedFile, Listing, listing
from enginery.releases.pip_settings import PipSettings, pip_settings

if TYPE_CHECKING:
    import pypi_simple
    import requests
    import urllib3
    from pypi_simple import DistributionPackage, ProjectPage
    from requests import Session
    from requests import adapters as requests_adapters
else:
    pypi_simple = late("pypi_simple")
    requests = late("requests")
    requests_adapters = late("requests.adapters")
    urllib3 = late("urllib3")

PAGE = "index.html"
RETRIED = (429, 500, 502, 503, 504)
BACKOFF_SECONDS = 0.25
WHEEL = "wheel"
CHECK = "check the index, the proxy and the certificate in your pip configuration (pip config list)"


class NoAnswer(Exception):  # noqa: N818  no error yet: other indexes may answer
    """An index that cannot be reached, or does not answer as an index does; the text says why."""


def listed_releases(project: str, settings: PipSettings | None = None) -> Listing:
    """The releases of a project that the user's package indexes list.

    An index without the project counts as one that answered. One that cannot be reached is named in the listing, if
    another one lists releases.

    Args:
        project: its name on the index, such as `tensorrt-llm`.
        settings: pip's; the user's own when left out.

    Raises:
        ToolchainError: when none lists any release, with what each of them answered; `transient` if one of them could
            not be reached.
    """
    chosen = pip_settings() if settings is None else settings
    files: list[ListedFile] = []
    answered, silent = [], []
    for place, list_files in _places(project, chosen):
        shown = without_sign_in(place)
        try:
            files += list_files()
            answered.append(shown)
        except NoAnswer as why:
            silent.append(f"{shown}: {why}")
    found = listing(project, files, answered, silent)
    if not found.releases:
        raise _no_release(found)
    return found


def _no_release(found: Listing) -> ToolchainError:
    lines = [f"{place}: has no release of it" for place in found.asked] + list(found.silent)
    lines += [f"{name} was passed over: its release is no version number" for name in found.not_numbers]
    listed = "".join(f"\n  - {line}" for line in lines) or " pip is told to use none"
    return ToolchainError(
        f"no package index lists a release of it:{listed}",
        subject=found.project,
        remedy=CHECK,
        transient=bool(found.silent),
    )


def _places(project: str, settings: PipSettings) -> Iterator[tuple[str, Callable[[], list[ListedFile]]]]:
    for index in settings.indexes:
        yield index, partial(_of_index, index, project, settings)
    for place in settings.find_links:
        yield place, partial(_of_links, place, project, settings)


def _of_index(index: str, project: str, settings: PipSettings) -> list[ListedFile]:
    directory = _directory(index)
    if directory is not None:
        page = directory / canonicalize_name(project) / PAGE
        return _of_page(_read(page, project), project) if page.is_file() else []
    page_of_project = _fetched(f"{index.rstrip('/')}/{canonicalize_name(project)}/", project, settings)
    return _of_page(page_of_project, project) if page_of_project else []


def _of_links(place: str, project: str, settings: PipSettings) -> list[ListedFile]:
    """The project's files among those of a directory, or of a page of links."""
    directory = _directory(place)
    if directory is None:
        page = _fetched(place, project, settings)
        return _files(page, project) if page else []
    if directory.is_file():
        return _files(_read(directory, project), project)
    if not directory.is_dir():
        raise NoAnswer("there is no such directory")
    return [file for path in sorted(directory.iterdir()) if (file := _file_named(path, project))]


def _directory(place: str) -> Path | None:
    """The path of an index or directory on this machine; None for another address."""
    parts = urlsplit(place)
    if parts.scheme == "file":
        return Path(url2pathname(parts.path))
    return None if "://" in place else Path(place).expanduser()


def _read(page: Path, project: str) -> "ProjectPage":
    try:
        return pypi_simple.ProjectPage.from_html(project, page.read_bytes(), page.as_uri())
    except OSError as error:
        raise NoAnswer(f"cannot be read: {error.strerror}") from error


def _fetched(address: str, project: str, settings: PipSettings) -> "ProjectPage | None":
    """The page at an address; None when the server says that there is none."""
    with _session(address, settings) as session:
        try:
            response = session.get(address, timeout=settings.timeout, headers={"Accept": pypi_simple.ACCEPT_ANY})
        except requests.RequestException as error:
            raise NoAnswer(f"cannot be reached: {without_sign_in(_innermost(error))}") from error
    if response.status_code in {requests.codes.not_found, requests.codes.gone}:
        return None
    if not response.ok:
        raise NoAnswer(f"answers {response.status_code} {response.reason}")
    try:
        return pypi_simple.ProjectPage.from_response(response, project)
    except (
        pypi_simple.UnsupportedContentTypeError,
        pypi_simple.UnsupportedRepoVersionError,
        ValueError,
        KeyError,
        TypeError,
    ) as error:
        kind = response.headers.get("Content-Type", "no type")
        raise NoAnswer(f"does not answer as a package index does ({kind}): {str(error).splitlines()[0]}") from error


def _innermost(error: BaseException) -> str:
    """The text of the first cause, without the objects that `requests` puts around it."""
    reason = getattr(error.args[0], "reason", None) if error.args else None
    return str(reason or error).rpartition("object at ")[2].partition(">: ")[2] or str(reason or error)


def _session(address: str, settings: PipSettings) -> "Session":
    session = requests.Session()
    session.headers["User-Agent"] = "enginery"
    retry = urllib3.Retry(
        settings.retries, backoff_factor=BACKOFF_SECONDS, status_forcelist=RETRIED, raise_on_status=False
    )
    for scheme in ("http://", "https://"):
        session.mount(scheme, requests_adapters.HTTPAdapter(max_retries=retry))
    session.verify = settings.cert or True
    host = urlsplit(address)
    if {host.hostname, host.netloc.rpartition("@")[2]} & set(settings.trusted_hosts):
        session.verify = False
    session.cert = settings.client_cert or None
    if settings.proxy:
        session.proxies = {"http": settings.proxy, "https": settings.proxy}
    return session


def _of_page(page: "ProjectPage", project: str) -> list[ListedFile]:
    """The files of a project's own page. An HTML page without any is no index's, but one such as a login page."""
    files = _files(page, project)
    if not files and page.repository_version is None:
        raise NoAnswer(f"does not answer as a package index does: its page of {project} names no file of it")
    return files


def _files(page: "ProjectPage", project: str) -> list[ListedFile]:
    return [file for package in page.packages if (file := _listed(package, project))]


def _file_named(path: Path, project: str) -> ListedFile | None:
    try:
        name, release, kind = pypi_simple.parse_filename(path.name, project)
    except pypi_simple.UnparsableFilenameError:
        return None
    if canonicalize_name(name) != canonicalize_name(project):
        return None
    return ListedFile(name=path.name, release=release, is_wheel=kind == WHEEL, size=path.stat().st_size)


def _listed(package: "DistributionPackage", project: str) -> ListedFile | None:
    if package.version is None or canonicalize_name(package.project or "") != canonicalize_name(project):
        return None
    return ListedFile(
        name=package.filename,
        release=package.version,
        is_wheel=package.package_type == WHEEL,
        size=package.size,
        yanked=package.is_yanked,
    )
