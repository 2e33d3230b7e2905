"""Parts of messages: lists of names, values, and what an unknown name was probably meant to be."""

import re
from collections.abc import Iterable
from difflib import SequenceMatcher
from typing import Any

MOST_LISTED = 20
SIMILAR = 0.7  # SequenceMatcher's ratio from which on a name is suggested
NEARLY = 0.06  # how far behind the best another name may be to be suggested, too


def join_names(names: Iterable[str], limit: int = 5, separator: str = ", ") -> str:
    """Return "a, b, c and 4 more": at most `limit` of the names, in their order."""
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return separator.join(names[:limit]) + more


def describe_value(value: Any) -> str:
    """Return a value as an error message shows it: "empty" for None, else its repr, cut to 80 characters."""
    return "empty" if value is None else f"{value!r}"[:80]


def format_unknown_name(
    kind: str, name: str, known: Iterable[str], listing: str = "", prefix: str = ""
) -> str:
    """Return the message for a name that is not among `known`, in a few short sentences.

    Args:
        kind: kind of thing, as "network".
        listing: the command that lists the names; without one, or with few names, they are listed here.
        prefix: beginning of all names, which tells nothing about the one that was meant.
    """
    known = list(known)
    short = [one.removeprefix(prefix) for one in known]
    close = [prefix + one for one in find_closest_names(name.removeprefix(prefix), short)]
    parts = [f"Unknown {kind} {name!r}."]
    if close:
        parts.append(f"Did you mean {' or '.join(close)}?")
    if len(known) <= MOST_LISTED or not (listing or close):
        parts.append(f"Choose one of {', '.join(known)}.")
    if listing:
        parts.append(f"`{listing}` lists all.")
    return " ".join(parts)


def find_closest_names(name: str, known: Iterable[str], n: int = 3) -> list[str]:
    """Return up to `n` of the `known` names that a person who typed `name` may have meant, the best first.

    Case, hyphens and underscores do not count. Those that begin with what was typed come alone, the shortest
    first.
    """
    typed, candidates = _letters(name), list(known)
    if not typed:
        return []
    if equal := [candidate for candidate in candidates if _letters(candidate) == typed]:
        return equal[:n]
    begun = [candidate for candidate in candidates if _letters(candidate).startswith(typed)]
    if begun and len(typed) >= 3:
        return sorted(begun, key=len)[:n]
    ratios = {candidate: _similarity(typed, _letters(candidate)) for candidate in candidates}
    least = max(SIMILAR, max(ratios.values(), default=0.0) - NEARLY)
    near = [candidate for candidate, ratio in ratios.items() if ratio >= least]
    return sorted(near, key=lambda candidate: -ratios[candidate])[:n]


def _similarity(one: str, other: str) -> float:
    """SequenceMatcher's ratio, 0 where it is quickly known to be too small."""
    matcher = SequenceMatcher(None, other, one, autojunk=False)
    if matcher.real_quick_ratio() < SIMILAR or matcher.quick_ratio() < SIMILAR:
        return 0.0
    return matcher.ratio()


def _letters(name: str) -> str:
    return "".join(char for char in name.lower() if char.isalnum())


def describe_regex(pattern: str) -> str:
    """Return a regular expression for names in a form that people read: patient\\d{3} -> 'patient### (# is a
    digit)'. Parts that may be absent are left out."""
    text = re.sub(r"\(\?(?:P<\w+>|:)", "(", pattern)
    text = re.sub(r"\([^()]*\)\?", "", text)
    text = re.sub(r"\\d\{(\d+)\}", lambda match: "#" * int(match[1]), text)
    text = re.sub(r"\\d\+?", "#", text)
    text = re.sub(r"[()^$]", "", text).replace("\\.", ".")
    return f"{text} (# is a digit)" if "#" in text else text
