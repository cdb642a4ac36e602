"""Every error Anwen raises, grouped by what the caller can do about it.

AnwenError
├── RequestError            change the request
│   ├── MalformedError          bytes or fields do not follow the format
│   ├── TooLargeError           more rows or bytes than one request may carry
│   ├── PolicyError             the vault file or policy is wrong, or not signed by the quorum
│   ├── ConflictError           a unique field or a version is taken
│   └── NotFoundError           no such record, subject, collection or keeper
├── DeniedError             ask for a right, or wait
│   ├── GrantError              the grant does not cover this request
│   ├── RefusedError            the keepers refuse to open this, or it is not there
│   └── BudgetError             budget spent; retry after `retry_after_s`
├── UnavailableError        try again; a write may have been carried out: look first
│   ├── QuorumError             fewer than `threshold` keepers answered
│   ├── ClockError              a clock is more than 30 s from its peers'
│   ├── StorageError            a disk is full or failing; the service stopped before answering
│   └── OverloadedError         too many requests waiting; retry after `retry_after_s`
└── IntegrityError          stop and alert; never retry
    ├── OpenError               sealed bytes do not open under this key and AAD
    ├── DisputeError            keepers contradict each other; nothing was stored
    ├── RollbackError           state is older than what peers have signed
    └── ProofError              a keeper's, a node's or the log's proof does not verify

Messages say what was expected, what came and which id; never plaintext, field values, keys or grants.
"""

from __future__ import annotations

import traceback
from pathlib import Path


class AnwenError(Exception):
    """Base of all errors; `code` is stable across releases, clients match on it and not on the text."""

    code = "error"
    http_status = 500

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class RequestError(AnwenError):
    """Change the request."""

    code = "request"
    http_status = 400


class MalformedError(RequestError):
    """Bytes or fields do not follow the format."""

    code = "malformed"


class TooLargeError(RequestError):
    """More rows or bytes than one request may carry."""

    code = "too_large"
    http_status = 413


class PolicyError(RequestError):
    """The vault file or a policy version is wrong, or its signatures do not reach the quorum."""

    code = "policy"


class ConflictError(RequestError):
    """A unique field's value or a record's version is taken."""

    code = "conflict"
    http_status = 409


class NotFoundError(RequestError):
    """No such record, subject, collection, field or keeper."""

    code = "not_found"
    http_status = 404


class DeniedError(AnwenError):
    """Ask for a right, or wait."""

    code = "denied"
    http_status = 403


class GrantError(DeniedError):
    """The grant does not cover this request. One wording for every cause, the cause is in the log."""

    code = "grant"


class RefusedError(DeniedError):
    """Not opened: unknown, expired, restricted, erased or deleted. One wording for every cause."""

    code = "refused"


class BudgetError(DeniedError):
    """Budget spent; `retry_after_s` says when the oldest charge leaves the window."""

    code = "budget"
    http_status = 429


class UnavailableError(AnwenError):
    """Try again. Of a write it may be open whether it was carried out: look first, or rely on a unique field."""

    code = "unavailable"
    http_status = 503


class QuorumError(UnavailableError):
    """Fewer than `threshold` keepers answered."""

    code = "quorum"


class ClockError(UnavailableError):
    """A clock is more than 30 s from its peers'."""

    code = "clock"


class StorageError(UnavailableError):
    """A disk is full or failing; nothing was answered that is not durable."""

    code = "storage"
    http_status = 507


class OverloadedError(UnavailableError):
    """Too many requests are waiting."""

    code = "overloaded"


class IntegrityError(AnwenError):
    """Stop and alert; never retry."""

    code = "integrity"


class OpenError(IntegrityError):
    """Sealed bytes do not open. One message for every cause: no oracle."""

    code = "open"

    def __init__(self, message: str = "sealed bytes do not open") -> None:
        super().__init__(message)


class DisputeError(IntegrityError):
    """Keepers contradict each other; `evidence` holds both signed answer headers."""

    code = "dispute"

    def __init__(self, message: str, evidence: tuple[bytes, ...] = ()) -> None:
        super().__init__(message)
        self.evidence = evidence


class RollbackError(IntegrityError):
    """State is older than, or differs from, what peers have signed."""

    code = "rollback"


class ProofError(IntegrityError):
    """A proof, signature or promise of another party does not verify."""

    code = "proof"


def _leaves(cls: type[AnwenError]) -> list[type[AnwenError]]:
    return [cls, *(leaf for sub in cls.__subclasses__() for leaf in _leaves(sub))]


BY_CODE: dict[str, type[AnwenError]] = {cls.code: cls for cls in _leaves(AnwenError)}


def from_code(code: str, message: str, retry_after_s: float | None = None) -> AnwenError:
    """Return the error that a peer named by its stable code; unknown codes become `UnavailableError`."""
    error = BY_CODE.get(code, UnavailableError)(message)
    error.retry_after_s = retry_after_s
    return error


def place(error: BaseException) -> str:
    """Return class and last place in our code of an exception: all that is shown of one that is not ours."""
    package = Path(__file__).resolve().parent
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        path = Path(frame.f_code.co_filename).resolve()
        if path.is_relative_to(package):
            return f"{type(error).__name__} at anwen/{path.relative_to(package)}:{line}"
    return type(error).__name__
