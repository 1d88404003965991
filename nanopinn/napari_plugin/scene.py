"""The viewer's scene: layers of a result one by one, so that the window answers in between, and the
time that is shown.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QObject, QTimer

from nanopinn.napari_plugin.layers import (
    LayerData,
    from_napari_axes,
    is_comparison,
    layer_transform,
)
from nanopinn.napari_plugin.notify import notify_errors
from nanopinn.napari_plugin.sources import plugin_metadata

if TYPE_CHECKING:
    import napari

Array = NDArray[np.float64]


class LayerManager:
    """What the plugin does to a viewer."""

    def __init__(self, viewer: napari.Viewer, parent: QObject) -> None:
        self.viewer = viewer
        self.add_timer = QTimer(parent)  # ends with the panel
        self.add_timer.timeout.connect(self._add_next_layer)
        self.pending_layers: list[Callable[[], LayerData]] = []
        self.on_finished: Callable[[], None] | None = None
        viewer.scale_bar.visible = True
        viewer.dims.events.current_step.connect(self.update_overlay_text)
        viewer.layers.events.inserted.connect(self._connect_visibility)

    def show_folder(
        self, folder: Path, session_folder: Path, on_finished: Callable[[], None]
    ) -> None:
        """Replace the layers of an earlier run by those of a result folder.

        Args:
            own: where this session's runs lie; layers of results opened from elsewhere stay.
            then: called when all layers are there.
        """
        from nanopinn.napari_plugin.reader import folder_layer_readers

        parts = folder_layer_readers(folder)
        # a comparison stands beside the fit that it came from; anything else replaces what was
        # shown before
        earlier = [
            x
            for x in self.viewer.layers
            if Path(plugin_metadata(x).get("folder", "/")).is_relative_to(session_folder)
        ]
        for old in [
            x for x in earlier if not is_comparison(folder) or "shows" in plugin_metadata(x)
        ]:
            self.viewer.layers.remove(old)
        self.pending_layers, self.on_finished = parts, on_finished
        for layer in self.viewer.layers:
            if is_comparison(folder) or (
                layer._type_string == "image"
                and plugin_metadata(layer).get("role") not in ("dce", None)
            ):
                layer.visible = False
        self.add_timer.start(0)

    def _add_next_layer(self) -> None:
        """Add one layer, and come back after the window had its turn."""
        if self.pending_layers:
            with notify_errors("Showing a layer"):
                self._add(self.pending_layers.pop(0)())
            return
        self.add_timer.stop()
        if self.on_finished is not None:
            on_finished, self.on_finished = self.on_finished, None
            self._mask_on_top()
            self._select_visible_map()
            on_finished()

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

    def _select_visible_map(self) -> None:
        """Select the map that is seen, so that the controls are its own."""
        seen = [
            x
            for x in self.viewer.layers
            if x.visible and "folder" in plugin_metadata(x) and x._type_string == "image"
        ]
        if seen:
            self.viewer.layers.selection.active = seen[-1]

    def _connect_visibility(self, event: Any) -> None:
        event.value.events.visible.connect(self.update_overlay_text)
        self.update_overlay_text()

    def show_quantity(self, quantity: str) -> None:
        """Show one quantity of every arm, and nothing else of the arms."""
        for layer in self.viewer.layers:
            known = plugin_metadata(layer)
            if "shows" in known:
                layer.visible = known["shows"] == quantity
        self._select_visible_map()

    def update_overlay_text(self, event: Any = None) -> None:
        """Say which hour or offset is shown."""
        said = self._format_arm_order()
        for layer in self.viewer.layers:
            at = plugin_metadata(layer).get("at", ())
            if at and layer.visible and layer.ndim == 5:
                step = self.viewer.dims.current_step[-5]
                said += [at[step]] if 0 <= step < len(at) and at[step] not in said else []
        self.viewer.text_overlay.position = "top_left"
        self.viewer.text_overlay.text = ", ".join(said)
        self.viewer.text_overlay.visible = bool(said)

    def _format_arm_order(self) -> list[str]:
        """Which arm is which picture."""
        arms = {
            plugin_metadata(x)["place"]: plugin_metadata(x)["arm"]
            for x in self.viewer.layers
            if x.visible and "place" in plugin_metadata(x)
        }
        return [f"from the left: {', '.join(arms[i] for i in sorted(arms))}"] if arms else []

    def displayed_maps(self, folder: Path) -> dict[str, tuple[Array, str]]:
        """Values ``(x, y, z)`` and unit of every map of a folder that is shown, standard deviations
        left out.
        """
        found = {}
        for layer in reversed(self.viewer.layers):
            known = plugin_metadata(layer)
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
                    found[name] = (from_napari_axes(layer.data), known.get("unit", "1"))
        return found

    def voxel_at(self, position: Any, affine: Array) -> tuple[int, int, int] | None:
        """Voxel of the scan at a position in the world, ``(..., z, y, x)`` mm."""
        place = layer_transform(affine)
        at = (np.asarray(position, dtype=float)[-3:] - place["translate"]) / np.asarray(
            place["scale"]
        )
        if len(at) < 3 or not np.isfinite(at).all():
            return None
        z, y, x = (int(n) for n in np.round(at))
        return x, y, z
