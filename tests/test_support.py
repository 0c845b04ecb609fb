"""Tests of test support that was wrong before."""

from contextlib import suppress

from tests.support.s3.server import running_s3_server


def test_an_s3_server_knows_nothing_of_an_earlier_one_that_a_failing_test_had() -> None:
    with suppress(RuntimeError), running_s3_server() as server:
        server.create_bucket("left-behind")
        raise RuntimeError("as a failing test does")
    with running_s3_server() as server:
        client = server.client()
        assert client.list_buckets()["Buckets"] == []
        client.close()
