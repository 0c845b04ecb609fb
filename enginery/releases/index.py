"""Which releases of a project the user's own package indexes have, and for which Pythons each release has a wheel.

The addresses of the indexes, proxies and certificates come from pip's configuration only. A project's page is read with
`pypi-simple`, in HTML (PEP 503) or JSON (PEP 691). Passwords are in the address or in `.netrc`; pip's keyring is not
used.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import url2pathname

from packaging.tags import compatible_tags, cpython_tags
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import InvalidVersion, Version

from enginery.core.errors import ToolchainError
from enginery.core.late import late
from enginery.core.model import Frozen
from enginery.core.text import without_sign_in
from enginery.releases.pip_settings import PipSettings, pip_settings

if TYPE_CHECKING:
    import pypi_simple
    import requests
    import urllib3
    from pypi_simple import ProjectPage
    from requests import Session
    from requests import adapters as requests_adapters
else:
    pypi_simple = late("pypi_simple")
    requests = late("requests")
    requests_adapters = late("requests.adapters")
    urllib3 = late("urllib3")

RETRIED = (429, 500, 502, 503, 504)
BACKOFF_SECONDS = 0.25
CHECK = "check the index, the proxy and the certificate in your pip configuration (pip config list)"


class ListedFile(Frozen):
    """One file that an index offers.

    Attributes:
        release: the release as it is written in the file's name.
        is_wheel: whether it is a wheel. Anything else must be built before it is installed.
        size: bytes; None if the index does not say.
        yanked: whether it was withdrawn.
    """

    name: str
    release: str
    is_wheel: bool
    size: int | None = None
    yanked: bool = False


class ListedRelease(Frozen):
    """A release that an index lists.

    Attributes:
        release: its version in the normal form.
        files: its files that were not withdrawn; all of its files if all were withdrawn.
        yanked: whether all of its files were withdrawn.
    """

    release: str
    files: tuple[ListedFile, ...]
    yanked: bool = False

    @property
    def version(self) -> Version:
        """The version, for comparisons."""
        return Version(self.release)

    @property
    def is_prerelease(self) -> bool:
        """Whether it is a preview, such as a release candidate."""
        return self.version.is_prerelease

    @property
    def wheels(self) -> tuple[str, ...]:
        """The names of its wheels."""
        return tuple(file.name for file in self.files if file.is_wheel)

    def has_wheel_for(self, python: str) -> bool:
        """Whether one of its wheels is for a Python such as `3.12`, on Linux."""
        major, minor = (int(part) for part in python.split("."))
        abi = f"cp{major}{minor}"
        taken = (*cpython_tags((major, minor), [abi], ["any"]), *compatible_tags((major, minor), abi, ["any"]))
        return any(_fits(name, {(tag.interpreter, tag.abi) for tag in taken}) for name in self.wheels)


class Listing(Frozen):
    """What the user's package indexes list of a project. `enginery releases listed --json` prints these fields.

    Attributes:
        releases: all releases, oldest first, also withdrawn ones.
        not_numbers: names of files that were left out, because their release is not a version by PEP 440.
        asked: the addresses and directories that answered, without passwords.
        silent: the addresses and directories that did not answer, each with the reason.
    """

    project: str
    releases: tuple[ListedRelease, ...]
    not_numbers: tuple[str, ...] = ()
    asked: tuple[str, ...] = ()
    silent: tuple[str, ...] = ()

    def usable(self, *, prereleases: bool = False) -> tuple[ListedRelease, ...]:
        """The releases that were not withdrawn, oldest first; previews only with `prereleases`."""
        return tuple(one for one in self.releases if not one.yanked and (prereleases or not one.is_prerelease))

    def find(self, release: str) -> ListedRelease | None:
        """This release, if it is listed."""
        return next((one for one in self.releases if one.version == Version(release)), None)


class NoAnswer(Exception):  # noqa: N818  no error yet: other indexes may answer
    """An index cannot be reached, or its answer is not that of an index. The text says why."""


def listed_releases(project: str, settings: PipSettings | None = None) -> Listing:
    """The releases of a project that the user's package indexes list.

    An index without the project counts as an index that answered. If an index cannot be reached and another one lists
    releases, the listing names both.

    Args:
        project: its name on the index, such as `tensorrt-llm`.
        settings: pip's settings; the user's own when left out.

    Raises:
        ToolchainError: when no index lists a release, with the answer of each; `transient` if one was not reached.
    """
    chosen = settings or pip_settings()
    places = [(_of_index, index) for index in chosen.indexes] + [(_of_links, place) for place in chosen.find_links]
    files: list[ListedFile] = []
    answered, silent = [], []
    for list_files, place in places:
        shown = without_sign_in(place)
        try:
            files += list_files(place, project, chosen)
            answered.append(shown)
        except NoAnswer as why:
            silent.append(f"{shown}: {why}")
    found = listing(project, files, answered, silent)
    if not found.releases:
        raise _no_release(found)
    return found


def listing(project: str, files: Iterable[ListedFile], asked: Sequence[str], silent: Sequence[str]) -> Listing:
    """Make one listing of the files of several indexes and directories."""
    by_version: dict[Version, list[ListedFile]] = {}
    not_numbers = []
    for file in files:
        try:
            by_version.setdefault(Version(file.release), []).append(file)
        except InvalidVersion:
            not_numbers.append(file.name)
    releases = tuple(_release(version, by_version[version]) for version in sorted(by_version))
    named = tuple(dict.fromkeys(not_numbers))
    return Listing(project=project, releases=releases, not_numbers=named, asked=tuple(asked), silent=tuple(silent))


def _release(version: Version, files: list[ListedFile]) -> ListedRelease:
    offered = [file for file in files if not file.yanked]
    return ListedRelease(release=str(version), files=tuple(offered or files), yanked=not offered)


def _fits(wheel: str, taken: set[tuple[str, str]]) -> bool:
    try:
        tags = parse_wheel_filename(wheel)[3]
    except InvalidWheelFilename:
        return False
    on_linux = [tag for tag in tags if "linux" in tag.platform or tag.platform == "any"]
    return any((tag.interpreter, tag.abi) in taken for tag in on_linux)


def _no_release(found: Listing) -> ToolchainError:
    lines = [f"{place}: has no release of it" for place in found.asked] + list(found.silent)
    lines += [f"{name} was left out: its release is no version number" for name in found.not_numbers]
    listed = "".join(f"\n  - {line}" for line in lines) or " pip's configuration names no index"
    problem = f"no package index lists a release of it:{listed}"
    return ToolchainError(problem, subject=found.project, remedy=CHECK, transient=bool(found.silent))


def _of_index(index: str, project: str, settings: PipSettings) -> list[ListedFile]:
    """The project's files on its page. An HTML page without any of them is not an index's; it may be a login page."""
    name, directory = canonicalize_name(project), _directory(index)
    if directory is None:
        page = _fetched(f"{index.rstrip('/')}/{name}/", project, settings)
    else:
        page = _read(directory / name / "index.html", project)
    files = _files(page, project)
    if page and not files and page.repository_version is None:
        raise NoAnswer(f"does not answer as a package index does: its page of {project} names no file of it")
    return files


def _of_links(place: str, project: str, settings: PipSettings) -> list[ListedFile]:
    """The project's files among the files of a directory, or among the links of a page."""
    directory = _directory(place)
    if directory is None:
        return _files(_fetched(place, project, settings), project)
    if not directory.exists():
        raise NoAnswer("there is no such directory")
    if directory.is_file():
        return _files(_read(directory, project), project)
    paths = sorted(directory.iterdir())
    listed = [{"filename": path.name, "url": "", "hashes": {}, "size": path.stat().st_size} for path in paths]
    answer = {"meta": {"api-version": "1.0"}, "name": project, "files": listed}
    return _files(pypi_simple.ProjectPage.from_json_data(answer), project)


def _directory(place: str) -> Path | None:
    """The path of an index or directory on this machine; None for an address elsewhere."""
    parts = urlsplit(place)
    if parts.scheme == "file":
        return Path(url2pathname(parts.path))
    return None if "://" in place else Path(place).expanduser()


def _read(page: Path, project: str) -> "ProjectPage | None":
    """The page in a file; None when there is no such file."""
    if not page.is_file():
        return None
    try:
        return pypi_simple.ProjectPage.from_html(project, page.read_bytes())
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
    except (pypi_simple.UnsupportedRepoVersionError, ValueError, KeyError, TypeError) as error:
        kind = response.headers.get("Content-Type", "no type")
        raise NoAnswer(f"does not answer as a package index does ({kind}): {str(error).splitlines()[0]}") from error


def _innermost(error: BaseException) -> str:
    """The text of the first cause of an error, without the names of objects that `requests` adds."""
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


def _files(page: "ProjectPage | None", project: str) -> list[ListedFile]:
    own = canonicalize_name(project)
    return [
        ListedFile(
            name=package.filename,
            release=package.version,
            is_wheel=package.package_type == "wheel",
            size=package.size,
            yanked=package.is_yanked,
        )
        for package in (page.packages if page else ())
        if package.version is not None and canonicalize_name(package.project or "") == own
    ]
