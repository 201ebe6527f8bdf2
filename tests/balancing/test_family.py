import subprocess
import sys

import pytest

from polytask import balancing
from polytask.config.derive import parameters_of
from polytask.errors import UserError

PARAMETERS = {
    "static": {"weights": {"a": 1.0}},
    "pivrg": {"references": {"a": 1.0}},
    "gradient_cosine": {"main": "a"},
    "ol_aux": {"main": "a"},
    "meta_balance": {"main": "a"},
    "annealed": {"main": "a", "steps": 10},
    "auto_lambda": {"main": "a"},
}


def test_balancers_are_listed_and_built_by_name():
    assert {"equal", "static", "uncertainty"} <= set(balancing.names())
    assert isinstance(balancing.create("uncertainty", lr=0.1), balancing.Uncertainty)
    with pytest.raises(UserError, match=r"no balancer 'unicertainty'.*Did you mean 'uncertainty'\?"):
        balancing.create("unicertainty")


@pytest.mark.parametrize("name", balancing.names())
def test_every_balancer_says_where_it_comes_from_and_documents_its_parameters(name):
    cls = balancing.family.get(name)
    assert cls.level in ("loss", "gramian", "jacobian")
    assert cls.passes in ("1", "K")
    assert str(cls.year) in cls.paper
    settings = parameters_of(cls)
    assert {"log_losses"} <= {setting.name for setting in settings}
    for setting in settings:
        assert setting.description, setting.name


@pytest.mark.parametrize("name", balancing.names())
def test_preparing_twice_changes_nothing(name):
    balancer = balancing.create(name, **PARAMETERS.get(name, {}))
    balancer.prepare(["a"])
    before = {key: str(value) for key, value in balancer.state_dict().items()}
    balancer.prepare(["a"])
    assert {key: str(value) for key, value in balancer.state_dict().items()} == before


def test_nothing_but_pytorch_is_imported():
    code = (
        "import sys, torch; before = set(sys.modules); import polytask.balancing; "
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) <= {"polytask", "torch"}
