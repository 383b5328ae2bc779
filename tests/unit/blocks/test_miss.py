from kept.blocks import Miss, Reason


def test_a_miss_names_what_stands_where_it_diverged() -> None:
    spell = {7: "Nov 27", 8: "Nov 28"}.__getitem__
    diverged = Miss(Reason.DIVERGED, 812, was=7, asked=8)
    assert diverged.spelled(spell) == "diverged at token 812: 'Nov 28' for 'Nov 27'"
    assert Miss(Reason.ENDED, 64).spelled(spell) == "known up to token 64"
