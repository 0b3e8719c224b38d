"""Listing the operators of an ONNX file without loading it: a reader of the Protocol Buffers wire format."""

import mmap
from collections.abc import Iterator
from pathlib import Path

_VARINT, _FIXED_64, _BYTES, _FIXED_32 = 0, 1, 2, 5
# Field numbers of onnx.proto: in ModelProto, GraphProto, FunctionProto, NodeProto and AttributeProto.
_GRAPH, _FUNCTION, _GRAPH_NODE, _FUNCTION_NODE = 7, 25, 1, 7
_OPERATOR, _ATTRIBUTE, _SUBGRAPH, _SUBGRAPHS = 4, 5, 6, 11
_MOST_DEPTH = 20


def list_operators(file: Path) -> set[str]:
    """The names of all operators in a file, with those in subgraphs; raises ValueError for a damaged file."""
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
        view = memoryview(content)
        try:
            return set(_walk_model(view))
        finally:
            view.release()


def _walk_model(model: memoryview) -> Iterator[str]:
    for number, part in _read_fields(model):
        if number == _GRAPH:
            yield from _walk_nodes(part, _GRAPH_NODE, 0)
        elif number == _FUNCTION:
            yield from _walk_nodes(part, _FUNCTION_NODE, 0)


def _walk_nodes(graph: memoryview, field: int, depth: int) -> Iterator[str]:
    if depth > _MOST_DEPTH:
        raise ValueError("its graphs nest too deep")
    for number, node in _read_fields(graph):
        if number != field:
            continue
        for key, part in _read_fields(node):
            if key == _OPERATOR:
                yield bytes(part).decode("utf-8", "replace")
            elif key == _ATTRIBUTE:
                for inner, graph_within in _read_fields(part):
                    if inner in (_SUBGRAPH, _SUBGRAPHS):
                        yield from _walk_nodes(graph_within, _GRAPH_NODE, depth + 1)


def _read_fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """The number and the bytes of each length-delimited field of a message."""
    place = 0
    while place < len(message):
        key, place = _read_varint(message, place)
        kind = key & 7
        if kind == _VARINT:
            _, place = _read_varint(message, place)
        elif kind in (_FIXED_64, _FIXED_32):
            place += 8 if kind == _FIXED_64 else 4
        elif kind == _BYTES:
            size, place = _read_varint(message, place)
            if place + size > len(message):
                raise ValueError("it ends too early")
            with message[place : place + size] as part:
                yield key >> 3, part
            place += size
        else:
            raise ValueError(f"found a field of the kind {kind}")


def _read_varint(message: memoryview, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(message):
            raise ValueError("it ends too early")
        byte = message[place]
        value |= (byte & 0x7F) << shift
        place += 1
        if byte < 0x80:
            return value, place
    raise ValueError("found a number of more than 64 bits")
