"""How a provider is asked that users describe: one request for each thing asked, and what its answer means.

The Structs are the description; `Request` is one that was read once, to be made often. Values that are put into a URL,
a query, a form or JSON are written so that they stay values there, and nothing but the settings' own text decides
which host is asked.
"""

import base64
import re
from collections.abc import Callable, Collection, Mapping
from typing import Annotated, Any, Literal, ParamSpec, TypeVar
from urllib.parse import quote, urlencode, urlsplit

import msgspec
from multidict import CIMultiDict
from yarl import URL

from server.providers.paths import Condition, Is, PathOrPaths, Paths, word
from server.providers.provider import LEFT_OPEN, PlacementRefused, Refusal, Uncertain
from server.providers.signatures import Algorithm, Encoding, encoded, is_keyed, signature
from server.providers.templates import JsonTemplate, Kind, Known, Missing, Template, Value, Values

_P = ParamSpec("_P")
_T = TypeVar("_T")

UNREADABLE = (msgspec.MsgspecError, ValueError, RecursionError)
"""What decoding raises for bytes that are not what they should be."""

EVERYWHERE: Known = {"timestamp": Kind.TIME, "nonce": Kind.TEXT, "secret.*": Kind.TEXT}
"""What may stand in every template of a request."""

SIGNED: Known = dict.fromkeys(("method", "path", "query", "body", "fields"), Kind.PART)
"""What may stand besides in a text that is signed: parts of the request itself."""

Named = Annotated[dict[str, str], msgspec.Meta(max_length=40)]
"""Templates by name: headers, parameters of a query, fields of a form."""

CodeMeaning = Literal[
    "seat_busy", "seat_offline", "callee", "throttled", "extension", "line", "uncertain", "unknown_call"
]
"""What an error code means: why nothing was placed, that nobody knows, or that there is no such call (any more)."""


class Answer(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Which answers are a success: those of status 2xx for which `success` holds, where there is one.

    Of others the error code stands at `code`, by default where the success would; what stands nowhere is called
    `http_404` after the status. `codes` says what a code means; by default it is the line's fault."""

    success: Is | None = None
    code: PathOrPaths | None = None
    codes: Annotated[dict[str, CodeMeaning], msgspec.Meta(max_length=300)] = {}


class Bearer(msgspec.Struct, frozen=True, tag="bearer", rename="camel", forbid_unknown_fields=True):
    """`Authorization: Bearer …`; the token is a template."""

    token: str


class Basic(msgspec.Struct, frozen=True, tag="basic", rename="camel", forbid_unknown_fields=True):
    """`Authorization: Basic …`; both are templates."""

    user: str
    password: str


class Signing(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """A signature over `text`, put into the header, query parameter or member of the body that is called `name`.

    `key`, `text` and `value` are templates; in `value`, `{signature}` is the signature."""

    algorithm: Algorithm
    key: str | None = None
    text: str
    encoding: Encoding = "hex"
    put_into: Literal["header", "query", "body"] = "header"
    name: str
    value: str = "{signature}"


class Operation(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """One request. `url` begins with `/`, and follows the base URL then, or is a URL of its own; a query stands in
    `query`. The body is `json` or `form`, or there is none."""

    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"] = "POST"
    url: str
    headers: Named = {}
    query: Named = {}
    json: dict[str, Any] | list[Any] | None = None
    form: Named | None = None
    answer: Answer | None = None
    signed: bool = True


class Shared(msgspec.Struct, frozen=True, kw_only=True):
    """What all requests of a provider have in common."""

    base_url: str
    headers: Mapping[str, str]
    answer: Answer
    auth: Bearer | Basic | None
    signing: Signing | None


class Prepared(msgspec.Struct, frozen=True):
    """A request as it is sent."""

    method: str
    url: URL
    headers: Mapping[str, str]
    body: bytes | None


AT_THE_DOOR = frozenset({401, 429})
"""HTTP statuses of a request that was not looked into (RFC 9110, 6585), whatever code a vendor writes beside them."""


class UnknownCall(PlacementRefused):
    """The provider knows no such call, or no more."""


class Request:
    """An operation that was read once. Raises ValueError, which ends with the path of what is wrong."""

    def __init__(self, written: Operation, shared: Shared, known: Known, at: str) -> None:
        allowed = {**EVERYWHERE, **known}
        self._method = written.method
        self._url = url_template(written.url, shared.base_url, allowed, f"{at}.url")
        self._headers = {
            **_headers(shared.headers, EVERYWHERE, "headers"),
            **_headers(written.headers, allowed, f"{at}.headers"),
        }
        self._query = _templates(written.query, allowed, f"{at}.query")
        self._form = None if written.form is None else _templates(written.form, allowed, f"{at}.form")
        self._json = None if written.json is None else read(f"{at}.json", JsonTemplate, written.json, allowed)
        if written.json is not None and written.form is not None:
            raise misdeclared(f"{at}.form", "a request has a JSON body or a form, not both")
        self._auth = None if shared.auth is None else _Authorization(shared.auth)
        self._signing = None if shared.signing is None or not written.signed else _Signature(shared.signing)
        has_fields = isinstance(written.json, dict) or written.form is not None
        if self._signing and self._signing.put_into == "body" and not has_fields:
            raise misdeclared(at, "the signature is put into the body, and there is none: say signed: false")
        self._answer = _Judge(written.answer or shared.answer, at if written.answer else "")

    @property
    def names(self) -> set[str]:
        """The placeholders of the request."""
        parts = [self._url, *self._headers.values(), *self._query.values(), *(self._form or {}).values()]
        named = {name for part in parts for name in part.names}
        named |= self._json.names if self._json else set()
        named |= self._auth.names if self._auth else set()
        return named | (self._signing.names if self._signing else set())

    @property
    def has_success(self) -> bool:
        """Whether an answer says itself that it is a success."""
        return self._answer.success is not None

    def prepared(self, values: Values) -> Prepared:
        """Return the request with these values. Raises Missing."""
        draft = _Draft(
            method=self._method,
            url=self._url.filled(values, _segment),
            headers=CIMultiDict({"Accept": "application/json", "Accept-Encoding": "identity"}),
            query=_filled(self._query, values),
            form=None if self._form is None else _filled(self._form, values),
            document=None if self._json is None else self._json.filled(values),
        )
        if self._auth:
            draft.headers["Authorization"] = self._auth.filled(values)
        for name, value in _filled(self._headers, values).items():
            draft.headers[name] = value  # one of a name, however it is spelt
        if self._signing:
            self._signing.put_on(draft, values)
        return draft.finished()

    def judged(self, status: int, body: bytes, hidden: Collection[str]) -> object:
        """Return the JSON of an answer that is a success, None where it is not JSON. An error code that has something
        `hidden` in it is not repeated.

        Raises PlacementRefused, of which UnknownCall is one kind, and Uncertain."""
        return self._answer.judged(status, body, hidden)


class _Draft(msgspec.Struct, kw_only=True):
    """A request of which every value is known, and which may still be signed."""

    method: str
    url: str
    headers: CIMultiDict[str]
    query: dict[str, str]
    form: dict[str, str] | None
    document: Any

    def encoded_query(self) -> str:
        return urlencode(self.query, quote_via=quote, errors="replace")

    def body(self) -> bytes | None:
        if self.document is not None:
            return msgspec.json.encode(self.document)
        return None if self.form is None else urlencode(self.form, errors="replace").encode()

    def finished(self) -> Prepared:
        """Raises Missing for a header that cannot be sent."""
        query, body = self.encoded_query(), self.body()
        if body is not None:
            media = "application/json" if self.document is not None else "application/x-www-form-urlencoded"
            self.headers.setdefault("Content-Type", media)
        for name, value in self.headers.items():
            if not value.isprintable():
                raise Missing(f"header {name}")
        url = URL(f"{self.url}?{query}" if query else self.url, encoded=True)
        return Prepared(self.method, url, self.headers, body)


class _Authorization:
    def __init__(self, written: Bearer | Basic) -> None:
        match written:
            case Bearer(token):
                self._parts = [read("auth.token", Template, token, EVERYWHERE)]
            case Basic(user, password):
                self._parts = [
                    read("auth.user", Template, user, EVERYWHERE),
                    read("auth.password", Template, password, EVERYWHERE),
                ]

    @property
    def names(self) -> set[str]:
        return {name for part in self._parts for name in part.names}

    def filled(self, values: Values) -> str:
        shown = [part.filled(values) for part in self._parts]
        if len(shown) == 1:
            return f"Bearer {shown[0]}"
        return f"Basic {base64.b64encode(':'.join(shown).encode('utf-8', 'replace')).decode()}"


class _Signature:
    def __init__(self, written: Signing) -> None:
        if is_keyed(written.algorithm) != (written.key is not None):
            raise misdeclared("signing.key", "HMAC needs a key, and a plain digest has none")
        if written.put_into == "header":
            _check_header(written.name, "signing.name")
        self.put_into = written.put_into
        self._written = written
        self._key = read("signing.key", Template, written.key or "", EVERYWHERE)
        self._text = read("signing.text", Template, written.text, {**EVERYWHERE, **SIGNED})
        self._value = read("signing.value", Template, written.value, {**EVERYWHERE, "signature": Kind.TEXT})
        if not any(name.startswith("secret.") for name in self._key.names | self._text.names):
            raise misdeclared("signing", "a signature without a secret shows nothing")

    @property
    def names(self) -> set[str]:
        return self._key.names | self._text.names | self._value.names

    def put_on(self, draft: _Draft, values: Values) -> None:
        """Sign a request and put the signature where it belongs. Raises Missing."""
        members = draft.document if isinstance(draft.document, dict) else {}
        parts: dict[str, Value] = {
            "method": draft.method,
            "path": urlsplit(draft.url).path,
            "query": draft.encoded_query(),
            "body": (draft.body() or b"").decode("utf-8", "surrogateescape"),
            "fields": joined({**draft.query, **(draft.form or {}), **members}),
        }
        text = self._text.filled(values.and_also(parts))
        digest = signature(self._written.algorithm, utf8(self._key.filled(values)), utf8(text))
        value = self._value.filled(values.and_also({"signature": encoded(digest, self._written.encoding)}))
        match self.put_into:
            case "header":
                draft.headers[self._written.name] = value
            case "query":
                draft.query[self._written.name] = value
            case "body" if draft.form is not None:
                draft.form[self._written.name] = value
            case "body":
                draft.document[self._written.name] = value


class _Judge:
    def __init__(self, written: Answer, at: str) -> None:
        at = f"{at}.answer".lstrip(".")
        self.success = None if written.success is None else read(f"{at}.success", Condition, written.success)
        told_at = None if written.code is None else read(f"{at}.code", Paths, written.code)
        self._code = told_at or (self.success.paths if self.success else None)
        self._codes = written.codes

    def judged(self, status: int, body: bytes, hidden: Collection[str]) -> object:
        try:
            said: object = msgspec.json.decode(body) if body.strip() else None
        except UNREADABLE:
            said = None
        fine = 200 <= status < 300
        if fine and (self.success is None or self.success.holds(said)):
            return said
        told = self._code.word(said, 64) if self._code else ""
        if any(secret in told for secret in hidden):
            told = ""
        code = told or f"http_{status}"
        listed = self._codes.get(code) or self._codes.get(f"http_{status}")
        match listed or _usual(status, told):
            case "uncertain":
                raise Uncertain(f"the provider's answer leaves open what was done ({code})")
            case "unknown_call":
                raise UnknownCall(Refusal.LINE, code, "the provider knows no such call", known=True)
            case refusal:
                known = listed is not None or status in AT_THE_DOOR
                raise PlacementRefused(
                    Refusal(refusal), code, "the provider did not carry out the request", known=known
                )


def _usual(status: int, code: str) -> CodeMeaning:
    """What an error means of which the settings say nothing."""
    if status == 429:
        return "throttled"
    if status in LEFT_OPEN or (status < 300 and not code):
        return "uncertain"
    return "line"


# --- reading what users wrote -----------------------------------------------------------------------------------------


def misdeclared(at: str, what: str) -> ValueError:
    """Return the error for what is wrong in the settings, in the words in which msgspec tells its own."""
    return ValueError(f"{what} - at `$.{at}`")


def read(at: str, kind: Callable[_P, _T], *written: _P.args, **options: _P.kwargs) -> _T:
    """Read a part of the settings. Raises ValueError with the path of what is wrong."""
    try:
        return kind(*written, **options)
    except ValueError as error:
        raise misdeclared(at, str(error)) from None


def url_template(written: str, base_url: str, known: Known, at: str) -> Template:
    """Read a URL, the host of which no value can change. Raises ValueError."""
    text = base_url.rstrip("/") + written if written.startswith("/") else written
    plain = re.sub(r"\{[^{}]*\}", "x", text)
    if not _PLACED.fullmatch(text) or "{" in plain or not re.fullmatch(r"[!-~]+", text):
        raise misdeclared(at, "a URL is /path or https://host/path, without placeholders in its host or a query")
    try:
        parsed = URL(plain, encoded=True)
        host, port = parsed.host, parsed.port
    except ValueError:
        host = port = None
    if not host or not port:
        raise misdeclared(at, "this is not a URL")
    return read(at, Template, text, known)


def joined(fields: Mapping[str, object]) -> str:
    """Return `name=value` of each field with a scalar value, by name, joined with `&` and nothing escaped."""
    told = {name: word(value, 4096) for name, value in fields.items()}
    return "&".join(f"{name}={told[name]}" for name in sorted(told) if told[name])


_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}")

_OURS = {
    "host",
    "connection",
    "content-length",
    "transfer-encoding",
    "upgrade",
    "te",
    "trailer",
    "expect",
    "accept-encoding",
}
"""Headers that say how messages are carried, which is not for settings to say."""

_PLACED = re.compile(r"https?://[^/{}]+(/[^?#]*)?", re.ASCII)


def _templates(written: Mapping[str, str], known: Known, at: str) -> dict[str, Template]:
    for name in written:
        if not 1 <= len(name) <= 100 or not name.isprintable():
            raise misdeclared(at, "a name has between 1 and 100 printable characters")
    return {name: read(f"{at}.{name}", Template, text, known) for name, text in written.items()}


def _headers(written: Mapping[str, str], known: Known, at: str) -> dict[str, Template]:
    for name in written:
        _check_header(name, f"{at}.{name}")
    return _templates(written, known, at)


def _check_header(name: str, at: str) -> None:
    if not _TOKEN.fullmatch(name) or name.lower() in _OURS:
        raise misdeclared(at, "this is no header that can be set")


def _filled(templates: Mapping[str, Template], values: Values) -> dict[str, str]:
    return {name: each.filled(values) for name, each in templates.items() if not each.left_out(values)}


def _segment(value: str) -> str:
    """Write a value as one segment of a path; dots alone would climb out of it."""
    if value in {".", ".."}:
        raise Missing("path")
    return quote(value, safe="", errors="replace")


def utf8(text: str) -> bytes:
    """Return the bytes of a text in which a body may stand that is not UTF-8."""
    return text.encode("utf-8", "surrogateescape")
