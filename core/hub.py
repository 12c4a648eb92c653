"""What the hub's client raises, as our sentences, and how many bytes it has fetched."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from core.errors import UserError

_CHECK_CONNECTION = "Check the connection, or choose a file"


@contextmanager
def told(hub_id: str, what: str, kind: type[UserError]) -> Iterator[None]:
    """Let the block ask the hub for `hub_id`.

    Args:
        what: the word for it, such as `dataset`. kind: of which error the sentences are.

    Raises:
        UserError: a `kind`: there is no such thing, it is gated, or the hub cannot be reached.
    """
    from httpx2 import HTTPError  # what the hub's client is built on, and lets through
    from huggingface_hub.errors import (
        DisabledRepoError,
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    def gated() -> UserError:
        return kind(f"The {what} {hub_id} is gated", hint="Accept its terms on the hub and set HF_TOKEN")

    try:
        yield
    except HFValidationError:
        hint = "Write it as owner/name, as in the address of its page"
        raise kind(f"{hub_id!r} is no name of {_article(what)} {what} on the hub", hint=hint) from None
    except GatedRepoError:
        raise gated() from None
    except (RepositoryNotFoundError, RevisionNotFoundError):
        title = f"The hub has no {what} {hub_id}, or it is private"
        raise kind(title, hint="Check its name, or set HF_TOKEN") from None
    except DisabledRepoError:
        raise kind(f"The {what} {hub_id} was disabled by the hub", hint="Choose another one") from None
    except OfflineModeIsEnabled:
        raise kind("The hub is not asked: HF_HUB_OFFLINE is set", hint="Unset it, or choose a file") from None
    except HfHubHTTPError as error:
        if error.response.status_code in (401, 403):
            raise gated() from None
        answer = f"it answered {error.response.status_code}"
        raise kind(f"The hub did not give {hub_id}", answer, "Try again later") from None
    except HTTPError as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise kind(f"The hub cannot be reached for {hub_id}", reason, _CHECK_CONNECTION) from None
    except OSError as error:
        reason = error.strerror or str(error).splitlines()[0]
        raise kind(f"The {what} {hub_id} could not be downloaded", reason, _CHECK_CONNECTION) from None


def counter(total: int, progress: Callable[[int, int], None]) -> Any:
    """What the hub's client takes for a progress bar, which adds up all files; `progress` hears how many bytes have
    come, of how many.
    """
    done = 0

    class Counter:
        def __init__(self, *_: object, initial: int = 0, **__: object) -> None:
            self.n, self.total = initial, total
            self.update(initial)

        def update(self, count: float | None = 1) -> None:
            nonlocal done
            done += int(count or 0)
            progress(min(done, total), total)

        def close(self) -> None: ...

        def __enter__(self) -> Counter:
            return self

        def __exit__(self, *_: object) -> None: ...

    return Counter


def _article(noun: str) -> str:
    return "an" if noun[0] in "aeiou" else "a"
