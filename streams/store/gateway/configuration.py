"""The configuration files of the engine, written into its folder at every start.

An explicit file matters twice: without one chDB loads any ``config.xml`` it finds in the working
directory, and its only user could read files, call out and run programs.
"""

from collections.abc import Iterable
from pathlib import Path
from xml.sax.saxutils import escape

from streams.store.gateway.access import FENCE, IDENTITY, access_xml
from streams.store.gateway.backup import DISK, disk_xml
from streams.store.gateway.query_log import QUERY_LOG_PROFILE_XML, QUERY_LOG_XML

# Settings that name a file or an address, or change how statements are read: nobody changes them.
_CONSTANT = (
    "dialect",
    "format_schema",
    "format_template_row",
    "format_template_resultset",
    "format_avro_schema_registry_url",
    "input_format_record_errors_file_path",
    "output_format_schema",
    "rename_files_after_processing",
    "allow_introspection_functions",
    "url_base",
)

_USERS = """<clickhouse>
  <profiles><default>
    <async_insert>0</async_insert>
    {query_log}
    <allow_introspection_functions>0</allow_introspection_functions>
    <input_format_values_interpret_expressions>0</input_format_values_interpret_expressions>
    <input_format_values_deduce_templates_of_expressions>0</input_format_values_deduce_templates_of_expressions>
    <max_memory_usage>{query_memory_bytes_max}</max_memory_usage>
    <max_execution_time>{query_s_max}</max_execution_time>
    <max_query_size>263168</max_query_size>
    <constraints>
      {constants}
      {bounds}
    </constraints>
  </default>
  <{fence}><constraints>
    {constants}
    {bounds}
    <{identity}><const/></{identity}>
  </constraints></{fence}></profiles>
  <quotas><default/></quotas>
  {roles}
  <users><default>
    <password></password>
    <networks><ip>::/0</ip></networks>
    <profile>default</profile>
    <quota>default</quota>
    <grants>{grants}</grants>
    {filters}
  </default></users>
</clickhouse>
"""

_SERVER = """<clickhouse>
  <users_config>{users}</users_config>
  <timezone>UTC</timezone>
  <logger><level>none</level></logger>
  <max_server_memory_usage_to_ram_ratio>0.5</max_server_memory_usage_to_ram_ratio>
  <custom_local_disks_base_directory></custom_local_disks_base_directory>
  {query_log}
  <storage_configuration><disks>
    <default><keep_free_space_bytes>{free_bytes_min}</keep_free_space_bytes></default>
    {backup_disk}
  </disks></storage_configuration>
  <backups><allowed_disk>{backups}</allowed_disk></backups>
  <merge_tree>
    {merging}
    {removing}
    {fsync}
  </merge_tree>
</clickhouse>
"""

# Landers insert few rows at a time. The engine takes each part for 5 MB larger than it is, so with
# its own base of 5 the sixth small part takes a large one along, and then only the first two of the
# small ones: at 100 events/s 250 rows were merged for each that came, half of the store's CPU time.
# With 16, and all of them taken along, a test merges a fifth of the rows; some 20 parts stay apart.
_MERGING = """<merge_selector_base>16</merge_selector_base>
    <merge_selector_enable_heuristic_to_remove_small_parts_at_right>0</merge_selector_enable_heuristic_to_remove_small_parts_at_right>"""

# A hundred old parts were removed by up to 128 threads, and the engine keeps a thread as long as it
# runs: with the memory that each holds, and three open files, the store grew for hours.
_REMOVING = "<concurrent_part_removal_threshold>1000000000</concurrent_part_removal_threshold>"

# Of every MergeTree table, also those that exist already: an insert is answered when its files and
# folder are on the disk, and a merge removes its sources only after its result is.
_FSYNC = """<fsync_after_insert>1</fsync_after_insert>
    <fsync_part_directory>1</fsync_part_directory>
    <min_compressed_bytes_to_fsync_after_merge>1</min_compressed_bytes_to_fsync_after_merge>"""

FREE_BYTES_MIN = 128 << 20
"""Of the disk; below it inserts and merges are not begun. A merge that meets the end of the disk
leaves a damaged part in the place of good ones (26.9)."""
QUERY_S_MAX = 300
"""Longest run of one query, unless its client asks otherwise with ``max_execution_time``."""
QUERY_S_LIMIT = 3600
"""The most that a client may ask for. Not 0, which would be without end."""

# Of every connection; 0 would be without end.
_BOUNDS = """<max_execution_time><min>0.001</min><max>{query_s_limit}</max></max_execution_time>
      <max_memory_usage><min>1</min><max>{query_memory_bytes_max}</max></max_memory_usage>"""


def write_configuration(
    folder: Path,
    *,
    query_memory_bytes_max: int,
    fsync: bool = False,
    databases: Iterable[str] = (),
) -> Path:
    """Write ``store.xml`` and ``users.xml`` into ``folder``; returns the former.

    ``fsync`` makes all tables flush what they write, see the README. ``databases`` are those that
    some user is restricted to.
    """
    users, server = folder / "users.xml", folder / "store.xml"
    roles, grants, filters = access_xml(databases)
    users.write_text(
        _USERS.format(
            query_log=QUERY_LOG_PROFILE_XML,
            fence=FENCE,
            identity=IDENTITY,
            roles=roles,
            grants=grants,
            filters=filters,
            bounds=_BOUNDS.format(
                query_s_limit=QUERY_S_LIMIT, query_memory_bytes_max=query_memory_bytes_max
            ),
            constants="".join(f"<{name}><const/></{name}>" for name in _CONSTANT),
            query_memory_bytes_max=query_memory_bytes_max,
            query_s_max=QUERY_S_MAX,
        ),
        encoding="utf-8",
    )
    server.write_text(
        _SERVER.format(
            users=escape(str(users.absolute())),
            merging=_MERGING,
            removing=_REMOVING,
            fsync=_FSYNC if fsync else "",
            query_log=QUERY_LOG_XML,
            free_bytes_min=FREE_BYTES_MIN,
            backup_disk=disk_xml(folder),
            backups=DISK,
        ),
        encoding="utf-8",
    )
    return server
