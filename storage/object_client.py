"""The client of a bucket on object storage, and what is said where it refuses.

Credentials, region and endpoint come from the usual environment variables, and stand in no error.
"""

import errno
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

_CREDENTIALS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_SKIP_SIGNATURE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
)
_NO_BUCKET = "NoSuchBucket|ContainerNotFound"
TIMEOUT = timedelta(seconds=30)
"""Of one request with its answer; one that may be asked again then is."""


class ObjectStorageError(OSError):
    """Object storage refused, or couldn't be reached; says which bucket, and what helps."""

    def __init__(self, message: str) -> None:
        super().__init__(errno.EIO, message)

    def __str__(self) -> str:
        return str(self.args[1])


class RefusedError(ObjectStorageError):
    """It would be refused again: for want of credentials, of permission, of the bucket."""


@contextmanager
def told(bucket: str, key: str) -> Iterator[None]:
    """Raise what pathlib would, or ObjectStorageError in one line, for what the storage says of an object inside."""
    from obstore.exceptions import AlreadyExistsError, BaseError

    try:
        yield
    except FileNotFoundError as error:
        if re.search(f"<Code>({_NO_BUCKET})<", str(error)):
            raise _fault(bucket, key, error) from None
        raise FileNotFoundError(errno.ENOENT, "there is no such object", f"{bucket}/{key}") from None
    except AlreadyExistsError:
        raise FileExistsError(errno.EEXIST, "there is an object already", f"{bucket}/{key}") from None
    except BaseError as error:
        # Not chained: what it says holds addresses and ids of keys.
        raise _fault(bucket, key, error) from None


@lru_cache
def store(bucket: str) -> Any:
    """obstore's client of a bucket, by its address."""
    from obstore.store import from_url

    _require_credentials(bucket)
    return from_url(bucket, client_options={"allow_http": plain_endpoint(), "timeout": TIMEOUT})


def _require_credentials(bucket: str) -> None:
    """Raises RefusedError at once where S3's would be waited for in vain: from a machine that has no role."""
    if not bucket.startswith("s3:") or any(os.environ.get(name) for name in _CREDENTIALS):
        return
    machine = urlsplit(os.environ.get("AWS_METADATA_ENDPOINT", "http://169.254.169.254"))
    try:
        socket.create_connection((machine.hostname or "", machine.port or 80), timeout=2).close()
    except OSError:
        raise RefusedError(
            f"no credentials for {bucket} in the environment: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run "
            "where the machine has a role"
        ) from None


def plain_endpoint() -> bool:
    """Whether the environment names a server that is asked without encryption: one of this machine, or of a test."""
    return any(os.environ.get(name, "").startswith("http://") for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT"))


def _fault(bucket: str, key: str, error: Exception) -> ObjectStorageError:
    """What is wrong, and what helps, without a word of the answer but its code."""
    said = str(error)
    code = next(iter(re.findall(r"<Code>(\w+)</Code>|status code: (\d+)", said)), ("", ""))
    code = code[0] or code[1] or type(error).__name__
    for pattern, remedy in _REMEDIES.items():
        if re.search(pattern, f"{code} {type(error).__name__} {said[:400]}"):
            return RefusedError(f"{remedy.format(bucket=bucket)} ({code})")
    return ObjectStorageError(
        f"{bucket} doesn't answer as it should ({code}, for {key}): if it can be reached from here, run again, "
        "which goes on from here"
    )


_REMEDIES = {
    _NO_BUCKET: "there is no bucket {bucket}: create it, or name another root",
    "PermanentRedirect|AuthorizationHeaderMalformed|IllegalLocationConstraint|configured region": (
        "{bucket} is in another region than AWS_REGION says: set it to the bucket's"
    ),
    "InvalidAccessKeyId|SignatureDoesNotMatch|ExpiredToken|InvalidToken|Unauthenticated|UnauthorizedAccess": (
        "the credentials in the environment are none for {bucket}, or are out of date: set AWS_ACCESS_KEY_ID and "
        "AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN), or the ones of your cloud, anew"
    ),
    "AccessDenied|PermissionDenied|Forbidden|status code: 403": (
        "{bucket} denies access: the credentials in the environment must be allowed to list the bucket, and to get, "
        "put and delete objects in it (docs/operating.md)"
    ),
}
"""By a pattern of what the storage says."""
