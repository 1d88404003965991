"""The panel: Study, Maps, Fit and Therapy as tabs; it hands work to the worker and turns its folders into layers."""

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

from nanopinn.napari_plugin.arms import is_comparison
from nanopinn.napari_plugin.command import command_line
from nanopinn.napari_plugin.fit import FitTab
from nanopinn.napari_plugin.load import StudyTab
from nanopinn.napari_plugin.maps import MapsTab
from nanopinn.napari_plugin.notify import tell, told_in_words, warn
from nanopinn.napari_plugin.running import RunBar
from nanopinn.napari_plugin.scene import Scene
from nanopinn.napari_plugin.sources import known_of
from nanopinn.napari_plugin.therapy import TherapyTab
from nanopinn.napari_plugin.voxel import Curves, VoxelDock
from nanopinn.napari_plugin.worker import Worker

if TYPE_CHECKING:
    import napari


class Panel(QWidget):
    """The plugin's one widget."""

    def __init__(self, napari_viewer: napari.Viewer) -> None:
        super().__init__()
        self.viewer = napari_viewer
        self.folder = Path(tempfile.mkdtemp(prefix="nanopinn-napari-"))
        self.worker, self.scene = Worker(self), Scene(napari_viewer, self)
        self.study, self.maps, self.fit, self.therapy = (
            StudyTab(napari_viewer),
            MapsTab(),
            FitTab(),
            TherapyTab(),
        )
        self.voxel: VoxelDock | None = None
        self.request: dict[str, Any] | None = None
        self.result: Path | None = None
        self.fitted: Path | None = None
        self.command = ""
        self.runs = 0
        self.settled = QTimer(self)
        self.settled.setSingleShot(True)
        self.settled.timeout.connect(self._make_room)
        self._lay_out()
        self._connect()
        self.worker.warm_up()
        import nanopinn.report.folder  # noqa: F401  # now, rather than when a result comes and the window should answer

    def _lay_out(self) -> None:
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
        self.save.setToolTip("Writes the folder that the command line writes.")
        self.copy.setToolTip("Copies the command that repeats what was done.")
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
        self.maps.wanted.connect(self.make_maps)
        self.fit.wanted.connect(self.run_fit)
        self.therapy.wanted.connect(self.compare_arms)
        self.therapy.shows.connect(self.scene.show_quantity)
        for bar in (self.maps.bar, self.fit.bar, self.therapy.bar):
            bar.cancel.connect(self.worker.cancel)
        self.worker.progressed.connect(self._progressed)
        self.worker.done.connect(self._done)
        self.worker.failed.connect(self._failed)
        self.worker.stopped.connect(lambda: self._ended("Cancelled; nothing was changed."))
        self.save.clicked.connect(self._ask_and_save)
        self.copy.clicked.connect(self.copy_command)
        self.viewer.layers.events.inserted.connect(self._inserted)
        self.viewer.mouse_drag_callbacks.append(self._clicked)
        app = QApplication.instance()
        assert app is not None
        app.aboutToQuit.connect(self.leave)

    def leave(self) -> None:
        """End the worker and take away what was not saved."""
        self.worker.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def make_maps(self, choices: dict[str, Any]) -> None:
        """Start the imaging of the study."""
        with told_in_words("Make maps"):
            self._start({"kind": "maps", "inputs": self.study.inputs(self._exports()) | choices})

    def run_fit(self, settings: dict[str, Any]) -> None:
        """Start a fit of the study."""
        with told_in_words("The fit"):
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
        """Take arms of treatment through the tumour of the fit."""
        if self.fitted is None or not self.fitted.is_dir():
            warn(
                "Arms need the tumour of a fit: run one on the Fit tab, or open its result folder."
            )
        else:
            with told_in_words("The comparison"):
                self._start({"kind": "arms", "from": str(self.fitted), "settings": settings})

    def _exports(self) -> Path:
        return self.folder / "inputs"

    def _start(self, request: dict[str, Any]) -> None:
        if self.worker.running is not None:
            warn("Something is running already: wait for it, or press Cancel.")
            return
        self.runs += 1
        here = self.folder / f"run-{self.runs}"
        here.mkdir(parents=True)
        self.request = request | {"out": str(here / "result"), "curves": str(here / "curves")}
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

    def _failed(self, words: str) -> None:
        self._ended("Failed; nothing was changed.")
        warn(words)

    def _ended(self, words: str) -> None:
        for button in self._buttons():
            button.setEnabled(True)
        self._bar().end(words)

    def _done(self, answer: dict[str, Any]) -> None:
        assert self.request is not None
        folder, curves = Path(answer["folder"]), Path(self.request["curves"])
        self._ended("Done.")
        with told_in_words("Showing the result"):
            self.command = command_line(self.request, "nanopinn_result")
            if self.request["kind"] == "maps":
                self.maps.took(answer)
            voxels = curves.is_dir()
            self.scene.show_folder(
                folder,
                self.folder,
                then=lambda: self._show_voxels(folder, curves) if voxels else self._settle(),
            )
            self._took(folder)

    def _took(self, folder: Path) -> None:
        """A result is here, of a run or opened."""
        self.result = folder
        self.save.setEnabled(True)
        self.copy.setEnabled(bool(self.command))
        if (folder / "parameters.json").is_file():
            self.fitted = folder
            self.fit.show_result(folder)
        if is_comparison(folder):
            self.therapy.show_result(folder)

    def _inserted(self, event: Any) -> None:
        """A result folder that was opened fills the panel too."""
        folder = known_of(event.value).get("folder")
        if (
            folder is None
            or Path(folder) == self.result
            or Path(folder).is_relative_to(self.folder)
        ):
            return
        self.command = ""
        with told_in_words("Showing the result"):
            self._took(Path(folder))

    def _show_voxels(self, folder: Path, curves: Path) -> None:
        if self.voxel is None:
            self.voxel = VoxelDock()
            self._give_corners_to_the_sides()
            self.viewer.window.add_dock_widget(self.voxel, name="Voxel", area="bottom")
            self.settled.start(100)
        self.voxel.take(Curves(curves), self.scene.maps_of(folder))

    def _settle(self) -> None:
        self.settled.start(100)

    def _give_corners_to_the_sides(self) -> None:
        """Let the docks at the sides reach down to the window's edge, beside the voxel's curves."""
        window = self.window()
        if isinstance(window, QMainWindow):
            window.setCorner(Qt.Corner.BottomRightCorner, Qt.DockWidgetArea.RightDockWidgetArea)
            window.setCorner(Qt.Corner.BottomLeftCorner, Qt.DockWidgetArea.LeftDockWidgetArea)

    def _make_room(self) -> None:
        """Curves a quarter of the window high, and the image in what is left."""
        window = self.window()
        dock = self.voxel.parentWidget() if self.voxel is not None else None
        if isinstance(window, QMainWindow) and isinstance(dock, QDockWidget):
            window.resizeDocks([dock], [240], Qt.Orientation.Vertical)
        self.viewer.fit_to_view()

    def _clicked(self, viewer: Any, event: Any) -> Any:
        """A click without a drag shows the voxel."""
        dragged = False
        yield
        while event.type == "mouse_move":
            dragged = True
            yield
        if not dragged:
            self.therapy.clicked(event.position)
        if not dragged and self.voxel is not None and self.voxel.curves is not None:
            found = self.scene.voxel_at(event.position, self.voxel.curves.affine)
            if found is not None:
                self.voxel.go(found)

    def _ask_and_save(self) -> None:
        name, _ = QFileDialog.getSaveFileName(
            self, "Save the result as a new folder", "nanopinn_result"
        )
        if name:
            self.save_to(Path(name))

    def save_to(self, out: Path) -> None:
        """Write the result folder; what is wrong with the place is told, and the result stays here."""
        if self.result is None:
            warn("There is no result yet: make maps or run a fit.")
            return
        from nanopinn.report.folder import copy_result

        with told_in_words("Saving"):
            copy_result(self.result, out)
            if self.request is not None and self.command:
                self.command = command_line(self.request, str(out))
            if self.fitted == self.result:
                self.fitted = out  # what is compared from now on names a folder that stays
            tell(f"Saved: {out}")

    def copy_command(self) -> None:
        """Put the command line that repeats the last run on the clipboard."""
        clipboard = QApplication.clipboard()
        assert clipboard is not None
        clipboard.setText(self.command)
        passing = str(self.folder) in self.command
        tell(
            "Copied."
            + (
                " It names a temporary file: save the layer, or the fit, and run again from that."
                if passing
                else ""
            )
        )
