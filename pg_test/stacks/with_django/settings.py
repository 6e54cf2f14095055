"""A Django project with one application, on the database of PG*."""
import os

from psycopg import IsolationLevel

SECRET_KEY = "only for tests"
INSTALLED_APPS = ["shop"]
ROOT_URLCONF = "shop.urls"
MIDDLEWARE = []
ALLOWED_HOSTS = ["*"]
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "HOST": os.environ["PGHOST"],
        "PORT": os.environ["PGPORT"],
        "USER": os.environ["PGUSER"],
        "NAME": os.environ["PGDATABASE"],
        "ATOMIC_REQUESTS": True,
        "OPTIONS": {"isolation_level": IsolationLevel.REPEATABLE_READ},  # where a conflict is 40001
    }
}
