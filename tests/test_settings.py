from __future__ import annotations

from pathlib import Path

import pytest

from facesearch.errors import UsageError
from facesearch.settings import CONFIG_NAME, Settings, load_settings


def test_environment_beats_the_file_and_the_caller_beats_both(tmp_path: Path) -> None:
    (tmp_path / CONFIG_NAME).write_text(
        '[embed]\ndevice = "cpu"\nthreads = 1\n[detect]\nsizes = [320, 640]\n'
    )
    settings = load_settings(tmp_path, {"FACESEARCH_EMBED_THREADS": "3"})
    assert (settings.embed.device, settings.embed.threads) == ("cpu", 3)
    assert settings.detect.sizes == (320, 640)
    assert settings.override(embed_threads=2, embed_device=None).embed.threads == 2
    assert load_settings(tmp_path / "nowhere", {}) == Settings()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[embed]\nspeed = 3\n", r"unknown setting 'embed\.speed'"),
        ("[nothing]\nx = 1\n", r"unknown setting 'nothing\.x'"),
        ('[embed]\nthreads = "many"\n', r"embed\.threads: 'many' is not int"),
        ("[embed]\nmodel = 3\n", r"embed\.model: 3 is not str"),
        ('[embed]\nprecision = "fp8"\n', "is not one of 'auto', 'fp32'"),
        ("[detect]\nsizes = []\n", "is not a list"),
        ('[index]\ncentre = "perhaps"\n', "'perhaps' is neither true nor false"),
        ("threads = 1\n", "outside a"),
        ("[embed\n", "cannot be read as TOML"),
    ],
)
def test_a_wrong_setting_is_one_clear_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / CONFIG_NAME).write_text(text)
    with pytest.raises(UsageError, match=message) as caught:
        load_settings(tmp_path, {})
    assert "\n" not in str(caught.value).split("(")[0]


def test_zero_is_a_threshold() -> None:
    assert Settings().override(identify_threshold=0.0).identify.threshold == 0.0


def test_a_setting_may_be_unset() -> None:
    assert Settings().identify.threshold is None
    assert Settings().override(identify_threshold="0.4").identify.threshold == 0.4


@pytest.mark.parametrize(("given", "meant"), [("false", False), ("1", True), ("True", True)])
def test_true_and_false_from_the_environment(tmp_path: Path, given: str, meant: bool) -> None:
    assert load_settings(tmp_path, {"FACESEARCH_INDEX_CENTRE": given}).index.centre is meant
