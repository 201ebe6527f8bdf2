from polytask.config.docstrings import argument_descriptions, description_of, summary_of


class Documented:
    """A short line that
    goes on.

    A second paragraph with
    two lines.

    Args:
        lr: The rate: a number.
        betas (tuple): Two of them,
            on two lines.

            And a paragraph.
        *rest: What is left.

    Raises:
        lost: Never.
    """


class DocumentedAtInit:
    """What it is."""

    def __init__(self, a, b):
        """Build it.

        Args:
            a: First.
            b: Second.
        """


class Bare: ...


class Inherits(Documented): ...


def test_the_description_ends_at_the_first_section():
    assert description_of(Documented) == "A short line that goes on.\n\nA second paragraph with two lines."
    assert summary_of(Documented) == "A short line that goes on."


def test_parameters_are_described_over_several_lines():
    assert argument_descriptions(Documented) == {
        "lr": "The rate: a number.",
        "betas": "Two of them, on two lines. And a paragraph.",
        "rest": "What is left.",
    }


def test_the_docstring_of_init_counts_too():
    assert argument_descriptions(DocumentedAtInit) == {"a": "First.", "b": "Second."}


def test_a_class_that_says_nothing_has_no_description():
    assert description_of(Bare) == ""
    assert summary_of(Inherits) == ""
    assert argument_descriptions(Bare) == {}
