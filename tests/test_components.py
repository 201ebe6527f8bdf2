import sys
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Annotated, get_type_hints

import pytest

from polytask.components import FROM_DATA, Family, FromData, import_from
from polytask.errors import UserError


class Animal(ABC):
    @abstractmethod
    def sound(self) -> str: ...


class Cat(Animal):
    def __init__(self, lives: int = 9) -> None:
        self.lives = lives

    def sound(self) -> str:
        return "meow"


class Dog(Animal):
    def __init__(self, name: str) -> None:
        if name == "Zeus":
            raise TypeError("a god is no dog")
        self.name = name

    def sound(self) -> str:
        return "woof"


family: Family[Animal] = Family("animal", Animal, {"dog": Dog, "cat": Cat})


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory, with a module of the user's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    known = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - known:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", None) or ""):
            del sys.modules[name]


def write_module(folder: Path, name: str, text: str) -> None:
    (folder / f"{name}.py").write_text(text)


def test_names_are_sorted():
    assert family.names() == ("cat", "dog")


def test_members_are_got_and_built_by_name():
    assert family.get("cat") is Cat
    cat = family.create("cat", lives=3)
    assert isinstance(cat, Cat)
    assert cat.lives == 3


def test_an_unknown_name_lists_what_there_is_and_suggests_the_nearest():
    with pytest.raises(UserError) as raised:
        family.get("catt")
    assert str(raised.value) == (
        "There is no animal 'catt'. Did you mean 'cat'? "
        "Allowed: 'cat', 'dog', or the import path of a class of your own."
    )


@pytest.mark.parametrize(("parameters", "problem"), [({"age": 3}, "unexpected keyword argument 'age'"), ({}, "name")])
def test_wrong_parameters_are_the_users_error(parameters, problem):
    with pytest.raises(UserError, match=f"animal 'dog': .*{problem}"):
        family.create("dog", **parameters)


def test_other_errors_of_a_constructor_pass_through():
    with pytest.raises(TypeError, match="a god is no dog"):
        family.create("dog", name="Zeus")


def test_a_class_of_the_users_own_is_found_by_its_import_path():
    paths: Family[object] = Family("path", object, {})
    assert paths.get("collections.OrderedDict").__name__ == "OrderedDict"
    assert paths.create("fractions.Fraction", numerator=1, denominator=2) * 2 == 1


def test_modules_in_the_working_directory_are_found(folder):
    write_module(folder, "own_animals", "import fractions\nclass Half(fractions.Fraction): pass\n")
    import fractions

    numbers: Family[fractions.Fraction] = Family("number", fractions.Fraction, {})
    assert numbers.get("own_animals.Half").__module__ == "own_animals"
    assert sys.path[-1] == str(folder)


def test_modules_in_packages_are_found(folder):
    package = folder / "own_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    write_module(package, "part", "class Thing: pass\n")
    assert Family("thing", object, {}).get("own_package.part.Thing").__name__ == "Thing"


def test_folders_are_added_once_and_last(folder):
    import_from(folder)
    import_from(folder)
    assert sys.path.count(str(folder)) == 1
    assert sys.path[-1] == str(folder)


@pytest.mark.parametrize("path", ["no_such_package.Cat", "no_such_package.part.Cat", "os.no_such_part.Cat"])
def test_a_module_that_is_not_there_is_the_users_error(path):
    with pytest.raises(UserError, match=r"Cannot import .* for the animal .*Is it installed, or in the folder"):
        family.get(path)


@pytest.mark.parametrize("path", [".Cat", "..Cat", "."])
def test_a_path_without_a_module_is_the_users_error(path):
    with pytest.raises(UserError, match="Cannot import"):
        family.get(path)


def test_a_class_that_is_not_in_its_module_is_the_users_error():
    with pytest.raises(UserError, match=r"'fractions' has no class 'Fractoin'. Did you mean 'Fraction'\?"):
        family.get("fractions.Fractoin")


@pytest.mark.parametrize("path", ["fractions.Fraction", "os.getcwd"])
def test_something_else_than_a_member_is_the_users_error(path):
    with pytest.raises(UserError, match=f"'{path}' is no animal: it must derive from Animal"):
        family.get(path)


def test_a_class_that_is_not_complete_is_the_users_error(folder):
    family_of_paths: Family[object] = Family("mapping", object, {})
    with pytest.raises(UserError, match=r"'collections\.abc\.Sized' is not complete: it lacks '__len__'"):
        family_of_paths.get("collections.abc.Sized")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "import a_library_that_is_missing\n",
            r"ModuleNotFoundError: .*'a_library_that_is_missing' .*line 1",
        ),
        ("\nx = 1 / 0\n", r"ZeroDivisionError: division by zero \(.*broken\.py, line 2\)"),
        ("def f(:\n", r"invalid syntax \(.*broken\.py, line 1\)"),
    ],
)
def test_a_module_that_fails_says_where(folder, text, problem):
    write_module(folder, "broken", text)
    with pytest.raises(UserError, match=r"Importing 'broken' for the animal 'broken.Cat' failed: " + problem):
        family.get("broken.Cat")


def test_parameters_from_the_data_are_marked_in_the_signature():
    def build(width: FromData[int], depth: int) -> None: ...

    hints = get_type_hints(build, include_extras=True)
    assert hints["width"] == Annotated[int, FROM_DATA]
    assert hints["depth"] is int
    assert repr(FROM_DATA) == "FROM_DATA"
