"""What pyproject.toml cannot say: a wheel has the recipes of experiments/ as legion_jax.recipes."""

from setuptools import find_packages, setup

recipes = {package.replace("experiments", "legion_jax.recipes", 1): package.replace(".", "/")
           for package in find_packages(include=["experiments", "experiments.*"])}
library = find_packages(include=["legion_jax*", "input_pipeline*"])
setup(packages=[*library, *recipes], package_dir=recipes)
