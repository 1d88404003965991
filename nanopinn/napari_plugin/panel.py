"""The panel with the tabs Study, Maps, Fit and Therapy.

It sends requests to the worker process and shows the result folders as layers.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import (
    QApplication,
    QDockWidget,
    QFileDialog,
    QHBoxLayout,
    QMainWindow,
    QPushButton,
    QScrollArea,
    QTabWidget,
    QVBoxLayout,
    QWidget,
)

from nanopinn.napari_plugin.command_line import format_command_line
from nanopinn.napari_plugin.fit_form import FitTab, MapsTab
from nanopinn.napari_plugin.layers import is_comparison
from nanopinn.napari_plugin.notify import notify_errors, notify_info, notify_warning
from nanopinn.napari_plugin.scene import LayerManager
from nanopinn.napari_plugin.sources import plugin_metadata
from nanopinn.napari_plugin.study_form import StudyTab
from nanopinn.napari_plugin.therapy_form import TherapyTab
from nanopinn.napari_plugin.voxel_chart import VoxelCurves, VoxelDock
from nanopinn.napari_plugin.worker import RunBar, Worker

if TYPE_CHECKING:
    import napari


class Panel(QWidget):
    """The widget of the plugin."""

    def __init__(self, napari_viewer: napari.Viewer) -> None:
        super().__init__()
        self.viewer = napari_viewer
        self.folder = Path(tempfile.mkdtemp(prefix="nanopinn-napari-"))
        self.worker, self.scene = Worker(self), LayerManager(napari_viewer, self)
        self.study, self.maps, self.fit, self.therapy = (
            StudyTab(napari_viewer),
            MapsTab(),
            FitTab(),
            TherapyTab(),
        )
        self.voxel: VoxelDock | None = None
        self.request: dict[str, Any] | None = None
        self.result: Path | None = None
        self.fit_folder: Path | None = None
        self.command = ""
        self.runs = 0
        self.layout_timer = QTimer(self)
        self.layout_timer.setSingleShot(True)
        self.layout_timer.timeout.connect(self._resize_docks)
        self._build_layout()
        self._connect()
        self.worker.start_standby()
        # imported now, so that the window stays responsive when a result arrives
        import nanopinn.report.result_folder  # noqa: F401

    def _build_layout(self) -> None:
        self.tabs = QTabWidget()
        for tab, title in (
            (self.study, "&Study"),
            (self.maps, "Ma&ps"),
            (self.fit, "Fi&t"),
            (self.therapy, "Therap&y"),
        ):
            area = QScrollArea()
            area.setWidgetResizable(True)
            area.setWidget(tab)
            self.tabs.addTab(area, title)
        self.save, self.copy = QPushButton("Sa&ve result..."), QPushButton("C&opy command")
        self.save.setToolTip("Writes the same result folder as the command line.")
        self.copy.setToolTip("Copies the command that repeats the last run.")
        row = QHBoxLayout()
        for button in (self.save, self.copy):
            button.setEnabled(False)
            row.addWidget(button)
        whole = QVBoxLayout(self)
        whole.setContentsMargins(4, 4, 4, 4)
        whole.addWidget(self.tabs, 1)
        whole.addLayout(row)
        self.setMinimumWidth(400)

    def _connect(self) -> None:
        self.maps.requested.connect(self.make_maps)
        self.fit.requested.connect(self.run_fit)
        self.therapy.requested.connect(self.compare_arms)
        self.therapy.quantity_selected.connect(self.scene.show_quantity)
        for bar in (self.maps.bar, self.fit.bar, self.therapy.bar):
            bar.cancel.connect(self.worker.cancel)
        self.worker.progressed.connect(self._progressed)
        self.worker.done.connect(self._done)
        self.worker.failed.connect(self._failed)
        self.worker.stopped.connect(lambda: self._finish_run("Cancelled. Nothing was changed."))
        self.save.clicked.connect(self._ask_and_save)
        self.copy.clicked.connect(self.copy_command)
        self.viewer.layers.events.inserted.connect(self._inserted)
        self.viewer.mouse_drag_callbacks.append(self._handle_click)
        app = QApplication.instance()
        assert app is not None
        app.aboutToQuit.connect(self.clean_up)

    def clean_up(self) -> None:
        """End the worker process and delete results that were not saved."""
        self.worker.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def make_maps(self, choices: dict[str, Any]) -> None:
        """Start the computation of the maps of the study."""
        with notify_errors("Making the maps"):
            inputs = self.study.inputs(self._exports(), needs_series=False)
            if "dce" in inputs:
                inputs |= choices
            self._start({"kind": "maps", "inputs": inputs})

    def run_fit(self, settings: dict[str, Any]) -> None:
        """Start a fit of the study."""
        with notify_errors("The fit"):
            exports = self._exports()
            inputs, drug = self.study.inputs(exports), self.study.drug_files(exports)
            self._start(
                {
                    "kind": "fit",
                    "inputs": inputs,
                    "settings": settings | ({"drug": drug} if drug else {}),
                }
            )

    def compare_arms(self, settings: dict[str, Any]) -> None:
        """Start a comparison of treatment arms in the tumour of the fit."""
        if self.fit_folder is None or not self.fit_folder.is_dir():
            notify_warning(
                "A comparison of arms needs the tumour of a fit. Run a fit on the Fit tab, or open"
                " its result folder."
            )
        else:
            with notify_errors("The comparison"):
                self._start({"kind": "arms", "from": str(self.fit_folder), "settings": settings})

    def _exports(self) -> Path:
        return self.folder / "inputs"

    def _start(self, request: dict[str, Any]) -> None:
        if self.worker.running is not None:
            notify_warning("Another run is in progress. Wait for it, or press Cancel.")
            return
        self.runs += 1
        run_folder = self.folder / f"run-{self.runs}"
        run_folder.mkdir(parents=True)
        self.request = request | {
            "out": str(run_folder / "result"),
            "curves": str(run_folder / "curves"),
        }
        for button in self._buttons():
            button.setEnabled(False)
        self._bar().begin()
        if request["kind"] == "fit":
            self.fit.traces.begin()
        self.worker.start(self.request)

    def _bar(self) -> RunBar:
        assert self.request is not None
        bars: dict[str, RunBar] = {
            "fit": self.fit.bar,
            "maps": self.maps.bar,
            "arms": self.therapy.bar,
        }
        return bars[self.request["kind"]]

    def _buttons(self) -> tuple[QPushButton, ...]:
        return self.maps.button, self.fit.button, self.therapy.button

    def _progressed(self, stage: str, fraction: float, numbers: dict[str, float]) -> None:
        self._bar().show_progress(stage, fraction)
        if self.request is not None and self.request["kind"] == "fit":
            self.fit.traces.add(numbers)

    def _failed(self, message: str) -> None:
        self._finish_run("Failed. Nothing was changed.")
        notify_warning(message)

    def _finish_run(self, message: str) -> None:
        for button in self._buttons():
            button.setEnabled(True)
        self._bar().end(message)

    def _done(self, answer: dict[str, Any]) -> None:
        assert self.request is not None
        folder, curves = Path(answer["folder"]), Path(self.request["curves"])
        self._finish_run("Finished.")
        with notify_errors("Showing the result"):
            self.command = format_command_line(self.request, "nanopinn_result")
            if self.request["kind"] == "maps":
                self.maps.show_summary(answer)
            voxels = curves.is_dir()
            self.scene.show_folder(
                folder,
                self.folder,
                on_finished=lambda: (
                    self._show_voxels(folder, curves) if voxels else self._schedule_layout()
                ),
            )
            self._show_result(folder)

    def _show_result(self, folder: Path) -> None:
        """Show a result, of a run or of a folder that was opened."""
        self.result = folder
        self.save.setEnabled(True)
        self.copy.setEnabled(bool(self.command))
        if (folder / "parameters.json").is_file():
            self.fit_folder = folder
            self.fit.show_result(folder)
        if is_comparison(folder):
            self.therapy.show_result(folder)

    def _inserted(self, event: Any) -> None:
        """Show the result in the panel if its folder was opened in the viewer."""
        folder = plugin_metadata(event.value).get("folder")
        if (
            folder is None
            or Path(folder) == self.result
            or Path(folder).is_relative_to(self.folder)
        ):
            return
        self.command = ""
        with notify_errors("Showing the result"):
            self._show_result(Path(folder))

    def _show_voxels(self, folder: Path, curves: Path) -> None:
        if self.voxel is None:
            self.voxel = VoxelDock()
            self._extend_side_docks()
            self.viewer.window.add_dock_widget(self.voxel, name="Voxel", area="bottom")
            self.layout_timer.start(100)
        self.voxel.show_curves(VoxelCurves(curves), self.scene.displayed_maps(folder))

    def _schedule_layout(self) -> None:
        self.layout_timer.start(100)

    def _extend_side_docks(self) -> None:
        """Extend the side docks to the lower edge of the window, next to the voxel curves."""
        window = self.window()
        if isinstance(window, QMainWindow):
            window.setCorner(Qt.Corner.BottomRightCorner, Qt.DockWidgetArea.RightDockWidgetArea)
            window.setCorner(Qt.Corner.BottomLeftCorner, Qt.DockWidgetArea.LeftDockWidgetArea)

    def _resize_docks(self) -> None:
        """Set the height of the voxel curves, and fit the image into the remaining space."""
        window = self.window()
        dock = self.voxel.parentWidget() if self.voxel is not None else None
        if isinstance(window, QMainWindow) and isinstance(dock, QDockWidget):
            window.resizeDocks([dock], [240], Qt.Orientation.Vertical)
        self.viewer.fit_to_view()

    def _handle_click(self, viewer: Any, event: Any) -> Any:
        """Show the voxel at a click; a drag is ignored."""
        dragged = False
        yield
        while event.type == "mouse_move":
            dragged = True
            yield
        if not dragged:
            self.therapy.show_voxel_at(event.position)
        if not dragged and self.voxel is not None and self.voxel.curves is not None:
            found = self.scene.voxel_at(event.position, self.voxel.curves.affine)
            if found is not None:
                self.voxel.show_voxel(found)

    def _ask_and_save(self) -> None:
        name, _ = QFileDialog.getSaveFileName(
            self, "Save the result as a new folder", "nanopinn_result"
        )
        if name:
            self.save_to(Path(name))

    def save_to(self, out: Path) -> None:
        """Copy the result folder to ``out``; after an error the result is still available."""
        if self.result is None:
            notify_warning("There is no result yet. Make maps or run a fit first.")
            return
        from nanopinn.report.result_folder import copy_result

        with notify_errors("Saving"):
            copy_result(self.result, out)
            if self.request is not None and self.command:
                self.command = format_command_line(self.request, str(out))
            if self.fit_folder == self.result:
                self.fit_folder = out  # later comparisons name a folder that is kept
            notify_info(f"Saved: {out}")

    def copy_command(self) -> None:
        """Copy the command line that repeats the last run to the clipboard."""
        clipboard = QApplication.clipboard()
        assert clipboard is not None
        clipboard.setText(self.command)
        is_temporary = str(self.folder) in self.command
        notify_info(
            "Copied."
            + (
                " It names a temporary file. Save the layer or the fit, and run again from the"
                " saved file."
                if is_temporary
                else ""
            )
        )
