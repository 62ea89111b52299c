"""Private data: what is masked, and what only looks like it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_jobs.cleaning.private_data import (
    find_cards,
    find_emails,
    find_ips,
    find_keys,
    find_phones,
    looks_random,
    passes_luhn,
    steps_of,
)
from data_jobs.cleaning.signs import Signs

KINDS = ("email", "phone", "ip", "card", "key")


def mask(text: str, *kinds: str, ip_addresses: str = "public") -> str:
    for _, step in steps_of(kinds or KINDS, ip_addresses, Signs()):
        text = step(text)[0]
    return text


AWS = "AKIA" + "IOSFODNN7EXAMPLE"  # parts, so that no scanner of repositories takes it for one
RANDOM = "tR7qX2mB9vK4" + "wZ8nL3pY6sD1"
JWT = ".".join(["eyJhbGciOiJIUzI1NiJ9", "eyJzdWIiOiIxMjM0NTY3ODkwIn0", "dozjgNryP4J3jVmNHl0w5N"])
BLOCK = "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\nIBAAKC\n-----END RSA PRIVATE KEY-----"

FRAGMENTS = [AWS, RANDOM, JWT, BLOCK, " ", "\n", "token=", "xoxb-1234567890", "a@b.org", "8.8.8.8",
"2001:4860::8888", "+49 30 1234567",
             "4111 1111 1111 1111", "(415) 555-0132", "é"]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("write to jane.doe+news@mail.example.co.uk.", "write to <email>."),
        ("<a@b.de>, c_d@e-f.org;", "<<email>>, <email>;"),
        ("call +49 30 1234567 now", "call <phone> now"),
        ("+1 (415) 555-0132", "<phone>"),
        ("(415) 555-0132 or 415-555-0132 or 415.555.0132", "<phone> or <phone> or <phone>"),
        ("1-800-555-0199!", "<phone>!"),
        ("Tel.: 030 / 123 45 67, Fax 030 1234568", "Tel.: <phone>, Fax <phone>"),
        ("from 8.8.8.8 to 93.184.216.34.", "from <ip> to <ip>."),
        ("http://8.8.4.4/index", "http://<ip>/index"),
        ("at 2001:4860:4860::8888,", "at <ip>,"),
        ("Visa 4111 1111 1111 1111 or 4111111111111111", "Visa <card> or <card>"),
        ("Amex 3782-822463-10005", "Amex <card>"),
        (f"id {AWS};", "id <key>;"),
        ("ghp_" + "a1B2c3D4e5F6" * 3, "<key>"),
        ("xoxb-" + "1234567890-abcdef", "<key>"),
        (f"Authorization: {JWT}", "Authorization: <key>"),
        (f"x\n{BLOCK}\ny", "x\n<key>\ny"),
        (f"api_key = '{RANDOM}'", "api_key = '<key>'"),
        (f'"client_secret": "{RANDOM}"', '"client_secret": "<key>"'),
        (f"PASSWORD={RANDOM}", "PASSWORD=<key>"),
    ],
)
def test_masked(text: str, masked: str) -> None:
    assert mask(text) == masked
    assert mask(masked) == masked


@pytest.mark.parametrize(
    "text",
    [
        "git@github.com:owner/project", "@handle and a@b", "icon@2x.png", "3 @ 4.50", "user@localhost",
        "version 8.8.4.4", "v1.2.3.4", "release 2.10.0.1", "Chrome/8.0.10.20", "1.2.3", "1.2.3.4.5",
        "300.1.1.1",
        "192.168.0.1 and 10.0.0.7 and 127.0.0.1", "fe80::1 and 2001:db8::1", "abc::def", "12:30:45",
        "08.08.2001",
        "on 2024-11-25 at 12:30", "25.11.2024", "ISBN 978-3-16-148410-0", "ISBN 9783161484100",
        "ISBN 0-306-40615-2",
        "1,234,567,890", "3.14159265358979", "pages 100-200", "4111 1111 1111 1112", "1234567812345670",
        "0.4111111111111111", "2 + 3 - 4", "x+12345678", "tel", "Tel 2024-11-25", "call 12345",
        "order 2024 11 25 0001", "100 200 3000", "SN-415-555-0132",
        "token = the_name_of_some_variable_here", "secret: aaaaaaaaaaaaaaaaaaaaaaaaaaaa", "key=value",
        f"checksum = {RANDOM}", "-----BEGIN CERTIFICATE-----", "AKIA", "eyJ", "ghost_" + "a" * 40,
    ],
)  # fmt: skip
def test_left_alone(text: str) -> None:
    assert mask(text) == text


def test_private_addresses_where_asked_for() -> None:
    assert mask("192.168.0.1, fe80::1", "ip", ip_addresses="all") == "<ip>, <ip>"


def test_only_the_kinds_that_are_asked_for() -> None:
    text = "a@b.org 8.8.8.8"
    assert mask(text, "ip") == "a@b.org <ip>"
    assert [kind for kind, _ in steps_of(["phone", "key"], "public", Signs())] == ["key", "phone"]


def test_counts() -> None:
    ((_, step),) = steps_of(["email"], "public", Signs())
    assert step("a@b.org, c@d.org") == ("<email>, <email>", 2)
    assert step("none") == ("none", 0)


def test_check_digits() -> None:
    assert passes_luhn("79927398713") and not passes_luhn("79927398710")
    assert looks_random(RANDOM) and not looks_random("aaaaaaaaaaaaaaaaaaaa1") and not looks_random("x" * 30)


def test_long_texts_take_no_longer_than_their_length() -> None:
    """Runs that a pattern could try in many ways."""
    for piece in ("1 ", "+1", "(", "@a.", "a.", "1.", "2a:", "x=", "-----BEGIN ", "eyJ", " " * 9, "415-"):
        text = piece * (200_000 // len(piece))
        assert len(mask(text)) > 0


FINDERS = {"email": find_emails, "phone": find_phones, "card": find_cards, "key": find_keys, "ip": find_ips}


@settings(max_examples=300)
@given(st.text(alphabet="0123456789ab.:@+-/ ()=_x") | st.lists(st.sampled_from(FRAGMENTS)).map("".join))
def test_what_has_no_sign_would_not_be_found(text: str) -> None:
    for kind, find in FINDERS.items():
        if next(find(text), None) is not None:
            assert mask(text, kind) != text
