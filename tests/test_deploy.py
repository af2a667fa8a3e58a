"""What `deploy/` says is consistent, and names settings, commands and options that exist."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from facesearch.cli.main import app
from facesearch.settings import load_settings
from tests.conftest import REPOSITORY

DEPLOY = REPOSITORY / "deploy"
FILES = sorted([*DEPLOY.glob("*.yaml"), *DEPLOY.glob("*.yml")])


def documents(path: Path) -> list[Any]:
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_parses(path: Path) -> None:
    assert all(documents(path))


def used() -> Iterator[tuple[dict[str, str], list[str]]]:
    """The environment and the arguments of everything that runs facesearch."""
    for service in documents(DEPLOY / "compose.yaml")[0]["services"].values():
        if service["image"] == "facesearch":
            yield service["environment"], service["command"]
    pod = documents(DEPLOY / "ingest-job.yaml")[1]["spec"]["template"]["spec"]
    for container in pod["initContainers"] + pod["containers"]:
        assert container["image"] == "facesearch"
        yield variables(container), container["args"]
    for container in ray_containers():
        for arguments in entrypoints():
            yield variables(container), arguments


def variables(container: Any) -> dict[str, str]:
    return {e["name"]: e.get("value", "") for e in container["env"] if "value" in e}


def ray_job() -> Any:
    return documents(DEPLOY / "ray-ingest.yaml")[0]["spec"]


def ray_pods() -> list[Any]:
    """The head's, then those of the workers."""
    cluster = ray_job()["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups]


def ray_containers() -> list[Any]:
    return [container for pod in ray_pods() for container in pod["containers"]]


def entrypoints() -> list[list[str]]:
    """The arguments of each facesearch command that the Ray job runs."""
    shell, option, script = shlex.split(ray_job()["entrypoint"])
    assert (shell, option) == ("sh", "-c")
    commands = [shlex.split(command) for command in script.split("&&")]
    assert all(command[0] == "facesearch" for command in commands)
    return [command[1:] for command in commands]


def test_settings_exist(tmp_path: Path) -> None:
    for environment, _ in used():
        given = {name for name in environment if name != "FACESEARCH_LIBRARY"}
        assert given
        settings = load_settings(tmp_path, environment)
        assert settings.index.backend == "milvus"
        sections = {name: name.split("_", 2)[1:] for name in given}
        for name, (section, key) in sections.items():
            value = getattr(getattr(settings, section.lower()), key.lower())
            assert str(value).removesuffix(".0") == environment[name], name


def test_commands_exist() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for _, (name, *arguments) in used():
        options = {option for p in commands[name].params for option in p.opts}
        assert {a for a in arguments if a.startswith("--")} <= options


def test_the_composition_is_complete() -> None:
    body = documents(DEPLOY / "compose.yaml")[0]
    services = body["services"]
    for service in services.values():
        assert set(service.get("depends_on", ())) <= set(services)
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            if source.startswith("./"):
                assert (DEPLOY / source).is_file()
            elif not source.startswith("${"):
                assert source in body["volumes"]
    scraped = re.findall(r'"([\w-]+):\d+"', (DEPLOY / "prometheus.yml").read_text())
    assert scraped
    assert set(scraped) <= set(services)


def test_the_job_is_complete() -> None:
    secret, job = documents(DEPLOY / "ingest-job.yaml")
    pod = job["spec"]["template"]["spec"]
    volumes = {volume["name"] for volume in pod["volumes"]}
    for container in pod["initContainers"] + pod["containers"]:
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
        for variable in container["env"]:
            if "valueFrom" in variable:
                reference = variable["valueFrom"]["secretKeyRef"]
                assert reference["name"] == secret["metadata"]["name"]
                assert reference["key"] in secret["stringData"]


def test_the_ray_job_is_complete() -> None:
    secret, _ = documents(DEPLOY / "ingest-job.yaml")
    head, *workers = ray_pods()
    assert workers
    for pod in (head, *workers):
        volumes = {volume["name"] for volume in pod["volumes"]}
        for container in pod["containers"]:
            assert container["image"] == "facesearch"
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
            (url,) = (e["valueFrom"]["secretKeyRef"] for e in container["env"] if "valueFrom" in e)
            assert url["name"] == secret["metadata"]["name"]
            assert url["key"] in secret["stringData"]
        # every machine sees the photos, and the library's models, at the same paths
        assert pod["volumes"] == head["volumes"]
        assert pod["containers"][0]["volumeMounts"] == head["containers"][0]["volumeMounts"]
    (init, ingest) = entrypoints()
    assert init == ["init"]
    mounted = {mount["mountPath"] for mount in head["containers"][0]["volumeMounts"]}
    assert ingest[1] in mounted
    assert ingest[2:] == ["--on", "auto"]
