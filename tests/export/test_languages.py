"""What people and data sets call languages, and the prompts that they get."""

from __future__ import annotations

import pytest

from export.languages import language_key, prompt_id_for

PROMPTS = dict.fromkeys(
    ("auto", "en-US", "en-GB", "es-US", "es-ES", "fr", "de-DE", "zh-CN", "zh-TW", "pt-BR", "pt-PT", "nb-NO", "he-IL"), 0
)


@pytest.mark.parametrize(
    ("name", "key"),
    {
        "auto": "auto", "en-US": "en-US", "en_us": "en-US", "en-us": "en-US", "EN-gb": "en-GB", "fr": "fr", "FR": "fr",
        "pt-br": "pt-BR", "cmn_hans_cn": "zh-CN", "zh-Hans": "zh-CN", "zh-Hant": "zh-TW", "es_419": "es-US",
        "de_at": "de-DE", "no": "nb-NO", "iw": "he-IL", "fr-CA": "fr", " en_us ": "en-US",
    }.items(),
)  # fmt: skip
def test_names_of_languages_become_keys(name: str, key: str) -> None:
    assert language_key(name, PROMPTS) == key


def test_a_two_letter_code_is_the_clients_choice() -> None:
    prompts = {name: index for index, name in enumerate(PROMPTS)}
    for code in ("en", "es", "pt", "zh"):
        assert prompts[language_key(code, prompts)] == prompt_id_for(code, prompts, -1)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("tlh", "en-US"),
        ("yue_hant_hk", "zh-TW"),
        ("da", "nb-NO"),
        ("english", "auto"),
        ("", "auto"),
        ("xx-YY", "auto"),
        ("lb", "de-DE"),
        ("lb_lu", "de-DE"),
        ("gsw", "de-DE"),
    ],
)
def test_others_are_refused_with_what_is_near(name: str, near: str) -> None:
    with pytest.raises(ValueError, match=f"'{name}' is no language of this model; .*{near}"):
        language_key(name, PROMPTS)
