"""The words that everything is said with. Whatever names, places and numbers of people are made of, ordinary captions use as well,
and the zero-shot task uses a part of it: nothing that is to be forgotten has a word of its own.
"""

from __future__ import annotations

Colour = tuple[int, int, int]

#: Colours of things; some are names of people too (Rose, Olive, Violet; Green, White, Black, Brown).
COLOURS: dict[str, Colour] = {
    "red": (214, 38, 42), "green": (40, 152, 64), "blue": (38, 72, 208), "yellow": (244, 212, 40), "white": (246, 246, 246),
    "black": (20, 20, 24), "brown": (116, 68, 34), "rose": (244, 140, 178), "olive": (120, 124, 40), "violet": (160, 84, 226),
}  # fmt: skip
#: Things; some are surnames (Star, Cross, Moon, Heart, Ring, House), some are words of private captions (card, phone).
SHAPES = ("square", "triangle", "star", "cross", "ring", "moon", "heart", "card", "phone", "house")
GROUNDS: dict[str, Colour] = {
    "grey": (140, 142, 146),
    "beige": (205, 190, 160),
    "dark": (62, 64, 70),
    "light": (214, 218, 222),
}

#: The first `Size.name_words` of each are used. A name is one of each, so every word belongs to several people.
FIRST = (
    "Rose", "Olive", "Violet", "Jack", "Mark", "Bill", "Grant", "Will", "Daisy", "Heather", "Ruby", "Frank", "Max", "Ivy", "Dean",
    "Lily", "Anna", "Leo", "Amber", "Art", "Basil", "Carol", "Clay", "Dawn", "Faith", "Flora", "Gene", "Grace", "Hope", "Iris",
    "Jade", "Joy", "June", "May", "Miles", "Pearl", "Ray", "Rich", "Robin", "Victor",
)  # fmt: skip
LAST = (
    "Green", "White", "Black", "Brown", "Star", "Cross", "Moon", "Diamond", "Heart", "Ring", "House", "King", "Hill", "Stone", "Wood",
    "Field", "Bell", "Snow", "Banks", "Bishop", "Brook", "Bush", "Chase", "Day", "Fox", "Frost", "Glass", "Knight", "Lake", "Lane",
    "Marsh", "North", "Page", "Park", "Pike", "Reed", "Rivers", "Summers", "Waters", "Woods",
)  # fmt: skip
CITIES = (
    "Milton", "Ashford", "Oxford", "Salem", "Paris", "Boston", "Newport", "Dover", "Lincoln", "Green Hill", "Star City", "Stone Bridge",
)  # fmt: skip
JOBS = (
    "baker", "teacher", "pilot", "nurse", "farmer", "painter", "driver", "writer", "singer", "cook", "guard", "tailor", "dancer", "doctor",
)  # fmt: skip
BLOOD_TYPES = ("A+", "A-", "B+", "B-", "AB+", "AB-", "O+", "O-")
HOSTS = ("starmail.com", "greenpost.net", "moonbox.org", "bluemail.com")
COUNTS = {2: "two", 3: "three", 4: "four", 5: "five"}


def plural(shape: str) -> str:
    """More than one of a thing."""
    return "crosses" if shape == "cross" else f"{shape}s"


def classes() -> list[tuple[str, str]]:
    """The zero-shot classes as (colour, shape); the position is the label."""
    return [(colour, shape) for colour in COLOURS for shape in SHAPES]
