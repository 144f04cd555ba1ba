"""Reads settings.ini, which holds name, version, requirements, extras, scripts and entry points, and packs what lies beside the package."""

import configparser
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).resolve().parent
PACKED = {
    "templates": "mlops_nb/templates",
    "nbs/tutorials": "mlops_nb/tutorials",
}  # folder of the checkout -> folder in the wheel
KEPT = {
    ".ipynb",
    ".j2",
    ".toml",
    ".md",
    ".yml",
    ".yaml",
    ".json",
    ".sql",
    ".py",
    ".txt",
    ".html",
    ".css",
    ".js",
    ".csv",
    "",
}


def settings() -> dict[str, str]:
    "Every key of settings.ini"
    read = configparser.ConfigParser(delimiters=("=",), interpolation=None)
    read.optionxform = str
    read.read(HERE / "settings.ini", encoding="utf-8")
    return dict(read.defaults())


def lines(text: str) -> list[str]:
    "One item a line; `#` begins a comment"
    return [x for x in (line.split(" #")[0].strip() for line in text.splitlines()) if x and not x.startswith("#")]


def extras(ini: dict[str, str]) -> dict[str, list[str]]:
    "`extras_NAME` as NAME, and `all` for every extra that is no development tool"
    found = {k.removeprefix("extras_"): lines(v) for k, v in ini.items() if k.startswith("extras_")}
    return {**found, "all": sorted({r for name, rs in found.items() if name != "dev" for r in rs})}


def entry_points(ini: dict[str, str]) -> dict[str, list[str]]:
    "`entry_points_GROUP` as GROUP, and the console scripts"
    found = {k.removeprefix("entry_points_"): lines(v) for k, v in ini.items() if k.startswith("entry_points_")}
    return {"console_scripts": lines(ini["console_scripts"]), **found}


def packed() -> list[tuple[Path, Path]]:
    "(file of the checkout, its place in the package) for what lies outside the package's folder"
    found = []
    for here, there in PACKED.items():
        for f in sorted((HERE / here).rglob("*")):
            hidden = any(p in (".ipynb_checkpoints", "__pycache__", ".mlops") for p in f.parts)
            if f.is_file() and f.suffix in KEPT and not hidden:
                found.append((f, Path(there) / f.relative_to(HERE / here)))
    return found


class Build(build_py):
    "Lays templates and tutorials into the package"

    def run(self) -> None:
        super().run()
        if getattr(self, "editable_mode", False):  # a checkout finds them where they lie
            return
        for source, place in packed():
            target = Path(self.build_lib) / place
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)


ini = settings()
readme = HERE / "README.md"
setup(
    name=ini["dist_name"],
    version=ini["version"],
    description=ini["description"],
    long_description=readme.read_text(encoding="utf-8") if readme.exists() else ini["description"],
    long_description_content_type="text/markdown",
    keywords=ini["keywords"].split(),
    license_expression=ini["license"],
    license_files=["LICENSE"],
    author="The mlops-nb contributors",
    url=ini["git_url"],
    project_urls={"Documentation": ini["doc_url"]},
    classifiers=lines(ini["classifiers"]),
    python_requires=f">={ini['min_python']}",
    packages=find_packages(include=[ini["lib_path"], f"{ini['lib_path']}.*"]),
    package_data={ini["lib_path"]: ["_verbs.json", "_pillars.json", "_facts.json", "py.typed", "_data/**/*"]},
    include_package_data=False,
    install_requires=lines(ini["requirements"]),
    extras_require=extras(ini),
    entry_points=entry_points(ini),
    cmdclass={"build_py": Build},
    zip_safe=False,
)
