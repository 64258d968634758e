"""What is in `monitoring/`, as far as it takes no Prometheus to see."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

from ackline.server.configuration import load_options

MONITORING = Path(__file__).parents[1] / "monitoring"


def load(name: str) -> Any:
    return yaml.safe_load((MONITORING / name).read_text())


def test_alerts_say_what_they_mean_and_what_to_do() -> None:
    rules = [
        rule for group in load("ackline.rules.yml")["groups"] for rule in group["rules"]
    ]
    alerts = {rule["alert"]: rule for rule in rules if "alert" in rule}
    assert len(alerts) > 5
    for name, alert in alerts.items():
        assert alert["labels"]["severity"] in {"critical", "warning", "info"}, name
        assert "$labels.instance" in alert["annotations"]["summary"], name
        assert len(alert["annotations"]["description"]) > 80, name
    table = (MONITORING / "README.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    assert sorted(rows) == sorted(alerts)


def test_panels_say_what_they_show_and_in_which_unit() -> None:
    board = json.loads((MONITORING / "grafana" / "ackline.json").read_text())
    shown = [panel for panel in board["panels"] if panel.get("targets")]
    titles = [panel["title"] for panel in shown]
    assert len(set(titles)) == len(titles) > 10
    for panel in shown:
        assert panel["fieldConfig"]["defaults"].get("unit"), panel["title"]
        if len(panel["targets"]) > 1:
            legends = [target.get("legendFormat") for target in panel["targets"]]
            assert all(legends), panel["title"]
            assert len(set(legends)) == len(legends), panel["title"]


def test_compose_mounts_what_is_there_and_nothing_listens_to_others() -> None:
    compose = load("compose.yaml")
    services = compose["services"]
    assert set(services) == {"server", "prometheus", "grafana"}
    for service in services.values():
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            if source.startswith("./"):
                assert (MONITORING / source).exists(), volume
            else:
                assert source in compose["volumes"], volume
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        assert set(service.get("depends_on", ())) <= set(services)


def test_the_server_of_the_compose_file_takes_its_flags() -> None:
    command = load("compose.yaml")["services"]["server"]["command"]
    flags = dict(word.removeprefix("--").split("=", 1) for word in command)
    options = load_options(
        flags={name.replace("-", "_"): value for name, value in flags.items()},
        environment={},
        file=None,
    )
    assert options.allow_anonymous
    assert options.data_dir == Path("/data")


def test_prometheus_scrapes_the_server_of_the_compose_file() -> None:
    (job,) = load("prometheus.yml")["scrape_configs"]
    ((target,),) = [each["targets"] for each in job["static_configs"]]
    server = load("compose.yaml")["services"]["server"]
    host, port = target.split(":")
    assert host == "server"
    assert f"--metrics=0.0.0.0:{port}" in server["command"]
