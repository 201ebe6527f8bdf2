"""Orders: whose turn comes next, where tasks or groups of tasks take turns."""

from polytask.components import Family
from polytask.schedules.orders.by_gap import ByGap
from polytask.schedules.orders.by_loss import ByLoss
from polytask.schedules.orders.by_rows import Annealed, Proportional, Random, SquareRoot, Temperature
from polytask.schedules.orders.learned import Learned
from polytask.schedules.orders.order import Metrics, Order
from polytask.schedules.orders.round_robin import RoundRobin

family: Family[Order] = Family(
    "order",
    Order,
    {
        "annealed": Annealed,
        "by_gap": ByGap,
        "by_loss": ByLoss,
        "learned": Learned,
        "proportional": Proportional,
        "random": Random,
        "round_robin": RoundRobin,
        "square_root": SquareRoot,
        "temperature": Temperature,
    },
)
names = family.names
create = family.create

__all__ = [
    "Annealed",
    "ByGap",
    "ByLoss",
    "Learned",
    "Metrics",
    "Order",
    "Proportional",
    "Random",
    "RoundRobin",
    "SquareRoot",
    "Temperature",
    "create",
    "names",
]
