import pytest

from polytask.balancing.main_tasks import MainTasks
from polytask.errors import UserError


@pytest.mark.parametrize(("main", "expected"), [("b", [False, True, False]), (["c", "a"], [True, False, True])])
def test_the_main_tasks_are_found_among_those_of_a_step(main, expected):
    assert MainTasks("ol_aux", main).among(["a", "b", "c"]).tolist() == expected


def test_a_step_without_them_is_fine_once_it_is_known_that_they_are_there():
    main = MainTasks("ol_aux", "main")
    with pytest.raises(
        UserError, match=r"ol_aux: none of the main tasks \('main'\) is in this step.*'mane'\?.*prepare"
    ):
        main.among(["a", "mane"])
    main.prepare(["a", "main"])
    assert main.among(["a"]).tolist() == [False]


def test_a_main_task_that_is_no_task_is_named_with_the_closest():
    with pytest.raises(UserError, match=r"ol_aux: the main task 'dpth' is no task.*Did you mean 'depth'\?.*'seg'"):
        MainTasks("ol_aux", ["seg", "dpth"]).prepare(["seg", "depth"])


def test_there_has_to_be_one():
    with pytest.raises(UserError, match="ol_aux: main names no task"):
        MainTasks("ol_aux", [])
