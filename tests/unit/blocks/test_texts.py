"""The list of known texts, and one of them dropped."""

from __future__ import annotations

from random import Random

from kept.blocks import KnownText, Namespace, PrefixTree, count_texts, list_texts

BLOCK = 4


def tree_of() -> PrefixTree[int]:
    return PrefixTree(Namespace("m", "i", "k", "c", (None,), BLOCK), clock=lambda: 1.0)


def add(tree: PrefixTree[int], tokens: list[int], salt: str = "") -> None:
    tree.insert(tokens, [7] * -(-len(tokens) // BLOCK), salt).release()


def listed(tree: PrefixTree[int]) -> dict[int, KnownText]:
    """By how many tokens they have."""
    texts = list_texts(tree.roots(), lambda _: (100, False))
    return {text.num_tokens: text for text in texts}


def test_what_texts_share_is_no_ones_own() -> None:
    tree = tree_of()
    add(tree, [*range(8), 1, 2, 3, 4, 5])
    add(tree, [*range(8), 9, 9, 9, 9, 9, 9])
    add(tree, list(range(8)), "other")
    found = listed(tree)
    assert {n: (x.num_own_tokens, x.num_bytes, x.num_own_bytes) for n, x in found.items()} == {
        13: (5, 400, 200),
        14: (6, 400, 200),
        8: (8, 200, 200),
    }
    assert (found[8].salt, found[13].salt, found[13].is_leased) == ("other", "", False)
    [root] = [root for root in tree.roots() if not root.salt]
    assert sorted(count_texts(root).values()) == [1, 1, 1, 1, 2, 2]
    lease = tree.match([*range(8), 1, 2, 3, 4, 5]).lease
    assert [listed(tree)[n].is_leased for n in (13, 14)] == [True, False]
    lease.release()


def test_dropping_one_leaves_what_others_need() -> None:
    tree = tree_of()
    long, other = [*range(8), 1, 2, 3, 4, 5], [*range(8), 9, 9, 9, 9, 9, 9]
    add(tree, long)
    add(tree, other)
    id = listed(tree)[13].id
    lease = tree.match(long).lease
    assert len(tree.drop(id, "")) == 2
    tree.check()
    assert not tree.stands(lease)
    assert tree.match(long).num_tokens == 8
    assert tree.match(other).num_tokens == 14
    assert tree.drop(id, "") == []  # it has gone
    assert tree.drop(listed(tree)[14].id, "another salt") == []
    tree.insert(long, [7] * 4, "", lease).release()  # who runs goes on, and is not found
    lease.release()
    tree.check()
    assert tree.match(long).num_tokens == 8


def test_dropping_a_text_takes_what_went_on_from_it() -> None:
    tree = tree_of()
    add(tree, list(range(8)))
    id = listed(tree)[8].id
    add(tree, list(range(20)))
    add(tree, [*range(8), 30, 30])
    assert len(tree.drop(id, "")) == 6
    assert tree.num_blocks == tree.num_salts == 0
    tree.check()


def test_any_texts_dropped_in_any_order_leave_a_whole_tree() -> None:
    draw = Random(5)
    for _ in range(30):
        tree = tree_of()
        for _ in range(draw.randrange(1, 12)):
            add(tree, [draw.randrange(2) for _ in range(draw.randrange(1, 18))], draw.choice("ab"))
        leases = [tree.match([draw.randrange(2) for _ in range(12)], "a").lease for _ in range(2)]
        while texts := list_texts(tree.roots(), lambda _: (1, False)):
            before = tree.num_blocks
            text = draw.choice(texts)
            assert len(tree.drop(text.id, text.salt)) == text.num_own_bytes
            assert tree.num_blocks == before - text.num_own_bytes
            tree.check()
        for lease in leases:
            lease.release()
        tree.check()
