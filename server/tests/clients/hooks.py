"""What schemathesis does not know by itself: how lines of JSON are written."""

import json

import schemathesis


@schemathesis.serializer("application/x-ndjson")
def lines_of_json(context, value):
    """A case's body is one line; anything that is no JSON goes as it is."""
    if isinstance(value, (bytes, bytearray)):
        return bytes(value)
    return json.dumps(value).encode() + b"\n"
