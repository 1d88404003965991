"""Layers of the viewer: a result is added layer by layer, so that the window stays responsive."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QObject, QTimer

from nanopinn.napari_plugin.layers import (
    TECHNICAL_MAPS,
    LayerData,
    from_napari_axes,
    is_comparison,
    world_to_index,
)
from nanopinn.napari_plugin.notify import notify_errors
from nanopinn.napari_plugin.sources import plugin_metadata

if TYPE_CHECKING:
    import napari

Array = NDArray[np.float64]


class LayerManager:
    """Adds, shows and removes the layers of results in a viewer."""

    def __init__(self, viewer: napari.Viewer, parent: QObject) -> None:
        self.viewer = viewer
        self.add_timer = QTimer(parent)  # it ends with the panel
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
            folder: The result folder.
            session_folder: Folder of this session's runs. Layers of other results stay.
            on_finished: Called when all layers have been added.
        """
        from nanopinn.napari_plugin.reader import folder_layer_readers

        parts = folder_layer_readers(folder)
        # a comparison is shown with the fit that it came from; any other result replaces the last
        earlier = [
            x
            for x in self.viewer.layers
            if Path(plugin_metadata(x).get("folder", "/")).is_relative_to(session_folder)
        ]
        for old in [
            x for x in earlier if not is_comparison(folder) or "quantity_path" in plugin_metadata(x)
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
        """Add one layer; the timer calls again after the window has processed its events."""
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
            return  # the mask that was drawn or loaded is shown already
        added = getattr(self.viewer, f"add_{kind}")(data, **looks)
        if kind == "labels":
            added.contour = 1
        elif (
            kind == "image"
            and looks["metadata"]["nanopinn"].get("arm_index", 0) == 0
            and hasattr(added, "colorbar")
        ):
            added.colorbar.visible = True

    def _mask_on_top(self) -> None:
        for layer in [x for x in self.viewer.layers if x._type_string == "labels"]:
            layer.contour = 1
            self.viewer.layers.move(self.viewer.layers.index(layer), len(self.viewer.layers))

    def _select_visible_map(self) -> None:
        """Select the visible map, so that the layer controls act on it."""
        shown = [
            x
            for x in self.viewer.layers
            if x.visible and "folder" in plugin_metadata(x) and x._type_string == "image"
        ]
        if shown:
            self.viewer.layers.selection.active = shown[-1]

    def _connect_visibility(self, event: Any) -> None:
        event.value.events.visible.connect(self.update_overlay_text)
        self.update_overlay_text()

    def show_quantity(self, quantity: str) -> None:
        """Show one quantity of every arm, and hide the others."""
        for layer in self.viewer.layers:
            known = plugin_metadata(layer)
            if "quantity_path" in known:
                layer.visible = known["quantity_path"] == quantity
        self._select_visible_map()

    def update_overlay_text(self, event: Any = None) -> None:
        """Show the hour or saturation offset of the visible layers."""
        parts = self._format_arm_order()
        for layer in self.viewer.layers:
            at = plugin_metadata(layer).get("at", ())
            if at and layer.visible and layer.ndim == 5:
                step = self.viewer.dims.current_step[-5]
                parts += [at[step]] if 0 <= step < len(at) and at[step] not in parts else []
        self.viewer.text_overlay.position = "top_left"
        self.viewer.text_overlay.text = ", ".join(parts)
        self.viewer.text_overlay.visible = bool(parts)

    def _format_arm_order(self) -> list[str]:
        """Order of the arms in the image."""
        arms = {
            plugin_metadata(x)["arm_index"]: plugin_metadata(x)["arm"]
            for x in self.viewer.layers
            if x.visible and "arm_index" in plugin_metadata(x)
        }
        return [f"from the left: {', '.join(arms[i] for i in sorted(arms))}"] if arms else []

    def displayed_maps(self, folder: Path) -> dict[str, tuple[Array, str]]:
        """Values ``(x, y, z)`` and unit of every map of a folder, without standard deviations."""
        found = {}
        for layer in reversed(self.viewer.layers):
            known = plugin_metadata(layer)
            if (
                known.get("folder") == str(folder)
                and layer._type_string == "image"
                and layer.ndim == 3
            ):
                name = known["quantity"]
                if not name.endswith("_std") and name not in TECHNICAL_MAPS:
                    found[name] = (from_napari_axes(layer.data), known.get("unit", "1"))
        return found

    def voxel_at(self, position: Any, affine: Array) -> tuple[int, int, int] | None:
        """Voxel of the scan at a position in the world, ``(..., z, y, x)`` mm."""
        index = world_to_index(position, affine)
        if len(index) < 3 or not np.isfinite(index).all():
            return None
        z, y, x = (int(n) for n in np.round(index))
        return x, y, z
