"""huggingface_hub's many errors as one that says what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from salmu_core.errors import HubError
from salmu_hub.repository import Repository


def offline_error(repository: Repository) -> HubError:
    """The error of a repository that is not whole on this machine while HF_HUB_OFFLINE forbids the network."""
    return HubError(
        f"The {repository} is not complete on this machine, and HF_HUB_OFFLINE forbids the network.",
        "Unset HF_HUB_OFFLINE and run the same command again.",
        unreachable=True,
    )


@contextmanager
def explained(repository: Repository) -> Iterator[None]:
    """Turn huggingface_hub's errors into one that says what to do."""
    try:
        yield
    except HubError:
        raise
    except Exception as error:
        explained = explain(error, repository)
        if explained is None:
            raise
        raise explained from error


def explain(error: BaseException, repository: Repository) -> HubError | None:
    """Translate an exception of huggingface_hub into a `HubError`; None for any other exception."""
    from huggingface_hub import constants, get_token
    from huggingface_hub.errors import (  # type: ignore[attr-defined]
        EntryNotFoundError,
        FileMetadataError,
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        HTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    what = f"The {repository}"
    cause: BaseException | None = error
    # These two say that nothing is cached and that an upload failed; what went wrong is their cause.
    while isinstance(cause, LocalEntryNotFoundError | RuntimeError):
        cause = cause.__cause__
    error = cause or error
    log_in = "Log in with `hf auth login` or set HF_TOKEN"
    logged_in = get_token() is not None
    match error:
        case OfflineModeIsEnabled():
            return offline_error(repository)
        case HFValidationError():
            return HubError(f"'{repository.name}' is not a name of a repository: {error}", "A name looks like OWNER/NAME.")
        case GatedRepoError():
            page = f"{constants.ENDPOINT}/{'datasets/' if repository.kind == 'dataset' else ''}{repository.name}"
            account = "with the account of your token" if logged_in else "and log in with `hf auth login` or set HF_TOKEN"
            return HubError(
                f"{what} is gated: its owners want to know who reads it.", f"Accept its terms at {page} {account}."
            )
        case RepositoryNotFoundError():
            hint = "this token may not read it" if logged_in else f"it is private. {log_in} if you may read it"
            return HubError(f"{what} is not there for you.", f"Either the name is wrong, or {hint}.")
        case RevisionNotFoundError():
            return HubError(f"{what} does not exist: {repository.name} has no such revision.", "Check the revision.")
        case EntryNotFoundError() if not isinstance(error, LocalEntryNotFoundError):
            return HubError(f"A file of the {repository} is not there: {_first_line(error)}", "Check the name and revision.")
        case HfHubHTTPError():
            status = error.response.status_code
            if status == 401:
                return HubError(
                    f"The hub refuses your token ({_first_line(error)}).", f"{log_in} with a token that is valid."
                )
            if status == 403:
                return HubError(
                    f"Your token has no permission for the {repository}: {_first_line(error)}",
                    "Use a token with that permission (writing needs one with the role 'write'), or another OWNER.",
                )
            if status == 429:
                return HubError(
                    "The hub asks for a pause: too many requests.",
                    "Run the same command again in some minutes.",
                    unreachable=True,
                )
            if status >= 500:
                return HubError(
                    f"The hub has a problem of its own (HTTP {status}).",
                    "Run the same command again later: it goes on where it was.",
                    unreachable=True,
                )
            return HubError(f"The hub answered HTTP {status} for the {repository}: {_first_line(error)}")
        case HTTPError() | ConnectionError() | TimeoutError() | LocalEntryNotFoundError():
            return HubError(
                f"{constants.ENDPOINT} cannot be reached for the {repository}: {_first_line(error)}",
                "Check the network. The same command goes on where it was.",
                unreachable=True,
            )
        case FileMetadataError():
            return HubError(
                f"{constants.ENDPOINT} does not answer as a hub does for the {repository}: {_first_line(error)}",
                "Check HF_ENDPOINT and the proxy.",
                unreachable=True,
            )
        case OSError() if "Consistency check failed" in str(error):
            return HubError(
                f"A file of the {repository} arrived cut: {_first_line(error)}",
                "Run the same command again: it goes on where it was.",
                unreachable=True,
            )
        case _:
            return None


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
