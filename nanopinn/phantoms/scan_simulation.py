"""Images of a phantom: its truth on the fine grid, averaged to voxels, with noise."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from nanopinn.imaging.cest.agent import load_agent
from nanopinn.imaging.cest.bloch import Saturation, simulate_z_spectra
from nanopinn.imaging.dce.signal import signal_from_concentration, spgr_signal
from nanopinn.imaging.drug_image import ARBITRARY_UNIT
from nanopinn.imaging.geometry import resample
from nanopinn.inference.observations import VISIBLE_POOLS, Quantity
from nanopinn.parameters import HOUR, MMHG, value
from nanopinn.phantoms.truth import Anatomy, Truth
from nanopinn.physics.treatment import Treatment
from nanopinn.settings import PhantomSettings, StudySettings
from nanopinn.solvers.grid import average_subcells
from nanopinn.studies.treatment_source import example_settings

if TYPE_CHECKING:
    from monai.data import MetaTensor

Array = NDArray[np.float64]

#: Repetition time (s), flip angle and those of the VFA set (degrees), equilibrium signal, and
#: arrival of the bolus (s) of the simulated DCE acquisition.
TR_S, FLIP_DEG, VFA_DEG, S0, BOLUS_S = 0.005, 15.0, (2.0, 10.0, 20.0), 1000.0, 60.0
#: Least value of which the noise of a drug image is a share, over the largest of all times, as drug
#: that has left the tumour is still imaged with noise.
NOISE_FLOOR = 0.02
#: Standard deviation of ln of the unknown factor of drug images in arbitrary units.
ARBITRARY_SCALE_SD = 1.0
#: Offsets of the Z-spectra, ppm.
CEST_PPM = np.arange(-7.0, 7.01, 0.25)


@dataclass(frozen=True)
class SyntheticStudy:
    """A synthetic study in memory.

    Volumes are monai MetaTensors, float32, ``(x, y, z)`` or ``(t, x, y, z)``, with their affine in
    RAS mm; ``meta`` holds the keys of the sidecar.

    Attributes:
        images: what a scanner gives, by name: ``dce``, ``vfa_fa*``, ``ph``, ``drug_*``, ``mask``,
            ``cest``.
        truth: true maps and fields, averaged to voxels, by name.
        parameters: true scalars (SI) and the settings.
    """

    images: Mapping[str, MetaTensor]
    truth: Mapping[str, MetaTensor]
    parameters: Mapping[str, Any]


def voxel_means(fine: Array, r: int) -> Array:
    """Mean over the fine cells of each voxel."""
    return average_subcells(torch.from_numpy(fine), r).numpy()


class ScanSimulation:
    """Simulates the images of a scan: averages the fine truth to voxels and adds noise."""

    def __init__(
        self,
        settings: PhantomSettings,
        anatomy: Anatomy,
        truth: Truth,
        frames: Array,
        rng: np.random.Generator,
        treatment: Treatment,
        constants: Mapping[str, float],
    ) -> None:
        self.settings, self.anatomy, self.truth = settings, anatomy, truth
        self.frames, self.rng, self.treatment = frames, rng, treatment
        self.constants, self.drug_scales = constants, dict[str, float]()
        extent = np.array(settings.shape) * np.array(settings.voxel_mm)
        self.affine = np.diag([*settings.voxel_mm, 1.0])
        self.affine[:3, 3] = (np.array(settings.voxel_mm) - extent) / 2
        self.mask = self.voxels(anatomy.tumour.astype(float)) > 0.5
        self.images: dict[str, MetaTensor] = {}
        self.true_maps: dict[str, MetaTensor] = {}

    def voxels(self, fine: Array) -> Array:
        """Means over voxels."""
        return voxel_means(fine, self.settings.refine)

    def add_noise(self, values: Array, sd: float) -> Array:
        """Values with independent Gaussian noise."""
        return values + sd * self.rng.standard_normal(values.shape)

    def volume(
        self,
        values: Array,
        affine: Array | None = None,
        frame_spacing_s: float = 0.0,
        **sidecar: Any,
    ) -> MetaTensor:
        """A volume on the grid of the scan, unless ``affine`` is that of another."""
        from monai.data import MetaTensor

        if affine is None:
            values = values[..., : values.shape[-3] - self.settings.cut_voxels, :, :]
        meta = sidecar | ({"pixdim4_s": frame_spacing_s} if frame_spacing_s else {})
        return MetaTensor(
            torch.as_tensor(np.ascontiguousarray(values, dtype=np.float32)),
            affine=torch.as_tensor(self.affine if affine is None else affine),
            meta=meta,
        )

    def study(self) -> SyntheticStudy:
        """Every image and true map. The order determines the random numbers that each gets."""
        self.image_dce_and_vfa()
        self.image_ph()
        self.image_drug()
        self.images["mask"] = self.volume(self.mask.astype(float))
        self.average_truth()
        self.image_z_spectra()
        return SyntheticStudy(self.images, self.true_maps, self.truth_parameters())

    def image_dce_and_vfa(self) -> None:
        """DCE series and VFA set: the signal of the voxel's fine cells, averaged, with noise."""
        base = spgr_signal(S0, self.anatomy.T1, TR_S, FLIP_DEG)
        sd = float(self.voxels(base)[self.mask].mean()) / self.settings.snr
        contrast = np.nan_to_num(self.truth.contrast)
        series = signal_from_concentration(
            contrast, base, self.anatomy.T1, TR_S, FLIP_DEG, value("r1_Gd")
        )
        shared: dict[str, Any] = {"RepetitionTimeExcitation": TR_S, "MagneticFieldStrength": 3.0}
        self.images["dce"] = self.volume(
            self.add_noise(self.voxels(series), sd),
            frame_spacing_s=self.settings.frame_spacing_s,
            **shared,
            FlipAngle=FLIP_DEG,
            VolumeTiming=[float(t) for t in self.frames],
            ContrastRelaxivity=value("r1_Gd"),
            BolusArrivalTime=BOLUS_S,
            Hematocrit=value(self.treatment.subject.species.haematocrit),
        )
        for flip in VFA_DEG:
            image = self.voxels(spgr_signal(S0, self.anatomy.T1, TR_S, flip))
            # a VFA image is averaged over repeats and has a third of the noise of one frame
            self.images[f"vfa_fa{flip:02.0f}"] = self.volume(
                self.add_noise(image, sd / 3), **shared, FlipAngle=flip
            )

    def image_ph(self) -> None:
        """pH on a coarser grid of its own, a slab without the first and last slices."""
        affine, pH = self.on_cest_grid(self.anatomy.pH)
        self.images["ph"] = self.volume(
            self.add_noise(pH, self.settings.ph_noise), affine, pHStd=self.settings.ph_noise
        )

    def image_z_spectra(self) -> None:
        """Z-spectra of iopamidol at the same pH.

        They come last, so that all other images of a seed are those of earlier versions.
        """
        affine, pH = self.on_cest_grid(self.anatomy.pH)
        _, tumour = self.on_cest_grid(self.anatomy.tumour.astype(float))
        saturation, flat = Saturation(7.0, 3.0, 5.0), torch.as_tensor(pH.ravel())
        one = torch.ones_like(flat)
        shift = torch.as_tensor(self.rng.uniform(-0.2, 0.2)) * one
        Z = (
            simulate_z_spectra(
                load_agent("iopamidol"),
                saturation,
                torch.as_tensor(CEST_PPM)[None] - shift[:, None],
                pH=flat,
                molar=torch.as_tensor(np.where(tumour.ravel() > 0.5, 0.02, 0.005)),
                T1_s=1.4 * one,
                T2_s=0.08 * one,
            )
            .numpy()
            .reshape(*pH.shape, -1)
        )
        series = np.concatenate([np.ones((*pH.shape, 1)), Z], axis=-1)
        self.images["cest"] = self.volume(
            np.moveaxis(1000 * self.add_noise(series, 0.004), -1, 0),
            affine,
            SaturationOffsetsPPM=[-300.0, *CEST_PPM.tolist()],
            SaturationB1uT=saturation.B1_uT,
            SaturationTimeS=saturation.seconds,
            MagneticFieldStrength=saturation.field_T,
        )

    def on_cest_grid(self, fine: Array) -> tuple[Array, Array]:
        """Affine of the grid of the CEST scan, and a fine map on that grid."""
        s = self.settings
        step = np.array(s.voxel_mm) * np.array([1.5, 1.5, 1.5])
        extent = np.array(s.shape) * np.array(s.voxel_mm)
        shape = np.maximum(2, np.floor(extent * np.array([1.0, 1.0, 0.7]) / step)).astype(int)
        affine = np.diag([*step, 1.0])
        affine[:3, 3] = -(shape - 1) * step / 2
        fine_affine = self.affine.copy()
        fine_affine[:3, :3] /= s.refine
        fine_affine[:3, 3] -= np.array(s.voxel_mm) * (1 - 1 / s.refine) / 2
        return affine, resample(
            fine, fine_affine, (int(shape[0]), int(shape[1]), int(shape[2])), affine
        )

    def image_drug(self) -> None:
        """Encapsulated and released drug at each imaging time; free drug is released drug."""
        facts = sidecar_facts(self.settings, self.treatment)
        quantities: tuple[Quantity, ...] = ("encapsulated", "released")
        if self.treatment.carrier is None:
            quantities = ("released",)
        clean = [
            (t, quantity, self.drug_in_tissue(i, quantity))
            for i, t in enumerate(self.truth.drug_times_s)
            for quantity in quantities
        ]
        largest = {
            q: max(float(v[self.mask].max()) for _, p, v in clean if p == q) for q in quantities
        }
        scales = self.draw_drug_scales(len(self.truth.drug_times_s), quantities)
        for t, quantity, image in clean:
            name, scale = f"drug_{quantity}_{t / HOUR:g}h", next(scales)
            peak = max(float(image[self.mask].max()), NOISE_FLOOR * largest[quantity])
            sd = self.settings.drug_noise * peak * scale
            self.images[name] = self.volume(
                self.add_noise(image * scale, sd) * 1e3,
                TimeAfterDose=float(t),
                Quantity=quantity,
                NoiseSD=sd * 1e3,
                Units=self.settings.drug_units,
                **facts,
            )
            if scale != 1.0:
                self.drug_scales[name] = scale

    def draw_drug_scales(self, times: int, quantities: tuple[Quantity, ...]) -> Iterator[float]:
        """Factor of each drug image over the concentration: the error of its calibration, and an
        unknown factor of each quantity where images are in arbitrary units.

        They have random numbers of their own, so that all else of a seed does not depend on them.
        """
        s = self.settings
        rng = np.random.default_rng([s.seed, 4])
        unit_sd = ARBITRARY_SCALE_SD if s.drug_units == ARBITRARY_UNIT else 0.0
        unit, shared = unit_sd * rng.standard_normal(2), s.drug_scale_sd * rng.standard_normal(2)
        own = s.drug_scale_sd * rng.standard_normal((times, 2))
        logarithms = (unit + shared + own)[:, : len(quantities)]
        yield from (float(f) for f in np.exp(logarithms).ravel())

    def drug_in_tissue(self, i: int, quantity: Quantity) -> Array:
        """What an image of a quantity shows at imaging time ``i``, kg per m3 of tissue."""
        visible, with_plasma = VISIBLE_POOLS[quantity]
        shown = [
            self.voxels(np.nan_to_num(v[i])) for k, v in self.truth.drug.items() if k in visible
        ]
        blood = self.voxels(self.anatomy.v_p) * self.truth.plasma_drug[i]
        return sum(shown, blood if with_plasma else np.zeros_like(blood))

    def average_truth(self) -> None:
        """True maps and fields, averaged to voxels."""
        a, t = self.anatomy, self.truth
        maps = {
            "Ktrans": (t.Ktrans * 60, "1/min"),
            "ve": (a.phi, "1"),
            "vp": (a.v_p, "1"),
            "T1": (a.T1, "s"),
            "pH": (a.pH, "1"),
            "IFP": (t.pressure / MMHG, "mmHg"),
            "krel": (t.release_rate * HOUR, "1/h"),
            "necrosis": (a.necrosis.astype(float), "1"),
            "velocity": (t.velocity * 1e6, "um/s"),
        }
        for name, (values, unit) in maps.items():
            self.true_maps[name] = self.volume(self.voxels(values), Unit=unit)
        for name, logarithm in a.fields.items():
            self.true_maps[f"{name}_factor"] = self.volume(np.exp(self.voxels(logarithm)), Unit="1")
        frames = [float(f) for f in self.frames]
        self.true_maps["contrast"] = self.volume(
            self.voxels(t.contrast), Unit="mM", FrameTimes=frames
        )
        times = [float(x) for x in t.drug_times_s]
        for name, values in t.drug.items():
            self.true_maps[name] = self.volume(
                self.voxels(values) * 1e3, Unit="ug/mL of tissue", FrameTimes=times
            )

    def truth_parameters(self) -> dict[str, Any]:
        """True scalars, settings and grid."""
        cells = "x".join(str(n) for n in self.anatomy.tumour.shape)
        found = {
            "scalars_SI": dict(self.truth.scalars),
            "settings": json.loads(self.settings.model_dump_json()),
            "grid": f"truth solved on {cells} cells, {self.truth.scheme}",
        }
        drawn = {"constants": dict(self.constants), "drug_image_scales": self.drug_scales}
        return found | {name: values for name, values in drawn.items() if values}


def sidecar_facts(settings: StudySettings, treatment: Treatment) -> dict[str, Any]:
    """Keys of the sidecars of drug images that state what was given.

    A schedule states more than a sidecar can; only its carrier and its species are repeated. A
    formulation in a file is not named, because its path may not hold elsewhere.

    Args:
        settings: of the phantom.
        treatment: that follows from them.
    """
    study = example_settings(settings)
    given = treatment.carrier or treatment.doses[0].formulation
    facts: dict[str, Any] = {
        "Formulation": None if given.file else study.formulation or given.short_name,
        "DrugDose": None if study.drug_dose is None else str(study.drug_dose),
        "Species": treatment.subject.species.name,
        "BodyWeight": study.body_weight_kg,
        "BodySurface": study.body_surface_m2,
        "Infusion": study.infusion_min,
    }
    return {key: given for key, given in facts.items() if given is not None}
