"""Fieldpost for Airflow: DAGs that trigger a fleet of devices, and results that start DAGs."""

__version__ = "0.1.0"
