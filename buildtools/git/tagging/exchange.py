"""Push one tag, over any of dulwich's clients. https://git-scm.com/docs/gitprotocol-pack"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from buildtools import BuildToolsError
from buildtools.frozen import frozen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from dulwich.client import GitClient
    from dulwich.objects import ObjectID, ShaFile
    from dulwich.pack import UnpackedObject
    from dulwich.refs import Ref

RemoteRefs = Mapping[bytes, bytes]
Decision = Callable[[RemoteRefs], "Offer | None"]


@frozen
class Offer:
    """One object to send, and the ref to create for it."""

    ref: Ref
    object: ShaFile


class ExchangeFailure(Exception):
    """The exchange ended early. ``after_refs``: the remote had sent its refs; ``permanent``: a retry cannot help."""

    def __init__(self, text: str, *, after_refs: bool = False, permanent: bool = False) -> None:
        super().__init__(text)
        self.after_refs = after_refs
        self.permanent = permanent


class RefRejection(Exception):
    """The remote did not create the ref; the text is its reason."""


def exchange(
    client: GitClient, decide: Decision, push_options: Sequence[str], progress: Callable[[bytes], None]
) -> bool:
    """Pass the remote's refs to ``decide``, and send the offer that it returns, if any. Returns whether one was sent.

    :raises RefRejection: if the remote did not create the ref.
    :raises ExchangeFailure: if anything else went wrong.
    """
    from dulwich.errors import GitProtocolError, NotGitRepository, SendPackError
    from dulwich.pack import pack_objects_to_data

    offers: list[Offer] = []
    has_refs = False

    def update(refs: dict[Ref, ObjectID]) -> dict[Ref, ObjectID]:
        nonlocal has_refs
        has_refs = True
        offers.extend(offer for offer in [decide(dict[bytes, bytes](refs.items()))] if offer)
        return {offer.ref: offer.object.id for offer in offers}

    def pack(*_: object, **__: object) -> tuple[int, Iterator[UnpackedObject]]:
        return pack_objects_to_data([offer.object for offer in offers])

    if push_options:
        _require_push_options(client)
    options = [option.encode("utf-8", "surrogateescape") for option in push_options]
    try:
        result = client.send_pack(b"", update, pack, progress=progress, push_options=options)
    except SendPackError as error:
        raise RefRejection(b" ".join(error.args).decode("utf-8", "replace")) from None
    except (NotGitRepository, NotImplementedError) as error:
        raise ExchangeFailure("not a git repository, or not open for pushing", permanent=True) from error
    except BuildToolsError:
        raise
    except (GitProtocolError, OSError) as error:
        raise ExchangeFailure(str(error), after_refs=has_refs) from error
    except (ValueError, AssertionError, LookupError) as error:
        raise ExchangeFailure("the response is not in git's protocol", permanent=True) from error
    if not offers:
        return False
    status = result.ref_status or {}
    if offers[0].ref not in status:
        raise ExchangeFailure("the response does not report on the tag", after_refs=True)
    reason = status[offers[0].ref]
    if reason is not None:
        raise RefRejection(reason)
    return True


def _require_push_options(client: GitClient) -> None:
    """Make the client fail if the remote has no push options: dulwich would omit them; git refuses to push."""
    # dulwich has no public way to learn the remote's capabilities before it sends.
    negotiate = client._negotiate_receive_pack_capabilities  # noqa: SLF001

    def check_and_negotiate(server_capabilities: set[bytes]) -> tuple[set[bytes], bytes | None]:
        if b"push-options" not in server_capabilities:
            raise ExchangeFailure("push.pushOption is set, but the remote takes no push options", permanent=True)
        return negotiate(server_capabilities)

    client._negotiate_receive_pack_capabilities = check_and_negotiate  # type: ignore[method-assign]  # noqa: SLF001
