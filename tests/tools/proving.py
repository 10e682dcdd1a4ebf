"""What the items of ./prove in Python share: figures, the binary's own bench, nodes, peers, rounds.

An item finds the binary in $TRUNKLINE, a folder of its own in $WORK, QUICK=1 for the quick form, and the file for its
figures in $FIGURES. What tests/tools/figures.sh is for items in bash, this is here.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

QUICK = os.environ["QUICK"] == "1"
WORK = Path(os.environ["WORK"])
TRUNKLINE = os.environ["TRUNKLINE"]
ROOT = Path(__file__).resolve().parents[2]
SURFACES = ("http", "tcp", "quic", "grpc", "metrics")


def row(what, reading, limit, passed):
    """Writes one figure down, in words."""
    with open(os.environ["FIGURES"], "a") as figures:
        figures.write(f"{what}\t{reading}\t{limit}\t{'pass' if passed else 'fail'}\n")


def figure(what, reading, unit, at_least=None, at_most=None, goal=None, note=""):
    """Writes one figure down. The floor decides, the goal is what we are after; without a floor nothing is decided."""
    unit = f" {unit}" if unit else ""
    aim = "" if goal is None else f" (goal {goal})"
    if at_least is not None:
        limit, passed = f"at least {at_least}{unit}{aim}", reading >= at_least
    elif at_most is not None:
        limit, passed = f"at most {at_most}{unit}{aim}", reading <= at_most
    else:
        limit, passed = f"none{aim}", True
    row(what, f"{rounded(reading)}{unit}{note and f'; {note}'}", limit, passed)


def rounded(number):
    return f"{number:.0f}" if abs(number) >= 100 else f"{number:.3g}"


def bench(*arguments, check=True, **more):
    """Runs `trunkline bench` and answers its report."""
    command = [TRUNKLINE, "bench", *map(str, arguments), "--json"]
    ran = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, **more)
    if ran.returncode != 0 and check:
        raise SystemExit(f"{' '.join(command)} ended with {ran.returncode}: {ran.stderr.strip()} {ran.stdout.strip()}")
    report = json.loads(ran.stdout) if ran.stdout.strip() else {}
    cores = " ".join(f"{name} {report.get(f'{name}_cores') or 0:.2f}" for name in ("generator", "server", "others"))
    print(f"  {' '.join(command[2:-1])}: {report.get('limit')} is the limit ({cores})", file=sys.stderr)
    return report


def interleaved(rounds, **ways):
    """Runs every way once a round, in turns, and answers the readings of each by its name."""
    readings = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            readings[name].append(way())
    return readings


def ratios(ours, theirs):
    """The median of the ratios within each round, and how far they spread."""
    each = [a / b for a, b in zip(ours, theirs)]
    return statistics.median(each), f"{rounded(min(each))} to {rounded(max(each))} in {len(each)} rounds"


def need(command, package):
    """Installs a Debian package where its command is missing."""
    if shutil.which(command):
        return
    with open(WORK / "apt.log", "w") as log:
        tools = f"tools={WORK}; say() {{ :; }}; . tests/tools/packages.sh; need {command} {package}"
        subprocess.run(["bash", "-c", tools], cwd=ROOT, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    if not shutil.which(command):
        raise SystemExit(f"{command} is missing: install the Debian package {package}")


@contextlib.contextmanager
def process(*command, said=None, **more):
    """A process that ends with the block. `said`: it is waited for a line of its output, which is its `told`."""
    log = open(WORK / f"{Path(command[0]).name}.log", "a")
    stdout = subprocess.PIPE if said else log
    running = subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL, stdout=stdout, stderr=log, text=True, **more)
    try:
        if said:
            running.told = running.stdout.readline().strip()
            if not running.told:
                raise SystemExit(f"{command[0]} does not start: see {log.name}: {Path(log.name).read_text()[-800:]}")
        yield running
    finally:
        if running.poll() is None:
            running.terminate()
            try:
                running.wait(40)
            except subprocess.TimeoutExpired:
                running.kill()
                running.wait()
        log.close()


@contextlib.contextmanager
def node(name="node", config="", *flags):
    """A node on free ports; `surfaces` has their addresses, `data` its data directory."""
    data, ready, file = WORK / name, WORK / f"{name}.json", WORK / f"{name}.toml"
    file.write_text(config)
    ready.unlink(missing_ok=True)
    free = [word for surface in SURFACES for word in (f"--{surface}", "127.0.0.1:0") if f"--{surface}" not in flags]
    command = [TRUNKLINE, "serve", "--config", file, "--data-dir", data, "--ready-file", ready, *free, *flags]
    with process(*command) as running:
        deadline = time.monotonic() + 30
        while not ready.exists():
            if running.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"the node does not serve: {(WORK / 'trunkline.log').read_text()[-2000:]}")
            time.sleep(0.01)
        running.surfaces, running.data = json.loads(ready.read_text()), data
        yield running


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def redis():
    """Redis, with nothing written to disk and no limit on what a slow subscriber may hold; its URL and process."""
    need("redis-server", "redis-server")
    port = free_port()
    options = {"port": port, "bind": "127.0.0.1", "save": "", "appendonly": "no", "maxclients": 15000, "dir": WORK}
    command = [word for name, value in options.items() for word in (f"--{name}", value)]
    with process("redis-server", *command, "--client-output-buffer-limit", "pubsub", 0, 0, 0) as running:
        deadline = time.monotonic() + 20
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1) as probe:
                probe.sendall(b"PING\r\n")
                if probe.recv(64).startswith(b"+PONG"):
                    break
            if running.poll() is not None or time.monotonic() > deadline:
                raise SystemExit("redis-server does not answer")
            time.sleep(0.02)
        yield f"redis://127.0.0.1:{port}", running.pid


@contextlib.contextmanager
def uwebsockets():
    """uWebSockets as a room; its URL and process."""
    need("node", "nodejs"), need("npm", "npm")
    packages = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "test-tools" / "peers"
    wanted = "uwebsockets@3.0.6"
    if not (packages / "node_modules" / "uwebsockets").exists():
        packages.mkdir(parents=True, exist_ok=True)
        install = ["npm", "install", "--prefix", packages, "--no-audit", "--no-fund", "--loglevel=error", wanted]
        subprocess.run(install, check=True, stdin=subprocess.DEVNULL, stdout=sys.stderr)
    environment = {**os.environ, "NODE_PATH": str(packages / "node_modules")}
    with process("node", ROOT / "tests/peers/uwebsockets.cjs", said=True, env=environment) as running:
        yield f"ws://127.0.0.1:{running.told}", running.pid


@contextlib.contextmanager
def slow_upstream(node, delay_ms, in_flight):
    """An upstream that takes so long over each call and so many at once; `most` is how many it had, after the block.
    `be` makes it another: so slow, and so many of a hundred calls fail."""
    options = ("--gateway", node.surfaces["grpc"], "--delay-ms", delay_ms, "--in-flight", in_flight)
    command = [TRUNKLINE, "bench", "upstream", *map(str, options)]
    running = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def be(delay_ms, failing):
        running.stdin.write(f"{delay_ms} {failing}\n")
        running.stdin.flush()

    running.be = be
    try:
        if not running.stdout.readline().strip():
            raise SystemExit("the upstream could not register")
        yield running
        running.stdin.close()
        running.most = int(running.stdout.read().split()[-1])
    finally:
        running.kill()
        running.wait()


@contextlib.contextmanager
def example_upstream(node):
    """The example upstream, for all zones."""
    program = Path(TRUNKLINE).parent / "upstream-example"
    command = (program, "--addr", f"127.0.0.1:{free_port()}", "--gateway", node.surfaces["grpc"])
    with process(*command, said=True) as running:
        yield running


def get(node, path, surface="metrics"):
    """What a node's HTTP or metrics surface answers."""
    with urllib.request.urlopen(f"http://{node.surfaces[surface]}{path}", timeout=10) as answer:
        return answer.read().decode()


def status(node):
    return json.loads(get(node, "/api/status"))


def until(what, condition, seconds=30):
    """Waits until a condition holds; answers how long that took."""
    begun = time.monotonic()
    while not condition():
        if time.monotonic() - begun > seconds:
            raise SystemExit(f"{what}: not within {seconds} s")
        time.sleep(0.01)
    return time.monotonic() - begun


def resident(pid):
    """Resident memory of a process, in bytes."""
    with open(f"/proc/{pid}/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


def descriptors(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def background(*arguments):
    """`trunkline bench` that runs beside other things; `.report()` waits for it."""
    command = [TRUNKLINE, "bench", *map(str, arguments), "--json"]
    running = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def report():
        said, errors = running.communicate()
        if not said.strip():
            raise SystemExit(f"{' '.join(command)} ended with {running.returncode}: {errors}")
        return json.loads(said)

    running.report = report
    return running


class Session:
    """A session over TCP that reads nothing unless it is told to: the few frames of it that a measurement needs."""

    def __init__(self, node, user, token, buffer=0, device="prove"):
        self.socket = socket.socket()
        if buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        host, port = node.surfaces["tcp"].rsplit(":", 1)
        self.socket.connect((host.strip("[]"), int(port)))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.settimeout(20)
        self.unread = b""
        start = field(1, user.encode()) + field(2, token.encode()) + number(20, 1) + field(18, device.encode())
        self.send(1, 1, start)
        self.frame()

    def send(self, msg_id, kind, payload):
        frame = number(1, msg_id) + number(3, kind) + field(4, payload)
        self.socket.sendall(len(frame).to_bytes(4, "big") + frame)

    def frame(self):
        """The next frame, undecoded."""
        while len(self.unread) < 4 or len(self.unread) < 4 + int.from_bytes(self.unread[:4], "big"):
            came = self.socket.recv(65536)
            if not came:
                raise SystemExit("the node closed a session")
            self.unread += came
        end = 4 + int.from_bytes(self.unread[:4], "big")
        frame, self.unread = self.unread[4:end], self.unread[end:]
        return frame

    def subscribe(self, channel):
        self.send(2, 16, field(1, channel.encode()))
        self.frame()

    def heartbeat(self):
        """How long a heartbeat's answer takes, in seconds."""
        begun = time.monotonic()
        self.send(3, 3, number(1, 1))
        self.frame()
        return time.monotonic() - begun

    def is_open(self):
        """Whether the node has not ended the connection: looked at without reading."""
        # TCP_INFO begins with the state (linux/tcp.h); 1 is established.
        return self.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == 1

    def close(self):
        self.socket.close()


def varint(value):
    out = b""
    while value >= 0x80:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def number(tag, value):
    return varint(tag << 3) + varint(value)


def field(tag, value):
    return varint(tag << 3 | 2) + varint(len(value)) + value


def token(node, user):
    rights = ("--right", "bench:*=subscribe,publish,history")
    command = [TRUNKLINE, "token", "--data-dir", node.data, "--user", user, "--ttl", "2h", *rights]
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, check=True).stdout.strip()


def quantile(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * share))]


def interrupted(*_):
    raise SystemExit("interrupted")


signal.signal(signal.SIGTERM, interrupted)
