"""The names of a task's images in the registry."""

from __future__ import annotations

from buildtools.image.reference import image_name
from buildtools.image.registry.lookup import fingerprint_tag
from buildtools.task_context import TaskContext


def repository(task: TaskContext, name: str) -> str:
    """An image's repository in the registry, shared by its variants."""
    image = image_name(name)
    return f"{task.settings.namespace}/{image}" if task.settings.namespace else image


def place(task: TaskContext, name: str) -> str:
    """An image's repository and variant, in the form of :attr:`ImageToPush.place`."""
    return f"{repository(task, name)}{name.removeprefix(image_name(name))}"


def reference(task: TaskContext, name: str) -> str:
    """An image's reference: in the registry, or only in the engine if no registry is configured."""
    prefix = f"{task.settings.repository_prefix}/" if task.settings.registry else ""
    return f"{prefix}{image_name(name)}:{task.version.image_tag}"


def full_repository(task: TaskContext, name: str) -> str:
    """``HOST/REPOSITORY``, for builders; empty if no registry is configured."""
    return f"{task.services.registry.host}/{repository(task, name)}" if task.settings.registry else ""


def fingerprint_reference(task: TaskContext, name: str, fingerprint: str) -> str:
    """The reference in the registry of an image with this fingerprint."""
    return f"{full_repository(task, name)}:{fingerprint_tag(fingerprint)}"
