"""Balancing: the losses of K tasks into one update. Needs PyTorch alone."""

from polytask.balancing.balancer import Balancer, Score, Step
from polytask.balancing.equal import Equal
from polytask.balancing.gradients import gramian
from polytask.balancing.gramian_balancer import GramianBalancer
from polytask.balancing.jacobian_balancer import JacobianBalancer
from polytask.balancing.loss_balancer import LossBalancer
from polytask.balancing.static import Static
from polytask.balancing.uncertainty import Uncertainty
from polytask.components import Family

family: Family[Balancer] = Family("balancer", Balancer, {"equal": Equal, "static": Static, "uncertainty": Uncertainty})
names = family.names
create = family.create

__all__ = [
    "Balancer",
    "Equal",
    "GramianBalancer",
    "JacobianBalancer",
    "LossBalancer",
    "Score",
    "Static",
    "Step",
    "Uncertainty",
    "create",
    "family",
    "gramian",
    "names",
]
