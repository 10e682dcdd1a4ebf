"""An unchanged client of the seed: QUIC, ALPN gatesvr, one stream, four bytes of length before each frame."""

import asyncio
import contextlib
import ssl
import struct

from aioquic.asyncio.client import connect
from aioquic.quic.configuration import QuicConfiguration

DEADLINE = 30.0


class SeedClient:
    """Speaks frames; knows nothing of sessions but what a test does."""

    def __init__(self, seed, reader, writer):
        self.seed = seed
        self.reader = reader
        self.writer = writer
        self.msg_id = 0
        self.calls = 0

    def send(self, kind, message, seq_id=0):
        self.msg_id += 1
        frame = self.seed.ClientRequest(
            msg_id=self.msg_id, seq_id=seq_id, type=kind, payload=message.SerializeToString()
        ).SerializeToString()
        self.writer.write(struct.pack(">I", len(frame)) + frame)
        return self.msg_id

    async def receive(self):
        head = await asyncio.wait_for(self.reader.readexactly(4), DEADLINE)
        frame = await asyncio.wait_for(self.reader.readexactly(struct.unpack(">I", head)[0]), DEADLINE)
        return self.seed.ServerPush.FromString(frame)

    async def start(self, openid, token="default-token", last_acked=0, client_id=None):
        if client_id is None:
            message = self.seed.StartRequest(openid=openid, auth_token=token, last_acked_seq_id=last_acked)
        else:
            message = self.seed.LegacyStartRequest(
                openid=openid, client_id=client_id, auth_token=token, last_acked_seq_id=last_acked
            )
        self.send(self.seed.REQUEST_START, message)
        push = await self.receive()
        assert push.type == self.seed.PUSH_START_RESP, push
        return push, self.seed.StartResponse.FromString(push.payload)

    def call(self, action, data=b"", **params):
        self.calls += 1
        return self.send(
            self.seed.REQUEST_BUSINESS,
            self.seed.BusinessRequest(action=action, params=params, data=data),
            seq_id=self.calls,
        )

    async def business(self):
        push = await self.receive()
        assert push.type == self.seed.PUSH_BUSINESS_DATA, push
        return push, self.seed.BusinessResponse.FromString(push.payload)

    def ack(self, seq_id):
        self.send(self.seed.REQUEST_ACK, self.seed.ClientAck(acked_seq_id=seq_id))

    async def ended(self):
        """Waits for the connection's end."""
        assert await asyncio.wait_for(self.reader.read(), DEADLINE) == b""


@contextlib.asynccontextmanager
async def over_quic(seed, node):
    configuration = QuicConfiguration(is_client=True, alpn_protocols=["gatesvr"], verify_mode=ssl.CERT_NONE)
    host, port = node.address("quic")
    async with connect(host, port, configuration=configuration) as connection:
        reader, writer = await connection.create_stream()
        yield SeedClient(seed, reader, writer)


@contextlib.asynccontextmanager
async def over_tcp(seed, node):
    reader, writer = await asyncio.open_connection(*node.address("tcp"))
    try:
        yield SeedClient(seed, reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


WAYS = {"quic": over_quic, "tcp": over_tcp}
