"""Names of emoji as people say them, out of the index's Unicode names."""

from __future__ import annotations

import re
from typing import Any

TONES = {
    "1F3FB": "light",
    "1F3FC": "medium-light",
    "1F3FD": "medium",
    "1F3FE": "medium-dark",
    "1F3FF": "dark",
}
"""Modifier -> the tone of skin."""
NO_TONE = "yellow"
"""The skin of people that no modifier says anything about."""

# short_name -> a name, where the rules below would leave something that nobody says; None leaves it out.
_SAID = {
    "point_up_2": "backhand pointing up",
    "point_down": "backhand pointing down",
    "point_left": "backhand pointing left",
    "point_right": "backhand pointing right",
    "point_up": "index finger pointing up",
    "facepunch": "fist coming at you",
    "spock-hand": "vulcan salute",
    "middle_finger": "middle finger",
    "crossed_fingers": "crossed fingers",
    "raised_hands": "raised hands",
    "pray": "folded hands",
    "adult": "person",
    "older_adult": "older person",
    "santa": "santa claus",
    "mrs_claus": "mrs. claus",
    "person_with_headscarf": "person with headscarf",
    "people_holding_hands": "two people holding hands",
    "dancers": "people with bunny ears",
    "wrestlers": "people wrestling",
    "heart": "red heart",
    "sunny": "sun",
    "star": "star",
    "hotsprings": "hot springs",
    "closed_book": "red book",
    "book": "open book",
    "corn": "ear of corn",
    "ramen": "bowl of noodles",
    "icecream": "soft ice cream",
    "bee": "bee",
    "womans_hat": "woman's hat",
    "womans_clothes": "woman's blouse",
    "womans_flat_shoe": "woman's flat shoe",
    "mans_shoe": "man's shoe",
    "sandal": "woman's sandal",
    "boot": "woman's boot",
    "hankey": "pile of poo",
    "o": "hollow red circle",
    "x": "red cross mark",
    "bangbang": "double exclamation mark",
    "question": "red question mark",
    "grey_question": "white question mark",
    "grey_exclamation": "white exclamation mark",
    "exclamation": "red exclamation mark",
    "hash": "keycap #",
    "keycap_star": "keycap *",
    "tm": "trade mark",
    "up": "up button",
    "fast_forward": "fast-forward button",
    "rewind": "rewind button",
    "arrow_double_up": "fast up button",
    "arrow_double_down": "fast down button",
    "arrow_up_small": "up triangle button",
    "arrow_down_small": "down triangle button",
    "arrow_forward": "play button",
    "arrow_backward": "reverse button",
    "repeat": "repeat button",
    "repeat_one": "repeat once button",
    "twisted_rightwards_arrows": "shuffle button",
    "arrows_clockwise": "clockwise arrows",
    "arrows_counterclockwise": "anticlockwise arrows",
    "back": "back arrow",
    "end": "end arrow",
    "on": "on arrow",
    "soon": "soon arrow",
    "top": "top arrow",
    "leftwards_arrow_with_hook": "arrow curving left",
    "arrow_right_hook": "arrow curving right",
    "arrow_heading_up": "arrow curving up",
    "arrow_heading_down": "arrow curving down",
    "symbols": "input symbols button",
    "hocho": "kitchen knife",
    "mega": "megaphone",
    "mute": "muted speaker",
    "shirt": "t-shirt",
    "lower_left_ballpoint_pen": "ballpoint pen",
    "performing_arts": "theater masks",
    "eight_pointed_black_star": "eight-pointed star",
    "negative_squared_cross_mark": "cross mark button",
    "skin-tone-2": None,
    "skin-tone-3": None,
    "skin-tone-4": None,
    "skin-tone-5": None,
    "skin-tone-6": None,
    "flag-sark": None,  # shows another flag
    "family": None,  # silhouettes that others show too
    "headphones": "headphones",
    "mens": "men's room sign",
    "womens": "women's room sign",
    "foggy": "foggy city",
    "smoking": "cigarette",
    "no_smoking": "no smoking sign",
    "no_bicycles": "no bicycles sign",
    "no_pedestrians": "no pedestrians sign",
    "no_mobile_phones": "no mobile phones sign",
    "do_not_litter": "no littering sign",
    "underage": "no one under eighteen sign",
    "non-potable_water": "non-potable water sign",
    "potable_water": "potable water sign",
    "put_litter_in_its_place": "litter bin sign",
    "no_entry": "no entry sign",
    "no_entry_sign": "prohibited sign",
    "breast-feeding": "woman breast-feeding",
    "horse_racing": "jockey on horse",
    "bath": "person taking bath",
    "sleeping_accommodation": "person in bed",
    "police_cars_revolving_light": "police light",
    "rotating_light": "police light",
    "white_check_mark": "check mark button",
    "recycle": "recycling symbol",
    "sweat_drops": "sweat drops",
    "zzz": "zzz",
    "u5272": None,
}
# Tried in turn on the small letters of the name; the first that fits is the last.
_RULES = (
    (r"(?:squared )?(?:katakana|cjk).*", None),  # signs that nobody could name
    (r"circled ideograph.*", None),
    (r"clock face (\w+)-thirty", r"clock at half past \1"),
    (r"clock face (\w+) oclock", r"clock at \1 o'clock"),
    (r"(man|woman|person): bald", r"bald \1"),
    (r"(man|woman|person): beard", r"\1 with beard"),
    (r"(man|woman|person): (\w+) hair", r"\1 with \2 hair"),
    (r"couple with heart: (\w+), (\w+)", r"\1 and \2 with heart"),
    (r"kiss: (\w+), (\w+)", r"\1 and \2 kissing"),
    (r"family: (\w+), (\w+)", r"family of \1 and \2"),
    (r"family: (\w+), (\w+), (\w+)", r"family of \1, \2 and \3"),
    (r"family: (\w+), (\w+), (\w+), (\w+)", r"family of \1, \2, \3 and \4"),
    (r"(?:squared|negative squared) (?:latin capital letter )?(.*)", r"\1 button"),
    (r"keycap (.*)", r"keycap \1"),
    (r"(?:black|white) (\w+) (?:large )?suit", r"\1 suit"),
    (r"black (spade|club|heart|diamond) suit", r"\1 suit"),
    # Sizes are for stickers: what is drawn small or large in its frame is told apart in other words.
    (r"(black|white) large square", r"\1 square"),
    (r"(black|white) medium square", r"middling \1 square"),
    (r"(black|white) medium small square", r"little \1 square"),
    (r"(black|white) small square", r"tiny \1 square"),
    (r"small airplane", "light airplane"),
    (r"(?:large|medium) (\w+ (?:circle|square|diamond))", r"\1"),
    (r"small (\w+ diamond)", r"tiny \1"),
    (r"heavy (.*)", r"\1"),
    (r"(?:black|white) (telephone|scissors|nib|smiling face|universal recycling symbol)", r"\1"),
    (r"(\w+) pointing backhand index", r"backhand pointing \1"),
    (r"(north|south) (east|west) arrow", r"arrow pointing \1\2"),
    (r"black rightwards arrow", "arrow pointing right"),
    (r"leftwards black arrow", "arrow pointing left"),
    (r"upwards black arrow", "arrow pointing up"),
    (r"downwards black arrow", "arrow pointing down"),
    (r"(.*) facing right", r"\1 facing right"),
)
_GENDERS = {"1F468": "man", "1F469": "woman", "1F9D1": "person"}
_SIGNS = {"2642": "man", "2640": "woman"}
_DOING = re.compile(r"(?:.*\b)?\w+ing\b.*|(?:in|with|wearing) .*")


_WITH_THE = re.compile(
    "united |u.s. |european |british |central african |dominican |caribbean |isle |.*islands|.*territories"
    "|(?:netherlands|philippines|bahamas|gambia|maldives|comoros|seychelles)"
)


def clean_name(entry: dict[str, Any]) -> str | None:
    """What to call an emoji, without its skin tone; None if it has no name that somebody would say.

    Args:
      entry: of emoji.json.
    """
    short, name = entry["short_name"], " ".join(entry["name"].lower().replace("’", "'").split())
    if short in _SAID:
        return _SAID[short]
    if entry.get("subcategory") in ("country-flag", "subdivision-flag"):
        land = name.removesuffix(" flag")
        return f"flag of {'the ' * bool(_WITH_THE.match(land))}{land}"
    for pattern, said in _RULES:
        if re.fullmatch(pattern, name):
            if said is None:
                return None
            name = re.sub(pattern, said, name)
            break
    if entry.get("subcategory") == "zodiac":
        return f"{name} zodiac sign"
    if name.endswith(" moon symbol"):
        return name.removesuffix(" symbol")
    return name.removesuffix(" sign") if entry["category"] == "People & Body" else name


def gender_of(unified: str) -> tuple[str | None, str]:
    """ "man", "woman" or "person" of what one person is or does, and the key that the three share.

    A sequence that begins with a man, or ends with the sign of one, has a twin that does so with a woman and
    one that does so with a person of no said gender.
    """
    parts = [part for part in unified.upper().split("-") if part != "FE0F"]
    if parts[0] in _GENDERS and not any(part in _GENDERS for part in parts[1:]):
        return _GENDERS[parts[0]], "-".join(["PERSON", *parts[1:]])
    for code, gender in _SIGNS.items():
        if code in parts[1:]:
            at = parts.index(code)
            return gender, "-".join(parts[: at - 1] + parts[at + 1 :])
    return "person", "-".join(parts)


def neutral_name(mans_name: str, own: str) -> str:
    """The name of a person beside "man farmer" or "man running": "farmer", "person running"."""
    if mans_name == "man":
        return "person"
    said = re.sub(r"\bmen\b", "people", re.sub(r"\bman\b", "person", mans_name))
    if said == mans_name:
        return own
    rest = said.removeprefix("person ")
    return said if rest == said or _DOING.fullmatch(rest) else rest


# Said without an article, as plurals are.
_BARE = frozenset(
    "bread popcorn bacon butter salt spaghetti sushi oden camping bowling billiards luggage infinity ice "
    "wood coral fog broccoli garlic tofu cooking zzz".split()
) | {"cooked rice", "curry and rice", "yin yang", "dvd", "people", "men", "women"}
_HEAD = re.compile(r"(.*?)(?: (?:with|of|in|on|at|and|facing|holding|wrestling|hugging|kissing) .*|$)")
_NAMED = ("santa claus", "mrs. claus", "mx claus", "keycap ")
_ONE_OF_A_KIND = ("flag of ", "milky way", "earth globe ")


def with_article(name: str) -> str:
    """ "a red heart", "an owl", "the flag of france", "grapes"."""
    if name == "sun" or name.startswith(_ONE_OF_A_KIND):
        return f"the {name}"
    head = _HEAD.fullmatch(name)[1].split()[-1]
    is_plural = head.endswith("s") and not head.endswith(("ss", "us", "is", "os"))
    is_plural &= not name.startswith(("man ", "woman ", "person "))
    if (
        is_plural
        or name in _BARE
        or name.startswith(_NAMED)
        or name.split()[0] in ("people", "men", "women", "two")
    ):
        return name
    vowel = name[0] in "aeio" or name.startswith(("umb", "unam", "ups", "up ", "up-", "hour", "x-ray", "u-"))
    return f"an {name}" if vowel and not name.startswith(("one-", "euro")) else f"a {name}"
