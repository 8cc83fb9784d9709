"""`ray up clusters/a100.yaml` against a mock of AWS on loopback: what it would make, read back.

The mock's instances have made-up public addresses, and nothing may ever be sent to them: the ssh and rsync that Ray
finds first only write down what they were asked, and fail.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import s3fs
import yaml
from botocore.exceptions import ClientError

from effir_dist.core.storage import exists, remove, written_locally
from effir_dist.runs.run_folder import Run
from tests import ROOT
from tests.bucket import CREDENTIALS, s3_server
from tests.synthetic import record

pytestmark = pytest.mark.slow
STAND_IN = '#!/bin/sh\necho "$(basename "$0") $*" >> "$STAND_IN_LOG"\nexit 255\n'


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment in which AWS is the mock, home is empty and nothing leaves this machine."""
    folder = tmp_path_factory.mktemp("aws")
    (folder / "bin").mkdir()
    for name in ("ssh", "rsync", "scp"):
        (folder / "bin" / name).write_text(STAND_IN)
        (folder / "bin" / name).chmod(0o755)
    (folder / ".ray").mkdir()
    (folder / ".ray" / "auth_token").write_text("0" * 64)
    with s3_server(folder / "log", MOTO_IAM_LOAD_MANAGED_POLICIES="true") as address:
        yield {
            **os.environ,
            **CREDENTIALS,
            "AWS_ENDPOINT_URL": address,
            "HOME": str(folder),
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
            "STAND_IN_LOG": str(folder / "asked"),
            "AUTOSCALER_NODE_START_WAIT_S": "5",
        }


def client(aws: dict[str, str], service: str) -> Any:
    keys = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing"}
    return boto3.client(service, region_name="us-east-1", endpoint_url=aws["AWS_ENDPOINT_URL"], **keys)


@pytest.fixture(scope="module")
def cluster_file(aws: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """clusters/a100.yaml, edited as its header says."""
    image = client(aws, "ec2").describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
    text = (ROOT / "clusters" / "a100.yaml").read_text()
    assert "ami-EDIT-ME" in text
    path = tmp_path_factory.mktemp("cluster") / "a100.yaml"
    path.write_text(text.replace("ami-EDIT-ME", image).replace("EDIT-ME", "a-bucket"))
    return path


@pytest.fixture(scope="module")
def up(aws: dict[str, str], cluster_file: Path) -> str:
    """What `ray up` printed. It ends at the head's ssh, which the stand-in refuses."""
    command = [str(Path(sys.executable).parent / "ray"), "up", "-y", "--no-config-cache", str(cluster_file)]
    done = subprocess.run(command, cwd=ROOT, env=aws, capture_output=True, text=True, timeout=1200)
    assert done.returncode != 0
    return done.stdout + done.stderr


def instances(aws: dict[str, str]) -> list[dict[str, Any]]:
    found = client(aws, "ec2").describe_instances()["Reservations"]
    return [instance for reservation in found for instance in reservation["Instances"]]


def tags(instance: dict[str, Any]) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in instance["Tags"]}


def test_the_head_is_an_on_demand_machine_without_gpus(aws: dict[str, str], up: str) -> None:
    (head,) = [i for i in instances(aws) if tags(i)["ray-node-type"] == "head"]
    assert tags(head)["ray-cluster-name"] == "effir-a100", up
    assert head["InstanceType"] == "m6i.2xlarge"
    assert "InstanceLifecycle" not in head
    assert head["Placement"]["AvailabilityZone"].startswith("us-east-1")
    volume = client(aws, "ec2").describe_volumes()["Volumes"][0]
    assert (volume["Size"], volume["VolumeType"]) == (300, "gp3")


def test_its_role_reaches_machines_and_buckets(aws: dict[str, str], up: str) -> None:
    (head,) = [i for i in instances(aws) if tags(i)["ray-node-type"] == "head"]
    iam = client(aws, "iam")
    profile = iam.get_instance_profile(InstanceProfileName="ray-autoscaler-v1")["InstanceProfile"]
    assert head["IamInstanceProfile"]["Arn"] == profile["Arn"]
    (role,) = profile["Roles"]
    policies = iam.list_attached_role_policies(RoleName=role["RoleName"])["AttachedPolicies"]
    assert {p["PolicyName"] for p in policies} >= {"AmazonEC2FullAccess", "AmazonS3FullAccess"}


@pytest.fixture(scope="module")
def workers(aws: dict[str, str], up: str) -> str:
    """The workers' role, made by the template that the headers name; its ARN."""
    template = (ROOT / "clusters" / "aws-workers.json").read_text()
    client(aws, "s3").create_bucket(Bucket="runs")
    client(aws, "cloudformation").create_stack(
        StackName="effir-dist-workers",
        TemplateBody=template,
        Parameters=[{"ParameterKey": "Bucket", "ParameterValue": "runs"}],
        Capabilities=["CAPABILITY_NAMED_IAM"],
    )
    return str(client(aws, "iam").get_role(RoleName="effir-dist-worker")["Role"]["Arn"])


def inline_policy(aws: dict[str, str], role: str, policy: str) -> dict[str, Any]:
    """The mock keeps a template's policy as Python writes it."""
    document = client(aws, "iam").get_role_policy(RoleName=role, PolicyName=policy)["PolicyDocument"]
    found: dict[str, Any] = ast.literal_eval(str(document))
    return found


@pytest.mark.parametrize("name", ["a100.yaml", "h100.yaml"])
def test_the_headers_command_lets_rays_role_start_workers_with_theirs(
    name: str, aws: dict[str, str], workers: str
) -> None:
    """Ray's role may not: without that command no worker would ever start."""
    header = (ROOT / "clusters" / name).read_text()
    assert "cloudformation deploy --stack-name effir-dist-workers --template-file clusters/aws-workers.json" in header
    (allowed,) = inline_policy(aws, "ray-autoscaler-v1", "effir-dist-start-workers")["Statement"]
    assert allowed == {"Effect": "Allow", "Action": "iam:PassRole", "Resource": workers}


@pytest.fixture
def a_workers_keys(aws: dict[str, str], workers: str) -> Iterator[dict[str, str]]:
    """Keys of the workers' role, in a mock that refuses what a role may not do."""
    policy = json.dumps(inline_policy(aws, "effir-dist-worker", "runs"))
    client(aws, "iam").put_role_policy(RoleName="effir-dist-worker", PolicyName="runs", PolicyDocument=policy)
    client(aws, "s3").create_bucket(Bucket="another")
    got = client(aws, "sts").assume_role(RoleArn=workers, RoleSessionName="worker")["Credentials"]
    names = {"aws_access_key_id": "AccessKeyId", "aws_secret_access_key": "SecretAccessKey"}
    refuse_after(aws, "0")
    yield {name: got[key] for name, key in {**names, "aws_session_token": "SessionToken"}.items()}
    refuse_after(aws, "inf")


def refuse_after(aws: dict[str, str], requests: str) -> None:
    address = f"{aws['AWS_ENDPOINT_URL']}/moto-api/reset-auth"
    asked = urllib.request.Request(address, requests.encode(), {"Content-Type": "text/plain"}, method="POST")
    urllib.request.urlopen(asked).close()


def test_a_worker_keeps_a_run_in_the_bucket_and_may_do_nothing_else(
    aws: dict[str, str], a_workers_keys: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", aws["AWS_ENDPOINT_URL"])
    for name, value in a_workers_keys.items():
        monkeypatch.setenv(name.upper(), value)
    s3fs.S3FileSystem.clear_instance_cache()
    run = Run.create("s3://runs/name", {}, {})
    with written_locally(run.folder / "weights") as local:
        local.write_bytes(bytes(60 << 20))  # in several parts
    run.write_result(record(0, 0.5))
    assert [found.trial for found in run.results()] == [record(0, 0.5).trial]
    remove(run.folder / "weights")
    assert not exists(run.folder / "weights")
    s3fs.S3FileSystem.clear_instance_cache()
    for service, call in [
        ("s3", lambda c: c.put_object(Bucket="another", Key="x", Body=b"")),
        ("s3", lambda c: c.list_objects_v2(Bucket="another")),
        ("s3", lambda c: c.list_buckets()),
        ("ec2", lambda c: c.describe_instances()),
        ("iam", lambda c: c.list_roles()),
    ]:
        session = boto3.Session(**a_workers_keys, region_name="us-east-1")
        with pytest.raises(ClientError, match="AccessDenied"):
            call(session.client(service, endpoint_url=aws["AWS_ENDPOINT_URL"]))


def test_its_security_group_lets_in_ssh_and_the_cluster_itself(aws: dict[str, str], up: str) -> None:
    (head,) = [i for i in instances(aws) if tags(i)["ray-node-type"] == "head"]
    (group,) = head["SecurityGroups"]
    assert group["GroupName"] == "ray-autoscaler-effir-a100"
    (full,) = client(aws, "ec2").describe_security_groups(GroupIds=[group["GroupId"]])["SecurityGroups"]
    rules = {rule["IpProtocol"]: rule for rule in full["IpPermissions"]}
    assert (rules["tcp"]["FromPort"], rules["tcp"]["ToPort"]) == (22, 22)
    assert rules["tcp"]["IpRanges"] == [{"CidrIp": "0.0.0.0/0"}]
    assert [pair["GroupId"] for pair in rules["-1"]["UserIdGroupPairs"]] == [group["GroupId"]]
    assert len(full["IpPermissions"]) == 2


def test_nothing_but_the_stand_ins_was_called(aws: dict[str, str], up: str) -> None:
    asked = Path(aws["STAND_IN_LOG"]).read_text().splitlines()
    assert asked
    assert all(line.startswith("ssh ") and "ray-autoscaler_us-east-1.pem" in line for line in asked)


def test_a_worker_is_asked_for_as_a_spot_machine_of_eight_gpus(
    aws: dict[str, str], workers: str, cluster_file: Path, tmp_path: Path
) -> None:
    """As the autoscaler on the head asks for it: through Ray's node provider, with the file's node type."""
    code = f"""
import yaml
from ray.autoscaler._private.commands import _bootstrap_config
from ray.autoscaler._private.providers import _get_node_provider
config = _bootstrap_config(yaml.safe_load(open({str(cluster_file)!r})), no_config_cache=True)
provider = _get_node_provider(config["provider"], config["cluster_name"])
node = config["available_node_types"]["a100"]["node_config"]
labels = {{"ray-node-type": "worker", "ray-node-name": "w", "ray-launch-config": "x", "ray-user-node-type": "a100"}}
provider.create_node(node, labels, 1)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=aws, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    (worker,) = [i for i in instances(aws) if tags(i)["ray-node-type"] == "worker"]
    assert worker["InstanceType"] == "p4d.24xlarge"
    assert worker["InstanceLifecycle"] == "spot"
    (head,) = [i for i in instances(aws) if tags(i)["ray-node-type"] == "head"]
    assert worker["SecurityGroups"] == head["SecurityGroups"]
    assert worker["IamInstanceProfile"]["Arn"].endswith("/effir-dist-worker")
    declared = yaml.safe_load(cluster_file.read_text())["available_node_types"]["a100"]["node_config"]
    assert declared["ImageId"] == worker["ImageId"]


@pytest.mark.parametrize("name", ["a100.yaml", "h100.yaml"])
def test_rays_own_bootstrap_fills_in_the_rest(aws: dict[str, str], name: str, tmp_path: Path) -> None:
    code = f"""
import yaml
from ray.autoscaler._private.commands import _bootstrap_config
config = _bootstrap_config(yaml.safe_load(open({str(ROOT / "clusters" / name)!r})), no_config_cache=True)
found = {{n: t["node_config"] for n, t in config["available_node_types"].items()}}
found["head"]["IamInstanceProfile"] = config["head_node"]["IamInstanceProfile"]
yaml.safe_dump(found, open("found.yaml", "w"))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=aws, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = yaml.safe_load((tmp_path / "found.yaml").read_text())
    roles = {name: node["IamInstanceProfile"].popitem()[1].split("/")[-1] for name, node in found.items()}
    assert roles.pop("head") == "ray-autoscaler-v1"
    assert list(roles.values()) == ["effir-dist-worker"]
    for node in found.values():
        assert node["KeyName"].startswith("ray-autoscaler")
        assert node["SubnetIds"]
        assert node["SecurityGroupIds"]
