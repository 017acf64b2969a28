"""What msgspec raises for bytes that it cannot decode.

Apart from `schemas.errors`, which the engines import on machines without msgspec.
"""

import msgspec

UNDECODABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""Text that is no UTF-8, and nesting without end, are not in msgspec's own tree."""
