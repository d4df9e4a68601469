"""The stages that tasks consist of: each passes values from one adapter to the next.

``stages.images`` loads that module on first use. So ``pipeline`` can name every stage, and a task loads only its own.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from buildtools.stages import archives as archives
    from buildtools.stages import build_plan as build_plan
    from buildtools.stages import channels as channels
    from buildtools.stages import check as check
    from buildtools.stages import doctor as doctor
    from buildtools.stages import engine_pruning as engine_pruning
    from buildtools.stages import fetch as fetch
    from buildtools.stages import history as history
    from buildtools.stages import image_names as image_names
    from buildtools.stages import images as images
    from buildtools.stages import leftovers as leftovers
    from buildtools.stages import new_project as new_project
    from buildtools.stages import outputs as outputs
    from buildtools.stages import promotion as promotion
    from buildtools.stages import pruning as pruning
    from buildtools.stages import publication as publication
    from buildtools.stages import releases as releases
    from buildtools.stages import service_folder as service_folder
    from buildtools.stages import signatures as signatures
    from buildtools.stages import tree as tree
    from buildtools.stages import trial as trial
    from buildtools.stages import verification as verification
    from buildtools.stages import version_images as version_images
else:

    def __getattr__(name):
        from importlib import import_module

        if name.startswith("_"):
            raise AttributeError(name)
        return import_module(f"{__name__}.{name}")
