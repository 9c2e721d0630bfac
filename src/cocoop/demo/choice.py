"""Which test pictures the demonstration's page shows."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["choose_samples"]


def choose_samples(truth: Mapping[str, str], named: Mapping[str, Mapping[str, str]], count: int) -> list[str]:
    """Pictures on which the methods differ as much as they do: each pattern of right and wrong takes its turn.

    Args:
        truth: the true class of each picture.
        named: the class that each method names, by method and picture.
        count: how many pictures to choose at most.

    Returns:
        Pictures, of as many classes as possible, the patterns that fewest pictures have last.
    """
    by_pattern: dict[tuple[bool, ...], list[str]] = {}
    for path, classname in truth.items():
        pattern = tuple(classes[path] == classname for classes in named.values())
        by_pattern.setdefault(pattern, []).append(path)
    waiting = sorted(by_pattern.values(), key=len, reverse=True)
    chosen: list[str] = []
    shown = dict.fromkeys(truth.values(), 0)
    while len(chosen) < count and any(waiting):
        for paths in waiting:
            if paths and len(chosen) < count:
                # The class that was shown least so far; among several, the first.
                path = min(paths, key=lambda path: shown[truth[path]])
                paths.remove(path)
                shown[truth[path]] += 1
                chosen.append(path)
    return chosen
