"""`tidemill models judge`: takes the steps of a rollout, by labels as they come."""

import asyncio
import signal

import click

from streams.cli.console import running
from streams.cli.reference import PIPELINE


@click.command("judge")
@click.argument("pipeline", type=PIPELINE)
@click.option("--step-rows", type=click.IntRange(1), help="Labelled rows before each step.")
@click.option(
    "--rows-max",
    type=click.IntRange(1),
    help="Labelled rows after which a challenger without a difference is taken back.",
)
@click.option("--wrong-rollback-max", type=float, help="Chance of taking back one no worse.")
@click.option("--wrong-promotion-max", type=float, help="Chance of promoting one no better.")
@click.option("--errors-max", type=float, help="Share of its keys it may leave to the champion.")
@click.option("--shift-max", type=float, help="How much higher or lower its scores may be.")
@click.option("--stage-s-min", type=float, help="Seconds that every stage lasts at least.")
@click.option("--once", is_flag=True, help="End with the rollout.")
def command(pipeline: str, once: bool, **limits: float | None) -> None:
    """Watch the rollouts of PIPELINE and take their steps; `tidemill up` does it by itself.

    What is not given is as the pipeline declares it (`rollout=Rollout(...)`). Any number of rows
    may be looked at: the chances hold for all looks of a rollout together. Of two judges at once
    one is refused at each step.

    \b
    Example:
      tidemill models judge flights --once
    """  # noqa: D301
    from dataclasses import asdict

    from models.judge import JudgePolicy
    from schemas.loading import load_pipeline
    from streams.metrics.endpoint import Endpoint
    from streams.rollout.judging import Judging
    from streams.telemetry import Reporter, configure_logging

    settings = running()
    declared = load_pipeline(pipeline)
    given = {name: value for name, value in limits.items() if value is not None}
    try:
        policy = JudgePolicy(**{**asdict(declared.rollout), **given})
    except ValueError as wrong:
        raise click.UsageError(str(wrong)) from wrong
    configure_logging(settings.log_format, worker=f"{declared.name}-judge-0")
    name = f"{declared.name}-judge-0"
    reporter = Reporter(settings.run_folder, name, "judge", declared.name, state="running")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that it takes its target back
    try:
        with Endpoint(reporter, settings):
            asyncio.run(Judging(declared, settings, policy, reporter=reporter).run(once=once))
    finally:
        reporter.remove()
