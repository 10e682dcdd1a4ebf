"""W5: a client generated from the seed's own fields works unchanged."""

import asyncio

import pytest
from seed_client import WAYS


def run(scenario):
    asyncio.run(scenario)


@pytest.fixture(params=WAYS)
def way(request):
    return WAYS[request.param]


def echo(client, data):
    return client.call("trunkline.echo", data)


@pytest.mark.parametrize("client_id", [None, "phone"])
def test_w5_both_start_layouts(seed, open_node, way, client_id):
    async def scenario():
        async with way(seed, open_node) as client:
            push, response = await client.start("alice", client_id=client_id)
            assert response.success and push.seq_id == 1
            assert response.heartbeat_interval > 0 and response.connection_id

    run(scenario())


def test_w5_a_token_is_checked(seed, node, way):
    async def scenario():
        async with way(seed, node) as client:
            _, response = await client.start("alice", token=node.token("alice"))
            assert response.success
        async with way(seed, node) as client:
            _, response = await client.start("alice", token="default-token")
            assert not response.success and response.error.error_code == 401
            await client.ended()
        async with way(seed, node) as client:
            _, response = await client.start("bob", token=node.token("alice"))
            assert not response.success

    run(scenario())


def test_w5_calls_heartbeats_and_numbers_without_holes(seed, open_node, way):
    async def scenario():
        async with way(seed, open_node) as client:
            await client.start("alice")
            for n in range(1, 20):
                msg_id = echo(client, b"n%d" % n)
                push, reply = await client.business()
                assert (push.msg_id, push.seq_id, reply.code, reply.data) == (msg_id, n + 1, 200, b"n%d" % n)
            client.send(seed.REQUEST_HEARTBEAT, seed.HeartbeatRequest(client_timestamp=7))
            push = await client.receive()
            assert push.type == seed.PUSH_HEARTBEAT_RESP and push.seq_id == 21
            assert seed.HeartbeatResponse.FromString(push.payload).client_timestamp == 7
            client.call("no.such.action")
            push = await client.receive()
            assert push.type == seed.PUSH_ERROR and push.seq_id == 22

    run(scenario())


@pytest.mark.parametrize("client_id", [None, "phone"])
@pytest.mark.parametrize("unacked", [0, 1, 17])
def test_w5_resume_brings_exactly_the_replies_that_were_not_acked(seed, open_node, way, client_id, unacked):
    async def scenario():
        async with way(seed, open_node) as client:
            await client.start("alice", client_id=client_id)
            for n in range(20):
                echo(client, b"n%d" % n)
            frames = [await client.receive() for _ in range(20)]
            assert [frame.seq_id for frame in frames] == list(range(2, 22))
            # The heartbeat's answer says that the ack has been dealt with; START acks it too, or not.
            acked = 22 - unacked
            client.ack(min(acked, 21))
            client.send(seed.REQUEST_HEARTBEAT, seed.HeartbeatRequest())
            frames.append(await client.receive())
            assert frames[-1].seq_id == 22
            calls = client.calls
        async with way(seed, open_node) as client:
            push, response = await client.start("alice", last_acked=acked, client_id=client_id)
            assert response.success and push.seq_id == 0 and not response.HasField("error")
            again = [await client.receive() for _ in range(unacked)]
            assert [frame.seq_id for frame in again] == list(range(acked + 1, 23))
            assert again == frames[21 - unacked:]
            client.calls = calls
            echo(client, b"after")
            push, reply = await client.business()
            assert (push.seq_id, reply.data) == (23, b"after")

    run(scenario())


def test_w5_resume_of_a_session_that_is_gone_is_told(seed, open_node, way):
    async def scenario():
        async with way(seed, open_node) as client:
            push, response = await client.start("alice", last_acked=41)
            assert response.success and push.seq_id == 42
            assert response.error.error_code == 410
            echo(client, b"x")
            push, _ = await client.business()
            assert push.seq_id == 43

    run(scenario())


def test_c13_an_app_that_starts_anew_counts_its_calls_from_one(seed, open_node, way):
    async def scenario():
        for _ in range(3):
            async with way(seed, open_node) as client:
                push, response = await client.start("alice")
                assert response.success and push.seq_id == 1
                for n in range(5):
                    echo(client, b"%d" % n)
                    assert (await client.business())[1].code == 200

    run(scenario())


def test_w5_an_ack_of_the_future_is_400_and_the_session_lives(seed, open_node, way):
    async def scenario():
        async with way(seed, open_node) as client:
            await client.start("alice")
            client.ack(1000)
            push = await client.receive()
            assert push.type == seed.PUSH_ERROR
            assert seed.ErrorMessage.FromString(push.payload).error_code == 400
            echo(client, b"alive")
            assert (await client.business())[1].data == b"alive"

    run(scenario())


def test_w5_stop_ends_the_connection(seed, open_node, way):
    async def scenario():
        async with way(seed, open_node) as client:
            await client.start("alice")
            client.send(seed.REQUEST_STOP, seed.StopRequest(reason=1))
            await client.ended()

    run(scenario())
