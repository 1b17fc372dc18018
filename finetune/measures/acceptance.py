"""Is a model's rate of wrong decisions below a limit, how sure is that, and how many images would prove it?

Exact and one-sided, by the binomial distribution: the confidence that the true rate is below p0, after k failures among
n images, is the chance of more than k failures at the rate p0 (C. Clopper, E. Pearson, Biometrika 1934). Without any
failure that is 1 - (1 - p0)^n, so that 3 / p0 images prove a limit p0 with 95 %: the rule of three (J. Hanley,
A. Lippman-Hand, If Nothing Goes Wrong, Is Everything All Right?, JAMA 1983).
"""

from dataclasses import dataclass

from scipy.special import betainc, betaincinv

ASKED = 0.95
MOST = 10_000_000  # images beyond which no proof is looked for


@dataclass(frozen=True)
class Requirement:
    """A limit on the share of defective images that pass (``escapes``) or of good ones that don't (``rejects``)."""

    kind: str
    limit: float  # 0..1, not its ends

    def __str__(self) -> str:
        return f"{self.kind} <= {100 * self.limit:g} %"


def confidence_below(failures: float, images: float, limit: float) -> float:
    """The confidence that the true rate is below the limit. Failures need not be whole: see ``share_interval``."""
    return float(betainc(failures + 1, images - failures, limit)) if failures < images else 0.0


def confidence_above(failures: float, images: float, limit: float) -> float:
    """The confidence that the true rate is above the limit."""
    return float(1 - betainc(failures, images - failures + 1, limit)) if failures > 0 else 0.0


def upper_bound(failures: float, images: float, confidence: float = ASKED) -> float:
    """The limit that the true rate is below with this confidence."""
    return float(betaincinv(failures + 1, images - failures, confidence)) if failures < images else 1.0


def images_to_prove(failures: float, images: int, limit: float, keeps_failing: bool) -> int | None:
    """How many more images prove the limit with ASKED: if none of them fails, or if they fail at the rate seen.

    0 where it is proved; None where no number does, since the rate seen is above the limit.
    """
    rate = failures / images if images and keeps_failing else 0.0
    if rate >= limit:
        return None

    def proved(more: int) -> bool:
        return confidence_below(failures + rate * more, images + more, limit) >= ASKED

    high = 1
    while not proved(high):
        high *= 2
        if high > MOST:
            return None
    low = 0
    if proved(0):
        return 0
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if proved(middle) else (middle, high)
    return high
