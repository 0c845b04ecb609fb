"""Asking the user's own package indexes which releases of a project there are.

Where they are, and how they are reached, is pip's configuration: nothing is hard-wired. A project page is read with
`pypi-simple`, in HTML (PEP 503) or JSON (PEP 691). Passwords come with the address or from `.netrc`; pip's keyring is
not asked.
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import url2pathname

from packaging.utils import canonicalize_name

from enginery.errors import ToolchainError
from enginery.output import without_sign_in
from enginery.releases.listing import ListedFile, Listing, listing
from enginery.releases.pip_settings import PipSettings, pip_settings

if TYPE_CHECKING:
    from pypi_simple import DistributionPackage, ProjectPage
    from requests import Session

PAGE = "index.html"
RETRIED = (429, 500, 502, 503, 504)
BACKOFF_SECONDS = 0.25
WHEEL = "wheel"
CHECK = "check the index, the proxy and the certificate in your pip configuration (pip config list)"

Log = Callable[[str], None]


class NoAnswer(Exception):  # noqa: N818  it is no error yet: other indexes may answer
    """A place that cannot be asked, or does not answer as an index does; its text says why."""


def listed_releases(project: str, settings: PipSettings | None = None) -> Listing:
    """The releases of a project that the user's package indexes list.

    An index that has no such project counts as one that answered. One that cannot be asked is named in the listing, as
    long as another one lists releases.

    Args:
        project: its name on the index, such as `tensorrt-llm`.
        settings: pip's; the user's own when left out.

    Raises:
        ToolchainError: when none lists any release, with what each of them answered; `transient` if one of them could
            not be reached.
    """
    chosen = pip_settings() if settings is None else settings
    files: list[ListedFile] = []
    asked, silent = [], []
    for place, ask in _places(project, chosen):
        shown = without_sign_in(place)
        try:
            files += ask()
            asked.append(shown)
        except NoAnswer as why:
            silent.append(f"{shown}: {why}")
    found = listing(project, files, asked, silent)
    if not found.releases:
        raise _nothing(found)
    return found


def _nothing(found: Listing) -> ToolchainError:
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
    """A directory of files, or a page of links, of any projects."""
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
    """The path that a place on this machine stands for."""
    parts = urlsplit(place)
    if parts.scheme == "file":
        return Path(url2pathname(parts.path))
    return None if "://" in place else Path(place).expanduser()


def _read(page: Path, project: str) -> "ProjectPage":
    from pypi_simple import ProjectPage  # noqa: PLC0415  it takes its time, and only this module needs it

    try:
        return ProjectPage.from_html(project, page.read_bytes(), page.as_uri())
    except OSError as error:
        raise NoAnswer(f"cannot be read: {error.strerror}") from error


def _fetched(address: str, project: str, settings: PipSettings) -> "ProjectPage | None":
    """The page at an address; None where the server says that there is none."""
    from pypi_simple import (  # noqa: PLC0415  as above
        ACCEPT_ANY,
        ProjectPage,
        UnsupportedContentTypeError,
        UnsupportedRepoVersionError,
    )
    from requests import RequestException, codes  # noqa: PLC0415

    with _session(address, settings) as session:
        try:
            response = session.get(address, timeout=settings.timeout, headers={"Accept": ACCEPT_ANY})
        except RequestException as error:
            raise NoAnswer(f"cannot be reached: {without_sign_in(_innermost(error))}") from error
    if response.status_code in {codes.not_found, codes.gone}:
        return None
    if not response.ok:
        raise NoAnswer(f"answers {response.status_code} {response.reason}")
    try:
        return ProjectPage.from_response(response, project)
    except (UnsupportedContentTypeError, UnsupportedRepoVersionError, ValueError, KeyError, TypeError) as error:
        kind = response.headers.get("Content-Type", "no type")
        raise NoAnswer(f"does not answer as a package index does ({kind}): {str(error).splitlines()[0]}") from error


def _innermost(error: BaseException) -> str:
    """The sentence of what went wrong first, without the objects around it."""
    reason = getattr(error.args[0], "reason", None) if error.args else None
    return str(reason or error).rpartition("object at ")[2].partition(">: ")[2] or str(reason or error)


def _session(address: str, settings: PipSettings) -> "Session":
    import requests  # noqa: PLC0415  as above
    from requests.adapters import HTTPAdapter  # noqa: PLC0415
    from urllib3 import Retry  # noqa: PLC0415

    session = requests.Session()
    session.headers["User-Agent"] = "enginery"
    retry = Retry(settings.retries, backoff_factor=BACKOFF_SECONDS, status_forcelist=RETRIED, raise_on_status=False)
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(max_retries=retry))
    session.verify = settings.cert or True
    host = urlsplit(address)
    if {host.hostname, host.netloc.rpartition("@")[2]} & set(settings.trusted_hosts):
        session.verify = False
    session.cert = settings.client_cert or None
    if settings.proxy:
        session.proxies = {"http": settings.proxy, "https": settings.proxy}
    return session


def _of_page(page: "ProjectPage", project: str) -> list[ListedFile]:
    """The files of a project's own page: one that names none of them is something else, such as a login page."""
    files = _files(page, project)
    if not files and page.repository_version is None:
        raise NoAnswer(f"does not answer as a package index does: its page of {project} names no file of it")
    return files


def _files(page: "ProjectPage", project: str) -> list[ListedFile]:
    return [file for package in page.packages if (file := _listed(package, project))]


def _file_named(path: Path, project: str) -> ListedFile | None:
    from pypi_simple import UnparsableFilenameError, parse_filename  # noqa: PLC0415  as above

    try:
        name, release, kind = parse_filename(path.name, project)
    except UnparsableFilenameError:
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
