"""Recall by kind and false hits per MB, on corpora that were made apart from the patterns."""

import pytest
from helpers.counts import count
from helpers.secret_corpus import KINDS, Maker, harmless

from mlops_nb.guard.credentials import find_secrets
from mlops_nb.guard.pii import find_pii


@pytest.mark.parametrize("kind", KINDS)
def test_planted_secrets_are_found(kind):
    maker = Maker(20131231)
    noise = list(harmless(5, 4000))
    missed = []
    for n in range(count(40, 400)):
        planted = KINDS[kind](maker)
        around = noise[n % 20 : n % 20 + 3]
        if not find_secrets("\n".join([*around, planted, *around])):
            missed.append(planted)
    assert len(missed) <= 0.05 * count(40, 400), missed[:3]


def test_harmless_text_is_left_alone():
    "At most one false hit a MB"
    size = count(1_000_000, 10_000_000)
    text = "\n".join(harmless(7, size))
    found = {**find_secrets(text), **find_pii(text)}
    assert sum(found.values()) <= size / 1e6, found


@pytest.mark.parametrize(
    "text, cards",
    [
        ("paid with 4111 1111 1111 1111 yesterday", 1),
        ("card: 4111111111111111, 5555555555554444", 2),
        ("4111111111111111", 1),
        ("[4111111111111111 5555555555554444 378282246310005]", 0),
        ("0    4111111111111111\n1    5555555555554444\n2    378282246310005", 0),
        ("4111111111111111\n1234567890123456\n5555555555554444", 0),
        ("a 4111 1111 1111 1111 2222 3333 4444 b", 0),
    ],
)
def test_a_card_stands_outside_a_row_of_numbers_or_has_a_label(text, cards):
    assert find_pii(text).get("payment_card", 0) == cards


def test_signed_decimals_are_no_phones_and_versions_no_addresses():
    assert find_pii("+1.23456789 -0.5 +12.3456789 +123456789 1.2.3.4 8.9.2.1 driver 10.2.0.7") == {}
    assert find_pii("call +49 151 1234567 or +4915112345678") == {"phone": 2}
    assert find_pii("from 203.0.113.7") == {"ip_address": 1}


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "unit",
    ["password", "api_key=", "export A", "--token ", "Basic a", "Pwd=", "server=a;", "&amp;", "A" * 30 + " ", "://:"],
)
def test_hostile_text_ends(unit):
    assert isinstance(find_secrets(unit * (count(200_000, 2_000_000) // len(unit))), dict)
