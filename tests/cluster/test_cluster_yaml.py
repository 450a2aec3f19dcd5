"""cluster.yaml without a cloud: Ray's schema, botocore's for each node, and a boot on a simulated AWS."""

from __future__ import annotations

import copy
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent.parent
TEXT = (ROOT / "cluster.yaml").read_text(encoding="utf-8")
pytestmark = pytest.mark.slow


@pytest.fixture
def config() -> dict[str, Any]:
    return yaml.safe_load(TEXT)


def nodes(config: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [(name, kind["node_config"]) for name, kind in config["available_node_types"].items()]


def faults(node: dict[str, Any]) -> str:
    """What EC2's own interface description holds against a node_config."""
    import botocore.session
    from botocore.validate import ParamValidator

    model = botocore.session.get_session().get_service_model("ec2")
    wanted = model.operation_model("RunInstances").input_shape
    found = ParamValidator().validate({**node, "MinCount": 1, "MaxCount": 1}, wanted).generate_report()
    types = wanted.members["InstanceType"].enum
    return found if node["InstanceType"] in types else f"{found} no instance type {node['InstanceType']}"


def validate(config: dict[str, Any]) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(copy.deepcopy(config)))


def test_ray_accepts_the_file(config: dict[str, Any]) -> None:
    validate(config)


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        ({"max_wokers": 4}, "max_wokers"),
        ({"head_node_type": "haed"}, "head_node_type"),
        ({"idle_timeout_minutes": "ten"}, "ten"),
    ],
)
def test_ray_refuses_a_spoiled_file(config: dict[str, Any], spoil: dict[str, Any], complaint: str) -> None:
    with pytest.raises(Exception, match=complaint):
        validate(config | spoil)


def test_ec2_accepts_each_node(config: dict[str, Any]) -> None:
    assert {name: faults(node) for name, node in nodes(config)} == {"head": "", "gpu": ""}


@pytest.mark.parametrize(
    "spoil",
    [
        {"InstanceTyp": "g5.12xlarge"},
        {"InstanceType": "g5.13xlarge"},
        {"MetadataOptions": {"HttpToken": "x"}},
    ],
)
def test_ec2_refuses_a_typo_in_a_node(config: dict[str, Any], spoil: dict[str, Any]) -> None:
    for _, node in nodes(config):
        assert faults(node | spoil)


def test_the_head_runs_no_jobs_and_workers_start_at_none(config: dict[str, Any]) -> None:
    head, gpu = (config["available_node_types"][name] for name in ("head", "gpu"))
    assert head["resources"]["CPU"] == 0
    assert "InstanceMarketOptions" not in head["node_config"]
    assert gpu["min_workers"] == 0
    assert gpu["max_workers"] == config["max_workers"]


def test_what_is_mounted_and_installed_is_there(config: dict[str, Any]) -> None:
    mounted = [local for local in config["file_mounts"].values() if not local.startswith("~")]
    assert all((ROOT / local).exists() for local in mounted)
    from importlib.metadata import metadata

    assert "aws" in metadata("efface").get_all("Provides-Extra", [])


def test_no_port_is_opened_but_on_loopback(config: dict[str, Any]) -> None:
    starts = " ".join([*config["head_start_ray_commands"], *config["worker_start_ray_commands"]])
    assert re.findall(r"--dashboard-host=(\S+)", starts) == ["127.0.0.1"]
    assert "RAY_AUTH_MODE=token" in " ".join(config["setup_commands"])
    assert "IpPermissions" not in config["provider"]["security_group"]


def test_every_command_is_valid_shell(config: dict[str, Any]) -> None:
    keys = [
        "initialization_commands",
        "setup_commands",
        "head_start_ray_commands",
        "worker_start_ray_commands",
    ]
    for command in [command for key in keys for command in config[key]]:
        assert subprocess.run(["bash", "-n", "-c", command], capture_output=True).returncode == 0, command


def test_the_policies_in_the_comments_are_json() -> None:
    lines = "\n".join(line[1:] for line in TEXT.splitlines() if line.startswith("#"))
    found = [json.loads(policy) for policy in re.findall(r"'(\{.*?\]\})'", lines, re.DOTALL)]
    assert len(found) == 3
    assert all(policy["Version"] == "2012-10-17" and policy["Statement"] for policy in found)


# -------------------- a simulated AWS


@pytest.fixture
def aws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("HOME", str(tmp_path))  # Ray leaves a key in ~/.ssh
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-west-2")
    from moto import mock_aws

    with mock_aws():
        yield


def test_the_file_boots_on_a_simulated_aws(aws: None, config: dict[str, Any]) -> None:
    import boto3
    from ray.autoscaler._private.aws.config import bootstrap_aws
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
    from ray.autoscaler._private.util import prepare_config

    prepared = prepare_config(copy.deepcopy(config))
    for kind in prepared["available_node_types"].values():  # moto knows no public parameters
        kind["node_config"]["ImageId"] = "ami-12c6146b"
    stated = copy.deepcopy(prepared["available_node_types"]["gpu"]["resources"])
    prepared["available_node_types"]["gpu"]["resources"] = {}
    booted = bootstrap_aws(AWSNodeProvider.fillout_available_node_types_resources(prepared))
    gpu = booted["available_node_types"]["gpu"]
    assert {name: gpu["resources"][name] for name in stated} == stated  # as AWS describes the instance type
    assert booted["available_node_types"]["head"]["resources"]["CPU"] == 0
    assert gpu["node_config"]["SubnetIds"] and gpu["node_config"]["KeyName"]
    groups = boto3.client("ec2").describe_security_groups(GroupIds=gpu["node_config"]["SecurityGroupIds"])
    world = [rule for rule in groups["SecurityGroups"][0]["IpPermissions"] if rule["IpRanges"]]
    assert [(rule["FromPort"], rule["ToPort"]) for rule in world] == [(22, 22)]
