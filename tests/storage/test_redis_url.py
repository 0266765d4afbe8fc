"""REDIS_URL: its forms, what is wrong with others, and what is found where it points."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis, RedisCluster
from redis.asyncio.sentinel import SentinelConnectionPool

from storage.live import look_at, open_redis
from storage.redis_url import RedisUrlError, read_redis_url
from tests import redises
from tests.conftest import in_background
from tests.waiting import until


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[redises.Watched]:
    """A master, its replica and three Sentinels."""
    with in_background(redises.watched(tmp_path_factory.mktemp("watched"))) as redis:
        yield redis


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[redises.Cluster]:
    """Three masters with a replica each."""
    with in_background(redises.cluster(tmp_path_factory.mktemp("cluster"))) as redis:
        yield redis


@pytest.mark.parametrize("url", ["redis://h", "rediss://:p@h:1/2?ssl_ca_certs=/ca.pem", "unix:///run/redis.sock?db=1"])
def test_one_server_is_left_to_redis_py(url: str) -> None:
    """Its three schemes go as they are."""
    assert "one" == read_redis_url(url).kind


def test_sentinels_are_read() -> None:
    """Several with or without port, IPv6 among them; credentials of both kinds; service and database."""
    told = read_redis_url("redis+sentinel://u:p%40ss@a,b:1,[::1]:2/house/3?sentinel_username=s&sentinel_password=t")

    assert ("sentinel", [("a", 26379), ("b", 1), ("::1", 2)], "house", False) == (
        told.kind,
        told.hosts,
        told.service,
        told.tls,
    )
    assert {"username": "u", "password": "p@ss", "db": 3} == told.settings
    assert {"username": "s", "password": "t"} == told.sentinel_settings


def test_sentinels_behind_tls_share_its_options() -> None:
    """One private authority is for the Sentinels too."""
    told = read_redis_url("rediss+sentinel://a/house?ssl_ca_certs=/ca.pem")

    assert (True, "/ca.pem", "/ca.pem") == (
        told.tls,
        told.settings["ssl_ca_certs"],
        told.sentinel_settings["ssl_ca_certs"],
    )


def test_a_cluster_is_read() -> None:
    """Some of its servers suffice."""
    told = read_redis_url("rediss+cluster://:p@a:7000,b")

    assert ("cluster", [("a", 7000), ("b", 6379)], True, {"password": "p"}) == (
        told.kind,
        told.hosts,
        told.tls,
        told.settings,
    )


@pytest.mark.parametrize(
    "url",
    [
        "",
        "redis://",
        "http://h",
        "redis-sentinel://h/house",
        "redis://:sesame@h:port",
        "redis://:sesame@h?colour=blue",
        "redis://:sesame@h?max_connections=many",
        "unix://",
        "redis+sentinel://:sesame@h:26379",
        "redis+sentinel://:sesame@/house",
        "redis+sentinel://:sesame@h:0/house",
        "redis+sentinel://:sesame@a,,b/house",
        "redis+sentinel://:sesame@h/house?colour=blue",
        "redis+cluster://:sesame@h:99999",
        "redis+cluster://:sesame@h/1",
        "redis+cluster://:sesame@h/0?db=3",
        "redis+cluster://h:1:2",
    ],
)
def test_a_wrong_url_is_told_in_a_line_without_its_password(url: str) -> None:
    """`RedisUrlError` says what to write."""
    with pytest.raises(RedisUrlError) as refusal:
        read_redis_url(url)

    assert "sesame" not in str(refusal.value)
    assert "\n" not in str(refusal.value)


async def test_each_url_has_its_client() -> None:
    """One server, the master that Sentinels name, a cluster."""
    one, watched, cluster = (
        open_redis(url) for url in ("redis://h", "redis+sentinel://a/house", "redis+cluster://a,b:1")
    )

    assert [Redis, RedisCluster] == [type(one), type(cluster)]
    assert isinstance(watched, Redis)
    assert isinstance(watched.connection_pool, SentinelConnectionPool)


async def test_one_server_is_found(neighbours: Any) -> None:
    """By name and version."""
    assert (await _found(neighbours.redis_url)).startswith("valkey ")


async def test_one_server_is_found_by_a_socket_of_the_machine(tmp_path: Path) -> None:
    """As well as by a port."""
    path = tmp_path / "s"
    server = redises.Valkey(tmp_path / "valkey", 0, [f"unixsocket {path}"])
    server.start()
    try:
        await until(path.exists)
        found = await _found(f"unix://:{redises.PASSWORD}@{path}")
    finally:
        server.kill()

    assert found.startswith("valkey ")


async def test_sentinels_and_their_master_are_found(watched: redises.Watched) -> None:
    """With how many of them answer."""
    told = await _found(watched.url)

    assert told.endswith(
        f"master of house at 127.0.0.1:{(await watched.master()).port} with 1 replicas; 3 of 3 Sentinels answer"
    )


async def test_a_cluster_is_found(cluster: redises.Cluster) -> None:
    """With how many servers it has."""
    assert (await _found(cluster.url)).endswith("cluster of 3 masters and 3 replicas")


async def test_another_kind_of_server_is_told(
    neighbours: Any, watched: redises.Watched, cluster: redises.Cluster
) -> None:
    """A Sentinel, a replica and a node of a cluster are no single servers, and a single server is no cluster."""
    master = await watched.master()
    replica = next(server for server in watched.servers if server is not master)
    wrong = [
        f"redis://:{redises.SENTINEL_PASSWORD}@127.0.0.1:{watched.sentinels[0].port}",
        f"redis://:{redises.PASSWORD}@127.0.0.1:{replica.port}",
        f"redis://:{redises.PASSWORD}@127.0.0.1:{cluster.servers[0].port}",
        neighbours.redis_url.replace("redis://", "redis+cluster://"),
    ]
    told = []
    for url in wrong:
        with pytest.raises(RedisUrlError) as refusal:
            await _found(url)
        told.append(str(refusal.value).split(":")[0])

    assert [
        "names a Sentinel as if it were a server",
        "names a replica, which takes no writes",
        "names a node of a cluster as if it were alone",
        "names a server that is in no cluster",
    ] == told


async def _found(url: str) -> str:
    redis = open_redis(url)
    try:
        return await look_at(redis)
    finally:
        await redis.aclose()
