"""The base job templates of docs/deploy/pools, taken by the workers that read them, as far as there is no daemon.

    pip install prefect-docker==0.7.4 prefect-kubernetes==0.8.0
    python -m benchmarks.prefect_templates

For Docker: the worker's own configuration and container settings, and the body of the request that docker-py would
send. For Kubernetes: the worker's own checks of the manifest, which is then read as a V1Job and written again: what the
API doesn't know would be lost there.
"""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any
from unittest.mock import Mock
from uuid import uuid4

from docker.models.containers import _create_container_args
from kubernetes_asyncio.client import ApiClient
from prefect.client.schemas.objects import Flow, FlowRun
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect_docker.worker import DockerWorker, DockerWorkerJobConfiguration
from prefect_kubernetes.worker import KubernetesWorkerJobConfiguration

from pairloom.flows.deploy import ENVIRONMENT

POOLS = Path(__file__).parents[1] / "docs" / "deploy" / "pools"
API_VERSION = "1.44"


def template(kind: str) -> dict[str, Any]:
    """The template of a kind of pool."""
    found: dict[str, Any] = json.loads((POOLS / f"{kind}.json").read_text(encoding="utf-8"))
    return found


def prepared(configuration: Any) -> Any:
    """The configuration of one run of a deployment."""
    flow = Flow(name="train", labels={})
    run = FlowRun(id=uuid4(), name="train-grocery", flow_id=flow.id)
    configuration.prepare_for_flow_run(run, flow=flow)
    return configuration


async def docker() -> dict[str, Any]:
    """What the Docker daemon would be asked for."""
    values = {"env": ENVIRONMENT}
    configuration = prepared(await DockerWorkerJobConfiguration.from_template_and_values(template("docker"), values))
    worker = DockerWorker(work_pool_name="gpu", create_pool_if_not_found=False)
    settings = worker._build_container_settings(Mock(version=lambda: {"Version": "28.0.0"}), configuration)
    network = settings.pop("network")
    asked = _create_container_args({**settings, "version": API_VERSION, "name": "train-grocery"})
    return {**asked, "network": network}


async def kubernetes() -> dict[str, Any]:
    """The job that the cluster would be asked for."""
    values = {"env": ENVIRONMENT}
    taken = await KubernetesWorkerJobConfiguration.from_template_and_values(template("kubernetes"), values)
    manifest: dict[str, Any] = prepared(taken).job_manifest
    async with ApiClient() as client:
        job = client.deserialize(Mock(data=json.dumps(manifest)), "V1Job")
        again = client.sanitize_for_serialization(job)
    if lost := sorted(paths(manifest) - paths(again)):
        raise RuntimeError(f"the API has no {', '.join(lost)}")
    return manifest


def paths(value: Any, path: str = "") -> set[str]:
    """The paths of all leaves that say something."""
    if isinstance(value, dict):
        return {each for key, inside in value.items() for each in paths(inside, f"{path}.{key}")}
    if isinstance(value, list):
        return {each for number, inside in enumerate(value) for each in paths(inside, f"{path}[{number}]")}
    return set() if value is None else {path}


def main() -> None:
    """Prints what either would be asked for; raises where a template isn't taken."""
    # Prefect would start a server of its own where none is configured; nothing is asked of this one.
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        for ask in (docker, kubernetes):
            sys.stdout.write(json.dumps(asyncio.run(ask()), indent=1, default=vars) + "\n")


if __name__ == "__main__":
    main()
