"""W5: an upstream generated from the seed's own fields works unchanged, with a client of the seed."""

import asyncio

import pytest
from seed_client import WAYS
from seed_upstream import SeedUpstream, UpstreamProcess


@pytest.fixture
def upstream(seed, open_node):
    upstream = SeedUpstream(seed, "%s:%d" % open_node.address("grpc"))
    yield upstream
    upstream.close()


@pytest.fixture(params=WAYS)
def way(request):
    return WAYS[request.param]


def run(scenario):
    asyncio.run(scenario)


def test_w5_hello_echo_and_unknown_actions(seed, open_node, upstream, way):
    async def scenario():
        async with way(seed, open_node) as client:
            await client.start("alice")
            client.call("hello")
            _, reply = await client.business()
            assert reply.code == 200
            client.call("echo", b"ping", a="1")
            _, reply = await client.business()
            assert (reply.code, reply.data) == (200, b"ping")
            request = upstream.requests[-1]
            assert (request.openid, request.params["a"], request.client_seq_id) == ("alice", "1", 2)
            client.call("dance")
            _, reply = await client.business()
            assert reply.code == 404

    run(scenario())


def test_w5_bound_pushes_come_on_their_side_of_the_reply(seed, open_node, upstream, way):
    async def scenario():
        async with way(seed, open_node) as client:
            await client.start("alice")
            for action, order in [("before", ["push", "reply"]), ("after", ["reply", "push"]), ("late", ["reply", "push"])]:
                client.call(action)
                came = []
                for _ in range(2):
                    push, body = await client.business()
                    came.append("reply" if push.msg_id else "push")
                    if push.msg_id == 0:
                        assert (body.code, body.message, body.data) == (200, f"[note] {action}", b"pushed")
                assert came == order, action
            assert all(answer.success for answer in upstream.pushes), upstream.pushes

    run(scenario())


def test_w5_unicast_and_broadcast(seed, open_node, upstream, way):
    async def scenario():
        async with way(seed, open_node) as client:
            _, started = await client.start("alice")
            for kind, target in [("openid", "alice"), ("session", started.connection_id)]:
                answer = await asyncio.to_thread(
                    upstream.gateway.PushToClient,
                    seed.UnicastPushRequest(target_type=kind, target_id=target, msg_type="m", title=kind, data=b"d"),
                )
                assert answer.success, answer
                _, body = await client.business()
                assert (body.message, body.data) == (f"[m] {kind}", b"d")
            answer = await asyncio.to_thread(
                upstream.gateway.BroadcastToClients, seed.BroadcastRequest(msg_type="all", title="t", data=b"b")
            )
            assert answer.sent_count == 1, answer
            _, body = await client.business()
            assert (body.message, body.data) == ("[all] t", b"b")

    run(scenario())


@pytest.mark.parametrize("client_id", [None, "phone"])
@pytest.mark.parametrize("unacked", [0, 1, 17])
def test_w5_resume_brings_exactly_the_pushes_that_were_not_acked(seed, open_node, upstream, way, client_id, unacked):
    def push(number):
        request = seed.UnicastPushRequest(
            target_type="openid", target_id="alice", msg_type="m", title="t", data=b"%d" % number
        )
        answer = upstream.gateway.PushToClient(request)
        assert answer.success, answer

    def push_all(numbers):
        for number in numbers:
            push(number)

    def numbers(frames):
        return [int(seed.BusinessResponse.FromString(frame.payload).data) for frame in frames]

    async def scenario():
        async with way(seed, open_node) as client:
            await client.start("alice", client_id=client_id)
            await asyncio.to_thread(push_all, range(20))
            frames = [await client.receive() for _ in range(20)]
            assert [frame.seq_id for frame in frames] == list(range(2, 22)) and numbers(frames) == list(range(20))
            # The heartbeat's answer says that the ack has been dealt with; START acks it too, or not.
            acked = 22 - unacked
            client.ack(min(acked, 21))
            client.send(seed.REQUEST_HEARTBEAT, seed.HeartbeatRequest())
            frames.append(await client.receive())
            assert (frames[-1].type, frames[-1].seq_id) == (seed.PUSH_HEARTBEAT_RESP, 22)
        await asyncio.to_thread(push_all, range(20, 23))
        async with way(seed, open_node) as client:
            start, response = await client.start("alice", last_acked=acked, client_id=client_id)
            assert response.success and start.seq_id == 0 and not response.HasField("error")
            again = [await client.receive() for _ in range(unacked)]
            assert again == frames[21 - unacked:]
            rest = [await client.receive() for _ in range(3)]
            assert [frame.seq_id for frame in rest] == [23, 24, 25]
            assert numbers(rest) == [20, 21, 22]

    run(scenario())


def test_c9_an_offline_push_is_no_success_and_is_delivered_on_resume(seed, open_node, upstream, way):
    async def scenario():
        def push(user):
            request = seed.UnicastPushRequest(target_type="openid", target_id=user, msg_type="m", title="t", data=b"x")
            return upstream.gateway.PushToClient(request)

        assert not (await asyncio.to_thread(push, "nobody")).success
        async with way(seed, open_node) as client:
            await client.start("alice")
            client.call("echo", b"1")
            frame, _ = await client.business()
            client.ack(frame.seq_id)
            client.send(seed.REQUEST_HEARTBEAT, seed.HeartbeatRequest())
            beat = await client.receive()
        answer = await asyncio.to_thread(push, "alice")
        assert answer.success, "the session waits for its client"
        async with way(seed, open_node) as client:
            await client.start("alice", last_acked=beat.seq_id)
            frame, body = await client.business()
            assert (frame.seq_id, body.data) == (beat.seq_id + 1, b"x")

    run(scenario())


def test_u3_a_restarted_gateway_knows_its_upstreams(seed, tmp_path):
    from conftest import Node

    node = Node(tmp_path, "--anonymous")
    upstream = SeedUpstream(seed, "%s:%d" % node.address("grpc"))
    try:
        node.process.kill()
        node.process.wait()
        (tmp_path / "ready.json").unlink(missing_ok=True)
        node = Node(tmp_path, "--anonymous")

        async def scenario():
            async with WAYS["tcp"](seed, node) as client:
                await client.start("alice")
                client.call("echo", b"again")
                _, reply = await client.business()
                assert (reply.code, reply.data) == (200, b"again")

        run(scenario())
    finally:
        upstream.close()
        node.stop()


def test_c7_a_registration_is_refused_where_it_makes_no_sense(seed, open_node, upstream):
    for address, zone, code in [("nowhere", "001", "INVALID_ADDRESS"), ("127.0.0.1:1", "999", "INVALID_ZONE_ID")]:
        request = seed.UpstreamRegisterRequest(address=address, zone_id=zone, service_name="s")
        answer = upstream.gateway.RegisterUpstream(request)
        assert not answer.success and answer.error_code == code, answer


def test_u1_of_three_instances_one_is_killed_and_no_call_fails(seed, tmp_path):
    from conftest import Node

    # What is declared idempotent is sent again wherever it was under way; nothing of it may fail.
    config = tmp_path / "idempotent.toml"
    config.write_text('[upstreams]\nidempotent = ["whoami"]\n')
    node = Node(tmp_path, "--anonymous", "--config", config)
    children = [UpstreamProcess(seed, node) for _ in range(3)]

    async def scenario():
        async with WAYS["tcp"](seed, node) as client:
            await client.start("alice")
            answered = []

            async def ask(count):
                for _ in range(count):
                    client.call("whoami")
                for _ in range(count):
                    push = await client.receive()
                    assert push.type == seed.PUSH_BUSINESS_DATA, push
                    answered.append(int(seed.BusinessResponse.FromString(push.payload).data))

            for _ in range(200):
                await ask(3)
                if len(set(answered)) == 3:
                    break
            pids = {child.pid for child in children}
            assert set(answered) == pids, "an instance was never asked"
            victim = children.pop()
            for n in range(6):
                asking = asyncio.ensure_future(ask(20))
                if n == 2:
                    victim.kill()
                await asking
            # Once it is known to be gone nobody is sent there.
            del answered[:]
            await ask(20)
            assert set(answered) <= pids - {victim.pid}

    try:
        run(scenario())
    finally:
        for child in children:
            child.kill()
        node.stop()
