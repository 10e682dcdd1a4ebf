"""An unchanged upstream of the seed: registers before it listens, answers calls, pushes from inside them."""

import importlib
import os
import subprocess
import sys
import threading
from concurrent import futures

import grpc


class SeedUpstream:
    """One service for all zones, with the seed's actions that the tests use."""

    def __init__(self, seed, gateway, zones=("001", "002", "003", "004", "005", "006")):
        self.seed = seed
        self.requests = []
        self.pushes = []
        self.lock = threading.Lock()
        self.channel = grpc.insecure_channel(gateway)
        self.gateway = seed.stubs.GatewayServiceStub(self.channel)
        self.server = grpc.server(futures.ThreadPoolExecutor(max_workers=8))
        outer = self

        class Service(seed.stubs.UpstreamServiceServicer):
            def ProcessRequest(self, request, context):
                return outer.process(request)

            def GetStatus(self, request, context):
                return seed.StatusResponse(status="healthy", uptime=1)

        seed.stubs.add_UpstreamServiceServicer_to_server(Service(), self.server)
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        for zone in zones:
            answer = self.gateway.RegisterUpstream(
                seed.UpstreamRegisterRequest(
                    address=f"127.0.0.1:{self.port}", zone_id=zone, service_name=f"zone-{zone}"
                )
            )
            assert answer.success, answer
        self.server.start()

    def process(self, request):
        with self.lock:
            self.requests.append(request)
        seed = self.seed
        reply = seed.UpstreamResponse(code=200, message="ok", client_seq_id=request.client_seq_id)
        if request.action == "echo":
            reply.data = request.data
        elif request.action == "whoami":
            reply.data = b"%d" % os.getpid()
        elif request.action == "hello":
            reply.headers["zone"] = "003"
        elif request.action in ("before", "after"):
            hint = seed.NSH_BEFORE_RESPONSE if request.action == "before" else seed.NSH_AFTER_RESPONSE
            self.push(request, hint)
            reply.data = b"the reply"
        elif request.action == "late":
            # The push comes when the reply has left, as in the seed's own demonstration.
            threading.Timer(0.05, self.push, (request, seed.NSH_AFTER_RESPONSE)).start()
            reply.data = b"the reply"
        else:
            reply.code, reply.message = 404, "unknown action"
        return reply

    def push(self, request, hint):
        answer = self.gateway.PushToClient(
            self.seed.UnicastPushRequest(
                target_type="openid", target_id=request.openid, msg_type="note", title=request.action,
                content="the content", data=b"pushed", metadata={"k": "v"},
                sync_hint=hint, bind_client_seq_id=request.client_seq_id,
            )
        )
        with self.lock:
            self.pushes.append(answer)

    def close(self):
        self.server.stop(0).wait()
        self.channel.close()


class UpstreamProcess:
    """The same in a process of its own, which can be killed."""

    def __init__(self, seed, node):
        modules = os.path.dirname(seed.__file__)
        address = "%s:%d" % node.address("grpc")
        self.process = subprocess.Popen([sys.executable, __file__, modules, address], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout.readline() == "registered\n", "it does not start"
        self.pid = self.process.pid

    def kill(self):
        """kill -9, and waits until its sockets are gone."""
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


def main(modules, address):
    sys.path.insert(0, modules)
    seed = importlib.import_module("seed_pb2")
    seed.stubs = importlib.import_module("seed_pb2_grpc")
    upstream = SeedUpstream(seed, address)
    print("registered", flush=True)
    upstream.server.wait_for_termination()


if __name__ == "__main__":
    main(*sys.argv[1:])
