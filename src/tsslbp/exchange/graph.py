"""NIR files and graphs as plain nodes: checked, with nested graphs unfolded, and put in order."""

import io
import math
import mmap
import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO, NoReturn

import numpy as np

from tsslbp.utils.errors import UserError, needed, shown

MOST_BYTES = 2**31
"""Most bytes of all arrays of a file, unpacked."""
TEXT = 128
"""Bytes of an object of Python that holds a short text."""
MOST_OBJECTS = 10_000
DEEPEST = 12
FILTERS = {1, 2, 3, 32000}
"""HDF5's numbers of gzip, shuffle, checksum and LZF. Any other could load code from a plugin."""
HEAP = b"GCOL\1\0\0\0"
"""First bytes of a heap of texts, HDF5's "global heap", version 1."""
REFERENCE = np.dtype([("length", "<u4"), ("heap", "<u8"), ("number", "<u4")])
"""Reference to a text in an array."""
NEURONS = ("CubaLIF", "LIF", "IF")
INTEGRATORS = ("CubaLI", "LI")
"""Neurons that never spike."""
SHORTCUTS = ("Linear", "Affine", "Conv1d", "Conv2d", "Scale")
"""Nodes that may be the only one on a shortcut."""


def library() -> ModuleType:
    """The package ``nir``. Raises UserError if it is not installed."""
    return needed("nir", "NIR files need the package nir", "nir")


def read(path: Path) -> Any:
    """The graph in a NIR file, a ``nir.NIRGraph``, whose types are not checked yet.

    Size, type and storage of an array are checked before it is read.

    Raises:
        UserError: no such file, a broken file, no NIR graph, one that is too large, links or filters that lead elsewhere.
    """
    nir = library()
    import h5py

    if not path.is_file():
        raise UserError(f"there is no file {path}")
    try:
        _check_heaps(path)
        with path.open("rb") as content, h5py.File(path, "r") as file:
            if file.id.get_create_plist().get_sizes() != (8, 8) or file.userblock_size:
                raise UserError("its addresses do not have 8 bytes, or something comes before it, as in no file of NIR's")
            if "node" not in file:
                raise UserError("it holds no NIR graph: there is no group 'node'")
            tree = _Reader(h5py, content).group(file["node"])
        if tree.get("type") != "NIRGraph":
            raise UserError(f"it holds a {shown(tree.get('type'))}, not a NIRGraph")
        _check_nodes(nir, tree)
        return nir.dict2NIRNode({**tree, "type_check": False})
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except Exception as error:  # damaged files may raise anything
        reason = (str(error).splitlines() or [""])[0]
        raise UserError(f"{path} is damaged or no NIR file ({type(error).__name__}: {shown(reason)})") from None


def _check_nodes(nir: ModuleType, graph: dict[str, Any], where: str = "") -> None:
    """Raises UserError for a graph without nodes or edges, and for a node that the package nir cannot make, which it names."""
    if not isinstance(nodes := graph.get("nodes"), dict) or np.ndim(graph.get("edges", 0)) != 2:
        raise UserError(f"the graph {shown(where)!r} has no nodes or no edges" if where else "it has no nodes or no edges")
    for name, node in nodes.items():
        called = f"{where}.{name}" if where else name
        kind = node.get("type") if isinstance(node, dict) else None
        if kind is None:  # HDF5 takes a/b apart
            raise UserError(f"its node {shown(called)!r} has no type; write the file with names of nodes without slashes")
        if kind == "NIRGraph":
            _check_nodes(nir, node, called)
            continue
        if kind not in nir.ir.__all__:
            raise UserError(f"its node {shown(called)!r} is of the kind {shown(kind)}, which NIR does not have")
        try:
            nir.dict2NIRNode(dict(node))
        except Exception as error:  # what is missing or odd may raise anything
            reason = f"{type(error).__name__}: {shown(error)}"
            raise UserError(f"its node {shown(called)!r} ({kind}) lacks something, or holds something odd ({reason})") from None


def _check_heaps(path: Path) -> None:
    """Raises UserError for a heap of texts whose entries do not fill it one by one: HDF5 might loop for ever."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        heap, entries = content.find(HEAP), 0
        while heap >= 0:
            (size,) = struct.unpack_from("<Q", content, heap + 8)
            at, end = heap + 16, heap + size
            while at + 16 <= end <= len(content):
                number, length = struct.unpack_from("<H6xQ", content, at)
                at += 16 + -(-length // 8) * 8 if number else length  # entry 0 is free space, and counts its own head
                entries += 1
                if not number:
                    break
            if not end - 16 < at <= end or 16 * entries > len(content):  # nested heaps also take for ever
                raise UserError("its texts are damaged")
            heap = content.find(HEAP, heap + 1)


class _Reader:
    """Reads groups and arrays of an HDF5 file, and counts their bytes."""

    def __init__(self, h5py: ModuleType, content: BinaryIO) -> None:
        self.h5py, self.content = h5py, content
        self.objects = self.bytes = 0

    def group(self, group: Any, depth: int = 0) -> dict[str, Any]:
        if depth > DEEPEST:
            raise UserError(f"its groups are nested more than {DEEPEST} deep")
        tree: dict[str, Any] = {}
        for name in group:
            self.objects += 1
            if self.objects > MOST_OBJECTS:
                raise UserError(f"it has more than {MOST_OBJECTS:,} entries")
            if not isinstance(group.get(name, getlink=True), self.h5py.HardLink):
                raise UserError(f"entry {shown(name)} is a link to somewhere else")
            entry = group[name]
            tree[name] = self.group(entry, depth + 1) if isinstance(entry, self.h5py.Group) else self._array(entry, name)
        return tree

    def _array(self, entry: Any, name: str) -> Any:
        stored = entry.id.get_create_plist()
        filters = {stored.get_filter(i)[0] for i in range(stored.get_nfilters())}
        if entry.external or entry.is_virtual or not filters <= FILTERS:
            raise UserError(f"entry {shown(name)} is stored outside the file, or packed in an unknown way")
        text = self.h5py.check_string_dtype(entry.dtype)
        if text is None and entry.dtype.kind not in "fiub":
            raise UserError(f"entry {shown(name)} holds {entry.dtype}; it must be numbers or text")
        numbers = max(entry.size, math.prod(entry.chunks or ()))  # HDF5 unpacks whole chunks
        # in memory, a text is an object of Python, and we compute with float64
        self.bytes += numbers * (entry.dtype.itemsize + TEXT if text is not None else np.dtype(np.float64).itemsize)
        if text is not None and text.length is None:
            self.bytes += self._of_texts(entry, name)
        if self.bytes > MOST_BYTES:
            raise UserError(f"its arrays take more than {MOST_BYTES // 2**30} GiB")
        value = entry[()]
        return value.decode() if isinstance(value, bytes) else value

    def _of_texts(self, entry: Any, name: str) -> int:
        """Bytes of an entry's texts: HDF5 allocates as many as the file claims."""
        place = entry.id.get_offset()
        if place is None:
            raise UserError(f"entry {shown(name)} holds texts in pieces, as NIR's do not")
        self.content.seek(place)
        lengths = np.frombuffer(self.content.read(REFERENCE.itemsize * entry.size), REFERENCE)["length"]
        if lengths.max(initial=0) > self.content.seek(0, io.SEEK_END):
            raise UserError(f"entry {shown(name)} is a text that is longer than the file")
        return int(lengths.sum())


def write(graph: Any) -> bytes:
    """The content of a NIR file."""
    content = io.BytesIO()
    library().write(content, graph)
    return content.getvalue()


def neurons_of(graph: Any, kinds: Collection[str] = NEURONS) -> list[str]:
    """Names of the nodes with neurons that spike, or of other kinds."""
    return [name for name, node in graph.nodes.items() if type(node).__name__ in kinds]


def laterals(neurons: str, edges: set[tuple[str, str]]) -> list[str]:
    """Names of the nodes whose only input and only output is this node."""
    back = {b for a, b in edges if a == neurons != b}
    return [name for name in back if {edge for edge in edges if name in edge} == {(neurons, name), (name, neurons)}]


@dataclass(frozen=True)
class Link:
    """A node of a chain. Neurons may also get their own output (``lateral``), and that of an earlier node by a shortcut.

    A shortcut leads from a node that ``opens`` it to the next that ``closes`` one, through ``around``, or directly if None.
    """

    name: str
    node: Any
    lateral: "Link | None" = None
    opens: bool = False
    closes: bool = False
    around: "Link | None" = None

    @property
    def kind(self) -> str:
        return type(self.node).__name__

    def __str__(self) -> str:
        return f"node {shown(self.name)!r} ({self.kind})"

    def refuse(self, why: str) -> NoReturn:
        raise UserError(f"{self} {why}")


def chain(graph: Any) -> list[Link]:
    """The nodes from the input to the output. Neurons may have one map from their spikes back to themselves,
    and a shortcut may lead around some nodes to neurons.

    Raises:
        UserError: a graph that is no such chain; it names the node.
    """
    nodes, edges = _unfolded(graph)
    for edge in edges:
        if missing := [name for name in edge if name not in nodes]:
            raise UserError(f"edge {shown(edge)} leads to a node {shown(missing[0])!r} that is not there")
    kinds = {name: type(node).__name__ for name, node in nodes.items()}
    starts, ends = ([name for name, kind in kinds.items() if kind == wanted] for wanted in ("Input", "Output"))
    if len(starts) != 1 or len(ends) != 1:
        raise UserError(f"the graph has {len(starts)} inputs and {len(ends)} outputs; it must have one of each")
    here, seen = starts[0], set(starts)
    if any(a == ends[0] for a, _ in edges):
        _at(ends[0], nodes).refuse("leads to other nodes; feed back from the last neurons, not from the output")
    links = [_at(here, nodes)]
    goal = ""  # of the shortcut that is open
    while here != ends[0]:
        after = sorted({b for a, b in edges if a == here})
        lateral = laterals(here, edges) if kinds[here] in NEURONS else []
        after = [name for name in after if name not in lateral]
        if lateral:
            links[-1] = replace(links[-1], lateral=_at(lateral[0], nodes))
            seen.add(lateral[0])
        if here == goal:
            goal = ""
        found = _shortcut(after, kinds, edges, nodes) if len(after) == 2 and not goal else None
        if found is not None and found[0] not in seen:  # else it leads back
            goal, via, first = found
            links[-1] = replace(links[-1], opens=True)
            after = [first]
        if len(after) != 1 or len(lateral) > 1:
            said = f"leads to {', '.join(map(repr, map(shown, after + lateral))) or 'nothing'}"
            _at(here, nodes).refuse(
                f"{said}; here every node leads to one other, and neurons may have one map back to themselves"
            )
        here = after[0]
        if here in seen:
            _at(here, nodes).refuse("is on a cycle; only neurons may hear themselves, through one Linear or Affine map")
        seen.add(here)
        if here == goal:
            links.append(Link(here, nodes[here], closes=True, around=_at(via, nodes) if via else None))
            seen.add(via)
        else:
            links.append(_at(here, nodes))
    if goal:
        _at(goal, nodes).refuse("ends a shortcut around the output; here neurons come behind it")
    if left := [name for name in nodes if name not in seen]:
        _at(left[0], nodes).refuse("is not on the way from the input to the output")
    return links


def _shortcut(
    after: list[str], kinds: dict[str, str], edges: set[tuple[str, str]], nodes: dict[str, Any]
) -> tuple[str, str, str] | None:
    """The end of the shorter of two ways, the node on it ("" for none), and the first node of the other way; None if neither is
    a shortcut to neurons."""
    ways = []
    for short, first in (after, after[::-1]):
        following = {b for a, b in edges if a == short}
        if kinds[short] in NEURONS:
            ways.append((False, 0, short, "", first))
        elif kinds[short] in SHORTCUTS and len(following) == 1 and kinds[goal := following.pop()] in NEURONS:
            heard = {a for a, b in edges if b == goal} - set(laterals(goal, edges))
            if len(heard) == 2:
                node = nodes[short]
                biased = bool(np.any(getattr(node, "bias", False)))  # as no shortcut here is
                ways.append((biased, 1 + np.size(getattr(node, "weight", 0)), goal, short, first))
    return min(ways)[2:] if ways else None


def _at(name: str, nodes: dict[str, Any]) -> Link:
    return Link(name, nodes[name])


def _unfolded(graph: Any, depth: int = 0) -> tuple[dict[str, Any], set[tuple[str, str]]]:
    """Nodes and edges, those of nested graphs as ``outer.inner``, without the inner inputs and outputs.

    Raises UserError for graphs that are nested too deep, and for two nodes of one name.
    """
    if depth > DEEPEST:
        raise UserError(f"its graphs are nested more than {DEEPEST} deep")
    nodes: dict[str, Any] = {}
    edges = {(str(a), str(b)) for a, b in graph.edges}
    for name, node in graph.nodes.items():
        if type(node).__name__ != "NIRGraph":
            nodes[name] = node
            continue
        inner, within = _unfolded(node, depth + 1)
        within = {(f"{name}.{a}", f"{name}.{b}") for a, b in within}
        doors = {f"{name}.{key}" for key, part in inner.items() if type(part).__name__ in ("Input", "Output")}
        inside = {f"{name}.{key}": part for key, part in inner.items() if f"{name}.{key}" not in doors}
        if taken := [key for key in inside if key in graph.nodes or key in nodes]:
            raise UserError(f"two nodes are called {shown(taken[0])!r}, one of them in the graph {shown(name)!r}; rename one")
        first = {b for a, b in within if a in doors}
        last = {a for a, b in within if b in doors}
        nodes |= inside
        edges = {pair for edge in edges for pair in _through(edge, name, first, last)}
        edges |= {edge for edge in within if not doors & set(edge)}
    return nodes, edges


def _through(edge: tuple[str, str], name: str, first: set[str], last: set[str]) -> Iterator[tuple[str, str]]:
    """An edge to or from a nested graph, as edges to its first and from its last nodes."""
    for a in last if edge[0] == name else {edge[0]}:
        for b in first if edge[1] == name else {edge[1]}:
            yield a, b


def shape_of(link: Link, given: Any) -> tuple[int, ...]:
    """A shape in a node. Raises UserError if it is not whole numbers from 1."""
    sizes = np.asarray(given, dtype=np.float64).ravel()
    if (sizes % 1).any() or not (sizes >= 1).all() or not sizes.size:
        link.refuse(f"has shape {shown(sizes.tolist())}; it must be whole numbers from 1")
    return tuple(map(int, sizes))


def array(link: Link, name: str) -> np.ndarray:
    """A parameter of a node, float64. Raises UserError for one that is not finite real numbers."""
    if np.iscomplexobj(getattr(link.node, name)):  # NumPy would drop their imaginary parts
        link.refuse(f"has a {name} of complex numbers; give it real ones")
    try:
        value = np.asarray(getattr(link.node, name), dtype=np.float64)
    except (TypeError, ValueError):
        link.refuse(f"has a {name} that is not numbers")
    if not np.isfinite(value).all():
        link.refuse(f"has a {name} that is not finite")
    return value
