"""Upload images from an engine to a registry, each once, as it was built, under the tag of its fingerprint."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, closing, suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from buildtools import BuildToolsError
from buildtools.events import PartialTransfers, Step
from buildtools.frozen import frozen
from buildtools.image.engine.client import Engine, EngineError
from buildtools.image.generation import PARENTS_LABEL
from buildtools.image.push.engine_push import make_known, push_by_engine, short_id, temporary_name
from buildtools.image.push.layer_sender import LayerSender
from buildtools.image.push.plan import LITTLE, LONG, LayerPlan, by_large_base, group_disjoint
from buildtools.image.registry.build_records import BuildRecords
from buildtools.image.registry.image_to_push import ImageToPush, PushRoute, variants_by_repository
from buildtools.image.registry.lookup import ImageLookup, StoredImage, fingerprint_tag
from buildtools.image.registry.manifest import DOCKER_CONFIG, Damaged, Descriptor, Manifest, diff_ids_of, labels_of
from buildtools.schedule import awaited, side_by_side
from buildtools.settings import MediaTypes

if TYPE_CHECKING:
    from buildtools.image.engine.buildkit.content import ContentStore

# How many uncompressed bytes of a new layer the engine may send. It compresses slowly, so a larger layer is exported
# and compressed here, in less time than its own push would take.
_LARGE_FOR_THE_ENGINE = 32 * 1024 * 1024
# Bytes of memory for the layers of one image that go while others are built; eight images may do so at once.
_EARLY_MEMORY = 8 * 1024 * 1024


@frozen
class StoreOptions:
    """How images are stored: with manifests of these ``media_types``.

    With a ``commit``, builds for it are recorded beside the images. Unless ``tagged`` with their fingerprints, images
    are stored by digest only, whatever else is there.
    """

    media_types: MediaTypes = MediaTypes.DOCKER
    commit: str = ""
    tagged: bool = True


class LayerUploader:
    """One run of storing images in the registry of ``sender``, in a context.

    A layer that several of them have is compressed once and sent once.
    """

    def __init__(self, engine: Engine, sender: LayerSender, pool: ThreadPoolExecutor, options: StoreOptions) -> None:
        self._engine = engine
        self._sender = sender
        self._pool = pool
        self._options = options
        self._registry = sender.registry
        self._cache = sender.cache
        self._report = sender.report
        self._records = BuildRecords(sender.registry, options.commit)
        self._lookup = ImageLookup(sender.registry, sender.cache)
        self._lock = threading.Lock()
        # By repository, the seconds that its images took, by name and fingerprint.
        self._builds: dict[str, dict[tuple[str, str], float]] = {}
        # Images that were stored uncompressed just now.
        self._to_replace: set[ImageToPush] = set()
        # The short ids of layers that the registry has and the engine would send anyway.
        self._unknown: set[str] = set()
        self._content: ContentStore | None = None
        # What goes before all images are there: layers, the tasks that send them, and configurations by repository.
        self._taken: set[str] = set()
        self._early: list[Future[None]] = []
        self._configs: dict[tuple[str, bytes], str] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        if self._engine.containerd_store:
            from buildtools.image.engine.buildkit.content import ContentStore

            self._content = self._stack.enter_context(closing(ContentStore(self._engine)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._sender.stop()
        wait(self._early)
        self._stack.close()

    def begin(self, image: ImageToPush) -> None:
        """Begin to send what is new in an image, if the engine gives its parts out one by one.

        Nothing names them before :meth:`store`. Without it, the registry's garbage collection deletes them.
        """
        if self._content and not image.as_built:
            self._early.append(self._pool.submit(self._send_early, self._content, image))

    def _send_early(self, content: ContentStore, image: ImageToPush) -> None:
        from buildtools.image.push.layers import LayerReader, read_layers
        from buildtools.image.push.spools import Spool, Spools

        def take_layer(diff_id: str, raw: Spool) -> None:
            self._sender.send(diff_id, raw, spools.make(raw.size), [image])

        def take_blob(diff_id: str, layer: Descriptor, blob: Spool) -> None:
            self._sender.send_blob(diff_id, layer, blob, [image])

        # What fails is tried again by `store`, and reported then.
        with suppress(BuildToolsError), Spools(Path(tempfile.gettempdir()), _EARLY_MEMORY) as spools:
            self._sender.go_on(image)
            plan = self._plan(image)
            with self._lock:
                layers = [diff_id for diff_id in plan.missing if diff_id not in self._taken]
                self._taken.update(layers)
            if plan.content:
                read_layers(content, [plan.content], LayerReader(layers, spools, take_layer, self._cache), take_blob)
                self._put_config(image, plan.content.config)

    def store(self, images: Sequence[ImageToPush]) -> list[tuple[StoredImage, PushRoute]]:
        """Store images that the engine has; returns each image and its route, in order.

        :raises BuildToolsError: if the engine lacks one or cannot export it, or the registry does not accept it.
        """
        wait(self._early)
        for variants in variants_by_repository(images):
            self._builds[variants[0].repository] = {
                (each.name, each.fingerprint): each.build_seconds for each in variants
            }
        plans = list(self._pool.map(self._plan, images))
        results: dict[LayerPlan, tuple[StoredImage, PushRoute]] = {}
        if self._content:
            # Attestations are about the image as the engine has made it. And BuildKit finds the cache of a child by the
            # digest of its parent, which must be the same where the parent was built and where it was pulled.
            as_built = [plan for plan in plans if plan.image.as_built]
            for plan, image in zip(as_built, self._pool.map(self._store_by_engine, as_built), strict=True):
                # An image that was built before it had a cache is not compressed.
                if plan.image.attested or all(layer.is_compressed for layer in image.manifest.layers[-1:]):
                    results[plan] = image, PushRoute.ENGINE
                else:
                    self._to_replace.add(plan.image)
        elif self._options.tagged:
            for base, above in by_large_base(plans).items():
                results |= self._try_engine(base, above)
        rest = [plan for plan in plans if plan not in results]
        results |= zip(rest, self._store_directly(rest) if rest else (), strict=True)
        return [results[plan] for plan in plans]

    def _plan(self, image: ImageToPush) -> LayerPlan:
        content = self._image_in_content(image)
        if content:
            diff_ids, size = tuple(diff_ids_of(content.config)), sum(layer.size for layer in content.manifest.layers)
        else:
            engine_image = self._engine.content(image.image_id)
            if engine_image is None:
                raise BuildToolsError(
                    f"the engine has no image {image.image_id} ({image.name})", "build it first: `invoke build`"
                )
            diff_ids = tuple(engine_image["RootFS"].get("Layers") or ())
            size = int(engine_image.get("Size") or 0)
        repository_layers = {}
        for diff_id in dict.fromkeys(diff_ids):
            layer = self._sender.descriptor(diff_id)
            if layer and self._sender.place(image, layer, image.parent_repositories):
                repository_layers[diff_id] = layer
        return LayerPlan(image, size, diff_ids, repository_layers, content)

    def _image_in_content(self, image: ImageToPush) -> StoredImage | None:
        """The image in the engine's content store, unless the engine is to push it."""
        from buildtools.image.push.layers import read_content

        return read_content(self._content, image.image_id) if self._content and not image.as_built else None

    def _store_directly(self, plans: Sequence[LayerPlan]) -> list[tuple[StoredImage, PushRoute]]:
        from buildtools.image.push.layers import LayerReader, export, read_layers
        from buildtools.image.push.spools import Spool, Spools

        images_by_layer: dict[str, list[ImageToPush]] = {}
        for plan in plans:
            for diff_id in plan.missing:
                images_by_layer.setdefault(diff_id, []).append(plan.image)
        sending: dict[str, Future[Descriptor]] = {}
        # After a cancellation, nobody waits for an engine that is still writing there.
        with Spools(Path(tempfile.gettempdir())) as spools:

            def take_layer(diff_id: str, raw: Spool) -> None:
                self._sender.go_on(images_by_layer[diff_id][0])
                target = spools.make(raw.size)
                sending[diff_id] = self._pool.submit(self._sender.send, diff_id, raw, target, images_by_layer[diff_id])

            def take_blob(diff_id: str, layer: Descriptor, blob: Spool) -> None:
                images = images_by_layer[diff_id]
                self._sender.go_on(images[0])
                sending[diff_id] = self._pool.submit(self._sender.send_blob, diff_id, layer, blob, images)

            def give_out(group: Sequence[LayerPlan]) -> dict[str, bytes]:
                for plan in group:
                    if plan.size >= LONG:
                        self._report(Step(plan.image.name, "the engine gives its layers out"))
                contents = {plan.image.image_id: plan.content for plan in group if plan.content}
                # An engine refuses to export an image without layers; its own push then takes the configuration.
                image_ids = [plan.image.image_id for plan in group if plan.diff_ids and not plan.content]
                present = {layer.digest for plan in group for layer in plan.repository_layers.values()}
                reader = LayerReader(images_by_layer, spools, take_layer, self._cache, present)
                if self._content:
                    read_layers(self._content, contents.values(), reader, take_blob)
                configs = export(self._engine, image_ids, reader) if image_ids else {}
                return configs | {image_id: image.config for image_id, image in contents.items()}

            try:
                groups = group_disjoint(plans)
                config_maps = side_by_side([partial(give_out, group) for group in groups], jobs=len(groups))
                configs = {image_id: config for some in config_maps for image_id, config in some.items()}
                sent_layers = {diff_id: future.result() for diff_id, future in sending.items()}
            except BaseException:
                # Running uploads read these files, and the user may be waiting for the terminal.
                self._sender.stop()
                wait(list(sending.values()))
                raise

        def finish(plan: LayerPlan) -> tuple[StoredImage, PushRoute]:
            layers = [plan.repository_layers.get(diff_id) or sent_layers.get(diff_id) for diff_id in plan.diff_ids]
            config = configs.get(plan.image.image_id)
            if config is not None and all(layers):
                return self._finish(plan.image, config, [layer for layer in layers if layer]), PushRoute.DIRECT
            # There is nothing to export, or a base layer cannot be read here, such as one with Zstandard compression in
            # an archive.
            image = self._store_by_engine(plan)
            if config is not None:
                pairs = zip(layers, image.manifest.layers, strict=True)
                image = self._put(plan.image, config, [ours or theirs for ours, theirs in pairs])
            return image, PushRoute.ENGINE

        return list(self._pool.map(finish, plans))

    def _finish(self, image: ImageToPush, config: bytes, layers: list[Descriptor]) -> StoredImage:
        """Put configuration and manifest of an image whose layers are all there; returns the image in the registry.

        Another agent may have stored the same fingerprint meanwhile. Its image is as good, and both agents then use it;
        unless it was built on other parents.
        """
        # If a newer build was required, the existing image is the outdated one.
        if self._options.tagged and not image.built_since and image not in self._to_replace:
            present = self._lookup.intact(image.repository, image.fingerprint)
            if present and present.labels.get(PARENTS_LABEL) == labels_of(config).get(PARENTS_LABEL):
                return present
        return self._put(image, config, layers)

    def _put(self, image: ImageToPush, config: bytes, layers: list[Descriptor]) -> StoredImage:
        digest = self._put_config(image, config)
        manifest = Manifest.make(Descriptor(DOCKER_CONFIG, digest, len(config)), layers, self._options.media_types)
        # Before the image appears, so that whoever sees the image also sees for which commit it was built.
        self._record(image, manifest)
        target = fingerprint_tag(image.fingerprint) if self._options.tagged else manifest.digest
        self._registry.put_manifest(image.repository, target, manifest)
        # A registry keeps a damaged copy. The next push must notice that, so the configuration is not cached.
        with suppress(Damaged):
            if awaited(lambda: self._registry.get_blob(image.repository, digest)):
                self._cache.remember_config(config)
        return StoredImage(manifest, config)

    def _put_config(self, image: ImageToPush, config: bytes) -> str:
        place = image.repository, config
        if place not in self._configs:
            self._configs[place] = self._registry.put_blob(*place)
        return self._configs[place]

    def _try_engine(
        self, base: Sequence[str], plans: Sequence[LayerPlan]
    ) -> dict[LayerPlan, tuple[StoredImage, PushRoute]]:
        """The images above one base that the engine could push without sending the base, or much else."""
        first, *others = plans
        results = {first: self._push_little(first)}
        if self._unknown & {short_id(diff_id) for diff_id in base}:
            if not self._make_known(first, base):
                return {}
            results[first] = self._push_little(first)
        results |= zip(others, self._pool.map(self._push_little, others), strict=True)
        return {plan: (image, PushRoute.ENGINE) for plan, image in results.items() if image}

    def _push_little(self, plan: LayerPlan) -> StoredImage | None:
        present_layers = {short_id(diff_id) for diff_id in plan.repository_layers}

        def may_send(layer: str, size: int) -> bool:
            if layer not in present_layers:
                return size <= _LARGE_FOR_THE_ENGINE
            if size > LITTLE:
                self._unknown.add(layer)
            return size <= LITTLE

        try:
            return self._push_by_engine(plan.image, may_send)
        except EngineError:
            # The engine may not reach or trust the registry, although we do.
            return None

    def _make_known(self, plan: LayerPlan, base: Sequence[str]) -> bool:
        """Teach the engine the names of its layers in the registry, if that pays off; returns whether it did.

        That takes a pull, about as long as one export of the base. An ephemeral engine, made for one job, is used only
        once. So this waits for a base that this machine has sent itself before.
        """
        if not all(self._cache.layer(diff_id) for diff_id in base):
            return False
        layers = {diff_id: plan.repository_layers[diff_id] for diff_id in base}
        try:
            make_known(self._engine, self._registry, plan.image.repository, plan.image.image_id, layers)
        except EngineError:
            return False
        return True

    def _store_by_engine(self, plan: LayerPlan) -> StoredImage:
        image = self._push_by_engine(plan.image, lambda _layer, _size: True)
        if image is None:
            raise BuildToolsError(
                f"{plan.image.name} was pushed by the engine and is not in the registry", "run the same command again"
            )
        return image

    def _push_by_engine(self, image: ImageToPush, may_send: Callable[[str, int], bool]) -> StoredImage | None:
        tag = fingerprint_tag(image.fingerprint)
        name = f"{self._registry.host}/{image.repository}"
        with temporary_name(self._engine, image.image_id, f"{name}:{tag}"):
            layer_sent = PartialTransfers(self._report, image.name)
            complete = push_by_engine(self._engine, name, tag, self._registry.credential, may_send, layer_sent)
        if not complete:
            return None
        stored_image = awaited(lambda: self._lookup.read(image.repository, tag))
        if stored_image:
            self._record(image, stored_image.manifest)
        return stored_image

    def _record(self, image: ImageToPush, manifest: Manifest) -> None:
        self._records.add(image.repository, manifest, self._builds[image.repository])
