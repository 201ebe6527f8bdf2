"""Balancing: the losses of K tasks into one update. Needs PyTorch alone."""

from polytask.balancing.balancer import Balancer, GramianBalancer, JacobianBalancer, LossBalancer, Step
from polytask.balancing.equal import Equal
from polytask.balancing.gradients import gramian
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
    "Static",
    "Step",
    "Uncertainty",
    "create",
    "family",
    "gramian",
    "names",
]
