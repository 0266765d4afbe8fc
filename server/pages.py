"""The pages of clients/web, served as they were built: the desk (`/`), the phone page and the console.

What the build left in its folder is read once, at boot. Names under /assets/ carry a hash of what they name, so a
browser keeps those for ever and asks anew only for the pages themselves. `make web` leaves a .br and a .gz beside
what is worth compressing.
"""

import hashlib
import mimetypes
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from server.config import Config

BUILT = Path(__file__).parents[1] / "clients" / "web" / "dist"
"""Where the build leaves the pages."""

PAGES = {"/": "index.html", "/phone": "phone.html", "/console": "console.html"}
"""The pages by their paths."""

_ENCODINGS = (("br", ".br"), ("gzip", ".gz"))
"""In the order in which they are preferred."""

_REFUSED = re.compile(r"q=0(\.0{0,3})?")
"""The weight of an encoding that is not taken (RFC 9110, 12.4.2)."""

_TYPES = {".js": "text/javascript", ".webmanifest": "application/manifest+json", ".svg": "image/svg+xml"}
"""What the machine's own list of media types may not know, or not know right."""

_FOREVER = "public, max-age=31536000, immutable"
_ASK_AGAIN = "no-cache"

_MISSING = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Dialdesk</title>
<h1>The pages are not built</h1>
<p lang="zh-CN">页面尚未构建。</p>
<p>The API is up: <a href="/api/docs">its documents</a>. To build the pages, in the checkout: <code>make web</code>.</p>
<p>Then install, and start this server again.</p>
</html>
"""


class File(msgspec.Struct, frozen=True):
    """A file as it is served: its content by encoding, `""` for none."""

    media_type: str
    cache: str
    etag: str
    contents: Mapping[str, bytes]


def page_routes(config: Config, built: Path = BUILT) -> Sequence[Route]:
    """Return a route for each page and each file of the build; where nothing is built, pages that say so."""
    headers = security_headers(config)
    files = {path: _read(built / name) for path, name in PAGES.items() if (built / name).is_file()}
    files |= {
        f"/{path.relative_to(built).as_posix()}": _read(path)
        for path in sorted(built.rglob("*"))
        if path.is_file() and path.suffix not in {".br", ".gz", ".html"}
    }
    missing = File("text/html; charset=utf-8", "no-store", '"missing"', {"": _MISSING.encode()})
    return [
        *(_route(path, file, headers, status=200) for path, file in files.items()),
        *(_route(path, missing, headers, status=404) for path in PAGES if path not in files),
        *(Route(f"{path}/", _without_slash, methods=["GET"]) for path in PAGES if path != "/"),
    ]


def security_headers(config: Config) -> dict[str, str]:
    """What a browser is told to refuse: everything from elsewhere, every script and style that is not a file of ours.

    Styles may be set from scripts (CSSOM), which is how Vue and Element Plus place what floats: that needs no
    'unsafe-inline'. Images may be data (QR codes); recordings come from here, or from where the bucket is reached.
    """
    socket = f"ws{config.public_url.removeprefix('http').rstrip('/')}"  # older Safari's 'self' has no sockets in it
    policy = {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "img-src": "'self' data: blob:",
        "font-src": "'self'",
        "media-src": " ".join(["'self'", *([] if config.s3_public_url is None else [_origin(config.s3_public_url)])]),
        "connect-src": f"'self' {socket}",
        "manifest-src": "'self'",
        "worker-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    headers = {
        "content-security-policy": "; ".join(f"{name} {sources}" for name, sources in policy.items()),
        "cross-origin-opener-policy": "same-origin",
        "permissions-policy": "camera=(self), microphone=(), geolocation=()",
        "referrer-policy": "same-origin",
        "x-content-type-options": "nosniff",
        "x-frame-options": "DENY",
    }
    if urlsplit(config.public_url).scheme == "https":
        headers["strict-transport-security"] = "max-age=31536000"
    return headers


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _read(path: Path) -> File:
    """The file, and what the build compressed of it."""
    plain = path.read_bytes()
    compressed = {name: path.with_name(path.name + suffix) for name, suffix in _ENCODINGS}
    media_type = _TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return File(
        media_type=f"{media_type}; charset=utf-8" if media_type.startswith("text/") else media_type,
        cache=_FOREVER if path.parent.name == "assets" else _ASK_AGAIN,
        etag=f'"{hashlib.sha256(plain).hexdigest()[:32]}"',
        contents={"": plain, **{name: found.read_bytes() for name, found in compressed.items() if found.is_file()}},
    )


def _route(path: str, file: File, headers: Mapping[str, str], *, status: int) -> Route:
    async def serve(request: Request) -> Response:
        told = {**headers, "cache-control": file.cache, "vary": "Accept-Encoding"}
        if status == 200:
            told["etag"] = file.etag
            if file.etag in request.headers.get("if-none-match", ""):
                return Response(status_code=304, headers=told)
        taken = _taken(request.headers.get("accept-encoding", ""))
        encoding = next((name for name, _ in _ENCODINGS if name in taken and name in file.contents), "")
        if encoding:
            told["content-encoding"] = encoding
        return Response(file.contents[encoding], status_code=status, headers=told, media_type=file.media_type)

    return Route(path, serve, methods=["GET"])


def _taken(accept_encoding: str) -> set[str]:
    """The encodings that are named, but for those that are named to refuse them."""
    named = (word.partition(";") for word in accept_encoding.lower().replace(" ", "").split(","))
    return {name for name, _, weight in named if not _REFUSED.fullmatch(weight)}


async def _without_slash(request: Request) -> Response:
    """Send on who wrote the path of a page by hand."""
    return RedirectResponse(str(request.url.replace(scheme="", netloc="", path=request.url.path.rstrip("/"))))
