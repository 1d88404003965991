"""Synthetic studies: simulated images with their truth, in memory or as files.

The truth is solved on a grid finer than the voxels, by another time scheme than fits use, and
averaged to voxels; only then is noise added.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from nanopinn.errors import InputError
from nanopinn.imaging.cest.agent import load_agent
from nanopinn.imaging.cest.bloch import Saturation, simulate_z_spectra
from nanopinn.imaging.dce.aif import load_aif
from nanopinn.imaging.dce.signal import signal_from_concentration, spgr_signal
from nanopinn.imaging.geometry import resample
from nanopinn.inference.drug_setup import set_up_drug
from nanopinn.inference.observations import VISIBLE_POOLS, Quantity
from nanopinn.io.array_volume import as_array_volume
from nanopinn.io.output import atomic_output_folder
from nanopinn.io.volumes import write_bytes, write_json, write_volume
from nanopinn.parameters import HOUR, MMHG, value
from nanopinn.phantoms.truth import (
    Anatomy,
    Truth,
    draw_anatomy,
    draw_fields,
    draw_scalars,
    scalars_of_formulation,
    solve_truth,
)
from nanopinn.physics.treatment import Treatment
from nanopinn.progress import Progress, ignore_progress
from nanopinn.settings import EXAMPLE_STUDY, PhantomSettings, StudySettings
from nanopinn.solvers.grid import average_subcells
from nanopinn.studies.treatment_source import example_settings, study_treatment

if TYPE_CHECKING:
    from monai.data import MetaTensor

Array = NDArray[np.float64]

#: Repetition time (s), flip angle and those of the VFA set (degrees), equilibrium signal, and
#: arrival of the bolus (s) of the simulated DCE acquisition.
TR_S, FLIP_DEG, VFA_DEG, S0, BOLUS_S = 0.005, 15.0, (2.0, 10.0, 20.0), 1000.0, 60.0
#: Least value of which the noise of a drug image is a share, over the largest of all times, as drug
#: that has left the tumour is still imaged with noise.
NOISE_FLOOR = 0.02
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


def simulate_study(
    settings: PhantomSettings, *, progress: Progress = ignore_progress
) -> SyntheticStudy:
    """Draw a tumour, solve its truth and image it; nothing is written.

    Args:
        settings: size, noise and properties of the phantom.
        progress: called as ``progress(stage, share done in 0..1, numbers)``.

    Returns:
        The images with their truth.

    Raises:
        InputError: so few voxels that none lies in the tumour.
    """
    rng = np.random.default_rng(settings.seed)
    fine_mm = tuple(h / settings.refine for h in settings.voxel_mm)
    shape = tuple(n * settings.refine for n in settings.shape)
    progress("drawing the tumour", 0.0, {})
    anatomy = draw_anatomy(shape, fine_mm, rng, settings.tumour_mm)  # type: ignore[arg-type]
    log_sds = {"conductivity": settings.conductivity_sd, "release": settings.release_sd}
    anatomy = draw_fields(anatomy, fine_mm, log_sds, settings.seed)  # type: ignore[arg-type]
    if not (_voxel_means(anatomy.tumour.astype(float), settings.refine) > 0.5).any():
        raise InputError(
            "no voxel would lie in the tumour",
            field="shape",
            found=settings.shape,
            expected="3 voxels or more along every axis",
            remedy="Give more voxels.",
        )
    length = None if settings.length_scale_mm is None else settings.length_scale_mm * 1e-3
    times = np.array(settings.drug_times_h) * HOUR
    study = example_settings(settings)
    treatment = study_treatment(study, (), float(times.max()))
    assert treatment is not None
    setup = set_up_drug(treatment, with_images=False)
    assert setup.course is not None
    course = setup.course if study == EXAMPLE_STUDY else setup.course.with_saturable_uptake()
    species = treatment.subject.species
    drawn = draw_scalars(rng, length)
    scalars = scalars_of_formulation(drawn, setup.unknowns, settings.seed)
    frames: Array = np.arange(settings.frames, dtype=np.float64) * float(settings.frame_spacing_s)
    aif = load_aif(
        species.arterial_input,
        frame_times_s=frames,
        bolus_arrival_s=BOLUS_S,
        hematocrit=value(species.haematocrit),
    ).curve
    progress("solving the truth", 0.1, {})
    spacing = (fine_mm[0] * 1e-3, fine_mm[1] * 1e-3, fine_mm[2] * 1e-3)
    changed = dict(settings.factors)
    truth = solve_truth(
        anatomy,
        spacing,
        scalars,
        aif,
        frames,
        times,
        course,
        settings.pore_error,
        changed,  # type: ignore[arg-type]
    )
    if changed:  # a second scan of the same tumour must have independent noise
        rng = np.random.default_rng([settings.seed, 1])
    progress("simulating the images", 0.8, {})
    return _ScanSimulation(settings, anatomy, truth, frames, rng, treatment).study()


def make_phantom(
    out: Path, settings: PhantomSettings, *, progress: Progress = ignore_progress
) -> Path:
    """Write a complete synthetic study with its truth.

    Args:
        out: a folder that does not exist yet, or is empty.
        settings: size, noise and properties of the phantom.
        progress: called as ``progress(stage, share done in 0..1, numbers)``.

    Returns:
        The folder.

    Raises:
        InputError: so few voxels that none lies in the tumour.
        OutputError: the folder holds something, or cannot be written.
    """
    out = Path(out)
    with atomic_output_folder(out, overwrite=False) as part:
        write_study(part, simulate_study(settings, progress=progress))
        if settings.schedule is not None:
            write_bytes(part / "schedule.toml", settings.schedule.read_bytes())
    progress("done", 1.0, {})
    return out


def write_study(folder: Path, study: SyntheticStudy) -> None:
    """Write the images of a study into a folder, and its truth into ``truth`` there.

    Args:
        folder: an empty folder.
        study: images and truth.
    """
    named = {**study.images, **{f"truth/{name}": v for name, v in study.truth.items()}}
    for name, volume in named.items():
        array = as_array_volume(volume, name)
        spacing = 0.0 if np.isnan(array.frame_spacing_s) else array.frame_spacing_s
        write_volume(
            folder / f"{name}.nii.gz",
            np.asarray(volume),
            array.affine,
            sidecar=array.sidecar or None,
            frame_spacing_s=spacing,
        )
    write_json(folder / "truth" / "parameters.json", study.parameters)


def _voxel_means(fine: Array, r: int) -> Array:
    """Mean over the fine cells of each voxel."""
    return average_subcells(torch.from_numpy(fine), r).numpy()


class _ScanSimulation:
    """Simulates the images of a scan: averages the fine truth to voxels and adds noise."""

    def __init__(
        self,
        settings: PhantomSettings,
        anatomy: Anatomy,
        truth: Truth,
        frames: Array,
        rng: np.random.Generator,
        treatment: Treatment,
    ) -> None:
        self.settings, self.anatomy, self.truth = settings, anatomy, truth
        self.frames, self.rng, self.treatment = frames, rng, treatment
        extent = np.array(settings.shape) * np.array(settings.voxel_mm)
        self.affine = np.diag([*settings.voxel_mm, 1.0])
        self.affine[:3, 3] = (np.array(settings.voxel_mm) - extent) / 2
        self.mask = self.voxels(anatomy.tumour.astype(float)) > 0.5
        self.images: dict[str, MetaTensor] = {}
        self.true_maps: dict[str, MetaTensor] = {}

    def voxels(self, fine: Array) -> Array:
        """Means over voxels."""
        return _voxel_means(fine, self.settings.refine)

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
        for t, quantity, image in clean:
            peak = max(float(image[self.mask].max()), NOISE_FLOOR * largest[quantity])
            sd = self.settings.drug_noise * peak
            self.images[f"drug_{quantity}_{t / HOUR:g}h"] = self.volume(
                self.add_noise(image, sd) * 1e3,
                TimeAfterDose=float(t),
                Quantity=quantity,
                NoiseSD=sd * 1e3,
                Units="ug/mL",
                **facts,
            )

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
        return {
            "scalars_SI": dict(self.truth.scalars),
            "settings": json.loads(self.settings.model_dump_json()),
            "grid": f"truth solved on {cells} cells, SDIRK3",
        }


def sidecar_facts(settings: StudySettings, treatment: Treatment) -> dict[str, Any]:
    """Keys of the sidecars of drug images that state what was given.

    A schedule states more than a sidecar can; only its carrier and its species are repeated.

    Args:
        settings: of the phantom.
        treatment: that follows from them.
    """
    study = example_settings(settings)
    carrier = treatment.carrier or treatment.doses[0].formulation
    facts: dict[str, Any] = {
        "Formulation": study.formulation or carrier.short_name,
        "DrugDose": None if study.drug_dose is None else str(study.drug_dose),
        "Species": treatment.subject.species.name,
        "BodyWeight": study.body_weight_kg,
        "BodySurface": study.body_surface_m2,
        "Infusion": study.infusion_min,
    }
    return {key: given for key, given in facts.items() if given is not None}
