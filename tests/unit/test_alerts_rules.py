"""Rules as they are declared: defaults, own ones in their place, and what is refused."""

from collections.abc import Callable

import pytest

from schemas.alerts import FIGURES, OF_THE_STACK, AlertRule, alert, alert_problems, no_alert
from schemas.errors import PipelineError, SettingsError
from schemas.loading import load_pipeline, ready_pipelines
from schemas.pipeline import Pipeline, label, numeric
from schemas.retraining import ModelAge
from schemas.settings import Settings
from streams.alerts.defaults import STACK_RULES, default_rules, rules_of, rules_of_stack
from streams.alerts.questions import look, question


def shop(**more: object) -> Pipeline:
    return Pipeline(
        name="shop", key="user", features=[numeric("price")], target=label("bought"), **more
    )  # type: ignore[arg-type]


def test_defaults_are_sound_and_none_is_forgotten() -> None:
    """They pass the same check as a person's rules, and every figure but the plain lags has one."""
    rules = default_rules(shop())
    assert alert_problems(rules) == []
    asked = {rule.figure for rule in (*rules, *STACK_RULES)}
    assert set(FIGURES) - asked == {
        "score_lag", "join_lag", "learn_lag", "land_lag", "unchecked",
    }  # fmt: skip
    assert {rule.figure for rule in STACK_RULES} == OF_THE_STACK


def test_an_own_rule_takes_the_place_of_the_default_of_its_name() -> None:
    """One is changed, one is dropped, one is new; the others stay."""
    own = [
        alert("lag", figure="score_lag", above=5),
        no_alert("drift"),
        alert("burst", sql="SELECT 1", above=0),
    ]
    chosen = {one.rule.name: one.rule for one in rules_of(shop(alerts=own))}
    assert chosen["lag"].figure == "score_lag"
    assert "drift" not in chosen
    assert set(chosen) == {rule.name for rule in default_rules(shop())} - {"drift"} | {"burst"}


def test_the_declared_age_of_a_model_is_the_bound() -> None:
    """Nobody has to say it twice."""
    rules = {rule.name: rule for rule in default_rules(shop(model_age=ModelAge(limit="2d")))}
    assert rules["model-age"].above == 2 * 86_400


@pytest.mark.parametrize("name", ready_pipelines())
def test_the_ready_pipelines_have_rules_that_can_be_asked(name: str) -> None:
    """Each says how to look at its number."""
    for one in [*rules_of(load_pipeline(name)), *rules_of_stack()]:
        assert one.rule.summary
        assert look(one.rule, one.pipeline).startswith("tidemill ")
        assert "{" not in question(one.rule, one.pipeline)


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (alert("Lag", figure="lag", above=1), "'Lag' cannot be used"),
        (alert("x" * 61, figure="lag", above=1), "longer than 60"),
        (alert("a", above=1), "give either figure= or sql="),
        (alert("a", figure="lag", sql="SELECT 1", above=1), "give either figure= or sql="),
        (alert("a", figure="speed", above=1), "figure='speed' is not known"),
        (alert("a", figure="store_down_s", above=1), "figure='store_down_s' is not known"),
        (alert("a", figure="lag"), "give one finite number"),
        (alert("a", figure="lag", above=1, below=0), "give one finite number"),
        (alert("a", figure="lag", above=float("nan")), "give one finite number"),
        (alert("a", figure="lag", above=1, lasting="5"), "lasting: '5' is no duration"),
        (alert("a", figure="lag", above=1, every="1s"), "every='1s' must be at least 5s"),
        (alert("a", figure="lag", above=1, repeat="0s"), "repeat: '0s' must be more than nothing"),
        (alert("a", figure="lag", above=1, severity="bad"), "severity='bad'"),  # type: ignore[arg-type]
        (alert("a", sql="SELECT 1" * 2000, above=1), "sql is longer"),
        ("lag", "is no rule"),
    ],
)
def test_what_cannot_work_is_refused_with_the_fix(rule: AlertRule, said: str) -> None:
    """At the declaration, with file and line, and not in the night in which it should fire."""
    with pytest.raises(PipelineError, match=r"test_alerts_rules\.py") as refused:
        shop(alerts=[rule])
    assert said in str(refused.value)


def test_a_name_is_taken_once() -> None:
    """Two of one name would share a state."""
    twice = [alert("a", figure="lag", above=1), alert("a", figure="skill", below=1)]
    assert alert_problems(twice) == ["alerts[1]: the name 'a' is taken. Give it another."]
    assert "is no list" in alert_problems("lag")[0]
    assert "more than 64" in alert_problems([no_alert("a")] * 65)[0]


MAIL = {
    "TIDEMILL_ALERT_SMTP": "mail.example.org:587",
    "TIDEMILL_ALERT_EMAIL_FROM": "tidemill@example.org",
    "TIDEMILL_ALERT_EMAIL_TO": "ann@example.org, bob@example.org",
}


def test_settings_of_the_channels(tmp_path: Callable[..., object]) -> None:
    """Secrets come from files as well, and are in no text of the settings."""
    secret = tmp_path / "secret"  # type: ignore[operator]
    secret.write_text("hush-hush\n")
    settings = Settings.from_environment(
        MAIL
        | {
            "TIDEMILL_ALERT_WEBHOOK": "https://hooks.example.org/T0/B0/xyz",
            "TIDEMILL_ALERT_WEBHOOK_SECRET_FILE": str(secret),
            "TIDEMILL_ALERT_SMTP_USERNAME": "tidemill",
            "TIDEMILL_ALERT_SMTP_PASSWORD": "pass-word",
        }
    )
    assert settings.alert_receivers == ["ann@example.org", "bob@example.org"]
    assert settings.alert_webhook_secret == "hush-hush"
    for hidden in ("hush-hush", "xyz", "pass-word"):
        assert hidden not in repr(settings)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"TIDEMILL_ALERT_WEBHOOK": "ftp://secret-host/"}, "https://host/path"),
        (MAIL | {"TIDEMILL_ALERT_SMTP": "mail"}, "host:port"),
        (MAIL | {"TIDEMILL_ALERT_EMAIL_TO": ""}, "without addresses"),
        (MAIL | {"TIDEMILL_ALERT_EMAIL_FROM": "a@b\nBcc: c@d"}, "without addresses"),
        (MAIL | {"TIDEMILL_ALERT_SMTP_SECURITY": "ssl"}, "starttls, tls or none"),
        (
            MAIL | {"TIDEMILL_ALERT_SMTP_SECURITY": "none", "TIDEMILL_ALERT_SMTP_USERNAME": "u"},
            "without TLS",
        ),
    ],
)
def test_settings_that_cannot_work_are_refused(wrong: dict[str, str], said: str) -> None:
    """At the start, naming the variable; the address of a webhook is not repeated."""
    with pytest.raises(SettingsError, match="TIDEMILL_ALERT_") as refused:
        Settings.from_environment(wrong)
    assert said in str(refused.value)
    assert "secret-host" not in str(refused.value)
