"""docs/alerts.md is what a person reads at night: every rule, figure and setting is in it."""

from dataclasses import fields
from pathlib import Path

from schemas.alert_settings import AlertSettings
from schemas.alerts import FIGURES
from schemas.loading import load_pipeline, ready_pipelines
from schemas.settings import variable
from streams.alerts.defaults import rules_of, rules_of_stack
from tests.contract.test_documentation import blocks

TEXT = (Path(__file__).parents[2] / "docs" / "alerts.md").read_text(encoding="utf-8")


def test_every_rule_has_its_paragraph() -> None:
    """Notices link to it by name."""
    asked = [one for name in ready_pipelines() for one in rules_of(load_pipeline(name))]
    names = {one.rule.name for one in (*asked, *rules_of_stack())}
    assert {name for name in names if f"\n### {name}\n" not in TEXT} == set()


def test_every_figure_and_every_setting_is_explained() -> None:
    """Those that only say the same of another step or server are in one line."""
    assert [name for name in FIGURES if f"`{name}`" not in TEXT] == []
    short = TEXT.replace("`..._EMAIL_FROM`", "`TIDEMILL_ALERT_EMAIL_FROM`")
    wanted = [variable(item.name) for item in fields(AlertSettings)]
    assert [name for name in wanted if f"`{name}`" not in short] == []


def test_the_documented_rules_load_and_the_documented_check_of_a_signature_holds(
    tmp_path: Path,
) -> None:
    """Copied from the page into a file."""
    from streams.alerts.channels import signature

    declaration, check = blocks("docs/alerts.md", "python")
    file = tmp_path / "reviews.py"
    file.write_text(declaration)
    names = {one.rule.name for one in rules_of(load_pipeline(str(file)))}
    assert "burst-of-negative-reviews" in names
    assert "drift" not in names
    place: dict[str, object] = {}
    exec(check, place)  # the text of our own page
    genuine = place["genuine"]
    assert callable(genuine)
    assert genuine(b"s", "17", b"{}", signature("s", 17, b"{}"))
    assert not genuine(b"s", "18", b"{}", signature("s", 17, b"{}"))
