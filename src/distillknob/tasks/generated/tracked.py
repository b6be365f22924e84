"""One thing of a story, followed from sentence to sentence: what every way of answering is written from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from distillknob.tasks.generated.story import Sentence, Story, path_of

WHERE, BEFORE, HOLDER = "where", "before", "holder"


def places_of(paths: Sequence[Sequence[str]]) -> list[str]:
    """The places in which the thing was, one after another."""
    places: list[str] = []
    for path in paths:
        if path and path[-1] not in places[-1:]:
            places.append(path[-1])
    return places


def paths_after_events(story: Story, thing: str) -> list[list[str]]:
    """What holds the thing, what holds that, and so on to the place, after each event of the story; empty before the
    thing is placed."""
    parents: dict[str, str] = {}
    paths = []
    for move in story.events:
        parents[move.item] = move.to
        paths.append(path_of(parents, thing))
    return paths


@dataclass(frozen=True)
class Tracked:
    """`sentences` with the moves that each tells; `paths`, after each sentence the thing's path from its holder to the
    place, empty before it is placed; `asked` is the path that holds the answer, the last one or the one before the
    thing came to its last place."""

    kind: str
    thing: str
    sentences: tuple[Sentence, ...]
    paths: tuple[tuple[str, ...], ...]
    people: frozenset[str]

    @classmethod
    def of(cls, story: Story, sentences: Sequence[Sentence], kind: str, thing: str) -> Tracked:
        parents: dict[str, str] = {}
        paths = []
        for _, moves in sentences:
            parents.update((move.item, move.to) for move in moves)
            paths.append(tuple(path_of(parents, thing)))
        return cls(kind, thing, tuple(sentences), tuple(paths), story.scene.people)

    @property
    def path(self) -> tuple[str, ...]:
        """The thing's path at the end."""
        return self.paths[-1]

    @property
    def asked_after(self) -> int:
        """The number of the last sentence after which the asked path holds."""
        last = len(self.paths) - 1
        if self.kind != BEFORE:
            return last
        return max(i for i, path in enumerate(self.paths) if path and path[-1] != self.path[-1])

    @property
    def asked(self) -> tuple[str, ...]:
        return self.paths[self.asked_after]

    @property
    def answer(self) -> str:
        return self.asked[0] if self.kind == HOLDER else self.asked[-1]

    @property
    def changes(self) -> list[int]:
        """The numbers of the sentences after which the thing's path is another."""
        return [i for i, path in enumerate(self.paths) if path and (i == 0 or path != self.paths[i - 1])]

    def set_by(self, item: str) -> int:
        """The number of the sentence that says where the item is when the question asks for it."""
        told = enumerate(self.sentences[: self.asked_after + 1])
        return max(i for i, (_, moves) in told if any(move.item == item for move in moves))

    @property
    def deciding(self) -> list[int]:
        """The numbers of the sentences that decide, in the story's order: for what was before, the one that ended it
        too."""
        links = [self.thing, *self.asked[:-1]] if self.kind != HOLDER else [self.thing]
        after = [self.asked_after + 1] if self.kind == BEFORE else []
        return sorted({*(self.set_by(item) for item in links), *after})
