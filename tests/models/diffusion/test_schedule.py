import pytest

from models.diffusion.schedule import linear_betas, spaced_steps


def test_glide_sections_give_27_steps_most_of_them_where_there_is_little_noise() -> None:
    steps = spaced_steps(1000, "10,10,3,2,2")
    assert len(steps) == 27
    assert [sum(lo <= s < lo + 200 for s in steps) for lo in range(0, 1000, 200)] == [10, 10, 3, 2, 2]


def test_an_even_stride_keeps_both_ends() -> None:
    for count in (2, 15, 64, 250, 1000):
        steps = spaced_steps(1000, count)
        assert (steps[0], steps[-1], len(set(steps))) == (0, 999, count)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (1001, "asks for 1001 steps"),
        ("300,10,10,10,10", "section 0"),
        ("ddim999", "no integer stride"),
        ("fast27", "expected a positive number"),
        ("10,,3", "expected a positive number"),
        (0, "expected a positive number"),
    ],
)
def test_impossible_sections_say_why(sections: int | str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        spaced_steps(1000, sections)


def test_linear_betas_refuse_a_schedule_that_would_leave_the_unit_interval() -> None:
    with pytest.raises(ValueError, match="at least 20 steps"):
        linear_betas(19)
