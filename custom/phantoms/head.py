"""A skull-stripped T1 head with atrophy of a chosen severity, made from the MNI152 average that nilearn ships.

Severity 0 is a young adult, 1 the brain of a demented eighty-year-old; it acts in two ways that both lower the
brain's share of the head: the lateral ventricles grow into the white matter (a smooth displacement along their
distance map) and the cortex recedes from the skull and from its sulci, most of all in the medial temporal lobes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import nibabel as nib
import numpy as np
from nilearn import datasets
from scipy import ndimage
from scipy.spatial.transform import Rotation
from scipy.special import expit, ndtri

from .artefacts import add_rician_noise, bias_field, smooth_field

__all__ = ["Anatomy", "Scan", "draw_anatomy", "scan_head", "simulate_head"]

EXTENT = (176, 208, 176)  # mm, the field of view of OASIS's T88_111 images
CENTRE = (-0.5, -16.5, 4.5)  # MNI mm, the middle of that field of view
CSF, WHITE = 0.25, 0.87  # intensities of the template
WHITE_SIGNAL = 2400  # of a scan with gain 1, as OASIS's int16 images have it roughly
NOISE = 0.025  # standard deviation per channel on the template's scale, an SNR of 35 in white matter
HIPPOCAMPI = ((-27.0, -20.0, -17.0), (27.0, -20.0, -17.0))  # MNI mm
VENTRICLE = (-10.0, 0.0, 20.0)  # MNI mm, a point inside the left lateral ventricle
REACH = 30  # mm of white matter that give way to the growing ventricles
INNER = 2.0  # mm inside the ventricles' wall where nothing moves any more
PIAL_SIGMA = 1.5  # mm, smoothing that turns tissue probability into depth below the pial surface


@dataclass(frozen=True)
class Anatomy:
    """What stays the same from scan to scan of one head.

    Attributes:
        ventricle_growth: outward displacement of the ventricles' wall, mm.
        thinning: recession of the cortex, mm (the medial temporal lobes lose more).
        asymmetry: by which share the left ventricle grows more, and the right less (most people's left is larger).
        shape_seed: seed of the smooth deformation that makes this brain an individual.
    """

    ventricle_growth: float
    thinning: float
    asymmetry: float
    shape_seed: int


@dataclass(frozen=True)
class Scan:
    """One scan: ``image`` (X, Y, Z) float32 in RAS order, 0 outside the brain; ``nwbv`` = tissue / intracranial."""

    image: np.ndarray
    nwbv: float


@dataclass(frozen=True)
class Template:
    """The average head on the output grid; every array is (X, Y, Z) float32 in RAS order.

    Attributes:
        t1: intensity, CSF 0.25, white matter 0.87.
        tissue: grey + white matter probability.
        mask: intracranial share of the voxel.
        depth: distance to the nearest CSF in mm, of sub-voxel accuracy near the surface.
        loss: how strongly the cortex recedes here, 1 for ordinary cortex, 0 beside the ventricles.
        wall: signed distance to the lateral ventricles' wall in mm, negative inside.
        toward: (3, X, Y, Z) unit vectors towards the ventricles.
    """

    t1: np.ndarray
    tissue: np.ndarray
    mask: np.ndarray
    depth: np.ndarray
    loss: np.ndarray
    wall: np.ndarray
    toward: np.ndarray


def simulate_head(seed: int | np.random.Generator, severity: float, voxel_size: float = 2.0) -> np.ndarray:
    """Simulate one scan of one new head, for instance to pre-train a network without touching the disc.

    Args:
        seed: a seed, or a generator that is advanced.
        severity: 0 (young adult) … 1 (severe atrophy); values a little outside are fine.
        voxel_size: edge of the cubic voxel in mm; the shape is ``round(extent / voxel_size)``.

    Returns:
        (X, Y, Z) float32 in RAS order, (176, 208, 176) at 1 mm; white matter about 2400, background exactly 0.
    """
    rng = np.random.default_rng(seed)
    return scan_head(rng, draw_anatomy(rng, severity), voxel_size).image


def draw_anatomy(rng: np.random.Generator, severity: float) -> Anatomy:
    """Draw a head of the given severity: ventricles and cortex follow it, each with its own individual deviation."""
    return Anatomy(
        ventricle_growth=max(5.0 * severity + rng.normal(0.0, 0.5), -1.0),
        thinning=1.3 * severity + rng.normal(0.0, 0.08),
        asymmetry=rng.normal(0.15, 0.08),
        shape_seed=int(rng.integers(2**32)),
    )


def scan_head(rng: np.random.Generator, anatomy: Anatomy, voxel_size: float = 2.0) -> Scan:
    """Scan a head: residual misalignment, bias field, gain and noise are new with every call."""
    template = load_template(voxel_size)
    source = _align(rng, template.t1.shape, voxel_size)
    source += _individual_shape(anatomy, template.t1.shape) / voxel_size
    inside = _sample(template.mask, source, order=0) > 0
    source = _grow_ventricles(anatomy, template, source[:, inside], voxel_size)
    kept = expit((template.depth - anatomy.thinning * template.loss) / 0.35)
    t1 = CSF + (template.t1 - CSF) * kept
    t1, tissue, mask = (_sample(volume, source) for volume in (t1, template.tissue * kept, template.mask))
    image = np.zeros(template.t1.shape, np.float32)
    image[inside] = t1 * bias_field(rng, image.shape)[inside]
    image[inside] = add_rician_noise(rng, image[inside], sigma=NOISE) * (mask > 0.5)
    gain = np.float32(WHITE_SIGNAL / WHITE * rng.uniform(0.9, 1.1))
    return Scan(image * gain, nwbv=float((tissue * mask).sum() / mask.sum()))


def _align(rng: np.random.Generator, shape: tuple[int, ...], voxel_size: float) -> np.ndarray:
    """Template voxel coordinates (3, X, Y, Z) of every voxel after a small random affine: what registration left."""
    middle = (np.array(shape)[:, None] - 1) / 2
    degrees, scale, shift = rng.uniform(-5, 5, 3), rng.uniform(0.95, 1.05, 3), rng.uniform(-3, 3, (3, 1))
    matrix = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix() / scale
    coordinates = matrix @ (np.indices(shape).reshape(3, -1) - middle) + middle + shift / voxel_size
    return coordinates.reshape(3, *shape)


def _individual_shape(anatomy: Anatomy, shape: tuple[int, ...]) -> np.ndarray:
    """Smooth displacement (3, X, Y, Z) in mm that makes this brain differ from the average, 1.5 mm RMS an axis."""
    rng = np.random.default_rng(anatomy.shape_seed)
    return 1.5 * np.stack([smooth_field(rng, shape, 5) for _ in range(3)])


def _grow_ventricles(anatomy: Anatomy, template: Template, source: np.ndarray, voxel_size: float) -> np.ndarray:
    """Move coordinates (3, N) near the ventricles to what lay there before the wall moved outwards."""
    source = source.copy()
    wall = _sample(template.wall, source)
    near = wall < REACH - 1
    moved, wall = source[:, near], wall[near]
    right = (moved[0] - (template.t1.shape[0] - 1) / 2) * voxel_size
    growth = anatomy.ventricle_growth * (1 - anatomy.asymmetry * np.tanh(right / 10))
    toward = np.stack([_sample(axis, moved) for axis in template.toward])
    source[:, near] += toward * (wall - _wall_distance_before(wall, growth)) / voxel_size
    return source


def _wall_distance_before(distance: np.ndarray, growth: np.ndarray) -> np.ndarray:
    """Where a point at ``distance`` mm from the ventricles' old wall was before the wall moved out by ``growth`` mm.

    Monotone, so nothing folds: the inside is stretched to the new wall, the outside is squeezed and fades to rest.
    """
    inside = (distance + INNER) * INNER / (growth + INNER) - INNER
    outside = distance - growth * np.exp(-(((distance - growth) / (REACH / 2)) ** 2))
    return np.where(distance < -INNER, distance, np.where(distance < growth, inside, outside))


def _sample(volume: np.ndarray, coordinates: np.ndarray, order: int = 1) -> np.ndarray:
    return ndimage.map_coordinates(volume, coordinates, order=order, mode="nearest", prefilter=False)


@lru_cache(maxsize=2)
def load_template(voxel_size: float) -> Template:
    """Compute the template's maps at 1 mm, once per voxel size, and bring them to the output grid."""
    loaders = datasets.load_mni152_template, datasets.load_mni152_gm_template, datasets.load_mni152_wm_template
    t1, grey, white = (_crop(load(resolution=1)) for load in loaders)
    mask = t1 > 0
    tissue = np.clip(grey + white, 0, 1)
    t1 = np.where(mask, np.maximum(t1, CSF), CSF)
    share = np.clip(ndimage.gaussian_filter(tissue, PIAL_SIGMA), 1e-4, 1 - 1e-4)
    wall = _ventricle_distance(mask & (tissue < 0.5))
    volumes = (t1, tissue, mask, PIAL_SIGMA * ndtri(share), _cortical_loss(wall), wall)
    t1, tissue, mask, depth, loss, wall = (_resample(volume, voxel_size) for volume in volumes)
    return Template(t1, tissue, mask, depth, loss, wall, -np.stack(np.gradient(wall)) / voxel_size)


def _voxel(point: Sequence[float]) -> np.ndarray:
    """Index (3,) in the 1 mm field of view of an MNI position in mm."""
    return np.array(point) - np.array(CENTRE) + (np.array(EXTENT) - 1) / 2


def _crop(image: nib.Nifti1Image) -> np.ndarray:
    """Cut or pad a 1 mm RAS template to the field of view: float32 (176, 208, 176), 0 where the template ends."""
    first = np.round(-_voxel(image.affine[:3, 3])).astype(int)
    padded = np.pad(np.asarray(image.dataobj, np.float32), [(max(-i, 0), 0) for i in first])
    return padded[tuple(slice(max(i, 0), max(i, 0) + n) for i, n in zip(first, EXTENT, strict=True))]


def _ventricle_distance(csf: np.ndarray) -> np.ndarray:
    """Signed distance to the lateral ventricles' wall in mm at 1 mm, negative inside, not followed beyond ``REACH``."""
    parts, _ = ndimage.label(csf)
    ventricles = parts == parts[tuple(_voxel(VENTRICLE).astype(int))]
    box = tuple(slice(s.start - REACH, s.stop + REACH) for s in ndimage.find_objects(ventricles)[0])
    near = ventricles[box]
    distance = np.full(csf.shape, REACH, np.float32)
    distance[box] = np.minimum(ndimage.distance_transform_edt(~near), REACH) - ndimage.distance_transform_edt(near)
    return ndimage.gaussian_filter(distance, 1.0)


def _cortical_loss(distance: np.ndarray) -> np.ndarray:
    """Relative recession of the cortex: none beside the ventricles (they grow instead), more near the hippocampi."""
    near = np.zeros(EXTENT)
    for point in HIPPOCAMPI:
        offsets = np.ogrid[tuple(slice(-i, n - i) for i, n in zip(_voxel(point), EXTENT, strict=True))]
        near += np.exp(-sum(offset**2 for offset in offsets) / (2 * 12**2))
    return (1 + near) * np.clip(distance / 10, 0, 1)


def _resample(volume: np.ndarray, voxel_size: float) -> np.ndarray:
    """Bring a 1 mm volume to the output grid with the same centre, smoothed against aliasing; float32."""
    shape = tuple(round(n / voxel_size) for n in EXTENT)
    smooth = ndimage.gaussian_filter(volume.astype(np.float32), 0.42 * max(voxel_size - 1, 0), truncate=2)
    first = (np.array(volume.shape) - 1) / 2 - (np.array(shape) - 1) / 2 * voxel_size
    return ndimage.affine_transform(smooth, np.full(3, voxel_size), first, shape, order=1, mode="nearest")
