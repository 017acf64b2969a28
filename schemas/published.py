"""The records of a pipeline's topics for other programs: JSON Schema, and one AsyncAPI document.

Both are made from the declarations that the code itself uses, so they cannot say anything else.
Schemas are draft-07, which most validators and generators understand.
"""

import re
from importlib.metadata import version
from typing import Any

import msgspec
import pyarrow as pa

from schemas.alarms import Alarm
from schemas.audit import AUDIT_SIGNATURE, AuditEntry
from schemas.dead_letters import Reason
from schemas.evaluations import EVALUATIONS
from schemas.events import event_type
from schemas.examples import EXAMPLES
from schemas.features import FLOAT32_OVERFLOW, Numeric
from schemas.labels import Label
from schemas.manifest import ANNOUNCEMENT_SIGNATURE, Announcement
from schemas.notices import Notice
from schemas.pipeline import Pipeline
from schemas.predictions import Prediction
from schemas.scored import SCORED
from schemas.topics import Topic, control_topics

Document = dict[str, Any]

_DRAFT = "http://json-schema.org/draft-07/schema#"
_ASYNCAPI = "asyncapi"
_ARROW_STREAM = "application/vnd.apache.arrow.stream"

_LIMITS = {"int32": (-(1 << 31), (1 << 31) - 1), "uint16": (0, (1 << 16) - 1)}
_LIMITS |= {"uint32": (0, (1 << 32) - 1), "int64": (-(1 << 63), (1 << 63) - 1)}
_WRITTEN_BY_OTHERS = frozenset({"events", "labels"})
_SIGNED = {"models": ANNOUNCEMENT_SIGNATURE, "audit": AUDIT_SIGNATURE}
"""The header with the signature of a record."""


def documents(pipeline: Pipeline) -> dict[str, Document]:
    """Every document by its name: one per kind of record, and ``asyncapi`` over all of them."""
    found: dict[str, Document] = {
        "events": _events(pipeline),
        "labels": _labels(pipeline),
        "predictions": _struct(Prediction, f"Prediction of {pipeline.name}"),
        "scored": _rows(SCORED, f"Scored row of {pipeline.name}"),
        "dead-letters": _dead_letter_headers(pipeline),
        "examples": _rows(EXAMPLES, f"Example of {pipeline.name}"),
        "evaluations": _rows(EVALUATIONS, f"Evaluation of {pipeline.name}"),
        "alarms": _struct(Alarm, f"Alarm of {pipeline.name}"),
        "models": _struct(Announcement, "Announcement of model versions"),
        "audit": _struct(AuditEntry, "Entry of the audit log"),
        "alerts": _struct(Notice, "What people are told"),
    }
    return found | {_ASYNCAPI: _asyncapi(pipeline)}


def text(document: Document) -> str:
    """The document as a file holds it: indented JSON that is the same every time."""
    return msgspec.json.format(msgspec.json.encode(document), indent=2).decode() + "\n"


def _struct(kind: type[msgspec.Struct], title: str) -> Document:
    """The schema of a struct, its fields described by its docstring."""
    (root,), others = msgspec.json.schema_components([kind], ref_template="#/definitions/{name}")
    name = root["$ref"].rpartition("/")[2]
    schema = dict(others.pop(name))
    summary, described = _described(schema.pop("description", ""))
    for field, words in described.items():
        schema["properties"][field] = schema["properties"][field] | {"description": words}
    for other in others.values():
        other["description"] = _described(other.get("description", ""))[0]
    found = {"$schema": _DRAFT, **schema, "title": title, "description": summary}
    return found | ({"definitions": others} if others else {})


def _described(docstring: str) -> tuple[str, dict[str, str]]:
    """The summary of a docstring, and what its section on attributes says of each."""
    summary, _, attributes = docstring.partition("Attributes:")
    fields: dict[str, str] = {}
    for match in re.finditer(r"^ {8}(\w+): (.*(?:\n {12}.*)*)", attributes, re.MULTILINE):
        fields[match[1]] = re.sub(r"\s+", " ", match[2]).strip()
    return re.sub(r"\s+", " ", summary).strip(), fields


def _events(pipeline: Pipeline) -> Document:
    schema = _struct(event_type(pipeline), f"Event of {pipeline.name}")
    schema["description"] = (
        "What producers send. Fields that are not named here are allowed and ignored."
    )
    words = {
        "event_id": "Unique for ever; joins the label and the prediction.",
        "event_time_ms": "When it happened: Unix epoch, milliseconds, UTC, no point.",
        pipeline.key: "The subject, and the Kafka key. Records with one key stay in order.",
    }
    properties = schema["properties"]
    for name, said in words.items():
        properties[name] = properties[name] | {"description": said}
    properties["event_time_ms"]["minimum"] = 0
    for feature in pipeline.features:
        if isinstance(feature, Numeric):
            within = {
                "type": "number",
                "exclusiveMinimum": -FLOAT32_OVERFLOW,
                "exclusiveMaximum": FLOAT32_OVERFLOW,
            }
            if feature.missing is None:
                properties[feature.name] = within
            else:
                properties[feature.name]["anyOf"] = [within, {"type": "null"}]
    return schema


def _labels(pipeline: Pipeline) -> Document:
    schema = _struct(Label, f"Label of {pipeline.name}: {pipeline.target.name}")
    value = schema["properties"]["value"]
    if pipeline.target.kind == "number":
        value |= {"type": "number"}
    else:
        value |= {"enum": [0, 1, False, True]}
    del value["anyOf"]
    schema["properties"]["label_time_ms"]["minimum"] = 0
    schema["properties"]["revision"] |= {"minimum": 0, "maximum": (1 << 31) - 1}
    return schema


def _dead_letter_headers(pipeline: Pipeline) -> Document:
    """Of a dead letter the headers are ours; key and value are the rejected record's."""
    number = {"type": "string", "pattern": "^[0-9]+$"}
    headers = {
        "reason": {"type": "string", "enum": [reason.value for reason in Reason]},
        "detail": {"type": "string", "maxLength": 500},
        "topic": {"type": "string", "description": "Where the record was read."},
        "partition": number,
        "offset": number,
        "null": {"type": "string", "enum": ["0", "1"], "description": "1: it had no value."},
    }
    return {
        "$schema": _DRAFT,
        "title": f"Headers of a dead letter of {pipeline.name}",
        "description": "Kafka headers, as text. Key and value are those of the rejected record, "
        "byte for byte.",
        "type": "object",
        "properties": headers,
        "required": list(headers),
    }


def _rows(schema: pa.Schema, title: str) -> Document:
    return {
        "$schema": _DRAFT,
        "title": title,
        "description": "One row of the record batch that a message holds as an Arrow stream. "
        "`x-arrow` is the type of the column, which is never null unless null is allowed here.",
        "type": "object",
        "properties": {field.name: _column(field) for field in schema},
        "required": schema.names,
        "additionalProperties": False,
    }


def _column(field: pa.Field) -> Document:
    kind = _value(field.type) | {"x-arrow": str(field.type)}
    if field.nullable:
        kind["type"] = [kind["type"], "null"]
    return kind


def _value(kind: pa.DataType) -> Document:
    """How a value of the column is written in JSON."""
    if pa.types.is_list(kind):
        return {"type": "array", "items": _value(kind.value_type)}
    if pa.types.is_integer(kind):
        lowest, highest = _LIMITS[str(kind)]
        return {"type": "integer", "minimum": lowest, "maximum": highest}
    if pa.types.is_floating(kind):
        return {"type": "number"}
    if pa.types.is_timestamp(kind):
        return {"type": "string", "format": "date-time"}
    if pa.types.is_decimal(kind):
        return {"type": "string", "pattern": r"^-?[0-9]+(\.[0-9]+)?$"}
    assert pa.types.is_string(kind), kind
    return {"type": "string"}


def _asyncapi(pipeline: Pipeline) -> Document:
    topics = {topic.name.rpartition(".")[2]: topic for topic in pipeline.topics.all()}
    topics |= {topic.name.rpartition(".")[2]: topic for topic in control_topics()}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": f"Tidemill: {pipeline.name}",
            "version": version("tidemill"),
            "description": f"Topics of the pipeline {pipeline.name}. Read them with "
            "isolation.level=read_committed: others also see what was rolled back. Operations are "
            "those of Tidemill: what it receives, you send.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {
            "embedded": {
                "host": "127.0.0.1:9092",
                "protocol": "kafka",
                "description": "The broker of `tidemill up`; TIDEMILL_KAFKA names another.",
            }
        },
        "channels": {kind: _channel(kind, topic) for kind, topic in topics.items()},
        "operations": {
            kind: {
                "action": "receive" if kind in _WRITTEN_BY_OTHERS else "send",
                "channel": {"$ref": f"#/channels/{kind}"},
            }
            for kind in topics
        },
        "components": {"messages": {kind: _message(kind, topic) for kind, topic in topics.items()}},
    }


def _channel(kind: str, topic: Topic) -> Document:
    settings: Document = {
        name: [value] if name == "cleanup.policy" else int(value)
        for name, value in topic.configuration().items()
    }
    return {
        "address": topic.name,
        "messages": {kind: {"$ref": f"#/components/messages/{kind}"}},
        "bindings": {
            "kafka": {
                "partitions": topic.partitions,
                "topicConfiguration": settings,
                "bindingVersion": "0.5.0",
            }
        },
    }


def _message(kind: str, topic: Topic) -> Document:
    message: Document = {
        "name": kind,
        "title": topic.record,
        "bindings": {
            "kafka": {
                "key": {"type": "string", "description": f"Kafka key: {topic.key}"},
                "bindingVersion": "0.5.0",
            }
        },
    }
    schema = {"schemaFormat": _FORMAT, "schema": {"$ref": f"./{kind}.json"}}
    if topic.record == "Arrow stream":
        return message | {"contentType": _ARROW_STREAM, "payload": schema}
    if kind == "dead-letters":
        return message | {"contentType": "application/octet-stream", "headers": schema}
    if kind == "learners":  # read by Tidemill alone: signed, and another with every release
        return message | {"contentType": "application/octet-stream"}
    if kind in _SIGNED:
        signature = {"type": "string", "description": "Ed25519; `models.signing` checks it."}
        headers = {"type": "object", "properties": {_SIGNED[kind]: signature}}
        return message | {"payload": schema, "headers": headers}
    return message | {"payload": schema}


_FORMAT = "application/schema+json;version=draft-07"
