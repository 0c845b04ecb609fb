"""Asking the user's own package indexes which releases of a project there are.

Where they are, and how they are reached, is pip's configuration: nothing is hard-wired. A project page is read with
`pypi-simple`, in HTML (PEP 503) or JSON (PEP 691). Passwords come with the address or from `.netrc`; pip's keyring is
not asked.
"""

import ast
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import url2pathname

from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import InvalidVersion, Version

from enginery.core import process
from enginery.core.errors import CommandError, ToolchainError
from enginery.core.late import late
from enginery.core.model import Frozen
from enginery.core.text import without_sign_in

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


# The releases that a package index lists, each with what tells whether it can be had.


INDEPENDENT = frozenset({"py3", "py2.py3"})
STABLE_ABI = "abi3"


class ListedFile(Frozen):
    """One file that an index offers.

    Attributes:
        name: its name.
        release: the release in its name, as it is written there.
        is_wheel: whether it is a wheel, which is installed as it is; anything else is built first.
        size: bytes; None where the index does not say.
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
        release: its number in the normal form.
        files: what is offered of it, without what was withdrawn, unless all of it was.
        yanked: whether all of it was withdrawn.
    """

    release: str
    files: tuple[ListedFile, ...]
    yanked: bool = False

    @property
    def version(self) -> Version:
        """The number, to be compared."""
        return Version(self.release)

    @property
    def is_prerelease(self) -> bool:
        """Whether it is a preview."""
        return self.version.is_prerelease

    @property
    def wheels(self) -> tuple[str, ...]:
        """The names of its wheels."""
        return tuple(file.name for file in self.files if file.is_wheel)

    def has_wheel_for(self, python: str) -> bool:
        """Whether one of its wheels is for a Python such as `3.12`, on Linux."""
        return any(_fits(name, python) for name in self.wheels)


class Listing(Frozen):
    """What the user's package indexes list of a project.

    Attributes:
        project: the project's name.
        releases: all of them, oldest first, those withdrawn too.
        not_numbers: names of files whose release is no number of PEP 440; they were passed over.
        asked: the places that answered, without passwords.
        silent: the places that did not, each with why.
    """

    project: str
    releases: tuple[ListedRelease, ...]
    not_numbers: tuple[str, ...] = ()
    asked: tuple[str, ...] = ()
    silent: tuple[str, ...] = ()

    def usable(self, *, prereleases: bool = False) -> tuple[ListedRelease, ...]:
        """Those that were not withdrawn, oldest first; previews only when asked for."""
        return tuple(one for one in self.releases if not one.yanked and (prereleases or not one.is_prerelease))

    def find(self, release: str) -> ListedRelease | None:
        """That release, if it is listed."""
        asked = Version(release)
        return next((one for one in self.releases if one.version == asked), None)


def listing(project: str, files: Iterable[ListedFile], asked: Sequence[str], silent: Sequence[str]) -> Listing:
    """Put the files that several places offer together."""
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


def _fits(wheel: str, python: str) -> bool:
    try:
        tags = parse_wheel_filename(wheel)[3]
    except InvalidWheelFilename:
        return False
    minor = int(python.partition(".")[2] or 0)
    return any(
        _runs(tag.interpreter, tag.abi, minor) and ("linux" in tag.platform or tag.platform == "any") for tag in tags
    )


def _runs(interpreter: str, abi: str, minor: int) -> bool:
    made_for = re.fullmatch(r"cp3(\d+)", interpreter)
    if made_for is None:
        return interpreter in INDEPENDENT
    return int(made_for[1]) == minor or (abi == STABLE_ABI and int(made_for[1]) <= minor)


# Where the user's own pip looks for packages, and how it gets there: `pip config list`, and the variables `PIP_*`.


LINE = re.compile(r"^\S+\s+(?P<section>[\w-]+)\.(?P<name>[\w-]+)=(?P<value>['\"].*['\"])$")
"""A setting as pip writes it into a log: the time, then `global.index-url='…'`."""
SECTIONS = ("global", "install")
"""Toolchains are made with `pip install`: what is set for that command counts, and more than what is set for all."""
PREFIX = "PIP_"
PIP_SECONDS = 60.0
FALSE = frozenset({"", "0", "no", "off", "false", "n", "f"})


class PipSettings(Frozen):
    """What of pip's configuration decides where packages come from.

    Attributes:
        indexes: addresses or directories of indexes, the first asked first; they may hold a user name and a password.
        find_links: directories or pages with files of any project.
        trusted_hosts: hosts, or `host:port`, whose certificate is not checked.
        proxy: the proxy for all addresses; empty for what the environment says.
        cert: a bundle of certificate authorities; empty for the usual one.
        client_cert: a certificate to sign in with; empty for none.
        timeout: seconds to wait for an answer.
        retries: how often to try again.
    """

    indexes: tuple[str, ...]
    find_links: tuple[str, ...] = ()
    trusted_hosts: tuple[str, ...] = ()
    proxy: str = ""
    cert: str = ""
    client_cert: str = ""
    timeout: float = 15.0
    retries: int = 5


def pip_settings(environment: Mapping[str, str] | None = None) -> PipSettings:
    """The settings of the pip that belongs to this Python, which is what makes toolchains.

    Args:
        environment: variables; this process's own when left out.

    Raises:
        ToolchainError: when there is no pip, or it refuses its configuration.
    """
    variables = dict(os.environ if environment is None else environment)
    return _settings({**_from_files(variables), **_from_variables(variables)})


def _settings(values: Mapping[str, str]) -> PipSettings:
    first = values.get("index-url") or values.get("pypi-url") or _default_index()
    indexes = () if _is_true(values.get("no-index", "")) else (first, *values.get("extra-index-url", "").split())
    return PipSettings(
        indexes=tuple(dict.fromkeys(indexes)),
        find_links=tuple(dict.fromkeys(values.get("find-links", "").split())),
        trusted_hosts=tuple(values.get("trusted-host", "").split()),
        proxy=values.get("proxy", ""),
        cert=values.get("cert", ""),
        client_cert=values.get("client-cert", ""),
        timeout=float(values.get("timeout") or values.get("default-timeout") or 15.0),  # pip refuses what is no number
        retries=int(values.get("retries") or 5),
    )


def _default_index() -> str:

    return pypi_simple.PYPI_SIMPLE_ENDPOINT


def _from_files(variables: Mapping[str, str]) -> dict[str, str]:
    """What pip's configuration files say, as pip itself reads them."""
    found: dict[str, dict[str, str]] = {section: {} for section in SECTIONS}
    for line in _lines_of_pip(variables):
        match = LINE.match(line)
        if match and match["section"] in found:
            found[match["section"]][match["name"]] = str(ast.literal_eval(match["value"]))
    return {name: value for section in SECTIONS for name, value in found[section].items()}


def _lines_of_pip(variables: Mapping[str, str]) -> list[str]:
    """The lines of `pip config list`, from a private file: on the way of a command's output, passwords are masked."""
    with TemporaryDirectory(prefix="enginery-") as private:
        lines = Path(private) / "pip.log"
        argv = (sys.executable, "-m", "pip", "--log", str(lines), "--no-input", "config", "list")
        try:
            process.run(argv, env=variables, log=lambda _line: None, timeout=PIP_SECONDS)
            return lines.read_text(encoding="utf-8").splitlines()
        except (CommandError, OSError) as error:
            problem = f"its configuration cannot be read: {error}"
            remedy = "make `python -m pip config list` work in the environment that Enginery is installed in"
            raise ToolchainError(problem, subject="pip", remedy=remedy) from error


def _from_variables(variables: Mapping[str, str]) -> dict[str, str]:
    named = {name: value for name, value in variables.items() if name.startswith(PREFIX) and value}
    return {name.removeprefix(PREFIX).lower().replace("_", "-"): value for name, value in named.items()}


def _is_true(value: str) -> bool:
    return value.strip().lower() not in FALSE


PAGE = "index.html"
RETRIED = (429, 500, 502, 503, 504)
BACKOFF_SECONDS = 0.25
WHEEL = "wheel"
CHECK = "check the index, the proxy and the certificate in your pip configuration (pip config list)"


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

    try:
        return pypi_simple.ProjectPage.from_html(project, page.read_bytes(), page.as_uri())
    except OSError as error:
        raise NoAnswer(f"cannot be read: {error.strerror}") from error


def _fetched(address: str, project: str, settings: PipSettings) -> "ProjectPage | None":
    """The page at an address; None where the server says that there is none."""
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
    """The sentence of what went wrong first, without the objects around it."""
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
    """The files of a project's own page: one that names none of them is something else, such as a login page."""
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
