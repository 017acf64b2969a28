"""pyarrow starts without pandas, and pandas still works for those who want it."""

import subprocess
import sys

import pyarrow as pa
import pytest

from schemas.arrow import read_batch, write_batch


def test_first_array_imports_no_pandas_and_pandas_still_works() -> None:
    """In a process of its own, because the question is asked once per process."""
    code = (
        "import sys\n"
        "from schemas.arrow import spare_pandas\n"
        "spare_pandas()\n"
        "import pyarrow as pa\n"
        "import numpy as np\n"
        "pa.array(['x'], pa.utf8()); pa.array(np.arange(3)); pa.table({'a': [1.5, None]})\n"
        "assert 'pandas' not in sys.modules\n"
        "import pandas as pd\n"
        "table = pa.Table.from_pandas(pd.DataFrame({'a': [1, 2]}))\n"
        "assert table['a'].to_pylist() == [1, 2]\n"
        "assert table.to_pandas()['a'].sum() == 3\n"
    )
    answer = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr


@pytest.mark.parametrize("rows", [0, 1, 1000])
def test_a_message_is_what_a_stream_writer_writes(rows: int) -> None:
    """Byte for byte, so that every Arrow reader takes it; also of a slice, and with metadata."""
    whole = pa.RecordBatch.from_pydict(
        {"word": [f"w{i}" for i in range(1100)], "list": [[i, i + 1] for i in range(1100)]}
    ).replace_schema_metadata({"made": "here"})
    for batch in (whole.slice(50, rows), whole.slice(0, rows).select(["list"])):
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.schema) as writer:
            writer.write_batch(batch)
        assert write_batch(batch) == sink.getvalue().to_pybytes()
        assert read_batch(write_batch(batch), batch.schema, what="rows").equals(batch)
