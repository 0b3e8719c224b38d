"""Terraform's files: formatted, parsed, and held to rules that a reviewer would ask for."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hcl2
import pytest

TERRAFORM = Path(__file__).parents[3] / "scripts" / "deploy" / "terraform"
FILES = sorted(TERRAFORM.rglob("*.tf"))
# Listing zones and what the whole of a bucket is denied have no finer resource or principal.
WIDE_RESOURCES = {"route53:ListHostedZones"}
MANAGED = {
    *("AmazonEKSClusterPolicy", "AmazonEKSComputePolicy", "AmazonEKSBlockStoragePolicy"),
    *("AmazonEKSLoadBalancingPolicy", "AmazonEKSNetworkingPolicy"),
    *("AmazonEKSWorkerNodeMinimalPolicy", "AmazonEC2ContainerRegistryPullOnly"),
}


def clean(value: Any) -> Any:
    """Without the quotes and marks that python-hcl2 keeps."""
    if isinstance(value, dict):
        return {clean(key): clean(each) for key, each in value.items() if not key.startswith("__")}
    if isinstance(value, list):
        return [clean(each) for each in value]
    return value[1:-1] if isinstance(value, str) and value[:1] == value[-1:] == '"' else value


DOCUMENTS = {file: clean(hcl2.loads(file.read_text())) for file in FILES}


def find(kind: str, type_: str, section: str = "resource") -> dict[str, dict[str, Any]]:
    """All resources (or data) of a type by their names."""
    found: dict[str, dict[str, Any]] = {}
    for document in DOCUMENTS.values():
        for entry in document.get(section, []):
            for name, body in entry.get(type_, {}).items():
                assert name not in found
                found[name] = body
    assert found, kind
    return found


def statements() -> Iterator[dict[str, Any]]:
    for document in find("policies", "aws_iam_policy_document", "data").values():
        yield from document.get("statement", [])
        for dynamic in document.get("dynamic", []):
            yield from dynamic["statement"]["content"]


def test_files_are_formatted(terraform: Any) -> None:
    done = terraform("fmt", "-check", "-recursive", TERRAFORM)
    assert done.returncode == 0, done.stdout + done.stderr


def test_it_says_that_it_was_not_applied() -> None:
    assert "not applied" in (TERRAFORM / "README.md").read_text()
    assert "Not applied" in (TERRAFORM / "versions.tf").read_text()


def test_each_bucket_is_encrypted_private_versioned_and_replicated() -> None:
    buckets = find("buckets", "aws_s3_bucket")
    assert set(buckets) == {"models", "corrections"}
    text = (TERRAFORM / "storage.tf").read_text()
    for name in buckets:  # In the map over which all of the following go, and in the replication.
        assert f"aws_s3_bucket.{name}[role]" in text and f"{name} = aws_s3_bucket.{name}" in text
    for kind in ("public_access_block", "server_side_encryption_configuration", "versioning", "policy"):
        assert find(kind, f"aws_s3_bucket_{kind}")["all"]["for_each"] == "${local.buckets}"
    block = find("blocks", "aws_s3_bucket_public_access_block")["all"]
    names = ("block_public_acls", "block_public_policy", "ignore_public_acls", "restrict_public_buckets")
    assert all(block[each] is True for each in names)
    [rule] = find("encryption", "aws_s3_bucket_server_side_encryption_configuration")["all"]["rule"]
    assert rule["apply_server_side_encryption_by_default"][0]["sse_algorithm"] == "aws:kms"
    [versions] = find("versions", "aws_s3_bucket_versioning")["all"]["versioning_configuration"]
    assert versions["status"] == "Enabled"
    [replication] = find("replication", "aws_s3_bucket_replication_configuration")["all"]["rule"]
    assert replication["status"] == "Enabled" and '["secondary"].arn' in replication["destination"][0]["bucket"]
    assert replication["delete_marker_replication"][0]["status"] == "Enabled"
    assert all(key["enable_key_rotation"] is True for key in find("keys", "aws_kms_key").values())


def test_what_is_forgotten_goes_from_older_versions_too() -> None:
    rules = find("rules", "aws_s3_bucket_lifecycle_configuration")["all"]["rule"]
    [forget] = [rule for rule in rules if rule["id"] == "forget"]
    assert forget["status"] == "Enabled" and forget["noncurrent_version_expiration"][0]["noncurrent_days"]


def test_roles_may_do_only_what_they_need() -> None:
    allowed = [each for each in statements() if each.get("effect", "Allow") == "Allow"]
    assert len(allowed) > 12
    for statement in allowed:
        assert not [action for action in statement["actions"] if "*" in action], statement
        if "principals" in statement:
            [principal] = statement["principals"]
            assert principal["type"] == "Service" and statement["actions"][0] == "sts:AssumeRole"
            continue
        if "*" in statement["resources"]:
            assert set(statement["actions"]) <= WIDE_RESOURCES, statement
        assert "resources" in statement and not set(statement) & {"not_actions", "not_resources"}
    denied = [each for each in statements() if each.get("effect") == "Deny"]
    assert [each["condition"][0]["variable"] for each in denied] == ["aws:SecureTransport"]
    text = "\n".join(file.read_text() for file in FILES)
    used = set(re.findall(r"\"(Amazon\w+|\w+FullAccess|AdministratorAccess)\"", text))
    assert used <= MANAGED


def test_cluster_and_registry_are_closed() -> None:
    cluster = find("cluster", "aws_eks_cluster")["own"]
    assert cluster["encryption_config"][0]["resources"] == ["secrets"]
    assert cluster["vpc_config"][0]["public_access_cidrs"] == "${var.administrator_networks}"
    assert {"api", "audit"} <= set(cluster["enabled_cluster_log_types"])
    repository = find("registry", "aws_ecr_repository")["service"]
    assert repository["image_tag_mutability"] == "IMMUTABLE"
    assert repository["image_scanning_configuration"][0]["scan_on_push"] is True
    assert repository["encryption_configuration"][0]["encryption_type"] == "KMS"
    assert find("copies", "aws_ecr_replication_configuration")
    check = find("health", "aws_route53_health_check")["region"]
    assert check["type"] == "HTTPS" and check["resource_path"] == "/health/ready"
    assert all("retention_in_days" in each for each in find("logs", "aws_cloudwatch_log_group").values())


def test_function_is_bounded_and_its_failures_are_kept() -> None:
    function = find("function", "aws_lambda_function")["transcribe"]
    assert function["timeout"] == 900 and function["reserved_concurrent_executions"] > 0
    assert set(function["environment"][0]["variables"]) == {"FINETUNE_MODEL", "FINETUNE_OUTPUT"}
    assert find("url", "aws_lambda_function_url")["transcribe"]["authorization_type"] == "AWS_IAM"
    assert find("failures", "aws_lambda_function_event_invoke_config")["transcribe"]["destination_config"]
    [notice] = find("events", "aws_s3_bucket_notification")["incoming"]["lambda_function"]
    output = function["environment"][0]["variables"]["FINETUNE_OUTPUT"]
    assert notice["filter_prefix"] == "incoming/" and output.endswith("/texts")  # It does not hear its own results.


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(TERRAFORM)))
def test_variables_are_explained_and_nothing_is_secret(file: Path) -> None:
    for section in ("variable", "output"):
        for entry in DOCUMENTS[file].get(section, []):
            for name, body in entry.items():
                assert body["description"].endswith("."), name
    text = file.read_text()
    assert not re.search(r"AKIA[0-9A-Z]{16}|aws_secret|password\s*=", text)


def test_variables_of_the_module_are_those_that_are_given() -> None:
    wanted = {name for entry in DOCUMENTS[TERRAFORM / "region" / "variables.tf"]["variable"] for name in entry}
    modules = {name: body for entry in DOCUMENTS[TERRAFORM / "main.tf"]["module"] for name, body in entry.items()}
    assert set(modules) == {"primary", "secondary"}
    for body in modules.values():
        assert set(body) - {"source", "providers"} == wanted
    used = set().union(*(re.findall(r"\bvar\.(\w+)", file.read_text()) for file in TERRAFORM.glob("*.tf")))
    declared = {name for entry in DOCUMENTS[TERRAFORM / "variables.tf"]["variable"] for name in entry}
    assert used == declared
