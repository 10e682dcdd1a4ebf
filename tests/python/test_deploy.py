"""What deploy/ has, as its users load it: Prometheus reads rules and metrics, the dashboard's expressions have answers."""

import configparser
import json
import os
import pathlib
import re
import shlex
import socket
import subprocess
import time
import urllib.parse
import urllib.request

import pytest
import yaml
from conftest import BINARY, DEADLINE, Node

DEPLOY = pathlib.Path(__file__).parents[2] / "deploy"
RULES = DEPLOY / "prometheus" / "alerts.yml"
OURS = re.compile(r"\b(?:trunkline|process|gatesvr)_[a-z_]+")


def promtool(*arguments, **how):
    return subprocess.run(["promtool", *arguments], capture_output=True, text=True, timeout=DEADLINE * 2, **how)


def get(url):
    with urllib.request.urlopen(url, timeout=DEADLINE) as answer:
        return answer.read().decode()


def rules():
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def dashboard():
    return json.loads((DEPLOY / "grafana" / "trunkline.json").read_text())


def panels():
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def expressions():
    """Every expression of the dashboard, with what Grafana puts into it."""
    for panel in panels():
        for target in panel["targets"]:
            expression = target["expr"].replace("$__rate_interval", "1m").replace("$instance", ".*")
            assert "$" not in expression, expression
            yield panel["title"], expression


def test_the_rules_are_right_and_each_one_fires():
    for what in (["check", "rules", RULES], ["check", "config", RULES.with_name("prometheus.yml")]):
        checked = promtool(*what, cwd=RULES.parent)
        assert checked.returncode == 0, checked.stdout + checked.stderr
    tests = RULES.with_name("alerts.test.yml")
    tested = promtool("test", "rules", tests.name, cwd=RULES.parent)
    assert tested.returncode == 0, tested.stdout + tested.stderr
    fired = {
        case["alertname"]
        for test in yaml.safe_load(tests.read_text())["tests"]
        for case in test["alert_rule_test"]
        if case["exp_alerts"]
    }
    assert fired == {rule["alert"] for rule in rules()}, "a rule is not shown to fire"
    for rule in rules():
        assert rule["labels"]["severity"] in ("critical", "warning", "info"), rule
        assert rule["annotations"]["summary"] and rule["annotations"]["description"], rule


def test_a_rule_that_cannot_fire_is_noticed(tmp_path):
    """The proof above can fail: with another threshold the rule's test does."""
    text = RULES.read_text()
    broken = text.replace("trunkline_ready == 0", "trunkline_ready == 7")
    assert broken != text
    (tmp_path / "alerts.yml").write_text(broken)
    (tmp_path / "alerts.test.yml").write_text(RULES.with_name("alerts.test.yml").read_text())
    assert promtool("test", "rules", "alerts.test.yml", cwd=tmp_path).returncode != 0


def test_rules_and_dashboard_name_only_what_a_node_has(open_node):
    host, port = open_node.address("metrics")
    text = get(f"http://{host}:{port}/metrics")
    families = set(re.findall(r"^# TYPE (\S+)", text, re.M))
    known = families | {f"{name}_{end}" for name in families for end in ("bucket", "sum", "count")}
    used = [rule["expr"] for rule in rules()] + [expression for _, expression in expressions()]
    used += [dashboard()["templating"]["list"][1]["query"]["query"]]
    named = {name for expression in used for name in OURS.findall(expression)}
    assert len(named) > 30, "the pattern finds too little"
    assert named <= known, f"no node has {sorted(named - known)}"
    # A label that is asked for has this value.
    for expression in used:
        for label, value in re.findall(r'(state|code|reason|protocol)="([a-z_]+)"', expression):
            assert f'{label}="{value}"' in text, expression
    # What is not as Prometheus wants it are names that GateSvr gave.
    lint = promtool("check", "metrics", input=text)
    complaints = [line for line in (lint.stdout + lint.stderr).splitlines() if line and not line.startswith("gatesvr_")]
    assert not complaints, complaints


def test_the_dashboard_is_whole():
    board = dashboard()
    assert board["title"] and board["uid"] and board["schemaVersion"] >= 36
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)
    taken = set()
    for panel in board["panels"]:
        at = panel["gridPos"]
        assert 0 <= at["x"] and at["x"] + at["w"] <= 24, panel["title"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, f"{panel['title']} lies over another panel"
        taken |= cells
    for panel in panels():
        assert panel["title"] and panel["targets"] and panel["fieldConfig"]["defaults"]["unit"], panel
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"]), panel["title"]


def test_prometheus_scrapes_a_node_and_answers_every_expression(open_node, tmp_path):
    metrics = "{}:{}".format(*open_node.address("metrics"))
    config = yaml.safe_load(RULES.with_name("prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "200ms", "scrape_timeout": "200ms", "evaluation_interval": "1s"}
    config["rule_files"] = [str(RULES)]
    config["scrape_configs"][0]["static_configs"][0]["targets"] = [metrics]
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        own = "127.0.0.1:{}".format(free.getsockname()[1])
    log = open(tmp_path / "prometheus.log", "w+")
    command = ["prometheus", "--config.file", tmp_path / "prometheus.yml", "--web.listen-address", own]
    command += ["--storage.tsdb.path", tmp_path / "tsdb"]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def ask(path, **query):
        url = f"http://{own}/api/v1/{path}?" + urllib.parse.urlencode(query)
        answer = json.loads(get(url))
        assert answer["status"] == "success", answer
        return answer["data"]

    try:
        until = time.monotonic() + DEADLINE
        missing = dict.fromkeys(expressions())
        while missing:
            assert process.poll() is None, (tmp_path / "prometheus.log").read_text()
            assert time.monotonic() < until, f"no answer to {list(missing)}"
            try:
                # A rate needs two scrapes: expressions are asked until they have an answer.
                missing = {one: None for one in missing if not ask("query", query=one[1])["result"]}
            except (ConnectionError, urllib.error.URLError):
                pass
            time.sleep(0.2)
        target = ask("targets")["activeTargets"][0]
        assert target["health"] == "up", target
        groups = ask("rules")["groups"]
        loaded = {rule["name"]: rule for group in groups for rule in group["rules"]}
        assert set(loaded) == {rule["alert"] for rule in rules()}
        assert not [rule for rule in loaded.values() if rule.get("lastError")], loaded
    finally:
        process.kill()
        process.wait()
        log.close()


def test_the_unit_starts_a_node_and_says_when_it_serves(tmp_path):
    unit = configparser.ConfigParser(strict=False, interpolation=None, delimiters=("=",))
    unit.optionxform = str
    unit.read(DEPLOY / "systemd" / "trunkline.service")
    service = unit["Service"]
    assert service["Type"] == "notify" and service["ExecReload"].endswith("-HUP $MAINPID")
    drain = re.search(r"\| `drain` \| `\"(\d+)s\"`", (DEPLOY.parent / "docs" / "configuration.md").read_text())
    assert int(service["TimeoutStopSec"].removesuffix("s")) > int(drain[1]), "systemd would cut the drain"
    program, *arguments = shlex.split(service["ExecStart"])
    assert pathlib.Path(program).name == BINARY.name
    etc, var = tmp_path / "etc", tmp_path / "var"
    etc.mkdir()
    ports = "\n".join(f'{name} = "127.0.0.1:0"' for name in ("http", "tcp", "quic", "grpc", "metrics"))
    (etc / "trunkline.toml").write_text(f"[listen]\n{ports}\n")
    moved = [word.replace("/etc/trunkline", str(etc)).replace("/var/lib/trunkline", str(var)) for word in arguments]
    assert moved != arguments
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.bind(str(tmp_path / "notify"))
    manager.settimeout(DEADLINE)
    log = open(tmp_path / "log", "w+")
    environment = {**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify")}
    process = subprocess.Popen([BINARY, *moved], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)
    try:
        assert manager.recv(4096).strip() == b"READY=1", (tmp_path / "log").read_text()
        process.terminate()
        assert manager.recv(4096).strip() == b"STOPPING=1"
        assert process.wait(DEADLINE) == 0
    finally:
        process.kill()
        log.close()
