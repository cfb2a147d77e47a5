"""Installation of nnunetv2_airway, including the start-up file that lets nnU-Net find its trainers."""

import re
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "nnunetv2_airway" / "__init__.py").read_text())[1]
URL = "https://github.com/nnunetv2-airway/nnunetv2_airway"
TEST = ["pytest>=8", "pytest-xdist>=3.6", "hypothesis>=6.100", "setuptools>=77", "vtk>=9.3", "selenium>=4.20"]
DICOM = ["highdicom>=0.23"]
"""Writes the tree as a DICOM SEG object."""
STARTUP_FILE = "nnunetv2_airway.pth"
# site.py executes lines that start with "import"; the exec keeps it silent where the package itself is gone.
STARTUP_LINE = (
    'import sys; exec("try:\\n import nnunetv2_airway\\nexcept ImportError:\\n pass\\nelse:\\n'
    " [sys.modules.pop(name, None) for name in ('nnunetv2_airway.discovery', 'nnunetv2_airway')]\")\n"
)


PACKAGE = Path("nnunetv2_airway")
TEMPLATES = sorted(file.relative_to(ROOT) for file in (ROOT / "results_templates").glob("*.*"))
"""They stand at the top of the repository and travel inside the package."""


class Build(build_py):
    """Also place the start-up file beside the package in site-packages, and inside the package the templates.

    An editable install reads these where they stand. Mapping them with ``package_dir`` would make setuptools
    install a finder instead of a path, which costs each start of Python 8 ms.
    """

    def run(self):
        super().run()
        # an editable wheel takes pure modules from the source tree and all else from install_lib
        folder = self.get_finalized_command("install").install_lib if self.editable_mode else self.build_lib
        Path(folder).mkdir(parents=True, exist_ok=True)
        Path(folder, STARTUP_FILE).write_text(STARTUP_LINE)
        for file in [] if self.editable_mode else TEMPLATES:
            target = Path(self.build_lib, PACKAGE, file)
            self.mkpath(str(target.parent))
            self.copy_file(str(ROOT / file), str(target))

    def get_source_files(self):
        return [*super().get_source_files(), *map(str, TEMPLATES)]

    def get_outputs(self, include_bytecode=True):
        outputs = super().get_outputs(include_bytecode)
        added = [] if self.editable_mode else [STARTUP_FILE, *(PACKAGE / file for file in TEMPLATES)]
        return [*outputs, *(str(Path(self.build_lib, file)) for file in added)]


setup(
    name="nnunetv2_airway",
    version=VERSION,
    description="Airway segmentation in chest CT as a plugin for nnU-Net v2: WingsNet and its training recipe",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    url=URL,
    project_urls={
        "Documentation": f"{URL}/tree/main/documentation",
        "Changelog": f"{URL}/blob/main/CHANGELOG.md",
        "Issues": f"{URL}/issues",
    },
    license="Apache-2.0",
    license_files=["LICENSE"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Intended Audience :: Healthcare Industry",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Medical Science Apps.",
    ],
    keywords=["airway segmentation", "chest CT", "nnU-Net", "WingsNet", "ATM22", "EXACT09"],
    python_requires=">=3.10",
    package_dir={"": "."},  # lets an editable install be a path, see Build
    packages=find_packages(include=["nnunetv2_airway", "nnunetv2_airway.*"]),
    install_requires=[
        "nnunetv2>=2.8",
        "torch>=2.6",
        "batchgenerators>=0.25",
        "batchgeneratorsv2>=0.3",
        "blosc2>=3.3.2",
        "SimpleITK>=2.2",
        "pydicom>=2.4",  # headers of DICOM files, of any kind, without reading their voxels
        "nibabel",
        "numpy",
        "scipy>=1.11",
        "scikit-image>=0.22",
        "scikit-learn",
        "connected-components-3d",
        "matplotlib",
        "tqdm",
        "trimesh>=4.6",
        "fast-simplification>=0.1.9",
        "plyfile>=1",
        "jinja2",
        "pillow",
    ],
    extras_require={"test": [*TEST, *DICOM], "dicom": DICOM},
    package_data={
        "nnunetv2_airway": ["model/*", "model/fold_all/*"],
        "nnunetv2_airway.report.page": ["assets/*"],
    },
    entry_points={
        "console_scripts": [
            "nnUNetv2_airway_challenge = nnunetv2_airway.cli.challenge:main",
            "nnUNetv2_airway_convert = nnunetv2_airway.cli.convert:main",
            "nnUNetv2_airway_demo = nnunetv2_airway.cli.demo:main",
            "nnUNetv2_airway_evaluate = nnunetv2_airway.cli.evaluate:main",
            "nnUNetv2_airway_import = nnunetv2_airway.cli.import_model:main",
            "nnUNetv2_airway_measure = nnunetv2_airway.cli.measure:main",
            "nnUNetv2_airway_phantom = nnunetv2_airway.cli.phantom:main",
            "nnUNetv2_airway_postprocess = nnunetv2_airway.cli.postprocess:main",
            "nnUNetv2_airway_report = nnunetv2_airway.cli.report:main",
            "nnUNetv2_airway_segment = nnunetv2_airway.cli.segment:main",
            "nnUNetv2_airway_tune = nnunetv2_airway.cli.tune:main",
        ]
    },
    cmdclass={"build_py": Build},
    zip_safe=False,
)
