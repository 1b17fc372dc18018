"""What ``converters.augment`` is asked for: how many synthetic images, made how, of which defect types."""

from dataclasses import dataclass

PASTE, PERLIN, BOTH = "paste", "perlin", "both"
PRIOR, OBJECT, ANYWHERE = "prior", "object", "anywhere"
SYNTHETIC = "synthetic"  # the class of defects made from noise; the last one, so that the others keep their index


@dataclass(frozen=True)
class Order:
    """One image to make."""

    index: int
    method: str
    defect: str

    @property
    def name(self) -> str:
        return f"{self.method}-{self.index:05d}.png"


@dataclass(frozen=True)
class Request:
    """The request of the command line: how many images, made how."""

    count: int
    method: str
    place: str
    balance: bool
    seed: int

    @property
    def suffix(self) -> str:
        """The end of the dataset's name, such as ``@paste-500``."""
        return (
            f"@{self.method}-{self.count}"
            + ("-balanced" if self.balance else "")
            + ("" if self.place == PRIOR else f"-{self.place}")
            + (f"-s{self.seed}" if self.seed else "")
        )

    def orders(self, real: dict[str, int]) -> list[Order]:
        """One order an image, by the ``real`` numbers of each type: the pasted ones, then those made from noise."""
        pasted = {PASTE: self.count, PERLIN: 0, BOTH: self.count - self.count // 2}[self.method]
        wanted = shares(real, pasted, self.balance)
        orders = [(PASTE, name) for name, number in wanted.items() for _ in range(number)]
        orders += [(PERLIN, SYNTHETIC)] * (self.count - pasted)
        return [Order(index, method, defect) for index, (method, defect) in enumerate(orders)]


def shares(real: dict[str, int], count: int, balance: bool) -> dict[str, int]:
    """Divide ``count`` synthetic images among the defect types.

    In proportion to the real ones, by the largest remainder; or, for ``balance``, to the types that have fewest.
    """
    if balance:
        made = dict.fromkeys(real, 0)
        for _ in range(count):
            made[min(real, key=lambda name: (real[name] + made[name], name))] += 1
        return made
    total = sum(real.values())
    made = {name: count * number // total for name, number in real.items()}
    by_remainder = sorted(real, key=lambda name: (-(count * real[name] % total), name))
    for name in by_remainder[: count - sum(made.values())]:
        made[name] += 1
    return made
