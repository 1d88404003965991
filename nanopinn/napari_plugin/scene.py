"""The viewer's scene: layers of a result one by one, so that the window answers in between, and the time that is shown."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QObject, QTimer

from nanopinn.napari_plugin.arms import is_comparison
from nanopinn.napari_plugin.geometry import placed, stored
from nanopinn.napari_plugin.layers import LayerData
from nanopinn.napari_plugin.notify import told_in_words
from nanopinn.napari_plugin.sources import known_of

if TYPE_CHECKING:
    import napari

Array = NDArray[np.float64]


class Scene:
    """What the plugin does to a viewer."""

    def __init__(self, viewer: napari.Viewer, parent: QObject) -> None:
        self.viewer = viewer
        self.turn = QTimer(parent)  # ends with the panel
        self.turn.timeout.connect(self._next)
        self.waiting: list[Callable[[], LayerData]] = []
        self.then: Callable[[], None] | None = None
        viewer.scale_bar.visible = True
        viewer.dims.events.current_step.connect(self.stacks_changed)
        viewer.layers.events.inserted.connect(self._watch)

    def show_folder(self, folder: Path, own: Path, then: Callable[[], None]) -> None:
        """Replace the layers of an earlier run by those of a result folder.

        Args:
            own: where this session's runs lie; layers of results opened from elsewhere stay.
            then: called when all layers are there.
        """
        from nanopinn.napari_plugin.reader import parts_of

        parts = parts_of(folder)
        # a comparison stands beside the fit that it came from; anything else replaces what was shown before
        earlier = [
            x
            for x in self.viewer.layers
            if Path(known_of(x).get("folder", "/")).is_relative_to(own)
        ]
        for old in [x for x in earlier if not is_comparison(folder) or "shows" in known_of(x)]:
            self.viewer.layers.remove(old)
        self.waiting, self.then = parts, then
        for layer in self.viewer.layers:
            if is_comparison(folder) or (
                layer._type_string == "image" and known_of(layer).get("role") not in ("dce", None)
            ):
                layer.visible = False
        self.turn.start(0)

    def _next(self) -> None:
        """Add one layer, and come back after the window had its turn."""
        if self.waiting:
            with told_in_words("Showing a layer"):
                self._add(self.waiting.pop(0)())
            return
        self.turn.stop()
        if self.then is not None:
            then, self.then = self.then, None
            self._mask_on_top()
            self._choose_what_is_seen()
            then()

    def _add(self, layer: LayerData) -> None:
        data, looks, kind = layer
        if kind == "labels" and any(x._type_string == "labels" for x in self.viewer.layers):
            return  # the mask that was drawn or loaded is here already
        added = getattr(self.viewer, f"add_{kind}")(data, **looks)
        if kind == "labels":
            added.contour = 1
        elif (
            kind == "image"
            and looks["metadata"]["nanopinn"].get("place", 0) == 0
            and hasattr(added, "colorbar")
        ):
            added.colorbar.visible = True

    def _mask_on_top(self) -> None:
        for layer in [x for x in self.viewer.layers if x._type_string == "labels"]:
            layer.contour = 1
            self.viewer.layers.move(self.viewer.layers.index(layer), len(self.viewer.layers))

    def _choose_what_is_seen(self) -> None:
        """Select the map that is seen, so that the controls are its own."""
        seen = [
            x
            for x in self.viewer.layers
            if x.visible and "folder" in known_of(x) and x._type_string == "image"
        ]
        if seen:
            self.viewer.layers.selection.active = seen[-1]

    def _watch(self, event: Any) -> None:
        event.value.events.visible.connect(self.stacks_changed)
        self.stacks_changed()

    def show_quantity(self, quantity: str) -> None:
        """Show one quantity of every arm, and nothing else of the arms."""
        for layer in self.viewer.layers:
            known = known_of(layer)
            if "shows" in known:
                layer.visible = known["shows"] == quantity
        self._choose_what_is_seen()

    def stacks_changed(self, event: Any = None) -> None:
        """Say which hour or offset is shown."""
        said = self._arms_in_words()
        for layer in self.viewer.layers:
            at = known_of(layer).get("at", ())
            if at and layer.visible and layer.ndim == 5:
                step = self.viewer.dims.current_step[-5]
                said += [at[step]] if 0 <= step < len(at) and at[step] not in said else []
        self.viewer.text_overlay.position = "top_left"
        self.viewer.text_overlay.text = ", ".join(said)
        self.viewer.text_overlay.visible = bool(said)

    def _arms_in_words(self) -> list[str]:
        """Which arm is which picture."""
        arms = {
            known_of(x)["place"]: known_of(x)["arm"]
            for x in self.viewer.layers
            if x.visible and "place" in known_of(x)
        }
        return [f"from the left: {', '.join(arms[i] for i in sorted(arms))}"] if arms else []

    def maps_of(self, folder: Path) -> dict[str, tuple[Array, str]]:
        """Values ``(x, y, z)`` and unit of every map of a folder that is shown, standard deviations left out."""
        found = {}
        for layer in reversed(self.viewer.layers):
            known = known_of(layer)
            if (
                known.get("folder") == str(folder)
                and layer._type_string == "image"
                and layer.ndim == 3
            ):
                name = known["quantity"]
                if not name.endswith("_std") and name not in (
                    "status",
                    "AICc",
                    "model",
                    "pH_validity",
                    "aif_voxels",
                ):
                    found[name] = (stored(layer.data), known.get("unit", "1"))
        return found

    def voxel_at(self, position: Any, affine: Array) -> tuple[int, int, int] | None:
        """Voxel of the scan at a position in the world, ``(..., z, y, x)`` mm."""
        place = placed(affine)
        at = (np.asarray(position, dtype=float)[-3:] - place["translate"]) / np.asarray(
            place["scale"]
        )
        if len(at) < 3 or not np.isfinite(at).all():
            return None
        z, y, x = (int(n) for n in np.round(at))
        return x, y, z
