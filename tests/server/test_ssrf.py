"""Where URLs that others give us may lead: what is refused when they are saved, and when they are connected to."""

import gzip
from ipaddress import ip_address, ip_network

import pytest
from aiohttp import ClientTimeout, ServerDisconnectedError, web

from server.ssrf import Refused, check_url, guarded_session, is_allowed
from tests.server.fake_origin import Names, origin

HERE = (ip_network("127.0.0.1/32"),)
"""The one address of loopback that these tests allow; 127.0.0.2 is loopback too, and refused."""
PATIENCE = ClientTimeout(total=20)

INSIDE = [
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "100.64.0.1",
    "100.100.100.200",  # the metadata service of Aliyun
    "127.0.0.1",
    "127.255.255.254",
    "169.254.0.23",  # and of Tencent
    "169.254.169.254",  # and of most others
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.8",
    "192.0.0.170",
    "192.0.0.192",  # and of Oracle
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::7f00:1",  # IPv4-compatible
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:0:7f00:1",  # IPv4-translated (RFC 2765)
    "64:ff9b::7f00:1",
    "64:ff9b::a00:1",
    "64:ff9b:1::808:808",
    "100::1",
    "2001::1",
    "2001:0:4136:e378:8000:63bf:f5ff:fffe",  # Teredo, 10.0.0.1
    "2001:10::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "2002:a00:1::1",
    "2002:808:808::1",
    "3fff::1",
    "4000::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",  # the metadata service of AWS
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
    "ff0e::1",
]

OUTSIDE = ["8.8.8.8", "42.121.15.99", "100.63.255.255", "172.32.0.1", "2400:3200::1", "2606:4700::1111"]


@pytest.mark.parametrize("address", INSIDE)
def test_an_address_that_is_not_of_the_public_internet_is_refused(address: str) -> None:
    """Private, local, reserved, multicast and documentation addresses are refused, also inside IPv6 addresses."""

    assert not is_allowed(ip_address(address))


@pytest.mark.parametrize("address", [*OUTSIDE, "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_an_address_of_the_public_internet_is_allowed(address: str) -> None:
    """Public addresses are allowed, also public IPv4 as IPv6 hosts and NAT64 networks write it."""

    assert is_allowed(ip_address(address))


@pytest.mark.parametrize("address", ["10.1.2.3", "::ffff:10.1.2.3", "fd00::1"])
def test_networks_are_allowed_beside_the_internet(address: str) -> None:
    """An address inside one of the given networks is allowed, however it is written; its neighbours are not."""
    networks = (ip_network("10.1.0.0/16"), ip_network("fd00::/64"))

    assert is_allowed(ip_address(address), networks)
    assert not is_allowed(ip_address("10.2.0.1"), networks)
    assert not is_allowed(ip_address("fd00:0:0:1::1"), networks)


@pytest.mark.parametrize(
    "url",
    [
        *(f"http://[{address}]/a" if ":" in address else f"http://{address}/a" for address in INSIDE),
        "http://2130706433/",
        "http://0x7f000001/",
        "http://0x7f.1/",
        "http://127.0x1/",
        "http://127.1/",
        "http://0177.0.0.1/",
        "http://017700000001/",
        "http://127.0.0.01/",
        "http://127.0.0.1./",
        "http://8.8.8.8./",
        "http://1.2.3.4.5/",
        "http://256.1.1.1/",
        "http://１２７.０.０.１/",
        "http://127。0。0。1/",
        "http://①②⑦.⓪.⓪.①/",
        "http://127%2e0.0.1/",
        "http://%31%32%37.0.0.1/",
        "http://[::1]:8080/",
        "http://[::1%25eth0]/",
        "http://[::ffff:7f00:1]/",
        "http://0/",
    ],
)
def test_an_address_spelled_in_a_url_is_judged_when_it_is_saved(url: str) -> None:
    """A refused address is refused in the URL, and so is every odd spelling that a resolver may take for one."""
    with pytest.raises(Refused):
        check_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "recording.mp3",
        "/recording.mp3",
        "//example.com/a",
        "ftp://example.com/a",
        "file:///etc/passwd",
        "gopher://example.com/",
        "javascript:alert(1)",
        "http:example.com",
        "http://",
        "http:///a",
        "http://./a",
        "http://a..b/",
        "http://。/",
        "http://exa mple.com/",
        "http://example.com\\@127.0.0.1/",
        "http://user@example.com/",
        "http://user:pass-word@example.com/",
        "http://:pass-word@example.com/",
        "http://@example.com/",
        "http://example.com:0/",
        "http://example.com:22/",
        "http://example.com:25/",
        "http://example.com:1023/",
        "http://example.com:99999/",
        "http://example.com:http/",
        "http://[::1/",
        "http://example.com/a\r\nHost: inside",
        "http://exam\nple.com/",
        "http://example.com/\x00",
        "http://example.com/\x7f",
    ],
)
def test_a_url_that_is_none_of_the_web_is_refused(url: str) -> None:
    """Only http and https, to a named host, at a port of the web, without a user and without control characters."""
    with pytest.raises(Refused):
        check_url(url)


@pytest.mark.parametrize(
    ("url", "asked"),
    [
        ("https://example.com/a.mp3", "https://example.com/a.mp3"),
        ("  https://example.com/a.mp3\n", "https://example.com/a.mp3"),
        ("HTTPS://example.com:8443/", "https://example.com:8443/"),
        ("http://example.com.:8883/a", "http://example.com.:8883/a"),
        ("https://under_score.example.com/", "https://under_score.example.com/"),
        ("https://x.com/a%2fb;c?s=a%2Fb%2Bc+d&e=%7E", "https://x.com/a%2fb;c?s=a%2Fb%2Bc+d&e=%7E"),
        ("https://x.com/a b?c=d e", "https://x.com/a%20b?c=d%20e"),
        ("https://bücher.example/ü?c=录", "https://xn--bcher-kva.example/%C3%BC?c=%E5%BD%95"),
        ("http://8.8.8.8:1024/", "http://8.8.8.8:1024/"),
        ("http://[2606:4700::1111]/", "http://[2606:4700::1111]/"),
    ],
)
def test_a_url_is_asked_for_as_it_was_given(url: str, asked: str) -> None:
    """What was signed is not spelled anew; only what HTTP cannot carry is encoded."""

    assert asked == str(check_url(url))


def test_a_refusal_does_not_quote_the_url() -> None:
    """The path and the query of a URL are credentials, and stand in no refusal nor in its cause."""
    for url in ("http://10.0.0.1/secret?s=secret", "ftp://x/secret", "http://[::1/secret", "http://u:secret@x/"):
        with pytest.raises(Refused) as refused:
            check_url(url)

        assert "secret" not in str(refused.value)
        assert refused.value.__suppress_context__ or refused.value.__context__ is None


async def _hello(_: web.Request) -> web.Response:
    return web.Response(text="hello")


async def test_a_session_reaches_what_is_allowed() -> None:
    """An allowed address is reached, by itself and by a name that leads to it."""
    names = Names(here=[["127.0.0.1"]])
    async with origin(_hello) as server, guarded_session(HERE, timeout=PATIENCE, resolver=names) as session:
        async with session.get(f"http://127.0.0.1:{server.port}/") as by_address:
            assert "hello" == await by_address.text()
        async with session.get(f"http://here:{server.port}/") as by_name:
            assert "hello" == await by_name.text()


@pytest.mark.parametrize("host", ["127.0.0.2", "[::1]", "[::ffff:127.0.0.2]", "10.0.0.1", "169.254.169.254"])
async def test_a_session_does_not_connect_to_a_refused_literal(host: str) -> None:
    """A literal address, which is never resolved, is judged when its socket is opened."""
    async with guarded_session(HERE, timeout=PATIENCE) as session:
        with pytest.raises(Refused):
            await session.get(f"http://{host}:8080/")


@pytest.mark.parametrize("host", ["localhost", "0x7f.2", "0x7f000002"])
async def test_a_session_judges_what_the_system_makes_of_a_name(host: str) -> None:
    """Whatever the resolver of the system takes for an address is judged as that address."""
    async with guarded_session(timeout=PATIENCE) as session:
        with pytest.raises(Refused):
            await session.get(f"http://{host}:8080/")


@pytest.mark.parametrize(
    "addresses",
    [["10.0.0.1"], ["127.0.0.1", "10.0.0.1"], ["10.0.0.1", "127.0.0.1"], ["127.0.0.1", "::1"], ["fe80::1%1"]],
)
async def test_a_name_with_a_refused_address_is_refused_whole(addresses: list[str]) -> None:
    """A name of which one address is refused is not connected to at any, and the refusal tells no address."""
    names = Names(mixed=[addresses])
    async with origin(_hello) as server, guarded_session(HERE, timeout=PATIENCE, resolver=names) as session:
        with pytest.raises(Refused) as refused:
            await session.get(f"http://mixed:{server.port}/")

        assert [] == server.requests
        assert "mixed leads to an address that is not of the public internet" == str(refused.value)


async def test_a_name_is_resolved_once_for_a_connection() -> None:
    """A name that turns inwards after its first answer gains nothing: the first was judged and connected to."""
    names = Names(turning=[["127.0.0.1"], ["127.0.0.2"]])
    async with origin(_hello) as server, guarded_session(HERE, timeout=PATIENCE, resolver=names) as session:
        async with session.get(f"http://turning:{server.port}/") as answer:
            assert "hello" == await answer.text()
        assert ["turning"] == names.asked

        with pytest.raises(Refused):
            await session.get(f"http://turning:{server.port}/")
        assert 1 == len(server.requests)


async def test_a_redirect_that_aiohttp_follows_is_judged_too() -> None:
    """Where a caller lets the session follow redirects, each hop is judged as it is connected to."""

    async def inwards(_: web.Request) -> web.Response:
        raise web.HTTPFound("http://127.0.0.2:8080/")

    async with origin(inwards) as server, guarded_session(HERE, timeout=PATIENCE) as session:
        with pytest.raises(Refused):
            await session.get(f"http://127.0.0.1:{server.port}/")


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "POST"])
async def test_a_session_sends_a_request_once(method: str) -> None:
    """After a disconnect nobody knows what was done: that a method may be repeated is not for the session to decide."""

    async def dropping(request: web.Request) -> web.Response:
        assert request.transport is not None
        request.transport.close()
        return web.Response()

    async with origin(dropping) as server, guarded_session(HERE, timeout=PATIENCE) as session:
        with pytest.raises(ServerDisconnectedError):
            await session.request(method, f"http://127.0.0.1:{server.port}/")

        assert [method] == [request.method for request in server.requests]


async def test_a_session_unpacks_nothing() -> None:
    """A packed body is handed on as it came: what is small on the wire stays small in memory."""
    bomb = gzip.compress(bytes(1024 * 1024))

    async def packed(_: web.Request) -> web.Response:
        return web.Response(body=bomb, headers={"Content-Encoding": "gzip"})

    async with origin(packed) as server, guarded_session(HERE, timeout=PATIENCE) as session:
        async with session.get(f"http://127.0.0.1:{server.port}/") as answer:
            assert bomb == await answer.read()


async def test_a_session_asks_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy of the environment would connect for us, to addresses that nobody judged."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    async with origin(_hello) as server, guarded_session(HERE, timeout=PATIENCE) as session:
        async with session.get(f"http://127.0.0.1:{server.port}/") as answer:
            assert 200 == answer.status
