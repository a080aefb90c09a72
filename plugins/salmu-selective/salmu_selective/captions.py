"""What a step says: captions that have to be forgotten, with their twins, and captions that must not move."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass

from salmu_selective.vocabulary import Vocabulary
from salmu_selective.wordings import BARE, NAME_ALONE, Draw, Fact, Tokens, Wording

_OWNER_UNKNOWN, _PERSON_UNKNOWN = 0.15, 0.15  # shares of the forget captions, see `forgotten`
_RETAIN, _OTHER_FACTS = 0.2, 0.45  # shares of the captions that are held, see `held`
_REWORDED_HELD = 0.2  # of the held captions about people, in the bare wordings
_UNHEARD = 0.75  # of those about somebody of whom no other kind of fact is known, around the name
_STRANGERS = 0.6  # of the people besides the fact's own

#: A token, its place among those of a name or value, and whether that is the last one.
_Place = tuple[int, int, bool]


@dataclass(frozen=True)
class Known:
    """What can be told from the forget split about what is to stay.

    Attributes:
        facts: every forget row.
        by_field: the same by kind of fact.
        staying: of each person, kinds of facts that are in forget for others and not for this one: taken as ones that stay. The
            empty string is the name on its own, where nobody asked to forget the name.
        retain: ordinary captions.
    """

    facts: tuple[Fact, ...]
    by_field: dict[str, list[Fact]]
    staying: dict[str, list[str]]
    retain: Sequence[Tokens]

    @property
    def whole(self) -> set[str]:
        """People of whom everything is to be forgotten."""
        return {person for person, fields in self.staying.items() if not fields}

    @property
    def partly(self) -> list[Fact]:
        """Facts of all others."""
        return [fact for fact in self.facts if self.staying[fact.person]]


def known_from(facts: Sequence[Fact], retain: Sequence[Tokens]) -> Known:
    """Sort the forget split by kind of fact, and see what is missing of whom."""
    by_field: dict[str, list[Fact]] = {}
    for fact in facts:
        by_field.setdefault(fact.field, []).append(fact)
    asked = {(fact.person, fact.field) for fact in facts}
    named = {fact.person for fact in facts if fact.name == fact.value}
    staying: dict[str, list[str]] = {}
    for person in sorted({fact.person for fact in facts}):
        staying[person] = [field for field in sorted(by_field) if (person, field) not in asked]
        # Who asks to forget a phone number has not asked to forget the name. Where name captions are a kind of fact of their own
        # this is known already.
        if person not in named and not staying[person]:
            staying[person] = [""]
    return Known(tuple(facts), by_field, staying, retain)


class Captions:
    """Draws captions."""

    def __init__(
        self,
        known: Known,
        vocabulary: Vocabulary,
        *,
        reworded: float,
        partly: float,
        mixed: float,
        familiar: float,
        anew: bool = False,
    ) -> None:
        self._known = known
        self._vocabulary = vocabulary
        self._reworded = reworded
        self._partly_share = partly
        self._mixed = mixed
        self._anew = anew
        self._familiar = familiar if vocabulary.familiar else 0.0
        self._partly = known.partly
        self._fields = sorted(known.by_field)
        doubled = [fact for fact in known.facts if any(t in vocabulary.double for t in fact.name)]
        people = doubled or ([] if vocabulary.double else known.facts)  # without doubles: the names as they are, at random
        self._people: Mapping[Tokens, str] = {fact.name: fact.person for fact in people}
        self._names = list(self._people)
        owned = set(vocabulary.owned)
        self._name_places = _places((fact.name for fact in known.facts), owned)
        self._value_places = {
            field: _places((fact.value for fact in facts), owned) for field, facts in known.by_field.items()
        }
        self._said = {(fact.name, fact.value) for fact in known.facts}

    def fact(self, row: int, draw: Draw) -> Fact:
        """The fact of a forget row, or one about somebody of whom other facts are to stay: those take longest."""
        if self._partly and draw.chance() < self._partly_share:
            return draw.one(self._partly)
        return self._known.facts[row]

    def forgotten(self, fact: Fact, draw: Draw) -> tuple[Tokens, Tokens]:
        """A caption of the fact, and its twin.

        In some the value is another's, or the name of somebody forgotten whole stands with another value: neither may lead to the
        face alone.
        """
        wording, name, value = fact.wording, fact.name, fact.value
        if draw.chance() < self._reworded:
            wording = draw.one([*BARE, draw.one(self._known.by_field[fact.field]).wording])
        kind = draw.chance()
        if name != value and kind < _OWNER_UNKNOWN:
            somebody, _ = self.somebody(draw)
            return wording.say(somebody, value), wording.say(somebody, self.twin(value, draw))
        if name != value and kind < _OWNER_UNKNOWN + _PERSON_UNKNOWN and not self._known.staying[fact.person]:
            something = self.something(draw.one(self._fields), draw)
            return wording.say(name, something), wording.say(self.twin(name, draw), something)
        return wording.say(name, value), wording.say(self.twin(name, draw), self.twin(value, draw))

    def held(self, fact: Fact, draw: Draw) -> tuple[Tokens, str | None]:
        """A caption that must not move, and whose face it is about: of retain, of the same person about what is not forgotten, or
        of a double or a stranger."""
        kind = draw.chance()
        if kind < _RETAIN:
            return draw.one(self._known.retain), None
        staying = self._known.staying[fact.person]
        same = kind < _RETAIN + _OTHER_FACTS and bool(staying)
        field = draw.one(staying if same else self._fields)
        if field:
            wording = draw.one(BARE) if draw.chance() < _REWORDED_HELD else draw.one(self._known.by_field[field]).wording
        else:
            field = draw.one(self._fields)
            wording = self.anything(draw) if draw.chance() < _UNHEARD else draw.one([NAME_ALONE, *BARE])
        somebody, person = (fact.name, fact.person) if same else self.stranger(draw)
        something = self.something(field, draw)
        if (somebody, something) in self._said:  # of shared tokens alone, and in the order they had
            return draw.one(self._known.retain), None
        return wording.say(somebody, something), person

    def twin(self, tokens: Tokens, draw: Draw) -> Tokens:
        """What nobody ever heard of in the place of a name or value."""
        return self._vocabulary.twin(tokens, draw, anew=self._anew)

    def anything(self, draw: Draw) -> Wording:
        """A wording of some unknown kind of fact: words that nobody used, around the name."""
        before, after = int(draw.chance() * 5), int(draw.chance() * 5)
        vocabulary = self._vocabulary
        words = vocabulary.familiar or vocabulary.strangers or vocabulary.unknown
        return Wording(
            (tuple(draw.one(words) for _ in range(before)), tuple(draw.one(words) for _ in range(after))), ("name",)
        )

    def stranger(self, draw: Draw) -> tuple[Tokens, str | None]:
        """Somebody else, and whose face the name leads to where that is known: more often a stranger than a double."""
        name, person = self.somebody(draw)
        strangers = self._vocabulary.strangers
        if draw.chance() < self._familiar:
            return self.mixed(tuple(draw.one(self._vocabulary.familiar) for _ in name), draw, self._name_places), None
        if strangers and draw.chance() < _STRANGERS:
            return tuple(draw.one(strangers) for _ in name), None
        return name, person

    def somebody(self, draw: Draw) -> tuple[Tokens, str | None]:
        """The double of a name and its owner; somebody unknown where no name has a token of its own."""
        if not self._names:
            return self.twin(draw.one(self._known.facts).name, draw), None
        name = draw.one(self._names)
        return self.mixed(self._vocabulary.doubled(name), draw, self._name_places), self._people[name]

    def something(self, field: str, draw: Draw) -> Tokens:
        """The double of a value of this field; tokens that others use as well, like digits, in another order."""
        value, double = draw.one(self._known.by_field[field]).value, self._vocabulary.double
        shared = draw.shuffled([t for t in value if t not in double])
        familiar = self._vocabulary.familiar if draw.chance() < self._familiar else ()
        own = {t: draw.one(familiar) if familiar else double[t] for t in value if t in double}
        return self.mixed(tuple(own[t] if t in own else shared.pop() for t in value), draw, self._value_places[field])

    def mixed(self, tokens: Tokens, draw: Draw, owned: Sequence[_Place]) -> Tokens:
        """At times with an owned token in its own place among them: one may share a token with somebody who is to be forgotten."""
        if not tokens or not owned or not self._vocabulary.double or draw.chance() >= self._mixed:
            return tokens
        token, place, last = draw.one(owned)
        place = len(tokens) - 1 if last else min(place, len(tokens) - 1)
        return (*tokens[:place], token, *tokens[place + 1 :])


def _places(sequences: Iterable[Tokens], owned: Set[int]) -> list[_Place]:
    """Every owned token with where it stands, once."""
    return sorted({(t, at, at == len(tokens) - 1) for tokens in sequences for at, t in enumerate(tokens) if t in owned})
