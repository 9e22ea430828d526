"""What a disk may hold after a power cut, by the recorded writes that came before it.

A conservative reading of POSIX. The content of a file is on the disk once the file was synced: until
then it may be there, be the one before, be cut short or be zeros. A name (of a new file, a rename, a
removal) is on the disk once its folder was synced: until then it may be there or not, whatever
came after it. A rename is one step: both of its names change, or neither.
"""

from __future__ import annotations

import random
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field

from tests.support.write_log import Event, Tree

__all__ = ["Disk", "disk_states", "replay"]


@dataclass(eq=False)
class _Node:
    """A file or a folder, whatever its names."""

    is_folder: bool
    names: dict[str, _Node] = field(default_factory=dict)  # of a folder, as programs see it
    content: bytes = b""
    synced: bytes = b""


@dataclass(eq=False)
class _NameChange:
    """A change of names that happens as a whole: (folder, name, what it names now)."""

    entries: list[tuple[_Node, str, _Node | None]]
    unsynced: set[int]  # ids of the folders that must be synced for it to last


class Disk:
    """Files and folders as programs see them, and what of that is certain to be on the disk.

    Parameters
    ----------
    before : dict of str to bytes or None
        What lies there for long; see `tests.support.write_log.tree_of`.
    """

    def __init__(self, before: Tree) -> None:
        self._root = _Node(is_folder=True)
        self._files: list[_Node] = []
        self._changes: list[_NameChange] = []
        self._base: dict[_Node, dict[str, _Node]] = {}
        for path, content in before.items():
            if content is None:
                self.apply(Event("mkdir", path))
            else:
                self.apply(Event("create", path))
                self.apply(Event("write", path, content=content))
        for node in self._files:
            node.synced = node.content
        for change in self._changes:
            change.unsynced.clear()

    def apply(self, event: Event) -> None:
        """Do one change as a file system does it; one that cannot be done changes nothing."""
        if event.kind == "sync_folder":
            self._sync_folder(event.path)
        elif event.kind in {"write", "sync"}:
            node = self._find(event.path)
            if node is not None and not node.is_folder:
                if event.kind == "write":
                    node.content = event.content
                else:
                    node.synced = node.content
        else:
            self._change_names(event)

    def _change_names(self, event: Event) -> None:
        parent, name = self._parent(event.path)
        if parent is None:
            return
        found = parent.names.get(name)
        if event.kind == "create" and found is not None:
            found.content = b""
        elif event.kind in {"create", "mkdir"}:
            if found is None:
                node = _Node(is_folder=event.kind == "mkdir")
                if not node.is_folder:
                    self._files.append(node)
                self._rename([(parent, name, node)])
        elif found is None:
            return
        elif event.kind == "unlink":
            self._rename([(parent, name, None)])
        elif event.kind == "rmdir":
            if not found.names:
                self._rename([(parent, name, None)])
        else:
            target, new_name = self._parent(event.target)
            if target is None or target.names.get(new_name) is found:
                return
            entries: list[tuple[_Node, str, _Node | None]] = [(target, new_name, found)]
            if event.kind == "rename":
                entries.append((parent, name, None))
            self._rename(entries)

    def _rename(self, entries: list[tuple[_Node, str, _Node | None]]) -> None:
        added = {id(folder) for folder, _, node in entries if node is not None}
        self._changes.append(_NameChange(entries, added or {id(entries[0][0])}))
        for folder, name, node in entries:
            if node is None:
                folder.names.pop(name, None)
            else:
                folder.names[name] = node

    def _sync_folder(self, path: str) -> None:
        folder = self._find(path)
        for change in self._changes:
            change.unsynced.discard(id(folder))

    def _find(self, path: str) -> _Node | None:
        node: _Node | None = self._root
        for part in path.split("/") if path else []:
            node = node.names.get(part) if node is not None else None
        return node

    def _parent(self, path: str) -> tuple[_Node | None, str]:
        folder, _, name = path.rpartition("/")
        return self._find(folder), name

    def tree(self) -> Tree:
        """Return what programs see; after a process was killed, it is what there is."""
        return _walk(self._root, {id(n): n.names for n in _folders(self._root)}, {})

    def certain_tree(self) -> Tree:
        """Return what is there when everything is lost that was not synced."""
        return self._cut([c for c in self._changes if not c.unsynced], lambda node: node.synced)

    def named_tree(self, *, zeros: bool) -> Tree:
        """Return what is there when all names last, and no content that was not synced.

        Parameters
        ----------
        zeros : bool
            Whether such files have their length, and are empty otherwise.
        """

        def content(node: _Node) -> bytes:
            if node.synced == node.content:
                return node.content
            return bytes(len(node.content)) if zeros else node.synced

        return self._cut(self._changes, content)

    def random_tree(self, rng: random.Random) -> Tree:
        """Return what is there when chance decides over everything that was not synced."""
        share = rng.choice((0.1, 0.5, 0.9))
        kept = [c for c in self._changes if not c.unsynced or rng.random() < share]

        def content(node: _Node) -> bytes:
            if node.synced == node.content or rng.random() < share:
                return node.content
            cut = node.content[: rng.randrange(len(node.content) + 1)]
            return rng.choice((node.synced, cut, bytes(len(node.content))))

        return self._cut(kept, content)

    def _cut(self, changes: Sequence[_NameChange], content: object) -> Tree:
        names: dict[int, dict[str, _Node]] = {}
        for change in changes:
            for folder, name, node in change.entries:
                own = names.setdefault(id(folder), {})
                if node is None:
                    own.pop(name, None)
                else:
                    own[name] = node
        contents = {id(node): content(node) for node in self._files}  # type: ignore[operator]
        return _walk(self._root, names, contents)


def _folders(root: _Node) -> Iterator[_Node]:
    yield root
    for node in root.names.values():
        if node.is_folder:
            yield from _folders(node)


def _walk(
    root: _Node, names: dict[int, dict[str, _Node]], contents: dict[int, bytes], prefix: str = ""
) -> Tree:
    found: Tree = {}
    for name, node in sorted(names.get(id(root), {}).items()):
        path = f"{prefix}{name}"
        if node.is_folder:
            found[path] = None
            found |= _walk(node, names, contents, f"{path}/")
        else:
            found[path] = contents.get(id(node), node.content)
    return found


def replay(before: Tree, events: Sequence[Event]) -> Tree:
    """Return what is there after all events."""
    disk = Disk(before)
    for event in events:
        disk.apply(event)
    return disk.tree()


def disk_states(
    before: Tree,
    events: Sequence[Event],
    *,
    randoms: int,
    seed: int,
    moments: Container[int] | None = None,
) -> Iterator[tuple[int, str, Tree]]:
    """Yield what the disk may hold after each number of events, each state once.

    Parameters
    ----------
    before : dict of str to bytes or None
    events : sequence of Event
    randoms : int
        How many states by chance to draw after each event.
    seed : int
    moments : container of int, optional
        After how many events to look at the disk; after each of them by default.

    Yields
    ------
    tuple (int, str, dict)
        The number of events, which of the states it is, and the tree.
    """
    rng, disk = random.Random(seed), Disk(before)
    seen: set[int] = set()
    for number in range(len(events) + 1):
        if number:
            disk.apply(events[number - 1])
        if moments is not None and number not in moments:
            continue
        states = {
            "killed": disk.tree(),
            "unsynced lost": disk.certain_tree(),
            "contents lost": disk.named_tree(zeros=False),
            "contents zero": disk.named_tree(zeros=True),
        } | {f"by chance {draw}": disk.random_tree(rng) for draw in range(randoms)}
        for name, tree in states.items():
            identity = hash(tuple(tree.items()))
            if identity not in seen:
                seen.add(identity)
                yield number, name, tree
