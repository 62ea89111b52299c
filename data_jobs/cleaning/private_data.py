"""Private data in a text: found by shape and by its check digits, replaced by the name of its kind.

Each kind has a cheap test first (`cleaning_signs.py`), then a pattern that begins with a literal or a set of
characters, then a check in Python of the few that are left. Dates, version numbers, ISBNs
and addresses of private networks are not meant, and tests hold that.
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from data_jobs.cleaning.signs import ASSIGNED, AT, COLONS, DIGITS, QUAD, TOKEN, Signs

Step = Callable[[str], tuple[str, int]]
Finder = Callable[[str], Iterator[tuple[int, int]]]

ORDER = ("key", "email", "ip", "card", "phone")
"""Keys first: a block of one may hold whatever looks like the others."""


def steps_of(kinds: Iterable[str], ip_addresses: str, signs: Signs) -> list[tuple[str, Step]]:
    """(kind, step) of those asked for, in their order."""
    private_too = ip_addresses == "all"
    finders: dict[str, Finder] = {
        "key": lambda text: find_keys(text, bool(signs.of(text) & TOKEN), bool(signs.of(text) & ASSIGNED)),
        "email": lambda text: find_emails(text) if signs.of(text) & AT else iter(()),
        "ip": lambda text: find_ips(text, private_too) if signs.of(text) & (QUAD | COLONS) else iter(()),
        "card": lambda text: find_cards(text) if signs.of(text) & DIGITS else iter(()),
        "phone": lambda text: find_phones(text) if signs.of(text) & DIGITS else iter(()),
    }
    wanted = set(kinds)
    return [(kind, _mask(finders[kind], f"<{kind}>")) for kind in ORDER if kind in wanted]


def _mask(find: Finder, placeholder: str) -> Step:
    def step(text: str) -> tuple[str, int]:
        whole = 0
        while True:  # again where something was found: what is left beside it may be found only now
            parts: list[str] = []
            done = count = 0
            for start, stop in find(text):
                if start >= done:
                    parts += [text[done:start], placeholder]
                    done, count = stop, count + 1
            if not count:
                return text, whole
            text = "".join([*parts, text[done:]])
            whole += count

    return step


_DOMAIN = re.compile(
    r"@((?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,8}([A-Za-z]{2,24}))(?![\w-])(?!:[\w/~])"
)
_LOCAL = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._%+-'")
_NOT_DOMAINS = frozenset(
    ["png", "jpg", "jpeg", "gif", "svg", "webp", "css", "js", "ts", "py", "html"]
)  # icon@2x.png


def find_emails(text: str) -> Iterator[tuple[int, int]]:
    """Addresses with a domain; not git@host:path, and no names of files."""
    for hit in _DOMAIN.finditer(text):
        start = hit.start()
        while start > 0 and hit.start() - start < 64 and text[start - 1] in _LOCAL:
            start -= 1
        while start < hit.start() and text[start] in ".'-%+":
            start += 1
        if start < hit.start() and hit[2].lower() not in _NOT_DOMAINS:
            yield start, hit.end()


_IP4 = re.compile(r"[0-9](?<![\w.\-][0-9])[0-9]{0,2}\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}(?![\w\-]|\.[0-9])")
_IP6 = re.compile(r"[23](?<![\w:.][23])[0-9A-Fa-f]{3}(?::[0-9A-Fa-f]{0,4}){2,7}(?![\w:])")
_IP6_ALL = re.compile(r"(?<![\w:.])[0-9A-Fa-f]{1,4}(?::[0-9A-Fa-f]{0,4}){2,7}(?![\w:])")
# What a number of four parts follows where it is a version: "version 8.8.4.4", "Chrome/8.0.1.2", "v. 1".
_VERSION_BEFORE = re.compile(
    r"(?:\b(?:versions?|ver|release|build|rev|section|v)[.:]?\s*|[A-Za-z]/)$", re.IGNORECASE
)


def find_ips(text: str, private_too: bool = False) -> Iterator[tuple[int, int]]:
    """Addresses of version 4 and 6 that are public (`ipaddress`: is_global); all others where asked for.

    Of version 6 only 2000::/3, where public addresses are: a shorter beginning may be any two words of code.
    """
    found = []
    if "." in text:
        found += [hit for hit in _IP4.finditer(text) if not _VERSION_BEFORE.search(text, *_just_before(hit))]
    if ":" in text:
        found += list((_IP6_ALL if private_too else _IP6).finditer(text))
    for hit in sorted(found, key=lambda hit: hit.start()):
        try:
            address = ipaddress.ip_address(hit[0])
        except ValueError:
            continue
        if private_too or address.is_global:
            yield hit.span()


def _just_before(hit: re.Match[str]) -> tuple[int, int]:
    return max(0, hit.start() - 12), hit.start()


_CARD = re.compile(
    r"[2-6](?<![\w.\-][2-6])(?:[0-9]{12,18}|[0-9]{3}([ -])[0-9]{4}\1[0-9]{4}\1[0-9]{4}"
    r"|[0-9]{3}([ -])[0-9]{6}\2[0-9]{5})(?![\w\-]|\.[0-9])"
)


def find_cards(text: str) -> Iterator[tuple[int, int]]:
    """Numbers of payment cards: of an issuer's range, of its length, and with the right check digit."""
    for hit in _CARD.finditer(text):
        digits = hit[0].replace(" ", "").replace("-", "")
        if is_issued(digits) and passes_luhn(digits):
            yield hit.span()


def is_issued(digits: str) -> bool:
    """Whether a number begins as one of Visa, Mastercard, American Express, Discover, JCB, Diners Club or
    UnionPay does, and is as long.
    """
    first, size = int(digits[:4]), len(digits)
    return (
        (first // 1000 == 4 and size in (13, 16, 19))
        or ((51 <= first // 100 <= 55 or 2221 <= first <= 2720) and size == 16)
        or (first // 100 in (34, 37) and size == 15)
        or ((first == 6011 or first // 100 == 65 or 644 <= first // 10 <= 649) and size == 16)
        or (3528 <= first <= 3589 and size == 16)
        or ((300 <= first // 10 <= 305 or first // 100 in (36, 38)) and size == 14)
        or (first // 100 == 62 and 16 <= size <= 19)
    )


def passes_luhn(digits: str) -> bool:
    """Luhn's sum (ISO/IEC 7812-1, annex B): each second digit from the right doubled, modulo 10."""
    doubled = [2 * int(digit) for digit in digits[-2::-2]]
    return (sum(map(int, digits[-1::-2])) + sum(value - 9 * (value > 9) for value in doubled)) % 10 == 0


_INTERNATIONAL = re.compile(r"\+(?<![\w)\]]\+)[1-9(][0-9 ().\-/]{5,22}[0-9](?![\w\-]|\.[0-9])")
_AMERICAN = re.compile(
    r"[(1-9](?:(?<=1)(?<![\w.\-/+:#]1)[ .\-]\(?[2-9][0-9]{2}\)?[ .\-]|(?<=\()(?<!\w\()[2-9][0-9]{2}\) ?"
    r"|(?<=[2-9])(?<![\w.\-/+:#][2-9])[0-9]{2}[.\-])[2-9][0-9]{2}[ .\-][0-9]{4}(?![\w\-]|\.[0-9])"
)
_NAMED = re.compile(
    r"[TtPpFfMm](?<!\w[TtPpFfMm])(?:el(?:ephone|efon)?|hone|ax|obile)\b[.:]{0,2} {0,2}"
    r"([0-9(][0-9 ().\-/]{5,18}[0-9])(?![\w\-]|\.[0-9])"
)
_DATE = re.compile(r"[12][0-9]{3}[-./][0-9]{1,2}[-./][0-9]{1,2}")


def find_phones(text: str) -> Iterator[tuple[int, int]]:
    """Numbers with a country code (8 to 15 digits, ITU-T E.164), of North America with its usual marks, and
    others after a word that says what they are.
    """
    spans = [hit.span() for hit in _INTERNATIONAL.finditer(text) if 8 <= _count_digits(hit[0]) <= 15]
    spans += [hit.span() for hit in _AMERICAN.finditer(text)]
    spans += [
        hit.span(1)
        for hit in _NAMED.finditer(text)
        if 7 <= _count_digits(hit[1]) <= 15 and not _DATE.match(hit[1])
    ]
    yield from sorted(spans)


def _count_digits(text: str) -> int:
    return sum(map(str.isdigit, text))


_MARKED: tuple[tuple[str, re.Pattern[str]], ...] = (
    (
        "PRIVATE KEY",
        re.compile(
            r"-----BEGIN (?:[A-Z0-9]{1,20} ){0,3}PRIVATE KEY(?: BLOCK)?-----[\s\S]{1,20000}?"
            r"-----END (?:[A-Z0-9]{1,20} ){0,3}PRIVATE KEY(?: BLOCK)?-----"
        ),
    ),
    ("xox", re.compile(r"xox(?<!\wxox)[abeoprs]-[A-Za-z0-9-]{10,250}")),
    (
        "eyJ",
        re.compile(r"eyJ(?<!\weyJ)[A-Za-z0-9_-]{8,4000}\.eyJ[A-Za-z0-9_-]{8,8000}\.[A-Za-z0-9_-]{8,2000}"),
    ),
)
# All of these have twenty letters, digits and marks in a row.
_LONG: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("AKIA", re.compile(r"AKIA(?<!\wAKIA)[A-Z2-7]{16}(?!\w)")),
    ("ASIA", re.compile(r"ASIA(?<!\wASIA)[A-Z2-7]{16}(?!\w)")),
    ("gh", re.compile(r"gh(?<!\wgh)[opsur]_[A-Za-z0-9]{36,255}(?!\w)")),
    ("github_pat_", re.compile(r"github_pat_(?<!\wgithub_pat_)[A-Za-z0-9_]{36,255}(?!\w)")),
    ("AIza", re.compile(r"AIza(?<!\wAIza)[A-Za-z0-9_-]{35}(?![\w-])")),
)
_ASSIGNED = re.compile(r"[=:][ \t\n]{0,3}[\"']?([A-Za-z0-9+/_\-]{20,200}={0,2})(?![A-Za-z0-9+/_\-=])")
_SECRET_NAME = re.compile(
    r"(?:(?:api|access|secret|private|auth|client|account|encryption)[_\-. ]?key|token|secret|passw(?:or)?d)"
    r"[\"'\]]{0,2}\s{0,3}$",
    re.IGNORECASE,
)
_RANDOM_BITS = 3.5  # of a character; hexadecimal digits drawn at random have just below 4


def find_keys(text: str, has_token: bool = True, is_assigned: bool = True) -> Iterator[tuple[int, int]]:
    """Tokens that say what they are (AWS, GitHub, Slack, Google, JWT), blocks of private keys, and values
    that look drawn at random after a name such as `api_key`. `has_token`: whether twenty of their characters
    stand in a row anywhere, which most kinds need; `is_assigned`: whether after = or :, which names need.
    """
    spans = [hit.span() for mark, pattern in _MARKED if mark in text for hit in pattern.finditer(text)]
    if has_token:
        spans += [hit.span() for mark, pattern in _LONG if mark in text for hit in pattern.finditer(text)]
    if is_assigned:
        for hit in _ASSIGNED.finditer(text):
            if looks_random(hit[1]) and _SECRET_NAME.search(text, max(0, hit.start() - 40), hit.start()):
                spans.append(hit.span(1))
    yield from sorted(spans)


def looks_random(value: str) -> bool:
    """Letters and digits, with the entropy of their frequencies above what words have."""
    counts = Counter(value).values()
    bits = -sum(count / len(value) * math.log2(count / len(value)) for count in counts)
    return bits >= _RANDOM_BITS and any(map(str.isdigit, value)) and any(map(str.isalpha, value))
