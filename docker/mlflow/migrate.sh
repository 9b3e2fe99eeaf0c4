#!/bin/sh
# Brings MLflow's database, runs first and users second, to the installed version. It may run any number of times, but
# only once at a time: so it is a service of its own, before the servers. libpq's variables say where the database is.
set -eu
database=postgresql+psycopg2:///mlflow
python -m mlflow db upgrade "$database"
python -m mlflow.server.auth db upgrade --url "$database"
