"""What the items about the transport library share: comparisons of `trunkline bench transport`, and peers one by one."""

import contextlib
import os
import resource
import socket
import subprocess
import sys
from pathlib import Path

import proving

# Turns in each comparison, and seconds of each.
ROUNDS, SECONDS = (1, 1) if proving.QUICK else (5, 3)


def compare(*arguments, stacks=("ours", "bare"), rounds=ROUNDS, seconds=SECONDS, more=()):
    """The turns of each stack, by its name. msgtrans takes part where it is named."""
    peer = ("--msgtrans", msgtrans()) if "msgtrans" in stacks else ()
    said = proving.bench(
        "transport", *arguments, "--stacks", ",".join(stacks), "--rounds", rounds, "--seconds", seconds, *peer, *more
    )
    return said["stacks"]


def readings(turns, key):
    return [turn[key] for turn in turns]


def ratio(stacks, key, of="bare", ours="ours"):
    """The median of the ratios within each round, and how far they spread."""
    return proving.ratios(readings(stacks[ours], key), readings(stacks[of], key))


def middle(stacks, stack, key):
    return proving.statistics.median(readings(stacks[stack], key))


def said(stacks, key, unit, scale=1):
    """What each stack had, in words."""
    each = (f"{name} {proving.rounded(middle(stacks, name, key) / scale)}" for name in stacks)
    return f"{', '.join(each)} {unit}"


def check(test, **sizes):
    """Runs a test of crates/trunkline/tests/transport, the same as in ./test, built for release and at this size. What it
    told, by name; nothing where it failed."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    profile = os.environ.get("PROFILE", "release")
    command = ["cargo", "test", "--quiet", "--profile", profile, "-p", "trunkline", "--test", "transport", test]
    environment = {**os.environ, **{name: str(size) for name, size in sizes.items()}}
    ran = subprocess.run(
        [*command, "--", "--nocapture"], cwd=proving.ROOT, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    if ran.returncode != 0:
        print("\n".join((ran.stdout + ran.stderr).splitlines()[-40:]), file=sys.stderr)
        return {}
    # A test that has just ended is a dot before what another one says.
    said = (line.lstrip(".") for line in ran.stdout.splitlines())
    lines = (line.split(" ", 2) for line in said if line.startswith("reading "))
    return {name: value for _, name, value in lines}


def failed(what, limit):
    """The row of a check that did not come to its readings."""
    proving.row(what, "the check failed: its words stand above", limit, False)


def msgtrans():
    """The msgtrans peer, built in its own workspace if it is not there."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", proving.ROOT / "target")) / "peers" / "msgtrans"
    manifest = proving.ROOT / "tests/peers/msgtrans/Cargo.toml"
    build = ["cargo", "build", "--quiet", "--release", "--locked", "--manifest-path", manifest, "--target-dir", target]
    subprocess.run(build, check=True, stdin=subprocess.DEVNULL, stdout=sys.stderr)
    return target / "release" / "msgtrans-peer"


class Peer:
    """A peer that is told what to do, line by line."""

    def __init__(self, *command):
        self.running = subprocess.Popen(
            [str(word) for word in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def line(self):
        line = self.running.stdout.readline().strip()
        if not line:
            raise SystemExit("a peer has ended: its errors stand above")
        return line

    def tell(self, what):
        self.running.stdin.write(what + "\n")
        self.running.stdin.flush()

    def end(self):
        """It ends by itself when its input does."""
        self.running.stdin.close()
        self.running.wait(60)


@contextlib.contextmanager
def peer(*command):
    started = Peer(*command)
    try:
        yield started
    finally:
        if started.running.poll() is None:
            started.running.kill()
            started.running.wait()


def serve_command(stack, folder):
    if stack == "msgtrans":
        return msgtrans(), "bench-serve", "tcp", folder
    how = ("--stack", stack, "--protocol", "tcp", "--pattern", "request")
    return proving.TRUNKLINE, "bench", "transport-peer", "serve", *how, "--at", "127.0.0.1:0"


def requests(stack, count, *under):
    """Has a server under some program answer so many requests of one connection over TCP. The client is bare."""
    with peer(*under, *serve_command(stack, certificate())) as server:
        address = server.line()
        # msgtrans says its address before it listens there.
        proving.until(f"{stack} listens", lambda: listens(address))
        how = ("--stack", "bare", "--protocol", "tcp", "--pattern", "request")
        load = (proving.TRUNKLINE, "bench", "transport-peer", "load", *how, "--server", address)
        with peer(*load, "--connections", 1, "--size", 64, "--count", count) as client:
            client.line()
            client.tell("go")
            client.line()
            client.end()
        server.end()


def listens(address):
    host, port = address.rsplit(":", 1)
    with contextlib.suppress(OSError), socket.create_connection((host, int(port)), 5):
        return True
    return False


def certificate():
    """A folder with a certificate, which the msgtrans peer wants to see even over TCP."""
    folder = proving.WORK / "certificate"
    folder.mkdir(exist_ok=True)
    for name in ("certificate.pem", "key.pem"):
        (folder / name).touch()
    return folder


def each_request(stack, counted, *under):
    """What one request costs: the difference of two runs, so that starting and ending do not count."""
    few, many = (200, 1200) if proving.QUICK else (1000, 11000)
    totals = []
    for count in (few, many):
        requests(stack, count, *under)
        totals.append(counted())
    return (totals[1] - totals[0]) / (many - few)
