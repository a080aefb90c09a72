"""Fictitious people: Faker attributes of many locales, every identifying value used by one person only."""

from __future__ import annotations

import random
import re
import unicodedata
from dataclasses import dataclass
from typing import Any

from faker import Faker

from salmu_core.seeding import derive_seed

#: Locales with names in Latin script: the byte-pair vocabulary of CLIP cuts other scripts into single bytes.
LOCALES = (
    "cs_CZ", "da_DK", "de_DE", "en_AU", "en_GB", "en_IN", "en_US", "es_ES", "es_MX", "et_EE", "fi_FI", "fr_FR",
    "hr_HR", "hu_HU", "id_ID", "it_IT", "nl_NL", "no_NO", "pl_PL", "pt_BR", "pt_PT", "ro_RO", "sk_SK", "sl_SI",
    "sv_SE", "tr_TR",
)  # fmt: skip
#: The data fields of SALMUBench, in the order of its metadata.
FIELDS = ("name", "city", "job", "blood_type", "phone_number", "emails", "iban", "credit_card", "passport")
_BLOOD_TYPES = ("A+", "A-", "B+", "B-", "AB+", "AB-", "O+", "O-")
_MAIL_HOSTS = ("mailhub.com", "postbox.net", "inbox.org", "letterbox.eu", "quickmail.io")

#: Letters that do not decompose into a plain one and an accent.
_PLAIN = str.maketrans(
    {"ł": "l", "Ł": "L", "ø": "o", "Ø": "O", "ı": "i", "đ": "d", "Đ": "D", "ß": "ss", "æ": "ae", "Æ": "Ae"}
)


@dataclass(frozen=True)
class Persona:
    """One fictitious person.

    Attributes:
        identity_id: eight digits.
        attributes: the content of `identities_metadata.json` for this person: `country_code`, and a string per field
            (a list of strings for `emails`).
    """

    identity_id: str
    attributes: dict[str, Any]

    def value(self, field: str) -> str:
        """The value that captions of a field mention."""
        value = self.attributes[field]
        return str(value[0] if isinstance(value, list) else value)


def make_personas(count: int, seed: int) -> list[Persona]:
    """`count` people. No two share a name, city, job, phone number, e-mail address, IBAN, card or passport number; blood
    types repeat, since there are eight.
    """
    fakers = {locale: Faker(locale) for locale in LOCALES}
    for locale, faker in fakers.items():
        faker.seed_instance(derive_seed(seed, "faker", locale))
    generator = random.Random(derive_seed(seed, "personas"))
    used: dict[str, set[str]] = {field: set() for field in (*FIELDS, "id")}
    people = []
    for number in range(count):
        locale = LOCALES[number % len(LOCALES)]
        faker = fakers[locale]
        identity = _fresh(used["id"], lambda: f"{generator.randrange(10**8):08d}")
        name = _fresh(used["name"], lambda f=faker: _plain(f"{f.first_name()} {f.last_name()}"))
        mail = _fresh(used["emails"], lambda n=name: _mail_address(n, generator))
        country = locale.split("_")[1]
        people.append(
            Persona(
                identity,
                {
                    "name": name,
                    "country_code": country,
                    "city": _fresh(used["city"], lambda f=faker: _plain(_city(f))),
                    "job": _fresh(used["job"], lambda f=faker: _plain(f.job().split(",")[0].split("/")[0]).lower()),
                    "blood_type": generator.choice(_BLOOD_TYPES),
                    "phone_number": _fresh(
                        used["phone_number"], lambda: f"+{generator.randrange(20, 99)} {generator.randrange(10**7, 10**8)}"
                    ),
                    "emails": [mail],
                    "iban": _fresh(
                        used["iban"],
                        lambda c=country: f"{c}{generator.randrange(10, 99)} {generator.randrange(10**11, 10**12)}",
                    ),
                    "credit_card": _fresh(used["credit_card"], lambda f=faker: f.credit_card_number()),
                    "passport": _fresh(used["passport"], lambda c=country: f"{c}{generator.randrange(10**6, 10**7)}"),
                },
            )
        )
    return people


def _city(faker: Faker) -> str:
    """A city of the locale. Faker's list of Italy's goes through a set, so its order is another in every process: lists are
    sorted first."""
    lists = [provider.cities for provider in faker.get_providers() if hasattr(provider, "cities")]
    names = sorted({city for cities in lists for city in cities if isinstance(city, str)})
    return str(faker.random_element(names) if names else faker.city())


def _fresh(used: set[str], draw: Any) -> str:
    """A value nobody has yet. Faker's lists are finite, so a taken value gets a numeral when many draws were taken."""
    for _ in range(200):
        value: str = draw()
        if value.casefold() not in used and value:
            break
    else:
        base, number = value, 2
        while f"{base} {number}".casefold() in used:
            number += 1
        value = f"{base} {number}"
    used.add(value.casefold())
    return value


def _plain(text: str) -> str:
    """Without accents: they cost the tokenizer several tokens each and carry nothing here."""
    decomposed = unicodedata.normalize("NFKD", text.translate(_PLAIN))
    kept = "".join(letter for letter in decomposed if not unicodedata.combining(letter))
    return re.sub(r"[^A-Za-z0-9 .'-]", "", kept).strip()


def _mail_address(name: str, generator: random.Random) -> str:
    first, *_, last = re.sub(r"[^a-z ]", "", name.lower()).split()
    return f"{first[0]}{last}{generator.randrange(10, 99)}@{generator.choice(_MAIL_HOSTS)}"
