"""From a seed to one situation: files on the disk, an expression over them, and how it is to be written."""

from dataclasses import dataclass, field

import adapters
import models
import numpy as np
from bounds import Val, exactly
from eager import Oracle, Source

import taskvec as tv
from recipes import Knob, Leaf, Sum, Writer, layer_of, leaves

REFUSED = (
    "shapes", "mass", "name", "function", "nan", "integers", "select", "rename", "lost", "idle", "parameter", "range",
    "kind", "overflow", "truncated",
)  # fmt: skip


@dataclass
class Situation:
    """All that a failure prints: the seed alone makes it again."""

    seed: int
    kind: str
    recipe: str
    sources: dict  # name -> uri
    forms: dict  # vector -> lora, merged or stored
    dtypes: dict  # source -> its dtypes
    dtype: str | None  # of the output, if it is asked for
    like: str | None
    run: dict  # threads, ram, shard_size
    again: dict  # the same for the second time, which must give the same bytes
    knobs: dict  # numbers that the recipe leaves open
    command: list | None  # a verb of the command line that says the same
    by_command: bool  # whether the real command line runs, too
    refused: str | None = None
    node: object = field(default=None, repr=False)
    oracle: Oracle = field(default=None, repr=False)
    others: dict = field(default_factory=dict, repr=False)
    stored: list = field(default_factory=list, repr=False)  # (found, wanted Val): differences that were written

    def __str__(self):
        lines = [f"  {k}: {getattr(self, k)}" for k in self.__dataclass_fields__ if k not in HIDDEN]
        return "\n".join(["", *lines])


HIDDEN = ("node", "oracle", "others", "stored")


def source_of(tensors, mass):
    floats = {n: a for n, a in tensors.items() if models.NAMES[a.dtype] in models.FLOATS}
    return Source(
        mass,
        {n: exactly(a.astype(np.float64)) for n, a in floats.items()},
        {n: models.NAMES[a.dtype] for n, a in floats.items()},
        {n: a for n, a in tensors.items() if n not in floats},
    )


def settings(rng):
    return {
        "threads": int(rng.integers(1, 4)),
        "ram": ("1GB", "2GB", "600MB")[rng.integers(3)],
        "shard_size": ("5GB", "2KB", "20KB")[rng.integers(3)],
    }


class World:
    """The files of one situation, in a folder."""

    def __init__(self, kind, rng, folder, cache):
        self.kind, self.rng, self.folder = kind, rng, folder
        self.floats, self.others, self.config = models.base_of(kind, rng, cache)
        if kind == "exact":
            self.dtypes = dict.fromkeys(self.floats, ("F32", "F32", "F16", "F64")[rng.integers(4)])
        else:
            self.dtypes = models.dtypes_of(self.floats, rng)
        self.uris, self.sources, self.forms, self.stored, self.told = {}, {}, {}, [], {}
        self.given = []  # the source of each vector

    def add_model(self, name, floats, dtypes):
        tensors = models.cast(floats, dtypes) | self.others
        shards = int(self.rng.choice([1, 1, 1, 2]))
        order = [n for n in [*self.floats, *self.others] if n in tensors]
        self.uris[name] = str(models.save(self.folder / name, {n: tensors[n] for n in order}, self.config, shards))
        self.sources[name] = source_of({n: tensors[n] for n in order}, 1)
        self.told[name] = sorted(set(dtypes.values())) if len(set(dtypes.values())) > 1 else next(iter(dtypes.values()))

    def values(self, name):
        return {n: v.v for n, v in self.sources[name].values.items()}

    def add_adapter(self, name):
        place, rng = self.folder / name, self.rng
        if self.kind in ("plain", "exact"):
            deltas = adapters.by_hand({n: a.shape for n, a in self.floats.items()}, rng, place)
        else:
            deltas = adapters.by_peft(self.kind, rng, place)
        self.uris[name] = str(place)
        values = {n: Val(delta, bound) for n, (delta, bound) in deltas.items()}
        self.sources[name] = Source(0, values, dict.fromkeys(values, "F32"), partial=True)

    def add_stored(self, name, model):
        place = self.folder / name
        tv.save(tv.load(self.uris[model]) - tv.load(self.uris["base"]), place, durable=False)
        self.uris[name] = str(place)
        found = models.read(place)
        difference = Sum(((1, (), Leaf(model)), (-1, (), Leaf("base"))))
        self.stored.append((name, found, difference))
        self.sources[name] = source_of(found, 0)

    def fine_tuned(self, name):
        dtypes = models.dtypes_of(self.floats, self.rng, like=self.dtypes)
        if self.kind == "exact":
            dtypes = self.dtypes
        self.add_model(name, models.tuned(self.values("base"), self.rng, self.kind == "exact"), dtypes)

    def vectors(self, count):
        """(models, vectors): each vector as a LoRA, as merged - base, or as a stored difference."""
        made, found = [], []
        base = Leaf("base")
        for k in range(count):
            form = ("lora", "merged", "stored", "merged")[self.rng.integers(4)]
            # The names of a ViT's checkpoint are not those of its module, which PEFT's adapters have.
            form = self.forms[f"t{k}"] = "merged" if form == "lora" and self.kind == "vit" else form
            if form == "lora":
                self.add_adapter(f"t{k}")
                self.given.append(f"t{k}")
                found.append(Leaf(f"t{k}"))
                continue
            self.fine_tuned(f"m{k}")
            made.append(Leaf(f"m{k}"))
            self.given.append(f"t{k}" if form == "stored" else f"m{k}")
            if form == "stored":
                self.add_stored(f"t{k}", f"m{k}")
                found.append(Leaf(f"t{k}"))
            else:
                found.append(Sum(((1, (), Leaf(f"m{k}")), (-1, (), base))))
        return made, found


def situation(seed, folder, cache):
    """One situation, its files written below `folder`."""
    rng = np.random.default_rng([seed, 20240607])
    kind = models.ARCHITECTURES[rng.integers(len(models.ARCHITECTURES))]
    world = World(kind, rng, folder, cache)
    world.add_model("base", world.floats, world.dtypes)
    made, vectors = world.vectors(int(rng.integers(1, 4)))
    oracle = Oracle(world.sources, world.floats)
    oracle.model_shapes, oracle.model_floats = world.sources["base"].shapes, world.floats
    writer = Writer(rng, Leaf("base"), made, vectors, [*world.floats, *world.others], list(world.floats))
    whole = [v for v in vectors if not oracle.partial(v)]
    if rng.random() < 0.2 and whole:
        writer.vectors = whole  # nothing tells an adapter alone how large its model is
        node = writer.vector(2)
    else:
        node = writer.model()
        if rng.random() < 0.25:
            node = writer.viewed(node, _stacks(oracle.shapes(node)))
    if type(node) is Sum and rng.random() < 0.2:
        node = writer.with_knob(node)
    command = None
    if seed % 20 == 15:
        uris = {v: world.uris[n] for v, n in zip(vectors, world.given, strict=True)}
        command, node = writer.verb(uris, world.uris)
    used = dict.fromkeys(leaves(node))
    masses = [n for n in used if world.sources[n].mass]
    like = masses[-1] if masses and rng.random() < 0.1 and oracle.mass(node) and not (_views(node) or command) else None
    others = {} if oracle.mass(node) else world.others
    return Situation(
        seed, kind, str(node), {n: world.uris[n] for n in used}, world.forms, world.told,
        (None, None, "F32", "BF16", "F16", "F64")[rng.integers(6)], like, settings(rng), settings(rng),
        _knobs(node), command, seed % 10 == 0 or command is not None, None, node, oracle, others, world.stored,
    )  # fmt: skip


def _knobs(node):
    return {c.name: c for c, *_ in node.terms if isinstance(c, Knob)} if type(node) is Sum else {}


def _views(node):
    return type(node).__name__ == "View"


def _stacks(names):
    found = {}
    for name in names:
        if at := layer_of(name):
            found[at[0]] = max(found.get(at[0], 0), at[1] + 1)
    return found


# ---- what must be refused ------------------------------------------------------------------------------------------
def refused(seed, folder, cache):
    """A situation that must end in a stated error, and leave nothing behind."""
    rng = np.random.default_rng([seed, 20240608])
    kind = models.ARCHITECTURES[rng.integers(len(models.ARCHITECTURES))]
    world = World(kind, rng, folder, cache)
    if not world.others:
        world.others = {"ids": np.arange(4)}
    world.dtypes = dict.fromkeys(world.floats, "F32")
    world.add_model("base", world.floats, world.dtypes)
    world.add_model("m0", models.tuned(world.values("base"), rng), world.dtypes)
    why = REFUSED[rng.integers(len(REFUSED))]
    recipe, dtype = _spoilt(world, why, rng)
    return Situation(
        seed, kind, recipe, dict(world.uris), {}, world.told, dtype, None, settings(rng), settings(rng),
        {}, None, seed % 10 == 0, why,
    )  # fmt: skip


def _spoilt(world, why, rng):
    """The recipe, and the dtype that is asked for, once something of the files or of the recipe is wrong."""
    recipe, folder = "base + 0.5*(m0 - base)", world.folder / "m0"
    tensors = {n: a.copy() for n, a in models.read(folder).items()}
    full = [n for n, a in tensors.items() if a.dtype.kind == "f" and a.size > 0 and a.ndim]
    name = full[rng.integers(len(full))]
    texts = {
        "mass": ("base + 0.5*m0", "0.5*m0", "base - 0.25*m0", "base + m0", "2*(m0 - base) - 0.5*base"),
        "name": ("base + 0.5*(m0 - bose)", "base + lam*(m0 - base)"),
        "function": ("base + tees(m0 - base)", "base + exec(m0 - base)", "base.x + m0", "base + 0.5*(m0 - base"),
        "idle": (
            'base + 0.5*only("nowhere.*")*(m0 - base)', 'base + without("nowhere")*trim(m0 - base)',
            'base + per({"nowhere.*": 1, "*": 0.5})*(m0 - base)',
        ),
        "select": ('select(base + 0.5*(m0 - base), "nowhere.*")',),
        "rename": ('rename(base + 0.5*(m0 - base), {"nowhere.*": "other.*"})',),
        "parameter": ("base + trim(m0 - base, densty=0.5)", 'base + trim(m0 - base, ties="last")'),
        "range": tuple(f"base + {call}" for call in ("trim(m0 - base, density=0)", "dare(m0 - base, drop=1)")),
        "kind": ("base + trim(m0)", "base + elect(m0 - base, m0)", "base + ties()"),
    }  # fmt: skip
    if why in texts:
        return texts[why][rng.integers(len(texts[why]))], None
    if why == "overflow":
        tensors[name].flat[0] = 1e6
        models.save(folder, tensors, world.config)
        return "base + (m0 - base)", "F16"
    if why == "shapes":
        tensors[name] = np.concatenate([tensors[name]] * 2)
    elif why == "nan":
        tensors[name].flat[-1] = (np.nan, np.inf)[rng.integers(2)]
    elif why == "integers":
        other = next(n for n, a in tensors.items() if a.dtype.kind in "ib" and a.size)
        tensors[other] = ~tensors[other] if tensors[other].dtype == bool else tensors[other] + 1
    elif why == "lost":
        del tensors[name]
    for file in folder.glob("*.safetensors*"):
        file.unlink()
    models.save(folder, tensors, world.config)
    if why == "truncated":
        file = folder / "model.safetensors"
        file.write_bytes(file.read_bytes()[: -int(rng.integers(1, 9))])
    return recipe, None
