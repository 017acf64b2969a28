"""Reads and sets access control entries. Needs a broker with an authorizer and ALTER on the
cluster.
"""

import contextlib
from collections.abc import Iterable, Iterator
from typing import cast

from kafka import KafkaAdminClient
from kafka.admin import (
    ACL,
    ACLFilter,
    ACLOperation,
    ACLPermissionType,
    ACLResourcePatternType,
    ResourcePattern,
    ResourcePatternFilter,
    ResourceType,
)
from kafka.errors import (
    ClusterAuthorizationFailedError,
    KafkaError,
    SecurityDisabledError,
    for_code,
)

from schemas.errors import KafkaUnavailable, PreflightError
from schemas.settings import Settings
from streams.control.rights import Operation, Right
from streams.transport.administration import administration

ANY_HOST = "*"


def present_rights(settings: Settings, principals: Iterable[str]) -> list[Right]:
    """What these principals may do now, sorted; entries that forbid or name a host are left out.

    Raises:
        PreflightError: the broker checks nobody's rights, or not ours.
        KafkaUnavailable: no broker answered.
    """
    with administration(settings) as client, _mapped():
        return sorted(right for one in sorted(set(principals)) for right in _of(client, one))


def set_rights(settings: Settings, *, grant: Iterable[Right], revoke: Iterable[Right]) -> None:
    """Add and remove entries.

    Raises:
        PreflightError: the broker checks nobody's rights, or not ours, or refuses an entry.
        KafkaUnavailable: no broker answered; some entries may be set. Repeating it is safe.
    """
    added = [ACL(*_entry(one), _pattern(one)) for one in grant]
    removed = [ACLFilter(*_entry(one), _pattern(one)) for one in revoke]
    with administration(settings) as client, _mapped():
        if added:
            answer = client.create_acls(added)
            if answer["failed"]:
                raise answer["failed"][0]("an entry was refused")
        if removed:
            for _wanted, _matched, error in client.delete_acls(removed):
                if error is not for_code(0):
                    raise error("an entry could not be removed")


@contextlib.contextmanager
def _mapped() -> Iterator[None]:
    try:
        yield
    except SecurityDisabledError as cause:
        raise PreflightError(
            "could not use access control: this broker has none. Set authorizer.class.name to "
            "org.apache.kafka.metadata.authorizer.StandardAuthorizer on every node."
        ) from cause
    except ClusterAuthorizationFailedError as cause:
        raise PreflightError(
            "could not use access control: this user may not. It needs ALTER and DESCRIBE on the "
            "cluster; name an administrator in TIDEMILL_KAFKA_USERNAME."
        ) from cause
    except KafkaError as cause:
        raise KafkaUnavailable(f"could not read or set access control: {cause!r}") from cause


def _of(client: KafkaAdminClient, principal: str) -> Iterator[Right]:
    everything = ResourcePatternFilter(ResourceType.ANY, None, ACLResourcePatternType.ANY)
    wanted = ACLFilter(principal, None, ACLOperation.ANY, ACLPermissionType.ANY, everything)
    found, _error = client.describe_acls(wanted)
    for one in found:
        if one.permission_type is not ACLPermissionType.ALLOW or one.host != ANY_HOST:
            continue
        pattern = one.resource_pattern
        yield Right(
            one.principal,
            pattern.resource_type.name,
            pattern.resource_name,
            pattern.pattern_type is ACLResourcePatternType.PREFIXED,
            cast("Operation", one.operation.name),
        )


def _entry(right: Right) -> tuple[str, str, ACLOperation, ACLPermissionType]:
    operation = ACLOperation[right.operation]
    return right.principal, ANY_HOST, operation, ACLPermissionType.ALLOW


def _pattern(right: Right) -> ResourcePattern:
    kind = ACLResourcePatternType.PREFIXED if right.prefixed else ACLResourcePatternType.LITERAL
    return ResourcePattern(ResourceType[right.resource], right.name, kind)
