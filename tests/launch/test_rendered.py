"""The files under deploy/ are renderings of deploy/spec.yaml, and other people's own tools and schemas accept them."""

import gzip
import json
import os
import shutil
import socket
import subprocess
import sys
import warnings
from pathlib import Path

import jsonschema
import pytest
import ray
import yaml

from distfa import settings as specs
from distfa.errors import UsageError
from distfa.launch import ports, render

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
CRDS = Path(os.environ.get("KUBERAY_CRDS", ROOT.parent / "shared/data/kuberay-crds"))
NO_CRDS = f"KUBERAY'S CRDS ARE NOT AT {CRDS}, SO THE MANIFESTS WERE NOT HELD AGAINST THEM; set KUBERAY_CRDS"
if not CRDS.is_dir():
    warnings.warn(NO_CRDS, stacklevel=1)

OTHER = ["launch.nodes=3", "launch.cpus=4", "launch.gpus=1", "launch.port=7000", "launch.ray=2.59.0"]
SHAPES = {
    "committed": [],
    "other": OTHER,
    "one node": ["launch.nodes=1"],
    "all": [
        "launch.minutes=90",
        "launch.image=registry.example/distfa:1",
        "launch.kubernetes.namespace=research",
        "launch.kubernetes.storage_class=nfs",
        "launch.kubernetes.claims={/data: cats, /more data: dogs}",
        "launch.kubernetes.working_dir=https://example.com/mine.zip",
        "launch.kubernetes.pull_secrets=[one, two]",
        "launch.kubernetes.node_selector={disk: ssd}",
        "launch.kubernetes.tolerations=[{key: gpu, operator: Exists, effect: NoSchedule, tolerationSeconds: 60}]",
        "launch.slurm.partition=long",
        "launch.slurm.account=physics",
        "launch.slurm.constraint=haswell|broadwell",
        "launch.slurm.modules=[python/3.11, cuda/12]",
    ],
}


def spec(shape="committed"):
    return specs.load_spec(DEPLOY / "spec.yaml", [specs.parse_change(change) for change in SHAPES[shape]])


def manifests(shape):
    """(file, document) of every document in every manifest of KubeRay's."""
    for name in render.FILES["kuberay"]:
        for document in yaml.safe_load_all(render.render_target(spec(shape), "kuberay")[name]):
            yield name, document


def test_committed_files_are_fresh():
    files = render.render_target(spec(), "all")
    committed = {path.relative_to(DEPLOY).as_posix() for path in DEPLOY.rglob("*") if path.is_file()}
    assert {name for name in committed if not name.startswith("prometheus/")} == set(files)  # those are written by hand
    for name, text in files.items():
        assert (DEPLOY / name).read_text() == text, f"{name}: distfa launch render deploy/spec.yaml -o deploy"


def strict(schema):
    """As the Kubernetes server prunes: an unknown key is an error, where the schema does not leave keys open."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    made = {key: strict(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and not schema.get("x-kubernetes-preserve-unknown-fields"):
        made.setdefault("additionalProperties", False)
    return made


def crd(kind):
    path = CRDS / f"ray.io_{kind.lower()}s.yaml.gz"
    versions = yaml.load(gzip.decompress(path.read_bytes()), yaml.CSafeLoader)["spec"]["versions"]
    schema = next(one["schema"]["openAPIV3Schema"] for one in versions if one["name"] == "v1")
    schema["properties"]["metadata"] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    return strict(schema)


@pytest.mark.skipif(not CRDS.is_dir(), reason=NO_CRDS)
def test_manifests_hold_to_kuberays_own_schema_and_a_wrong_key_does_not():
    schemas = {kind: jsonschema.Draft202012Validator(crd(kind)) for kind in ("RayJob", "RayCluster")}
    seen = []
    for shape in SHAPES:
        for name, document in manifests(shape):
            if document["apiVersion"] == "ray.io/v1":
                schemas[document["kind"]].validate(document)
                seen.append(name)
    assert len(seen) == 3 * len(SHAPES)
    document["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["resourcez"] = {}
    with pytest.raises(jsonschema.ValidationError, match="resourcez"):
        schemas["RayCluster"].validate(document)


@pytest.mark.parametrize("shape", SHAPES)
def test_workers_come_all_or_none_and_a_retry_finds_the_run(shape):
    cluster = spec(shape).launch
    for name, document in manifests(shape):
        if document["kind"] == "ConfigMap":
            assert specs.parse_spec(yaml.safe_load(document["data"]["spec.yaml"])).run_dir
        if document["apiVersion"] != "ray.io/v1":
            continue
        if document["kind"] == "RayJob":
            assert document["spec"]["backoffLimit"] == cluster.retries
            document = {"spec": document["spec"]["rayClusterSpec"]}
        assert document["spec"]["authOptions"] == {"mode": "token"}, name
        assert document["spec"]["rayVersion"] == cluster.ray
        groups = document["spec"].get("workerGroupSpecs", [])
        for group in groups:
            assert group["replicas"] == group["minReplicas"] == group["maxReplicas"] == cluster.nodes - 1
        assert len(groups) == (cluster.nodes > 1)


def pods(document):
    """The pods of a job's head, workers and submitter."""
    cluster = document["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups], document["spec"].get("submitterPodTemplate", {}).get("spec")


def test_pods_reach_the_data_the_code_and_the_image_and_are_placed_as_asked():
    job = next(document for _, document in manifests("all") if document["kind"] == "RayJob")
    own, submitter = pods(job)
    for pod in [*own, submitter]:
        assert pod["imagePullSecrets"] == [{"name": "one"}, {"name": "two"}]
        assert pod["nodeSelector"] == {"disk": "ssd"}
        assert pod["tolerations"] == [
            {"key": "gpu", "operator": "Exists", "effect": "NoSchedule", "tolerationSeconds": 60}
        ]
        assert pod["containers"][0]["image"] == "registry.example/distfa:1"
    for pod in own:
        mounts = {mount["mountPath"]: mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
        claims = {volume["name"]: volume.get("persistentVolumeClaim", {}).get("claimName") for volume in pod["volumes"]}
        assert (claims[mounts["/data"]], claims[mounts["/more data"]]) == ("cats", "dogs")
    assert yaml.safe_load(job["spec"]["runtimeEnvYAML"]) == {"working_dir": "https://example.com/mine.zip"}
    assert job["spec"]["activeDeadlineSeconds"] == 90 * 60
    assert all(document["metadata"]["namespace"] == "research" for _, document in manifests("all"))


def test_without_a_limit_no_job_ends_early_and_kuberay_makes_its_own_submitter():
    job = next(document for _, document in manifests("committed") if document["kind"] == "RayJob")
    assert "activeDeadlineSeconds" not in job["spec"]
    assert pods(job)[1] is None
    assert not any("--time" in text for text in render.render_target(spec(), "slurm").values())


@pytest.mark.parametrize("name", render.FILES["slurm"])
def test_a_slurm_job_asks_for_what_the_spec_says(name):
    lines = render.render_target(spec("all"), "slurm")[name].splitlines()
    first = next(number for number, line in enumerate(lines) if line and not line.startswith("#"))
    for asked in ("--partition=long", "--account=physics", "--constraint=haswell|broadwell", "--time=90"):
        assert f"#SBATCH {asked}" in lines[:first]
    assert lines[first] == "module load python/3.11 cuda/12"


def test_a_block_of_ports_is_free_only_if_all_of_it_is_and_the_system_does_not_give_it_away(monkeypatch, tmp_path):
    given_away = tmp_path / "range"
    given_away.write_text("32768\t60999\n")
    monkeypatch.setattr(ports, "_GIVEN_AWAY", given_away)
    assert "the system gives ports 32768-60999 to connections" in ports.why_not(32700, 32799)
    with socket.socket() as taken:
        taken.bind(("", 0))
        given_away.write_text("1024\t1025\n")
        taken.listen()
        port = taken.getsockname()[1]
        assert f"port {port} is taken (Address already in use)" in ports.why_not(port - 1, port)
    assert ports.why_not(port, port) is None


@pytest.mark.parametrize("shape", SHAPES)
def test_cluster_files_hold_to_rays_own_schema(shape):
    schema = json.loads((Path(ray.__file__).parent / "autoscaler/ray-schema.json").read_text())
    for name in render.FILES["ray-up"]:
        document = yaml.safe_load(render.render_target(spec(shape), "ray-up")[name])
        jsonschema.validate(document, schema)
        if name.endswith("local.yaml"):
            assert len(document["provider"]["worker_ips"]) == spec(shape).launch.nodes - 1
        else:
            assert document["available_node_types"]["node"]["min_workers"] == spec(shape).launch.nodes - 1


def tool(name):
    """A linter of the dev extra, beside this Python or on the path."""
    found = shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert found, f"{name} is not installed; pip install -c constraints.txt -e '.[dev]' brings it"
    return found


@pytest.mark.parametrize("shape", SHAPES)
def test_linters_find_nothing(shape, tmp_path):
    paths = render.write_files(render.render_target(spec(shape), "all"), tmp_path)
    scripts = [str(path) for path in paths if path.suffix == ".sbatch"]
    for command in ([tool("shellcheck"), *scripts], [tool("hadolint"), str(tmp_path / "docker/Dockerfile")]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("shape", SHAPES)
def test_compose_starts_as_many_containers_as_nodes_behind_a_token(shape):
    document = yaml.safe_load(render.render_target(spec(shape), "docker")["docker/compose.yaml"])
    services = document["services"]
    assert 1 + services.get("node", {}).get("deploy", {}).get("replicas", 0) == spec(shape).launch.nodes
    assert all(service["environment"]["RAY_AUTH_MODE"] == "token" for service in services.values())


def test_a_target_without_files_is_refused():
    with pytest.raises(
        UsageError, match="nothing is rendered for target 'moon', which is not one of docker, kuberay, slurm"
    ):
        render.render_target(spec(), "moon")
