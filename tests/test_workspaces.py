from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from habitab_engine.types import SOURCES, CompletionRequest
from habitab_engine.workspaces import Workspaces

PATIENCE = 20.0
CART = '''\
class Cart:
    """What is bought."""

    def add_article(self, article, quantity):
        self.articles.append((article, quantity))

    def total_price(self, currency):
        return sum(article.price for article, _ in self.articles)
'''
MAIN = """\
from shop.cart import Cart

cart = Cart()
"""
SIMILAR = """\
def weigh_parcel(parcel, scale):
    weight = scale.measure_weight(parcel)
    return round_weight(weight)
"""


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "work"
    write(root / "shop" / "cart.py", CART)
    write(root / "shop" / "parcel.py", SIMILAR)
    write(root / "main.py", MAIN)
    return root


@pytest.fixture
def workspaces(root: Path) -> Iterator[Workspaces]:
    made = Workspaces()
    made.open(str(root))
    yield made
    made.close()


def request(root: Path, name: str, prefix: str, *sources: str) -> CompletionRequest:
    file = str(root / name)
    return CompletionRequest(f"uri:{name}", name, prefix, "", root=str(root), file=file, sources=sources or SOURCES)


def given(workspaces: Workspaces, asked: CompletionRequest) -> list[str]:
    assert workspaces.settle(PATIENCE)
    return [snippet.path for snippet in workspaces.snippets(asked)]


def observe(workspaces: Workspaces, root: Path, name: str, text: str) -> None:
    workspaces.observe(f"uri:{name}", str(root / name), text, str(root))
    assert workspaces.settle(PATIENCE)


def test_chunks_that_resemble_the_place_are_given(workspaces: Workspaces, root: Path) -> None:
    asked = request(root, "main.py", "weight = scale.measure_weight(parcel)\nreturn ", "similar")
    assert given(workspaces, asked)[-1] == "shop/parcel.py"
    assert workspaces.snippets(asked)[-1].text == SIMILAR


def test_what_an_imported_name_means_is_given(workspaces: Workspaces, root: Path) -> None:
    observe(workspaces, root, "main.py", MAIN)
    asked = request(root, "main.py", MAIN + "cart.", "imports")
    assert given(workspaces, asked) == ["shop/cart.py"]
    (snippet,) = workspaces.snippets(asked)
    assert snippet.text == (
        "class Cart:\n    def add_article(self, article, quantity):\n    def total_price(self, currency):\n"
    )


def test_other_open_documents_are_given(workspaces: Workspaces, root: Path) -> None:
    observe(workspaces, root, "notes.py", "parcel_label = print_label(parcel)\n")
    asked = request(root, "main.py", "x = print_label(", "open")
    assert given(workspaces, asked) == ["notes.py"]


def test_places_edited_lately_are_given(workspaces: Workspaces, root: Path) -> None:
    text = "".join(f"filler_{i} = {i}\n" for i in range(60))
    observe(workspaces, root, "notes.py", text)
    asked = request(root, "main.py", "x = fresh_name(parcel)\ny = fresh_name(", "edits")
    assert given(workspaces, asked) == []
    observe(workspaces, root, "notes.py", text.replace("filler_30 = 30", "def fresh_name(parcel, label): ..."))
    assert given(workspaces, asked) == ["notes.py"]


def test_far_parts_of_the_same_document_are_given_and_near_ones_are_not(workspaces: Workspaces, root: Path) -> None:
    filler = "".join(f"filler_number_{i} = {i}\n" for i in range(400))
    text = SIMILAR + "\n\n" + filler + "x = measure_weight(parcel)\n"
    observe(workspaces, root, "main.py", text)
    found = workspaces.snippets(request(root, "main.py", text, "open"))
    (far,) = (snippet.text for snippet in found if "scale" in snippet.text)
    assert far.startswith(SIMILAR) and far.count("filler_number") < 5
    short = SIMILAR + "x = measure_weight(parcel)\n"
    observe(workspaces, root, "main.py", short)
    assert workspaces.snippets(request(root, "main.py", short, "open")) == ()


@pytest.mark.parametrize("source", SOURCES)
def test_each_source_can_be_switched_off(workspaces: Workspaces, root: Path, source: str) -> None:
    """With the others alone nothing comes that only this source knows."""
    observe(workspaces, root, "main.py", MAIN)
    others = tuple(other for other in SOURCES if other != source)
    with_it = given(workspaces, request(root, "main.py", MAIN + "cart.", *SOURCES))
    without = given(workspaces, request(root, "main.py", MAIN + "cart.", *others))
    assert set(without) <= set(with_it)
    off = CompletionRequest("uri:main.py", "main.py", MAIN, "", root=str(root), sources=())
    assert workspaces.snippets(off) == ()


def test_nothing_comes_from_another_folder(workspaces: Workspaces, root: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    write(other / "a.py", "nothing = here\n")
    workspaces.open(str(other))
    asked = request(other, "a.py", "weight = scale.measure_weight(parcel)\nreturn ")
    assert given(workspaces, asked) == []


def test_a_document_that_moves_to_another_folder_leaves_the_first(
    workspaces: Workspaces, root: Path, tmp_path: Path
) -> None:
    workspaces.open("")
    observe(workspaces, root, "notes.py", "parcel_label = print_label(parcel)\n")
    workspaces.observe("uri:notes.py", str(tmp_path / "notes.py"), "parcel_label = print_label(parcel)\n", "")
    assert given(workspaces, request(root, "main.py", "x = print_label(", "open")) == []
    asked = CompletionRequest("uri:new", "new.py", "x = print_label(", "", sources=("open",))
    assert given(workspaces, asked) == ["notes.py"]


def test_documents_without_a_folder_know_each_other_by_their_names(workspaces: Workspaces, tmp_path: Path) -> None:
    workspaces.open("")
    workspaces.observe("untitled:One", "", "parcel_label = print_label(parcel)\n")
    asked = CompletionRequest("untitled:Two", "Two", "x = print_label(", "", sources=("open",))
    assert given(workspaces, asked) == ["untitled:One"]


def test_private_text_is_never_given(workspaces: Workspaces, root: Path) -> None:
    write(root / ".gitignore", "hidden.py\n")
    secret = "weight = scale.measure_weight(parcel, 'secret')\n"
    for name in (".env", "secrets.yaml", "hidden.py"):
        write(root / name, secret)
        observe(workspaces, root, name, secret)
    workspaces.open(str(root), ("shop/",))
    found = given(workspaces, request(root, "main.py", "weight = scale.measure_weight(parcel)\nreturn "))
    assert found == []


def test_a_change_of_what_is_private_counts(workspaces: Workspaces, root: Path) -> None:
    asked = request(root, "main.py", "weight = scale.measure_weight(parcel)\nreturn ", "similar")
    assert given(workspaces, asked)[-1] == "shop/parcel.py"
    before = workspaces.workspace(str(root))
    workspaces.open(str(root))
    assert workspaces.workspace(str(root)) is before
    workspaces.open(str(root), ("parcel.py",))
    assert "shop/parcel.py" not in given(workspaces, asked)


def test_an_unknown_folder_and_a_closed_one_have_nothing(workspaces: Workspaces, root: Path) -> None:
    asked = request(root / "elsewhere", "main.py", "weight = scale.measure_weight(parcel)\n")
    assert workspaces.snippets(asked) == ()
    workspaces.observe("uri:x", "", "x = 1\n", "/nowhere")
    workspaces.forget("uri:x")
    workspaces.forget("uri:never")
    workspaces.close()
    assert workspaces.snippets(request(root, "main.py", "weight = scale\n")) == ()
    assert workspaces.settle(1)
