"""A small bundle, and what MONAI Label 0.8 does with a bundle, done in the same way and without it."""

import json
import sys

import torch
from monai.bundle import ConfigParser
from monai.transforms import Compose, LoadImaged, SaveImaged

from bertswin_ext.data import write_phantoms
from bertswin_ext.networks.record import AdaptationRecord
from bertswin_ext.networks.segmenter import BertsWinSegmenter
from bertswin_ext.runs.pack import pack_bundle
from tests.bundles.conftest import REPOSITORY

BUNDLE = REPOSITORY / "bundles" / "tmj_segmentation"
CONFIGS = BUNDLE / "configs"
SERVED = ("train", "inference")
MARKER = f"here_{BUNDLE.name}"
# a network that takes a second
SIZES = {
    "spacing_mm": 1.6,
    "img_size": 24,
    "patch_size": 8,
    "hidden_size": 24,
    "num_layers": 2,
    "num_heads": 2,
    "window_size": 2,
    "stem_channels": 4,
    "decoder_channels": 4,
}
RECIPE = {
    "crops_per_volume": 2,
    "batch_size": 2,
    "num_workers": 0,
    "learning_rate": 0.003,
    "log_interval": 1,
    "num_images": 1,
    "cpu_hint": None,
}
# what comes with every request beside the image
REQUEST = {"model": BUNDLE.name, "device": "cpu", "image_path": "", "description": "", "use_click": False}


def read(folder, name):
    """One file alone, with the folder set."""
    parser = ConfigParser()
    parser.read_config(str(folder / "configs" / f"{name}.json"))
    parser.config.update({"bundle_root": str(folder)})
    return parser


def written(name):
    return json.loads((CONFIGS / f"{name}.json").read_text(encoding="utf-8"))


def small_bundle(folder, seed=0):
    """The bundle, packed with a small network of random weights."""
    torch.manual_seed(seed)
    sizes = {key: value for key, value in SIZES.items() if key != "spacing_mm"}
    network = BertsWinSegmenter(**sizes, out_channels=3)
    record = AdaptationRecord.of(network, spacing_mm=SIZES["spacing_mm"], labels=["background", "mandible", "skull"])
    folder.parent.mkdir(parents=True, exist_ok=True)
    model = folder.parent / f"{folder.name}.pt"
    torch.save({"model": network.state_dict(), "record": record.to_plain()}, model)
    pack_bundle(BUNDLE, model, folder)
    model.unlink()
    path = folder / "configs" / "train.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | RECIPE), encoding="utf-8")
    return folder


def built(folder, parser, name):
    """Resolve an entry, with the bundle's folder importable."""
    sys.path.insert(0, str(folder))
    try:
        return parser.get_parsed_content(name, instantiate=True)
    finally:
        sys.path.remove(str(folder))
        sys.modules.pop(MARKER, None)


def write_studies(folder):
    """Oblique volumes with labels, as a server's items."""
    datalist = write_phantoms(folder, count=5, size=[32, 28, 27], spacing_mm=[1.4, 1.7, 1.6], oblique_deg=12)
    return [
        {"image": str(image), "label": str(image).replace("image_", "label_")}
        for image in sorted(datalist.parent.glob("image_*.nii.gz"))
    ]


class Served:
    """How MONAI Label applies inference.json."""

    def __init__(self, folder, **changes):
        self.folder, self.parser = folder, read(folder, "inference")
        self.parser.config["use_click"] = False
        for name, value in changes.items():
            self.parser["network_def"][name] = value
        # at the start of the server, nothing else is made
        self.network_def = self.entry("network_def")
        self.options = self.entry("displayable_configs")

    def entry(self, name):
        return built(self.folder, self.parser, name)

    def prepared(self, image, **options):
        """Preprocessing, with the request's options."""
        data = {**REQUEST, **self.options, **options, "image": image}
        self.parser["displayable_configs"].update({name: data[name] for name in self.options})
        self.parser.parse()
        self.parser.config["device"] = "cpu"
        found = self.entry("preprocessing")
        transforms = list(found.transforms) if isinstance(found, Compose) else found
        for transform in transforms:
            if isinstance(transform, LoadImaged):
                transform._loader.image_only = False
        for transform in transforms:
            data = transform(data)
        return data

    def finished(self, data):
        """Postprocessing without the writer."""
        found = self.entry("postprocessing")
        transforms = list(found.transforms) if isinstance(found, Compose) else found
        for transform in transforms:
            if not isinstance(transform, SaveImaged):
                data = transform(data)
        return data

    def __call__(self, image, network=None, **options):
        data = self.prepared(image, **options)
        with torch.no_grad():
            data["pred"] = self.entry("inferer")(data["image"][None], network or self.network_def.eval())[0]
        return self.finished(data)
