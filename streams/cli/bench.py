"""`tidemill bench NAME`: measures this machine. Needs the optional group: tidemill[bench]."""

import importlib

import click

BENCHES = {
    "all": ("streams.bench.commands:all_", "What make bench runs, against the committed ratios."),
    "consume": ("streams.bench.commands:consume", "Reading alone."),
    "score": ("streams.bench.commands:score", "Reading, scoring, writing; at least once."),
    "score-exactly-once": ("streams.bench.commands:score_exactly_once", "The same, exactly once."),
    "land": ("streams.bench.commands:land", "Scored rows into ClickHouse."),
    "path": ("streams.bench.commands:path", "Events to rows in SQL, and what it costs."),
    "ledger": ("streams.bench.ledger:command", "The joiner's work per row, and its memory."),
    "latency": ("streams.bench.commands:latency", "Time to the answer at steady rates."),
    "peers": ("streams.bench.commands:peers", "Quix, Bytewax, Pathway, PyFlink on the same work."),
    "labels": ("streams.bench.commands:labels", "From a label to a prediction that knows it."),
    "store": ("streams.bench.commands:store", "Queries beside writers, writers beside queries."),
    "stages": ("streams.bench.commands:stages", "The scorer, stage by stage, without servers."),
    "first": ("streams.bench.commands:first", "From an empty folder to the first prediction."),
    "learn": ("streams.bench.learn:command", "What one core learns in a second, by learner."),
    "memory": ("streams.bench.commands:memory", "Resident memory over minutes of replay."),
    "swap": ("streams.bench.commands:swap", "Changing the model of three scorers under load."),
    "rescore": ("streams.bench.commands:rescore", "Predictions made again, bit for bit."),
    "late-labels": (
        "streams.bench.late_labels:command",
        "River's delayed labels through real topics.",
    ),
    "drift": (
        "streams.bench.drift:command",
        "How soon changes are found, and how often for nothing.",
    ),
    "profile": ("streams.bench.commands:profile", "Where the microseconds go, by py-spy."),
}
"""``module:attribute`` of each command. Kept here, so that ``--help`` imports none of them."""


class _Benches(click.Group):
    """Imports a benchmark when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(BENCHES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in BENCHES:
            return None
        module, _, attribute = BENCHES[cmd_name][0].partition(":")
        found = getattr(importlib.import_module(module), attribute)
        assert isinstance(found, click.Command)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Benchmarks"):
            formatter.write_dl([(name, help_) for name, (_, help_) in BENCHES.items()])


@click.command("bench", cls=_Benches, no_args_is_help=True)
def command() -> None:
    """Measure speed and latency on this machine, paired with what people would use instead.

    Starts a broker and a store of its own; nothing else should run. A result holds counts that were
    checked outside of the timed window. Rates vary with the neighbours of a shared machine: compare
    ratios within one run, and CPU time per event.

    \b
    Example:
      tidemill bench score --json | jq .ratios
    """  # noqa: D301
