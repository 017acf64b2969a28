"""What `deploy/` ships, by the field's own validators, and every command in it by our own parser.

No container engine and no cluster is at hand in the tests: what these files start is started without
them in `tests/connected/test_deploy.py`.
"""

import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from schemas.settings import Settings
from streams.cli.main import tidemill

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
SETTINGS = {f"TIDEMILL_{item.name.upper()}" for item in fields(Settings)} | {"TIDEMILL_WORKER_NAME"}


def parse(argv: list[str]) -> None:
    """Fail unless `tidemill ARGV...` is a command with these arguments; nothing is run."""
    name, *rest = argv
    command = tidemill.get_command(click.Context(tidemill), name)
    assert command is not None, argv
    if isinstance(command, click.Group):
        name, *rest = rest
        command = command.commands[name]
    command.make_context(name, [re.sub(r"\$[({].*?[)}]", "flights", word) for word in rest])


def known(names: set[str]) -> set[str]:
    """Those of ``names`` that look like settings and are none."""
    return {
        name for name in names
        if name.startswith("TIDEMILL_") and not {name, name.removesuffix("_FILE")} & SETTINGS
    }  # fmt: skip


def instructions() -> list[tuple[str, str]]:
    """The Containerfile's instructions and their arguments, continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", (DEPLOY / "Containerfile").read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines if line.strip()]


def images() -> dict[str, dict[str, list[str]]]:
    """By target: its ENTRYPOINT, CMD and HEALTHCHECK as lists of words."""
    found: dict[str, dict[str, list[str]]] = {}
    target = ""
    for name, rest in instructions():
        if name == "FROM":
            target = rest.split()[-1]
        elif name in {"ENTRYPOINT", "CMD", "HEALTHCHECK"}:
            found.setdefault(target, {})[name] = yaml.safe_load(rest[rest.index("[") :])
    return found


def test_the_container_file_passes_its_linter() -> None:
    """hadolint, with all its rules."""
    hadolint = Path(sys.executable).with_name("hadolint")
    if not hadolint.exists():
        pytest.skip("hadolint is not installed")
    found = subprocess.run([hadolint, DEPLOY / "Containerfile"], capture_output=True, check=False)
    assert found.returncode == 0, found.stdout.decode()


def test_images_run_as_nobody_and_start_what_there_is() -> None:
    """Each target has its own command and probe; the last USER is not root."""
    found = images()
    assert set(found) == {"worker", "trainer", "gateway"}
    assert [rest for name, rest in instructions() if name == "USER"] == ["10001:10001"]
    for target in ("worker", "trainer"):
        program, *begin = found[target]["ENTRYPOINT"]
        assert program == "tidemill"
        parse([*begin, *found[target]["CMD"]])
    assert found["gateway"]["ENTRYPOINT"][:4] == ["python", "-P", "-m", "streams.store.gateway"]
    for target in found.values():
        program, *probe = target["HEALTHCHECK"]
        assert program == "tidemill"
        parse(probe)


def test_images_are_built_from_files_that_are_in_the_context() -> None:
    """A COPY of what .dockerignore leaves out fails only at the build."""
    kept = {
        line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"
    }
    for name, rest in instructions():
        if name == "COPY" and not rest.startswith("--from"):
            for source in rest.split()[:-1]:
                assert (ROOT / source).exists()
                assert source in kept


def pins(path: Path) -> dict[str, str]:
    """Package and version of each line of a lock."""
    return dict(re.findall(r"^([a-z0-9-]+)(?:\[.*\])?==(\S+)", path.read_text(), re.MULTILINE))


def test_images_get_the_locked_versions_that_are_tested_here() -> None:
    """With hashes, and without what only developers need."""
    mine, tested = pins(DEPLOY / "requirements.lock"), pins(ROOT / "requirements.lock")
    assert mine.items() <= tested.items(), "make lock"
    assert not {"pytest", "ruff", "mypy", "moto", "playwright"} & set(mine)
    assert {"torch", "faust-streaming", "aiokafka", "chdb", "s3fs", "onnxruntime"} <= set(mine)
    text = (DEPLOY / "requirements.lock").read_text()
    assert text.count("--hash=sha256:") >= len(mine)


def compose() -> dict[str, Any]:
    """deploy/compose.yaml, its merges done and its variables at their defaults."""
    text = re.sub(r"\$\{[A-Z]+:-([^}]*)\}", r"\1", (DEPLOY / "compose.yaml").read_text())
    found: dict[str, Any] = yaml.safe_load(text)
    return found


def test_compose_file_follows_the_specification() -> None:
    """Read by a library that knows every field of it, and refuses others."""
    compose_spec = pytest.importorskip("compose_spec")
    plain = {k: v for k, v in compose().items() if not k.startswith("x-")}
    project = compose_spec.PyCompose.from_yaml(yaml.safe_dump(plain))
    project.validate_networks()
    project.validate_volumes()
    assert set(project.service_names()) == set(plain["services"])
    with pytest.raises(ValueError, match="imagee"):
        compose_spec.PyCompose.from_yaml("services: {a: {imagee: x}}")


def test_compose_services_are_closed_and_their_commands_exist() -> None:
    """Ours cannot write, gain rights or be reached from other machines."""
    services = compose()["services"]
    secrets = set(compose()["secrets"])
    for name, service in services.items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        assert set(service.get("secrets", [])) <= secrets
        assert not known(set(service.get("environment", {})))
        if not service["image"].startswith("tidemill-"):
            assert "healthcheck" in service
            continue
        assert service["image"].endswith(f":{VERSION}")
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["user"] == "10001:10001"
        target = service["build"]["target"]
        begin = images()[target]["ENTRYPOINT"][1:] if target != "gateway" else []
        if "command" in service:
            parse([*begin, *service["command"]])


def test_the_secrets_of_compose_are_made_once(tmp_path: Path) -> None:
    """A second run must not change the password of a store that has it already."""
    script = ["bash", str(DEPLOY / "secrets.sh"), str(tmp_path / "s")]
    subprocess.run(script, check=True, capture_output=True)
    first = {file.name: file.read_text() for file in (tmp_path / "s").iterdir()}
    subprocess.run(script, check=True, capture_output=True)
    assert first == {file.name: file.read_text() for file in (tmp_path / "s").iterdir()}
    declared = compose()["secrets"]
    assert set(first) == {name for name in declared if name.startswith("clickhouse")}
    password = first["clickhouse-password"]
    assert len(password) == 48
    assert first["clickhouse"] == f"http://tidemill:{password}@clickhouse:8123"
    Settings(clickhouse=first["clickhouse-host"])


def manifests() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every document of deploy/kubernetes, with its file."""
    for file in sorted((DEPLOY / "kubernetes").glob("*.yaml")):
        for document in yaml.safe_load_all(file.read_text()):
            if document:
                yield file.name, document


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and pod of everything that starts one."""
    for _file, document in manifests():
        spec = document.get("spec", {})
        spec = spec.get("jobTemplate", {}).get("spec", spec)
        if "template" in spec:
            yield document["metadata"]["name"], spec["template"]


def test_manifests_follow_the_schemas_of_kubernetes() -> None:
    """Strictly: a field that Kubernetes does not know is a fault. KEDA's kinds are its own."""
    validate = pytest.importorskip("kubernetes_validate")
    kinds = []
    for _file, document in manifests():
        if document["kind"] not in {"Kustomization", "ScaledObject", "TriggerAuthentication"}:
            validate.validate(document, validate.latest_version(), strict=True)
            kinds.append(document["kind"])
    assert len(kinds) >= 14
    broken = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "dat": {}}
    with pytest.raises(validate.ValidationError):
        validate.validate(broken, validate.latest_version(), strict=True)


def test_manifests_are_all_applied_and_hold_no_secret() -> None:
    """Secrets are named, never made here."""
    files = {name for name, document in manifests() if document["kind"] != "Kustomization"}
    [applied] = [d["resources"] for _, d in manifests() if d["kind"] == "Kustomization"]
    assert sorted(applied) == sorted(files)
    assert not [d for _, d in manifests() if d["kind"] == "Secret"]
    [settings] = [d["data"] for _, d in manifests() if d["kind"] == "ConfigMap"]
    assert not known(set(settings))
    assert not {"TIDEMILL_KAFKA_PASSWORD", "TIDEMILL_CLICKHOUSE"} & set(settings)
    plain = {k: v for k, v in settings.items() if k in SETTINGS}
    secret = {"TIDEMILL_CLICKHOUSE": "https://u:p@c:8443", "TIDEMILL_METRICS_TOKEN": "t" * 48}
    Settings.from_environment(plain | secret)


def test_pods_are_closed_probed_and_bounded() -> None:
    """As the restricted pod security standard asks, which the name space enforces."""
    assert len(dict(pods())) == 10
    for name, pod in pods():
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        [container] = spec["containers"]
        inner = container["securityContext"]
        assert inner["readOnlyRootFilesystem"] is True
        assert inner["allowPrivilegeEscalation"] is False
        assert inner["capabilities"] == {"drop": ["ALL"]}
        assert {"cpu", "memory"} <= set(container["resources"]["requests"])
        assert "memory" in container["resources"]["limits"]
        image, version = container["image"].split(":")
        assert version == VERSION
        begin = images()[image.removeprefix("tidemill-")]["ENTRYPOINT"][1:]
        parse([*begin, *container["args"]])
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            if probe in container:
                program, *words = container[probe]["exec"]["command"]
                assert program == "tidemill"
                parse(words)
        assert ("livenessProbe" in container) == (name not in {"prepare", "train"})
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in spec["volumes"]}


def test_budgets_and_scaling_name_what_is_there() -> None:
    """A selector that matches nothing protects nothing, in silence."""
    labels = [pod["metadata"]["labels"] for _, pod in pods()]
    deployments = {d["metadata"]["name"] for _, d in manifests() if d["kind"] == "Deployment"}
    budgets = [d for _, d in manifests() if d["kind"] == "PodDisruptionBudget"]
    assert len(budgets) == 4
    for budget in budgets:
        wanted = budget["spec"]["selector"]["matchLabels"]
        assert sum(wanted.items() <= one.items() for one in labels) == 1
    [scaled] = [d["spec"] for _, d in manifests() if d["kind"] == "ScaledObject"]
    from schemas.loading import load_pipeline
    from streams.workers.process import group_of

    pipeline = load_pipeline("flights")
    [trigger] = scaled["triggers"]
    assert scaled["scaleTargetRef"]["name"] in deployments
    assert trigger["metadata"]["consumerGroup"] == group_of(pipeline, "score")
    assert trigger["metadata"]["topic"] == pipeline.topics.events.name
    assert scaled["maxReplicaCount"] == pipeline.partitions
    names = {d["metadata"]["name"] for _, d in manifests() if d["kind"] == "TriggerAuthentication"}
    assert {trigger["authenticationRef"]["name"]} == names


def units() -> dict[str, list[str]]:
    """By unit, the words of its ExecStart."""
    found = {}
    for file in sorted((DEPLOY / "systemd").glob("*.service")):
        [line] = re.findall(r"^ExecStart=(.*)$", file.read_text(), re.MULTILINE)
        found[file.name] = shlex.split(line)
    return found


def test_systemd_takes_the_units(tmp_path: Path) -> None:
    """By systemd's own parser, with the program at the place where it is here."""
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed")
    folder = tmp_path / "units"
    shutil.copytree(DEPLOY / "systemd", folder)
    program = Path(sys.executable).parent
    for file in folder.glob("*.service"):
        file.write_text(file.read_text().replace("/opt/tidemill/.venv/bin", str(program)))
    names = [file.name.replace("@.", "@0.") for file in folder.iterdir() if file.is_file()]
    checked = subprocess.run(
        [analyze, "verify", "--man=no", *names],
        env={"SYSTEMD_UNIT_PATH": f"{folder}:", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    ours = [line for line in checked.stderr.splitlines() if "tidemill" in line]
    assert (checked.returncode, ours) == (0, [])


def test_units_start_what_there_is_under_names_that_differ() -> None:
    """And each role has one."""
    found = units()
    assert len(found) == 10
    for name, (program, *words) in found.items():
        if program.endswith("/tidemill"):
            parse(words)
        else:
            assert words[:3] == ["-P", "-m", "streams.store.gateway"]
        if "@" in name:
            assert words[-2:] == ["--name", "%H-%i"]


def test_every_setting_of_the_example_is_one() -> None:
    """Also those that are commented out."""
    text = (DEPLOY / "tidemill.env.example").read_text()
    names = set(re.findall(r"^#?([A-Z_]+)=", text, re.MULTILINE))
    assert not known(names)
    assert {"TIDEMILL_KAFKA", "TIDEMILL_CLICKHOUSE_FILE", "TIDEMILL_SIGNING_KEY"} <= names
