"""What Compose created for a stack, found in the engine by its label.

So the stack can be removed without its files and without the process that created it.
"""

from __future__ import annotations

import re
from contextlib import suppress
from enum import Enum
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from buildtools.compose import NUMBER_LABEL, PROJECT_LABEL, SERVICE_LABEL
from buildtools.frozen import frozen
from buildtools.image.engine.client import Engine, EngineError

# A request may still create something after its sender was killed.
_REMOVALS = 5
_LOG_LINES = 10_000
_EVERYWHERE = ("", "0.0.0.0", "::")  # noqa: S104  only compared, not bound to


class Condition(Enum):
    """The condition of a container: ready, on its way there, failed, or waiting for others to be ready."""

    READY = "ready"
    WAITING = "waiting"
    FAILED = "failed"
    CREATED = "created"


@frozen
class StackService:
    """One container of a stack, by the name of its service, with a number appended unless it is the first one.

    ``image`` is its name in the Compose file; ``state`` describes its condition in words.
    """

    name: str
    image: str
    condition: Condition
    state: str
    container: str


class Stack:
    """A stack, by its name."""

    def __init__(self, engine: Engine, name: str) -> None:
        self.name = name
        self._engine = engine
        self._filters = {"label": [f"{PROJECT_LABEL}={name}"]}

    def services(self) -> tuple[StackService, ...]:
        """Its containers, by name."""
        return tuple(sorted((_service(each) for each in self._containers()), key=lambda service: service.name))

    def port_variables(self) -> dict[str, str]:
        """The addresses of its published ports, in the style of links: ``APP_PORT_8080_TCP``, its ``_ADDR`` and
        ``_PORT``.

        https://docs.docker.com/engine/network/links/#environment-variables. The addresses are the host's.
        """
        engine_host = urlsplit(self._engine.address).hostname or "127.0.0.1"
        variables = {}
        for each in self._containers():
            service = re.sub("[^A-Z0-9]", "_", str(each["Config"]["Labels"].get(SERVICE_LABEL)).upper())
            for port, bindings in (each["NetworkSettings"].get("Ports") or {}).items():
                for binding in (bindings or ())[:1]:
                    number, _, protocol = port.partition("/")
                    host = engine_host if binding["HostIp"] in _EVERYWHERE else binding["HostIp"]
                    name = f"{service}_PORT_{number}_{protocol.upper()}"
                    variables[name] = f"{protocol}://{host}:{binding['HostPort']}"
                    variables[f"{name}_ADDR"], variables[f"{name}_PORT"] = host, binding["HostPort"]
        return variables

    def tail(self, service: StackService, lines: int) -> list[str]:
        """The last lines of a container's output."""
        return self._log(service.container, lines).decode(errors="replace").splitlines()

    def save_logs(self, folder: Path) -> None:
        """Write each container's output into a file with the name of its service.

        :raises OSError: if it cannot be written.
        """
        for service in self.services():
            (folder / f"{service.name}.log").write_bytes(self._log(service.container, _LOG_LINES))

    def remove(self) -> None:
        """Remove its containers, running or not, its networks and its volumes.

        :raises EngineError: if something cannot be removed.
        """
        for _ in range(_REMOVALS):
            if not self._remove_once():
                return
        raise EngineError(
            f"parts of the stack {self.name} stay in the engine",
            f"see `docker ps --all --filter label={PROJECT_LABEL}={self.name}`",
        )

    def _remove_once(self) -> int:
        """Remove everything that exists now; returns how much there was."""
        api, filters, count = self._engine.api, self._filters, 0
        with self._engine.errors():
            works = [
                *((api.remove_container, each["Id"], {"v": True, "force": True}) for each in self._listed()),
                *((api.remove_network, each["Id"], {}) for each in api.networks(filters=filters)),
                *((api.remove_volume, each["Name"], {}) for each in api.volumes(filters=filters)["Volumes"] or ()),
            ]
        for remove, identity, options in works:
            count += 1
            # Somebody else may be removing it too; what stays is found next time.
            with suppress(EngineError), self._engine.errors():
                remove(identity, **options)
        return count

    def _listed(self) -> list[dict[str, Any]]:
        listed: list[dict[str, Any]] = self._engine.api.containers(all=True, filters=self._filters)
        return listed

    def _containers(self) -> list[dict[str, Any]]:
        with self._engine.errors():
            listed = self._listed()
        containers = []
        for each in listed:
            # It may be gone by now.
            with suppress(EngineError), self._engine.errors():
                containers.append(self._engine.api.inspect_container(each["Id"]))
        return containers

    def _log(self, container: str, lines: int) -> bytes:
        try:
            with self._engine.errors():
                log: bytes = self._engine.api.logs(container, tail=lines)
                return log
        except EngineError as error:
            # Some log drivers cannot be read.
            return f"{error.fact}\n".encode()


def stack_names(engine: Engine, prefix: str) -> set[str]:
    """The names of the stacks that begin with ``prefix`` and have anything in the engine."""
    filters, api = {"label": [PROJECT_LABEL]}, engine.api
    with engine.errors():
        parts = [
            *api.containers(all=True, filters=filters),
            *api.networks(filters=filters),
            *(api.volumes(filters=filters)["Volumes"] or ()),
        ]
    names = {str(part["Labels"][PROJECT_LABEL]) for part in parts}
    return {name for name in names if name.startswith(prefix)}


def _service(container: dict[str, Any]) -> StackService:
    condition, state = _condition(container)
    labels = container["Config"]["Labels"]
    number = labels.get(NUMBER_LABEL, "1")
    name = f"{labels.get(SERVICE_LABEL)}{'' if number == '1' else f'-{number}'}"
    return StackService(name, container["Config"]["Image"], condition, state, container["Id"])


def _condition(container: dict[str, Any]) -> tuple[Condition, str]:
    state = container["State"]
    status, code = state["Status"], state["ExitCode"]
    health = (state.get("Health") or {}).get("Status", "none")
    if state.get("Error"):
        return Condition.FAILED, f"did not start ({state['Error']})"
    if status == "running" and health in ("none", "healthy"):
        return Condition.READY, "healthy" if health == "healthy" else "running, without a health check"
    if status == "running" and health == "unhealthy":
        log = state["Health"].get("Log") or [{"ExitCode": 0, "Output": ""}]
        said = " ".join(str(log[-1]["Output"]).split())[:200]
        return Condition.FAILED, f"is unhealthy (exit code {log[-1]['ExitCode']}{f': {said}' if said else ''})"
    if status == "running":
        return Condition.WAITING, "has not become healthy yet"
    if status == "created":
        return Condition.CREATED, "was not started"
    if status not in ("exited", "dead"):
        return Condition.WAITING, f"is {status}"
    if container["HostConfig"]["RestartPolicy"].get("Name") not in ("", "no", None):
        return Condition.WAITING, f"ended with exit code {code}"
    return (Condition.FAILED if code else Condition.READY), f"ended with exit code {code}"
